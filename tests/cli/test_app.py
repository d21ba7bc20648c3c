"""The command line before it paints: help, flags, and every error with its exit code."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from styler import images, library
from styler.cli import main
from styler.cli.flags import Flags, flag_name, read_flags
from styler.engine.painter import Painter
from styler.errors import OptionError
from styler.options import Options, resolve_options

PROBE = """
import sys
from styler.cli import main
for tokens in (
    *(["--help"], ["run", "--help"], ["--version"], ["config", "--size", "99"], ["config", "--json"], ["presets"]),
    *(["presets", "--json"], ["styles"], ["styles", "--json"], ["completion", "bash"], ["doctor", "--help"]),
    ["run", "nothing-there", "nor-there"],
):
    main(tokens)
    heavy = {"torch", "gradio"} if "nothing-there" in tokens else {"torch", "gradio", "numpy", "PIL", "pydantic"}
    assert not heavy & set(sys.modules), tokens
"""


@pytest.fixture
def folder(tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a working folder with a photo, a painting, a text and a folder."""
    for seed, name in enumerate(("photo.png", "painting.png")):
        images.write_file(tmp_path / name, images.encode_image(pixels(48, 64, seed)))
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "there.png").write_bytes(b"somebody's work")
    (tmp_path / "album").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.fixture
def no_painting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make loading the network an error."""

    def loaded(_options: Options) -> Painter:
        raise AssertionError("the network was loaded")

    monkeypatch.setattr(Painter, "of", loaded)


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_help_and_missing_files_load_neither_torch_nor_gradio() -> None:
    process = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False, timeout=120)
    assert process.returncode == 0, process.stderr


def test_script_and_module_run_the_same_program() -> None:
    script = shutil.which("styler", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert script, "install the package first: pip install -e ."
    message = [
        subprocess.run([*program, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
        for program in ([script], [sys.executable, "-m", "styler"])
    ]
    assert message[0] == message[1]
    assert re.fullmatch(r"styler \d+\.\d+\.\d+\n", message[0])


def test_no_arguments_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    bare = capsys.readouterr()
    assert main(["--help"]) == 0
    assert bare == capsys.readouterr()
    assert bare.out.startswith("Usage: styler")


@pytest.mark.parametrize("tokens", [["--help"], ["run", "--help"]], ids=" ".join)
def test_help_begins_with_three_examples_and_lists_the_exit_codes(
    tokens: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    main(tokens)
    page = capsys.readouterr().out
    assert re.match(r"Usage: .*\n\nExamples:\n(  styler .*\n){3}\n", page)
    for code in ("0 success", "1 error", "2 invalid usage", "129", "130", "143"):
        assert code in page
    assert max(map(len, page.splitlines())) <= 80


def test_the_ten_main_options_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "--help"])
    page = capsys.readouterr().out
    first = page.split("\nPicture:\n")[1].split("\n\n")[0]
    flags = re.findall(r"^ +(?:-\w, )?(--[\w-]+)", first, re.MULTILINE)
    picture = [flag_name(f.name) for f in dataclasses.fields(Options) if f.metadata["spec"].group == "Picture"]
    assert flags == ["--output", *picture]
    assert len(flags) == 10


def test_every_option_has_a_flag_that_shows_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "--help"])
    page = " ".join(capsys.readouterr().out.split("\nPicture:\n")[1].split())
    for field in dataclasses.fields(Options):
        value = getattr(Options(), field.name)
        shown = ",".join(str(item).removesuffix(".0") for item in (value if isinstance(value, tuple) else (value,)))
        entry = page.split(f" {flag_name(field.name)} ", 1)[1].split(" --", 1)[0]
        assert field.metadata["spec"].help in entry
        assert f"default {shown})" in entry if shown else "; default" not in entry


def test_typing_every_default_gives_the_default_options() -> None:
    typed = {}
    for name, value in Options().to_dict().items():
        typed[name] = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    assert resolve_options(("flag", read_flags(Flags(**typed)))).options == Options()


def test_omitted_flags_are_not_settings() -> None:
    assert read_flags(Flags()) == {}
    assert read_flags(Flags(size="original", style_weights="2, 1")) == {"size": "original", "style_weights": (2, 1)}


@pytest.mark.parametrize("text", ["12x", "nan", "inf", "1e9", "", "0x40", "64.5"])
def test_an_invalid_size_is_rejected_by_name(text: str) -> None:
    with pytest.raises(OptionError, match=r"^size is "):
        resolve_options(("flag", read_flags(Flags(size=text))))


REFUSALS = [
    ("missing.jpg painting.png", 1, "no such file; the photos that come with styler are"),
    ("photo.png stary-night", 1, "did you mean 'starry-night'?"),
    ("album painting.png", 1, "it is a folder"),
    ("photo.png text.jpg", 1, "it is text"),
    ("photo.png painting.png --init text.jpg", 1, "'text.jpg': it is text"),
    ("photo.png painting.png --sise 64", 2, "Did you mean --size?"),
    ("photo.png painting.png --size 12", 2, "size is 12; it can be 64 to 8192"),
    ("photo.png painting.png --strength -1", 2, "strength is -1; it can be 0 to 100"),
    ("photo.png painting.png --preset fien", 2, 'Did you mean "fine"?'),
    ("photo.png painting.png --style-weights 1,x", 2, "style_weights is x"),
    ("photo.png painting.png --size", 2, "--size requires an argument"),
    ("photo.png painting.png -q -v", 2, "mutually exclusive"),
    ("photo.png", 2, "CONTENT and STYLE are required"),
    ("photo.png painting.png --size orignal", 2, "size is 'orignal'; it can be 64 to 8192, or 'original'."),
    ("", 2, "CONTENT and STYLE are required"),
    ("photo.png painting.png -o there.png", 2, "'there.png' already exists"),
    ("photo.png painting.png -o photo.png --overwrite", 2, "is one of the inputs"),
    ("photo.png painting.png -o ./painting.png --overwrite", 2, "is one of the inputs"),
    ("photo.png painting.png -o text.jpg/", 1, "is a file, not a folder"),
    ("photo.png painting.png -o out.xyz", 1, "end the name in one of"),
    ("photo.png painting.png -o text.jpg/out.png", 1, "is a file, not a folder"),
    (f"photo.png painting.png -o {'long' * 80}.png", 1, "the name is too long"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), REFUSALS)
def test_invalid_arguments_give_a_one_line_error_before_any_work(
    arguments: str, code: int, message: str, folder: Path, no_painting: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_files(folder)
    assert main(["run", *arguments.split()]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"styler: error: [^\n]*\n", err), err
    assert message in err
    assert read_files(folder) == before


def test_a_missing_device_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_files(folder)
    assert main(["run", "photo.png", "painting.png", "--device", "cuda:99"]) == 1
    assert re.fullmatch(r"styler: error: .*GPU.*\n", capsys.readouterr().err)
    assert read_files(folder) == before


def test_an_unknown_command_lists_the_available_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runn"]) == 2
    assert capsys.readouterr().err == 'styler: error: Unknown command "runn". Did you mean "run"? ' + (
        "Available commands: run, batch, ui, inspect, presets, styles, config, doctor, ...\n"
    )


def test_a_bug_is_reported_with_a_traceback_only_under_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_name: str) -> Path:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(library, "find_content", broken)
    assert main(["run", "photo.png", "painting.png"]) == 1
    err = capsys.readouterr().err
    assert err == r"styler: error: RuntimeError: two\nlines. This is a bug in styler; run again with --debug " + (
        "for the traceback.\n"
    )
    assert main(["run", "photo.png", "painting.png", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
    assert main(["run", "photo.png", "--", "--debug"]) == 1
    assert "Traceback" not in capsys.readouterr().err, "after -- it is a file name"


def test_openmp_waits_passively_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    main(["--version"])
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    main(["--version"])
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"]) == ("PASSIVE", "1500")
