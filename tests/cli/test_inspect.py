"""The record inside pictures: written by `run`, printed by `inspect`, replayed by `--from`."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from styler import images, provenance
from styler.cli import main
from styler.engine.painter import Painter
from styler.engine.result import Progress
from styler.options import PRESETS

TINY = ["--size", "64", "--first-size", "32", "--iterations", "4", "--device", "cpu"]
Capture = pytest.CaptureFixture[str]

PROBE = """
import sys
from styler.cli import main
assert main(["inspect", sys.argv[1]]) == 0
assert main(["inspect", "--json", sys.argv[1]]) == 0
assert not {"torch", "torchvision", "gradio"} & set(sys.modules)
"""


@pytest.fixture
def folder(
    tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, use_tiny: None
) -> Path:
    """Create a working folder with a photo and two paintings with distinctive names; the network is tiny."""
    for seed, name in enumerate(("holiday.png", "monet.png", "other.png")):
        exif = {"artist": "Ada Lovelace", "copyright": "© Ada Lovelace", "make": "Kodak"} if seed == 0 else {}
        images.write_file(tmp_path / name, images.encode_image(pixels(64, 64, seed), metadata=exif))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paint(*tokens: str) -> int:
    return main(["run", "-q", *TINY, *tokens])


def replay(source: str, output: str, *tokens: str) -> int:
    inputs = [token for token in tokens if token.endswith(".png")]
    return main(
        ["run", "--from", source, *(inputs or ["holiday.png", "monet.png"]), "--device", "cpu", "-o", output]
        + [token for token in tokens if token not in inputs]
    )


def are_equal(one: str, other: str) -> bool:
    return np.array_equal(images.read_image(one).pixels, images.read_image(other).pixels)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.avif", "a.tiff"])
def test_every_format_stores_the_settings_but_no_names(name: str, folder: Path) -> None:
    assert paint("holiday.png", "monet.png", "--init", str(folder / "other.png"), "-o", name) == 0
    record = provenance.read_record(name)
    assert record["options"]["iterations"] == 4
    assert [record["content"], *record["styles"], record["init"]] == [
        images.read_image(args).sha256 for args in ("holiday.png", "monet.png", "other.png")
    ]
    data = (folder / name).read_bytes()
    words = ["holiday", "monet", "other", str(folder), folder.name, "Ada Lovelace", "Kodak"]
    for word in words:
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            assert word.encode(encoding) not in data


def test_metadata_flags_omit_the_record_or_keep_the_exif(folder: Path) -> None:
    assert paint("holiday.png", "monet.png", "-o", "bare.png", "--no-metadata") == 0
    assert images.read_text("bare.png") == {}
    assert main(["inspect", "bare.png"]) == 1
    assert not Image.open("bare.png").getexif()
    assert paint("holiday.png", "monet.png", "-o", "kept.png", "--keep-metadata") == 0
    kept = images.read_image("kept.png").metadata
    assert kept == {"artist": "Ada Lovelace", "copyright": "© Ada Lovelace", "make": "Kodak"}
    assert provenance.read_record("kept.png")


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_a_replay_of_the_same_inputs_gives_the_same_pixels(name: str, folder: Path, capsys: Capture) -> None:
    settings = ["--seed", "7", "--look", "gatys", "--strength", "63.7", "--threads", "1"]
    assert paint("holiday.png", "monet.png", "other.png", "--style-weights", "1,3", *settings, "-o", name) == 0
    capsys.readouterr()
    assert replay(name, f"again-{name}", "holiday.png", "monet.png", "other.png", "-q") == 0
    out, err = capsys.readouterr()
    assert (out, err) == (f"again-{name}\n", "")
    assert are_equal(name, f"again-{name}")
    first, second = provenance.read_record(name), provenance.read_record(f"again-{name}")
    chosen = {"precision": "fp32", "protect": ["none"]}
    assert {**first["options"], **chosen} == second["options"], "what was chosen automatically"
    assert first["schedule"] == second["schedule"]
    assert first["losses"] == second["losses"]


def test_a_replay_keeps_the_precision_whatever_this_machine_would_choose(folder: Path, capsys: Capture) -> None:
    assert paint("holiday.png", "monet.png", "--precision", "bf16", "-o", "a.png") == 0
    assert replay("a.png", "b.png") == 0
    assert "precision" not in capsys.readouterr().err
    assert [provenance.read_record(name)["precision"] for name in ("a.png", "b.png")] == ["bfloat16"] * 2
    assert are_equal("a.png", "b.png")
    assert replay("a.png", "c.png", "--precision", "auto") == 0
    assert "The precision is float32; bfloat16 was recorded." in capsys.readouterr().err
    assert not are_equal("a.png", "c.png")


@pytest.mark.parametrize(
    "flags", ["--preset draft", "--look gram", "--preset fine --look oil --stroke-size 2", "--keep-color 1"]
)
def test_a_replay_gives_the_same_pixels_for_any_preset_or_look(flags: str, folder: Path) -> None:
    assert paint("holiday.png", "monet.png", *flags.split(), "-o", "a.png") == 0
    assert replay("a.png", "b.png") == 0
    assert are_equal("a.png", "b.png")
    if "--look" in flags:  # no flag of the plan: message again, it changes nothing
        assert replay("a.png", "c.png", *flags.removeprefix("--preset fine ").split()) == 0
        assert are_equal("a.png", "c.png")


def test_inspect_reads_standard_input(folder: Path, capsys: Capture) -> None:
    assert paint("holiday.png", "monet.png", "-o", "a.png") == 0
    assert main(["inspect", "a.png"]) == 0
    named = capsys.readouterr().out.split("\n", 1)[1]
    command = [sys.executable, "-m", "styler", "inspect", "-"]
    process = subprocess.run(
        command, input=(folder / "a.png").read_bytes(), capture_output=True, check=True, timeout=60
    )
    assert named == process.stdout.decode()
    process = subprocess.run(command, input=b"<html>", capture_output=True, check=False, timeout=60)
    assert process.returncode == 1
    assert b"Cannot read 'standard input': it is a web page" in process.stderr


def test_the_printed_command_gives_the_same_pixels(folder: Path, capsys: Capture) -> None:
    assert paint("holiday.png", "monet.png", "--strength", "63.7", "--distance", "gram", "-o", "a.png") == 0
    capsys.readouterr()
    assert main(["inspect", "a.png"]) == 0
    match = re.search(r"Command:\n  styler (.*)", capsys.readouterr().out)
    assert match
    names = {"CONTENT": "holiday.png", "STYLE": "monet.png"}
    assert main([*(names.get(word, word) for word in match[1].split()), "-o", "b.png"]) == 0
    assert are_equal("a.png", "b.png")


def test_flags_override_the_record_and_can_replace_its_schedule(folder: Path) -> None:
    assert paint("holiday.png", "monet.png", "-o", "a.png") == 0
    first = provenance.read_record("a.png")
    assert replay("a.png", "b.png", "--strength", "80", "--seed", "9", "-q") == 0
    second = provenance.read_record("b.png")
    assert second["schedule"] == first["schedule"]
    assert second["options"] == {
        **first["options"],
        "strength": 80,
        "seed": 9,
        "threads": first["threads"],
        "precision": "fp32",
        "protect": ["none"],
    }
    assert not are_equal("a.png", "b.png")
    assert replay("a.png", "c.png", "--iterations", "2", "-q") == 0
    assert [scale["iterations"] for scale in provenance.read_record("c.png")["schedule"]] == [2, 1]
    assert replay("a.png", "d.png", "--size", "96", "--preset", "draft", "-q") == 0
    assert (provenance.read_record("d.png")["width"], provenance.read_record("d.png")["options"]["iterations"]) == (
        96,
        PRESETS["draft"].values["iterations"],
    )
    assert replay("a.png", "e.png", "--strength", "0", "-q") == 0
    assert provenance.read_record("e.png")["schedule"] == []
    assert replay("e.png", "f.png", "--strength", "50", "-q") == 0
    assert are_equal("a.png", "f.png"), "there was no plan to repeat, so it is made"


def test_other_style_layers_need_no_weights(folder: Path) -> None:
    """By a flag, and in place of those of the settings file or a record."""
    (folder / "styler.toml").write_text('style_layers = ["relu1_1", "relu2_1"]')
    assert paint("holiday.png", "monet.png", "-o", "a.png") == 0
    assert {"style relu1_1", "style relu2_1"} < {*provenance.read_record("a.png")["losses"]}
    assert paint("holiday.png", "monet.png", "--style-layers", "relu1_1", "-o", "b.png") == 0
    assert replay("a.png", "c.png", "--style-layers", "relu1_1") == 0
    assert are_equal("b.png", "c.png")


def test_a_dry_run_of_a_replay_forecasts_the_schedule_that_is_repeated(folder: Path, capsys: Capture) -> None:
    assert paint("holiday.png", "monet.png", "--time", "1h", "--patience", "1", "-o", "a.png") == 0
    record = provenance.read_record("a.png")
    for flags in (["--strength", "60"], ["--iterations", "7"]):
        capsys.readouterr()
        assert main(["run", "--from", "a.png", "holiday.png", "monet.png", *flags, "--dry-run", "--json"]) == 0
        forecast = json.loads(capsys.readouterr().out)["schedule"]
        iterations = [scale["iterations"] for scale in forecast]
        is_repeated = iterations == [scale["iterations"] for scale in record["schedule"]]
        assert is_repeated == ("--iterations" not in flags), (flags, iterations)


def test_a_replay_needs_the_same_background(folder: Path, capsys: Capture) -> None:
    clear = Image.open("holiday.png").convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((64, 64)))
    clear.save("clear.png")
    assert paint("clear.png", "monet.png", "--background", "red", "-o", "a.png") == 0
    assert main(["inspect", "a.png"]) == 0
    assert "--background '#ff0000'" in capsys.readouterr().out
    assert replay("a.png", "b.png", "clear.png", "monet.png") == 0
    assert "The background is not #ff0000, which was recorded; give --background" in capsys.readouterr().err
    assert replay("a.png", "c.png", "clear.png", "monet.png", "--background", "#ff0000") == 0
    assert "background" not in capsys.readouterr().err
    assert are_equal("a.png", "c.png")


def test_changed_inputs_give_a_warning(folder: Path, capsys: Capture) -> None:
    assert paint("holiday.png", "monet.png", "-o", "a.png") == 0
    assert replay("a.png", "b.png") == 0
    assert "warning" not in capsys.readouterr().err
    assert replay("a.png", "c.png", "other.png", "monet.png") == 0
    assert "styler: warning: The content differs from the recorded file.\n" in capsys.readouterr().err
    assert replay("a.png", "d.png", "other.png", "monet.png", "-q") == 0
    assert capsys.readouterr().err == ""


def test_a_different_machine_gives_a_note(folder: Path, capsys: Capture) -> None:
    assert paint("holiday.png", "monet.png", "--threads", "1", "-o", "a.png") == 0
    assert replay("a.png", "b.png", "--threads", "2") == 0
    assert "styler: note: The number of threads is 2; 1 was recorded.\n" in capsys.readouterr().err


def test_an_init_file_must_be_given_again(folder: Path, capsys: Capture) -> None:
    assert paint("holiday.png", "monet.png", "--init", "other.png", "-o", "a.png") == 0
    assert replay("a.png", "b.png") == 2
    assert "was started from a picture file; give that file with --init FILE." in capsys.readouterr().err
    assert main(["run", "--from", "a.png", "holiday.png", "monet.png", "--init", "other.png", "-o", "b.png"]) == 0
    assert are_equal("a.png", "b.png")
    assert main(["run", "--from", "a.png", "holiday.png", "monet.png", "--init", "monet.png", "-o", "c.png"]) == 0
    assert "The picture given with --init differs from the recorded file." in capsys.readouterr().err


def test_a_stopped_run_is_replayed_exactly(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Painter.stream

    def stop_at_six(*args: object) -> object:
        progress: Progress
        for progress in real(*args):  # type: ignore[arg-type]
            if progress.total_iterations == 6:
                args[4].set()  # type: ignore[attr-defined]
            yield progress

    with monkeypatch.context() as patch:
        patch.setattr(Painter, "stream", stop_at_six)
        paint("holiday.png", "monet.png", "--taper", "1.5", "--optimizer", "mixed", "-o", "a.png")
    record = provenance.read_record("a.partial.png")
    assert record["stopped"]
    assert record["schedule"][-1] == {
        "width": 64,
        "height": 64,
        "iterations": 2,
        "optimizer": "adam",
        "planned": 6,
        "sketch": False,
        "half_size_copies": 0,
        "opening": False,
    }
    capsys.readouterr()
    assert main(["inspect", "a.partial.png"]) == 0
    text = capsys.readouterr().out
    assert "stopped before it was finished" in text
    assert "2 of 6 iterations of Adam" in text
    assert replay("a.partial.png", "b.png") == 0
    assert "The recorded run was stopped and is replayed up to that point" in capsys.readouterr().err
    assert are_equal("a.partial.png", "b.png")
    assert not provenance.read_record("b.png")["stopped"]
    assert replay("a.partial.png", "c.png", "--iterations", "4") == 0
    assert "stopped" not in capsys.readouterr().err
    assert provenance.read_record("c.png")["schedule"][-1]["iterations"] == 6


@pytest.mark.usefixtures("folder")
def test_the_printed_command_has_switches(capsys: Capture) -> None:
    assert paint("holiday.png", "monet.png", "--keep-border", "--memory", "2gb", "-o", "a.png") == 0
    capsys.readouterr()
    assert main(["inspect", "a.png"]) == 0
    match = re.search(r"Command:\n  styler (.*)", capsys.readouterr().out)
    assert match
    assert "--keep-border" in match[1].split()
    assert "--memory" not in match[1].split()
    names = {"CONTENT": "holiday.png", "STYLE": "monet.png"}
    assert main([*(names.get(word, word) for word in match[1].split()), "-o", "b.png"]) == 0
    assert provenance.read_record("b.png")["options"]["keep_border"] is True
    assert replay("a.png", "c.png") == 0
    assert provenance.read_record("c.png")["options"]["keep_border"] is True


@pytest.mark.usefixtures("folder")
def test_inspect_prints_text_and_json(capsys: Capture) -> None:
    assert paint("holiday.png", "monet.png", "--preset", "draft", "-o", "a.png") == 0
    capsys.readouterr()
    assert main(["inspect", "a.png"]) == 0
    text, err = capsys.readouterr()
    assert err == ""
    for wanted in (
        "64×64, made by styler ",
        "300 dpi: 0.5 × 0.5 cm on paper",
        "preset            draft",
        "32×32  ",
        images.read_image("holiday.png").sha256,
        f"PyTorch {torch.__version__}, ",
    ):
        assert wanted in text
    assert "  styler run CONTENT STYLE --size 64 --preset draft --iterations 4 --first-size 32 --device cpu\n" in text
    assert main(["inspect", "a.png", "--json"]) == 0
    out, err = capsys.readouterr()
    file = {"format": "png", "width": 64, "height": 64, "dpi": 300, "width_cm": 0.5, "height_cm": 0.5}
    assert (json.loads(out), err) == ({**provenance.read_record("a.png"), "file": file}, "")
    assert out.count("\n") == 1


def test_inspect_loads_no_torch(folder: Path) -> None:
    assert paint("holiday.png", "monet.png", "-o", "a.png") == 0
    process = subprocess.run(
        [sys.executable, "-c", PROBE, "a.png"], capture_output=True, text=True, check=False, timeout=120
    )
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize(
    ("tokens", "code", "message"),
    [
        ("inspect", 2, "FILE is required"),
        ("inspect missing.png", 1, "there is no such file"),
        ("inspect monet.png", 1, "There are no settings in 'monet.png'"),
        ("inspect a.png b.png", 2, "b.png"),
        ("run --from monet.png holiday.png monet.png", 1, "There are no settings in 'monet.png'"),
        ("run --from missing.png holiday.png monet.png", 1, "there is no such file"),
        ("run --from hostile.png holiday.png monet.png", 1, "are damaged"),
        ("inspect hostile.png", 1, "are damaged"),
        ("run --from a.png holiday.png monet.png -o a.png --overwrite", 2, "is one of the inputs"),
    ],
)
def test_unusable_records_give_one_sentence(
    tokens: str, code: int, message: str, folder: Path, capsys: Capture
) -> None:
    assert paint("holiday.png", "monet.png", "-o", "a.png") == 0
    deep = '{"schema":1,"schedule":' + "[" * 50_000
    images.write_file("hostile.png", images.encode_image(np.ones((64, 64, 3), np.float32), text={"styler": deep}))
    before = sorted(path.name for path in folder.iterdir())
    capsys.readouterr()
    assert main(tokens.split()) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("styler: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in folder.iterdir()) == before
