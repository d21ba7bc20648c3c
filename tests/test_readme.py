"""The README says what the program does: its tables are made from the program, and its lines are run.

`python tests/test_readme.py` writes the tables anew.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from readme import README, SERVED, blocks

from styler.cli import main
from styler.cli.flags import flag_name, format_value
from styler.images import encode_image, write_file
from styler.options import LOOKS, PRESETS, Bundle, Options, describe_range, list_options

TINY = ["--size", "64", "--iterations", "1", "--first-size", "64"]


def option_table() -> str:
    """Every option with its meaning, range and default."""
    rows = ["| flag | meaning | range | default |", "|---|---|---|---|"]
    for name, knob in list_options().items():
        default = format_value(getattr(Options(), name))
        limits = ", ".join(knob.choices) or (describe_range(knob) if knob.low is not None else "–")
        rows.append(f"| `{flag_name(name)}` | {knob.help} | {limits} | {f'`{default}`' if default else '–'} |")
    return "\n".join(rows)


def bundle_table(bundles: dict[str, Bundle]) -> str:
    """Every preset or look with when to take it."""
    return "\n".join(
        ["| name | |", "|---|---|", *(f"| `{name}` | {bundle.help} |" for name, bundle in bundles.items())]
    )


TABLES: dict[str, Callable[[], str]] = {
    "options": option_table,
    "presets": lambda: bundle_table(PRESETS),
    "looks": lambda: bundle_table(LOOKS),
}


def rewritten(text: str) -> str:
    """The README with its tables made anew."""
    for name, table in TABLES.items():
        before, opening, rest = re.split(rf"(<!-- {name}\b[^>]*-->\n)", text)
        _, closing, after = rest.partition(f"<!-- /{name} -->")
        text = f"{before}{opening}{table()}\n{closing}{after}"
    return text


def commands() -> list[list[str]]:
    """Every `styler …` line outside the first block, without its comment."""
    lines = [line for block in blocks("sh")[1:] for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("styler ")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixels: Callable[..., Any]) -> Path:
    """A working folder with the pictures that the README names."""
    for seed, name in enumerate(("photo", "painting", "one", "two")):
        write_file(tmp_path / f"{name}.jpg", encode_image(pixels(48, 64, seed), format="jpeg"))
    for seed, name in enumerate(("photos/one.jpg", "photos/deep/two.jpg", "paintings/one.jpg", "paintings/two.jpg")):
        write_file(tmp_path / name, encode_image(pixels(48, 64, seed), format="jpeg"))
    (tmp_path / "list.txt").write_text("photo.jpg\nphotos\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_tables_are_the_programs() -> None:
    text = README.read_text(encoding="utf-8")
    assert rewritten(text) == text, "run `python tests/test_readme.py`"


def test_the_first_block_is_two_commands_that_each_make_their_own_environment() -> None:
    first = blocks("sh")[0].splitlines()
    assert len(first) == 2
    assert all(line.startswith("python3 -m venv ") for line in first)
    assert "styler run " in first[0]
    assert " -o " in first[0]
    assert first[1].endswith("pytest")


@pytest.mark.parametrize("tokens", commands(), ids=" ".join)
def test_every_command_runs(tokens: list[str], folder: Path, use_tiny: None, capfd: pytest.CaptureFixture[str]) -> None:
    if "earlier.png" in tokens:
        assert main(["run", "photo.jpg", "painting.jpg", "-q", "-o", "earlier.png", *TINY]) == 0
        capfd.readouterr()
    if "--status" in tokens:
        assert main(["batch", "photos", "paintings", "-o", "painted", "-q", *TINY]) == 0
        capfd.readouterr()
    elif tokens[0] in ("run", "batch"):
        tokens = without(tokens, ("--size", "--preset", "--time")) + TINY
    assert main(tokens) == 0, capfd.readouterr().err
    answer = capfd.readouterr().out.removesuffix("\n")
    if "--json" in tokens:
        answer = json.loads(answer)["output"]
    if tokens[0] in ("run", "batch") and not {"--dry-run", "--status"} & {*tokens}:
        assert all(Path(line).is_file() for line in answer.splitlines())
    else:
        assert answer


def without(tokens: list[str], flags: Iterable[str]) -> list[str]:
    """The tokens without some flags and their values."""
    kept = list(tokens)
    for flag in flags:
        while flag in kept:
            del kept[kept.index(flag) : kept.index(flag) + 2]
    return kept


"""In a block that needs the page: it is run with the other tests of `/stylize`."""


@pytest.mark.parametrize("index", [index for index, code in enumerate(blocks("python")) if SERVED not in code])
def test_every_python_block_runs(index: int, folder: Path, use_tiny: None, capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks("python")[index]
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    assert "picture" in code or (folder / "painted.png").is_file() or (folder / "painted" / "index.html").is_file()


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text(encoding="utf-8")), encoding="utf-8")
