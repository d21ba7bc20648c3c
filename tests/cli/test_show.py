"""Help pages, completion, and the commands that only print: presets, styles, config and doctor."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from styler import config, images, library
from styler.cli import main, show
from styler.engine.precision import Measurement
from styler.errors import StylerError
from styler.options import LOOKS, PRESETS, Options

TINY = ["--size", "64", "--first-size", "64", "--iterations", "2", "--device", "cpu"]
RUN = ["run", "photo.png", "painting.png"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a working folder with a photo and a painting."""
    for seed, name in enumerate(("photo.png", "painting.png")):
        images.write_file(tmp_path / name, images.encode_image(pixels(48, 64, seed)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_answer(capsys: Capture) -> Any:
    """Parse the JSON on stdout."""
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("command", ["preview", "presets", "styles", "config", "doctor", "completion"])
def test_every_help_page_begins_with_three_examples_and_fits(
    command: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"]) == 0
    page = capsys.readouterr().out
    assert re.match(r"Usage: .*\n\nExamples:\n(  .*styler .*\n){3}\n", page)
    assert "Exit codes: " in page
    assert max(map(len, page.splitlines())) <= 80
    if command in ("preview", "config"):
        groups = ["Picture", "Print", "Regions", "Effort", "Objective", "Machine", "Output"]
        assert re.findall(r"^(\w+):$", page, re.MULTILINE)[-7:] == groups
    else:
        assert len(page.splitlines()) <= 24


def test_the_first_command_is_run(capsys: Capture) -> None:
    main(["--help"])
    commands = capsys.readouterr().out.split("\nCommands:\n")[1]
    assert re.findall(r"^  (\w+) ", commands, re.MULTILINE)[:5] == ["run", "preview", "mask", "batch", "ui"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_contain_commands_flags_and_choices(shell: str, capsys: Capture) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("doctor", "keep-color", "dry-run", "gatys", "draft"):
        assert word in script
    if program := shutil.which(shell):
        check = [program, "--no-execute" if shell == "fish" else "-n"]
        subprocess.run(check, input=script, text=True, check=True, timeout=30)


def test_bash_completes_commands_flags_choices_and_files(folder: Path, capsys: Capture) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    assert main(["completion", "bash"]) == 0
    ask = """
    answer() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _styler; echo "${COMPREPLY[*]}"; }
    answer styler doc; answer styler run --dry; answer styler run --preset f; answer styler run pho
    answer styler run photo.png painting.png -o pai
    """
    process = subprocess.run(
        [bash, "-c", capsys.readouterr().out + ask], capture_output=True, text=True, check=True, timeout=30
    )
    assert process.stdout.split("\n")[:5] == ["doctor", "--dry-run", "fine", "photo.png", "painting.png"]


def test_completion_is_installed_in_the_home_folder(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder / "home"))
    assert main(["completion", "fish", "--install"]) == 0
    path = Path(capsys.readouterr().out.removesuffix("\n"))
    assert path.is_relative_to(folder / "home")
    assert "keep-color" in path.read_text()
    (folder / "file").write_text("no folder")
    monkeypatch.setenv("HOME", str(folder / "file"))
    assert main(["completion", "fish", "--install"]) == 1
    assert "cannot be installed" in capsys.readouterr().err


def test_flags_override_environment_and_file(
    folder: Path, use_tiny: None, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "styler.toml").write_text('size = 80\nfirst_size = 64\niterations = 3\ndevice = "cpu"\n[batch]\nx = 1')
    monkeypatch.setenv("STYLER_ITERATIONS", "2")
    assert main([*RUN, "--json", "-q"]) == 0
    document = read_answer(capsys)
    assert (document["width"], document["iterations"]) == (80, 2)
    assert main([*RUN, "--json", "-q", "--size", "64"]) == 0
    assert read_answer(capsys)["width"] == 64
    (folder / "styler.toml").write_text("size = 80\nsise = 3")
    assert main([*RUN, "-q"]) == 2
    assert "In 'styler.toml': There is no setting 'sise'" in capsys.readouterr().err


def test_config_shows_every_value_and_its_origin(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "styler.toml").write_text('preset = "draft"')
    monkeypatch.setenv("STYLER_KEEP_COLOR", "0.5")
    assert main(["config", "--size", "99", "--json"]) == 0
    document = read_answer(capsys)
    assert list(document["settings"]) == list(Options().to_dict())
    assert document["settings"]["size"] == {"value": 99, "origin": "flag"}
    assert document["settings"]["keep_color"] == {"value": 0.5, "origin": "STYLER_KEEP_COLOR"}
    assert document["settings"]["taper"] == {"value": 0.33, "origin": "styler.toml (preset draft)"}
    assert document["settings"]["stroke_size"] == {"value": 1, "origin": "default"}
    assert [file["found"] for file in document["files"]] == [False, True]
    assert main(["config", "--size", "99"]) == 0
    rows = [re.split("  +", line) for line in capsys.readouterr().out.splitlines()]
    assert ["size", "99", "flag"] in rows
    assert ["taper", "0.33", "styler.toml (preset draft)"] in rows
    assert rows[-1] == [f"Files: styler.toml (read), {config.list_config_paths()[0]} (not found)."]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_an_unreadable_configuration_folder_is_ignored(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = str(config.list_config_paths()[0])
    for name in ("stat", "lstat"):
        real = getattr(os, name)

        def deny(path: Any, *args: Any, real: Any = real, **named: Any) -> os.stat_result:
            if str(path) == hidden:  # the superuser may look anywhere, so let the system call say no
                raise PermissionError(13, "Permission denied")
            return real(path, *args, **named)  # type: ignore[no-any-return]

        monkeypatch.setattr(os, name, deny)
    assert main(["config"]) == 0
    assert f"{hidden} (not found)." in capsys.readouterr().out
    assert main(["config", "--json"]) == 0
    assert [file["found"] for file in read_answer(capsys)["files"]] == [False, False]
    assert show.CHECKS["settings"]()["files"] == []


def test_presets_and_looks_are_listed_with_their_flags(capsys: Capture) -> None:
    assert main(["presets", "--json"]) == 0
    document = read_answer(capsys)
    assert (list(document["presets"]), list(document["looks"])) == (list(PRESETS), list(LOOKS))
    for kind, listed in (("preset", document["presets"]), ("look", document["looks"])):
        for name, bundle in listed.items():
            assert Options.of(**bundle["values"], **{kind: name}) == Options.of(**{kind: name})
            assert Options(**bundle["values"], **{kind: name}) == Options.of(**{kind: name})
            assert bundle["help"]
    assert main(["presets"]) == 0
    assert "--preset draft\n  a quick trial, in seconds\n" in capsys.readouterr().out


def test_styles_and_photos_are_listed_with_their_credit(capsys: Capture) -> None:
    assert main(["styles", "--json"]) == 0
    document = read_answer(capsys)
    assert (list(document["styles"]), list(document["contents"])) == (
        list(library.list_styles()),
        list(library.list_contents()),
    )
    for picture in [*document["styles"].values(), *document["contents"].values()]:
        assert Path(picture["path"]).is_file()
        assert picture["credit"]
    assert main(["styles"]) == 0
    assert re.search(r"^  starry-night +The Starry Night, 1889; Vincent van Gogh; public domain$",
                     capsys.readouterr().out, re.MULTILINE)  # fmt: skip


def test_doctor_passes_on_a_working_installation(capsys: Capture) -> None:
    assert main(["doctor", "--json"]) == 0
    document = read_answer(capsys)
    assert (document["ok"], document["broken"]) == (True, [])
    assert document["self_test"]["last_loss"] < document["self_test"]["first_loss"]
    assert re.fullmatch("[0-9a-f]{64}", document["weights"]["vgg16"])
    assert set(document["extras"]) == {"heif", "jxl"}
    for name in ("program", "torch", "devices", "cache", "settings"):
        assert document[name]


def test_doctor_shows_what_the_precision_is_chosen_by(
    use_tiny: None, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Measurement({"fp32": 0.0281, "bf16": 0.0146}, {"bf16": 0.99987})
    monkeypatch.setattr("styler.engine.precision.measure_precision", lambda _device: measured)
    assert main(["doctor"]) == 0
    row = r"^precision +chosen bf16, fp32_ms 28\.1, bf16_ms 14\.6, bf16_cosine 0\.99987, file /.*\.json$"
    assert re.search(row, capsys.readouterr().out, re.MULTILINE)
    monkeypatch.setenv("STYLER_PRECISION", "fp16")
    assert show.CHECKS["precision"]()["chosen"] == "fp16"


@pytest.mark.parametrize("broken", ["weights", "loss", "settings", "device"])
def test_doctor_reports_what_is_broken(
    broken: str, folder: Path, use_tiny: None, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broken == "weights":

        def fail(_name: str) -> None:
            raise StylerError("The weights file is altered.")

        monkeypatch.setattr("styler.vgg.registry.load_backbone", fail)
    elif broken == "loss":
        monkeypatch.setattr("styler.engine.optimizers.adam", no_progress)
    elif broken == "settings":
        (folder / "styler.toml").write_text("size = ")
    else:
        monkeypatch.setenv("STYLER_DEVICE", "cuda:99")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    message = {
        "weights": r"^weights: The weights file is altered\.$",
        "loss": r"^self_test: Painting on cpu did not decrease the loss .*; try ",
        "settings": r"^settings: The settings in 'styler\.toml' are not valid TOML",
        "device": r"^devices: .*GPU",
    }
    assert re.search(message[broken], out, re.MULTILINE), out
    assert "All checks passed" not in out


def no_progress(objective: Any, image: Any, span: Any, *_settings: Any, **_named: Any) -> Any:
    """Run an optimizer that does not change the image."""
    from styler.engine.optimizers import AdamState, OptimizerStep

    for _ in range(span.iterations):
        losses, _gradient = objective.gradient(image)
        yield OptimizerStep(losses, image, image, losses, image.new_zeros(()), AdamState.begin(image))
