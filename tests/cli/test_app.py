"""The command line before it paints: help, flags, and every error with its exit code."""

import dataclasses
import errno
import inspect
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
from rich.console import Console

from styler import config, images, library
from styler.cli import files, main
from styler.cli.app import _build_app
from styler.cli.flags import Flags, OutputOptions, flag_name, read_flags
from styler.engine.painter import Painter
from styler.errors import OptionError, explain_failure
from styler.options import Options, resolve_options

PROBE = """
import sys
before = set(sys.modules)
from styler.cli import main
main(["--help"])
added = {name.partition(".")[0] for name in set(sys.modules) - before}
others = {name for name in added if not name.startswith("_")} - sys.stdlib_module_names
assert others <= {"styler", "cyclopts", "rich", "attr", "attrs", "docstring_parser"}, others
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
    (tmp_path / "-photo.png").write_bytes((tmp_path / "photo.png").read_bytes())
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


@pytest.mark.parametrize("columns", ["0", "1", "20", "-5", "wide", "", "99999"])
def test_help_can_be_read_whatever_the_terminal_claims(
    columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert main(["run", "--help"]) == 0
    page = capsys.readouterr().out
    assert "Usage: styler run" in page
    assert 40 <= max(map(len, page.splitlines())) <= 100
    assert len(page.splitlines()) < 500
    assert main(["run", "gone.jpg", "mosaic"]) == 1
    assert capsys.readouterr().err.startswith("styler: error: Cannot read 'gone.jpg'")


def test_the_ten_main_options_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "--help"])
    page = capsys.readouterr().out
    first = page.split("\nPicture:\n")[1].split("\n\n")[0]
    flags = re.findall(r"^ +(?:-\w, )?(--[\w-]+)", first, re.MULTILINE)
    picture = [flag_name(f.name) for f in dataclasses.fields(Options) if f.metadata["spec"].group == "Picture"]
    assert flags == ["--output", *picture]
    assert len(flags) == 11


def test_every_option_has_a_flag_that_shows_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", "--help"])
    page = " ".join(capsys.readouterr().out.split("\nPicture:\n")[1].split())
    for field in dataclasses.fields(Options):
        value = getattr(Options(), field.name)
        value = () if value is False else value if isinstance(value, tuple) else (value,)  # a switch that is off
        shown = ",".join(str(item).removesuffix(".0") for item in value)
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
    ("https://example.com/photo.png painting.png", 1, "it is a URL; download the picture and name the file."),
    ("album/*.png painting.png", 1, "several pictures that match a pattern are painted by 'styler batch'."),
    ("starry-night photo.png", 1, "it is a painting that comes with styler; the photo comes first"),
    ("photo.png astronaut", 1, "it is a photo that comes with styler; the photo comes first"),
    ("photo.png painting.png out.png", 1, "'out.png': there is no such file; if it is the output, give it with -o."),
    ("photo.png Starry_Night.jpg", 1, "did you mean 'starry-night'?"),
    ("-photo.png painting.png", 2, "'-photo.png' is read as an option, not as a file; write './-photo.png'."),
    ("photo.png painting.png --strength 0,5", 2, "strength is 0,5; write it with a decimal point, 0.5."),
    ("photo.png painting.png --strength=70%", 2, "strength is 70%; write it without the percent sign, 70."),
    ("photo.png painting.png --keep-color 70%", 2, "keep_color is 70%; write it without the percent sign, 0.7."),
    ("photo.png painting.png --size 50%", 2, "size is '50%'; it can be 64 to 16384 for the long side, or 'original'."),
    ("photo.png painting.png --size 1024x768", 2, "size is '1024x768'; it can be 64 to 16384 for the long side"),
    ("photo.png painting.png --seed -1", 2, "seed is -1; it can be a whole number from 0"),
    ("photo.png painting.png --sise 64", 2, "Did you mean --size?"),
    ("photo.png painting.png --size 12", 2, "size is 12; it can be 64 to 16384"),
    ("photo.png painting.png --strength -1", 2, "strength is -1; it can be 0 to 100"),
    ("photo.png painting.png --preset fien", 2, 'Did you mean "fine"?'),
    ("photo.png painting.png --style-weights 1,x", 2, "style_weights is x"),
    ("photo.png painting.png --size", 2, "--size requires an argument"),
    ("photo.png painting.png -q -v", 2, "mutually exclusive"),
    ("photo.png", 2, "CONTENT and STYLE are required"),
    (
        "photo.png painting.png --size orignal",
        2,
        "size is 'orignal'; it can be 64 to 16384 for the long side, or 'original'.",
    ),
    ("", 2, "CONTENT and STYLE are required"),
    ("photo.png painting.png -o there.png", 2, "'there.png' already exists"),
    ("photo.png painting.png -o photo.png --overwrite", 2, "is one of the inputs"),
    ("photo.png painting.png -o ./painting.png --overwrite", 2, "is one of the inputs"),
    ("photo.png painting.png -o text.jpg/", 1, "is a file, not a folder"),
    (
        "photo.png painting.png -o new",
        2,
        "'new' has no extension; end its name in .png, .jpg, .webp, .avif or .tif, or in",
    ),
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


SPELLINGS = [
    *("'photo.png'", '"photo.png"', " photo.png ", "~/photo.png", "'~/photo.png'", "my\\ photo.png"),
    *("file://{}/photo.png", "file://localhost{}/my%20photo.png"),
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_name_is_understood_as_it_was_typed_dropped_or_copied(
    spelling: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    shutil.copy("photo.png", "my photo.png")
    asked: list[tuple[Path, ...]] = []

    def choose(
        _options: object, content: Path, styles: list[Path], *_rest: object, is_bundled: bool, **_: object
    ) -> None:
        asked.append((content, *styles))
        assert not is_bundled
        raise OptionError("Enough.")

    monkeypatch.setattr(files, "choose_target", choose)
    name = spelling.format(folder)
    assert main(["run", name, name]) == 2
    assert [path.resolve() for path in asked[0]] == [folder / ("my photo.png" if "my" in name else "photo.png")] * 2


@pytest.mark.parametrize("tokens", [["--output=~/new.png"], ["-o", "~/new.png"], ["--output", "~/deep/new.png"]])
def test_no_folder_is_called_tilde(tokens: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells expand `~` neither in quotes nor after `--output=`."""
    monkeypatch.setenv("HOME", str(folder / "home"))
    outputs: list[str | None] = []

    def choose(options: OutputOptions, *_rest: object, **_more: object) -> None:
        outputs.append(options.output)
        raise OptionError("Enough.")

    monkeypatch.setattr(files, "choose_target", choose)
    assert main(["run", "photo.png", "painting.png", *tokens]) == 2
    assert outputs == [str(folder / "home" / tokens[-1].partition("~/")[2])]


@pytest.mark.parametrize(
    ("tokens", "same"),
    [
        (["help"], ["--help"]),
        (["help", "run"], ["run", "--help"]),
        (["help", "vgg", "info"], ["vgg", "info", "--help"]),
        (["version"], ["--version"]),
        (["-V"], ["--version"]),
    ],
    ids=str,
)
def test_words_of_other_programs_are_understood(
    tokens: list[str], same: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tokens) == 0
    answer = capsys.readouterr().out
    assert main(same) == 0
    assert answer == capsys.readouterr().out


def test_a_forgotten_command_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("photo.png", "gone.jpg"):
        assert main([name, "painting.png"]) == 2
        assert capsys.readouterr().err == (
            f"styler: error: There is no command '{name}'; paint a picture with 'styler run photo.jpg painting.jpg'.\n"
        )


def test_a_missing_device_is_an_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_files(folder)
    assert main(["run", "photo.png", "painting.png", "--device", "cuda:99"]) == 1
    assert re.fullmatch(r"styler: error: .*GPU.*\n", capsys.readouterr().err)
    assert read_files(folder) == before


def test_an_unknown_command_lists_the_available_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runn"]) == 2
    assert capsys.readouterr().err == 'styler: error: Unknown command "runn". Did you mean "run"? ' + (
        "Available commands: run, preview, mask, batch, ui, inspect, presets, styles, ...\n"
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


def list_commands() -> list[list[str]]:
    """Return the words of every command."""
    app = _build_app(Console())
    groups = {name: app[name] for name in app if not name.startswith("-")}
    return [
        [name, *inner]
        for name, command in groups.items()
        for inner in ([[it] for it in command if not it.startswith("-")] if command.default_command is None else [[]])
    ]


def test_all_commands_are_tested() -> None:
    assert len(list_commands()) == 18
    assert ["vgg", "info"] in list_commands()
    assert ["ui"] in list_commands()


@pytest.mark.parametrize("words", list_commands(), ids=" ".join)
def test_every_command_accepts_debug(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    app = _build_app(Console())
    inner = app[words[0]] if len(words) == 1 else app[words[0]][words[1]]
    assert inner.default_command is not None
    positional = [
        it for it in inspect.signature(inner.default_command).parameters.values() if it.kind == it.POSITIONAL_ONLY
    ]
    names = ["x"] * sum(it.default is it.empty for it in positional)
    _, bound, _ = app.parse_args([*words, *names, "--debug"], print_error=False, exit_on_error=False)
    assert bound.arguments["reports"].debug if "reports" in bound.arguments else bound.arguments["debug"]
    assert main([*words, "--help"]) == 0
    assert re.search(r"^ +--debug +.*tracebacks of errors$", capsys.readouterr().out, re.MULTILINE)
    assert main([*words, "--nonsense", "--debug"]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("Traceback")
    assert "UnknownOptionError" in err
    assert out == ""


def test_debug_can_precede_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    for tokens in (["--debug", "vgg", "info", "--nonsense"], ["vgg", "--debug", "info", "--nonsense"]):
        assert main(tokens) == 2
        err = capsys.readouterr().err
        assert err.startswith("Traceback")
        assert "UnknownOptionError" in err
    assert main(["vgg", "info", "--nonsense"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_debug_alone_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    for tokens in (
        ["--debug"],
        ["vgg", "--debug"],
        ["--debug", "vgg"],
        ["--help", "--debug"],
        ["vgg", "--help", "--debug"],
    ):
        assert main(tokens) == 0
        assert capsys.readouterr().out.startswith("Usage: styler")


FAILURES: list[tuple[Exception, str]] = [
    (MemoryError(), "There is not enough memory; close"),
    (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "not enough memory (failed to map seg"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory ([Errno 12] Cannot allocate memory); close"),
    (RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you tried"), "(can't allocate memory); close"),
    (RuntimeError("can't start new thread"), "not enough memory (can't start new thread)"),
    (
        RuntimeError("Failed to initialize cpuinfo!"),
        "cannot run here (initialize cpuinfo): it reads /proc/cpuinfo; mount",
    ),
    (RuntimeError("could not create a primitive"), "also for code that it generates; close other programs, and remove"),
    (OSError(errno.EMFILE, "Too many open files"), "a limit of the system (Too many open files); raise the limits of"),
    (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "processes ('ulimit -u')"),
    (
        ModuleNotFoundError("No module named 'safetensors'", name="safetensors"),
        "loaded (No module named 'safetensors'); the",
    ),
    (ImportError("long story\n\nOriginal error was: libx.so: no such file\n"), "(Original error was: libx.so: no such"),
]


@pytest.mark.parametrize(("error", "sentence"), FAILURES, ids=lambda value: type(value).__name__)
def test_a_machine_or_installation_that_fails_is_no_bug(
    error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(config, "load_config", fail)
    assert main(["run", "astronaut", "mosaic"]) == 1
    err = capsys.readouterr().err
    assert re.fullmatch(r"styler: error: [^\n]+\.\n", err)
    assert "bug" not in err
    assert sentence in err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps the working folder")
def test_a_working_folder_that_is_gone_is_reported_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["run", "astronaut", "mosaic", "-o", str(tmp_path / "out.png")]) == 1
    message = "styler: error: The working folder no longer exists; change to another one.\n"
    assert capsys.readouterr().err == message
    assert [*tmp_path.iterdir()] == []


def test_the_cause_of_an_error_can_be_a_shortage() -> None:
    error = ImportError("numpy cannot be imported")
    error.__cause__ = ImportError("libopenblas.so: failed to map segment from shared object")
    assert "not enough memory (failed to map segment)" in str(explain_failure(error))


def test_our_own_import_errors_are_bugs() -> None:
    assert explain_failure(ImportError("cannot import name 'x' from 'styler.save'", name="styler.save")) is None
    assert explain_failure(RuntimeError("shapes do not match")) is None
    assert explain_failure(OSError(errno.ENOENT, "gone")) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces RLIMIT_AS")
@pytest.mark.parametrize("megabytes", [60, 300])
def test_too_little_address_space_is_a_sentence(megabytes: int, tmp_path: Path) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    command = [sys.executable, "-m", "styler", "run", "astronaut", "mosaic", "-q", "-o", str(tmp_path / "out.png")]
    process = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, check=False, timeout=120)
    assert process.returncode == 1
    assert re.fullmatch(r"styler: error: There is not enough memory \([^\n]+\); close .*\.\n", process.stderr)
    assert not [*tmp_path.iterdir()]


def test_openmp_waits_passively_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    main(["--version"])
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    main(["--version"])
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"]) == ("PASSIVE", "1500")
