"""The wheel holds every file that the program needs, and the texts of all licenses."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from styler.regions.networks import MASK_SHA256
from styler.vgg.weights import SHA256

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Build the wheel, and return the names of its files."""
    folder = tmp_path_factory.mktemp("wheel")
    code = (
        "import sys; from setuptools import build_meta; "
        f"sys.argv[1:] = []; print(build_meta.build_wheel({str(folder)!r}))"
    )
    copy = folder / "checkout"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "styler", "ui", "assets"):
        (copy / name).symlink_to(ROOT / name)
    subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return set(wheel.namelist())


def test_the_wheel_holds_every_module(names: set[str]) -> None:
    modules = {str(path.relative_to(ROOT)) for folder in ("styler", "ui") for path in (ROOT / folder).rglob("*.py")}
    assert modules <= names


def test_the_wheel_holds_every_weights_file(names: set[str]) -> None:
    assert {f"styler/assets/weights/{name}.safetensors" for name in (*SHA256, *MASK_SHA256)} <= names


def test_the_wheel_holds_the_texts_of_all_licenses(names: set[str]) -> None:
    licenses = {path.name for path in (ROOT / "assets" / "licenses").iterdir()}
    assert licenses == {"Apache-2.0.txt", "CenterFace-MIT.txt"}
    for name in licenses:
        assert f"styler/assets/licenses/{name}" in names
        assert any(each.endswith(f".dist-info/licenses/assets/licenses/{name}") for each in names)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "MIT AND CC-BY-4.0 AND Apache-2.0"
    assert "Copyright (c) 2019 StarClouds" in (ROOT / "assets/licenses/CenterFace-MIT.txt").read_text("utf-8")
