"""The documentation matches the program: its tables are generated, and its commands and examples run.

`python tests/test_readme.py` regenerates the tables.
"""

import json
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent / "helpers"))  # pytest does this itself
from readme import BATCH_README, BENCH_README, FENCE, README, ROOT, SERVED, UI_README, blocks

from styler import config, library
from styler.cli import main
from styler.cli.flags import BATCH_FLAGS, flag_name
from styler.cli.ui import SERVER_DEFAULTS
from styler.images import encode_image, write_file
from styler.options import LOOKS, PRESETS, Options, describe_range, format_value, list_options
from styler.provenance import SCHEDULE_OPTIONS

DOCUMENTS = (README, BATCH_README, UI_README)
MAX_LINES = 260
TINY = ["--size", "64", "--iterations", "1", "--first-size", "64"]


def format_options() -> str:
    """Format every option with its meaning, range and default as a table."""
    rows = ["| flag | meaning | range | default |", "|---|---|---|---|"]
    for name, spec in list_options().items():
        default = format_value(getattr(Options(), name))
        limits = ", ".join(spec.choices) or (describe_range(spec) if spec.low is not None else "–")
        rows.append(f"| `{flag_name(name)}` | {spec.help} | {limits} | {f'`{default}`' if default else '–'} |")
    return "\n".join(rows)


def format_bundles() -> str:
    """Format the presets and looks as a table."""
    rows = ["| effort and manner | |", "|---|---|"]
    for flag, bundles in (("--preset", PRESETS), ("--look", LOOKS)):
        rows += [f"| `{flag} {name}` | {bundle.help} |" for name, bundle in bundles.items()]
    return "\n".join(rows)


TABLES = {"options": format_options, "presets and looks": format_bundles}


def update_tables(text: str) -> str:
    """Return the README with its generated tables replaced."""
    for name, format_table in TABLES.items():
        before, opening, rest = re.split(rf"(<!-- {name}\b[^>]*-->\n)", text)
        _, closing, after = rest.partition(f"<!-- /{name} -->")
        text = f"{before}{opening}{format_table()}\n{closing}{after}"
    return text


def list_commands() -> list[list[str]]:
    """Return the arguments of every `styler …` line, except those of the README's first block."""
    lines = "".join([*blocks("sh")[1:], *blocks("sh", BATCH_README), *blocks("sh", UI_README)]).splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("styler ")]


def list_examples() -> list[str]:
    """Return the Python blocks that run without the page."""
    return [code for path in DOCUMENTS for code in blocks("python", path) if SERVED not in code]


def drop_flags(tokens: Iterable[str], *flags: str) -> list[str]:
    """Return the arguments without some flags and their values."""
    kept = list(tokens)
    for flag in flags:
        while flag in kept:
            del kept[kept.index(flag) : kept.index(flag) + 2]
    return kept


def list_layout() -> list[str]:
    """Return the modules in the README's table of the layout, in order, as `styler.images.read`."""
    modules = []
    path = r"`(?:styler|ui)/[\w./]*`"
    for places, contents in re.findall(rf"^\| ({path}(?:, {path})*) \| (.*) \|$", README.read_text("utf-8"), re.M):
        for place in re.findall("`(.*?)`", places):
            name = place.removesuffix("/").removesuffix(".py").replace("/", ".")
            is_folder = place.endswith("/")
            modules += [f"{name}.{module}" for module in re.findall(r"`(\w+)`", contents)] if is_folder else [name]
    return modules


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: Callable[..., Any]) -> Path:
    """Make a working folder with the files that the documentation names, and change to it."""
    names = ("photo", "painting", "one", "two", "photos/one", "photos/deep/two", "paintings/one", "paintings/two")
    for seed, name in enumerate(names):
        write_file(tmp_path / f"{name}.jpg", encode_image(pixels(48, 64, seed), format="jpeg"))
    labels = np.zeros((48, 64, 3), np.float32)
    labels[:, :32, 0] = 1
    for name in ("mask", "sky", "labels", "masks/one"):
        write_file(tmp_path / f"{name}.png", encode_image(labels))
    (tmp_path / "list.txt").write_text("photo.jpg\nphotos\n")
    (tmp_path / "password.txt").write_text("secret\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_generated_tables_are_current() -> None:
    text = README.read_text(encoding="utf-8")
    assert update_tables(text) == text, "run `python tests/test_readme.py`"


def test_first_block_is_two_commands_that_each_make_an_environment() -> None:
    first, second = blocks("sh")[0].splitlines()
    assert first.startswith("python3 -m venv ")
    assert "styler run " in first
    assert " -o " in first
    assert second.startswith("python3 -m venv ")
    assert second.endswith("pytest")


def test_readme_lists_the_flags_that_change_the_schedule() -> None:
    flags = ", ".join(f"`{flag_name(name)}`" for name in SCHEDULE_OPTIONS)
    assert f"({flags})" in " ".join(README.read_text(encoding="utf-8").split())


def test_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_layout_table_names_exactly_the_modules_in_the_order_of_the_layers() -> None:
    paths = [path for name in ("styler", "ui") for path in (ROOT / name).rglob("*.py") if "__" not in path.name]
    modules = list_layout()
    assert sorted(modules) == sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)
    order = [f"styler.{layer}" for layer in runpy.run_path(str(ROOT / "tests" / "test_architecture.py"))["ORDER"]]
    layers = [layer for name in modules for layer in order if f"{name}.".startswith(f"{layer}.")]
    assert layers == sorted(layers, key=order.index)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_blocks_are_run_or_say_why_not(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for block in re.finditer(FENCE, text, re.DOTALL | re.MULTILINE):
        assert block[1] in {"sh", "python", "toml", "text"}
        if block[1] == "text":
            paragraph = text[: block.start()].rstrip().rpartition("\n\n")[2]
            assert "not run by the tests" in " ".join(paragraph.split()), block[0]


@pytest.mark.parametrize("path", [*DOCUMENTS, BENCH_README], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", path.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        linked = path.parent / name if name else path
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], target


@pytest.mark.parametrize("tokens", list_commands(), ids=" ".join)
def test_command_runs(
    tokens: list[str], folder: Path, use_tiny: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if any("subject" in token or "background" in token for token in tokens):
        shutil.copy(library.find_content("cat"), "photo.jpg")  # a photo that has a subject
    if "earlier.png" in tokens:
        assert main(["run", "photo.jpg", "painting.jpg", "-q", "-o", "earlier.png", *TINY]) == 0
    if "--status" in tokens:
        assert main(["batch", "photos", "paintings", "-o", "painted", "-q", *TINY]) == 0
    elif tokens[0] in ("run", "batch"):
        tokens = drop_flags(tokens, "--size", "--paper", "--preset", "--time") + TINY
    elif tokens[0] == "ui":  # everything but the endless serving
        monkeypatch.setattr("ui.server.serve_page", lambda _config: None)
    capfd.readouterr()
    assert main(tokens) == 0, capfd.readouterr().err
    output = capfd.readouterr().out.removesuffix("\n")
    if tokens[0] in ("run", "batch") and not {"--dry-run", "--status"} & {*tokens}:
        paths = [json.loads(output)["output"]] if "--json" in tokens else output.splitlines()
        assert all(Path(path).is_file() for path in paths)
    else:
        assert output or tokens[0] == "ui"


@pytest.mark.parametrize("code", list_examples(), ids=lambda code: code.splitlines()[-1])
def test_example_runs(code: str, folder: Path, use_tiny: None) -> None:
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert all((folder / name).is_file() for name in re.findall(r'\.save\("(.+?)"\)', code))


@pytest.mark.parametrize("code", [code for path in DOCUMENTS for code in blocks("toml", path)])
def test_configuration_is_valid(code: str, folder: Path) -> None:
    (folder / config.CONFIG_FILE).write_text(code)
    found = False
    for command, names in (("batch", BATCH_FLAGS), ("ui", frozenset(SERVER_DEFAULTS))):
        settings = config.load_config(command=command, command_flags=names)
        assert settings.warnings == ()
        flags = config.read_command_flags(folder / config.CONFIG_FILE, command, names)
        found |= bool(flags) or any(values for _, values in settings.layers)
    assert found


if __name__ == "__main__":
    README.write_text(update_tables(README.read_text(encoding="utf-8")), encoding="utf-8")
