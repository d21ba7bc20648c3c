"""Tests of `styler vgg`: help, output and errors of every command, with exit codes."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from styler import images
from styler.cli import main
from styler.vgg import registry
from styler.vgg.weights import Weights, read_metadata
from styler.workshop import crops, distill, memory, quantize, slim

Capture = pytest.CaptureFixture[str]
COMMANDS = ("info", "import", "quantize", "export", "slim", "compare", "diagnose")


@pytest.fixture
def folder(
    tmp_path: Path,
    pixels: Callable[..., NDArray[np.float32]],
    monkeypatch: pytest.MonkeyPatch,
    use_tiny: None,
    tiny: Weights,
) -> Path:
    """Use a working folder with pictures, and the tiny network as every backbone."""
    for kind in ("contents", "styles"):
        for seed in range(2):
            images.write_file(tmp_path / "pictures" / kind / f"{seed}.png", images.encode_image(pixels(64, 72, seed)))
    (tmp_path / "own.safetensors").write_bytes(quantize.quantize_network(tiny, "float32"))
    monkeypatch.setattr(registry, "get_cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(slim, "MULTIPLE", 1)
    monkeypatch.setattr(distill, "LESSON_SIDE", 32)
    monkeypatch.setattr(memory, "measure_peak_memory", lambda *_args: 1e6)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*tokens: str) -> int:
    return main(["vgg", *tokens])


def read_json(capsys: Capture) -> dict[str, object]:
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_three_examples_and_the_exit_codes(command: str, capsys: Capture) -> None:
    assert run(command, "--help") == 0
    page = capsys.readouterr().out
    assert page.count("\n  styler ") == 3
    assert f"Usage: styler vgg {command}" in page
    assert "Exit codes" in page
    assert "--json" in page


def test_help_lists_the_commands(capsys: Capture) -> None:
    assert run("--help") == 0
    page = capsys.readouterr().out
    assert all(f"\n  {command} " in page for command in COMMANDS)


@pytest.mark.parametrize(("command", "name"), [("import", "FILE"), ("compare", "A"), ("diagnose", "CONTENT")])
def test_missing_argument_is_named(command: str, name: str, capsys: Capture) -> None:
    assert run(command) == 2
    assert f"{name} is required; see 'styler vgg {command} --help'." in capsys.readouterr().err


def test_info_prints_a_table_or_json_and_draws_a_chart(folder: Path, capsys: Capture) -> None:
    assert run("info") == 0
    assert "138,357,544" in capsys.readouterr().out
    assert run("info", "vgg19-bn", "--size", "64", "--json", "--plot", "a.png") == 0
    document = read_json(capsys)
    assert document["configuration"] == "E"
    with Image.open("a.png") as image:
        assert image.width > 500
    assert run("info", "vgg12") == 2
    assert run("info", "--plot", "a.jpg") == 2
    assert run("info", "--plot", "a.png") == 1
    assert "already exists" in capsys.readouterr().err


def test_import_and_quantize_write_files_and_reject_wrong_input(folder: Path, capsys: Capture) -> None:
    assert run("import", "own.safetensors", "mine") == 0
    assert Path(capsys.readouterr().out.strip()).is_file()
    assert run("import", "own.safetensors", "vgg16") == 2
    assert run("import", "absent.pth", "other") == 1
    assert run("import", "own.safetensors", "other", "--convention", "bgr") == 2
    capsys.readouterr()
    assert run("quantize", "vgg16", "--json") == 0
    assert read_json(capsys)["output"] == "vgg16.int8.safetensors"
    assert run("quantize", "vgg16") == 1
    assert run("quantize", "vgg16", "--to", "int4", "-o", "a.safetensors") == 2


def test_export_writes_a_model_and_reports_its_errors(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript", reason="export needs onnx, onnxscript and onnxruntime")
    assert run("export", "-o", "a.onnx", "--layers", "relu1_1,relu4_2", "--json") == 0
    assert read_json(capsys)["errors"].keys() == {"relu1_1", "relu4_2"}  # type: ignore[attr-defined]
    assert run("export", "--fp16", "--int8") == 2
    monkeypatch.setenv("PATH", str(folder))
    assert run("export", "-o", "b.onnx", "--layers", "relu1_1", "--tensorrt") == 1
    message = capsys.readouterr().err
    assert "--onnx=b.onnx" in message
    assert "TensorRT 10" in message
    monkeypatch.setattr("styler.workshop.export.CALIBRATION_SIDE", 48)
    assert run("quantize", "a.onnx", "-o", "a8.onnx", "--images", "pictures") == 0
    assert run("quantize", "a.onnx", "--to", "float16", "-o", "a16.onnx") == 2
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert run("export", "-o", "c.onnx") == 1
    assert "pip install onnx onnxscript onnxruntime" in capsys.readouterr().err


def test_slim_reports_the_channels_and_trains(folder: Path, capsys: Capture) -> None:
    flags = ("--images", "pictures", "--crops", "3")
    assert run("slim", "--keep", "0.5", *flags, "--distill-steps", "2", "--json", "-o", "a.safetensors") == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["channels"]["conv1_1"] == 4
    assert document["channels"]["conv4_1"] == 4
    assert "step 2 of 2" in captured.err
    assert not Path("a.safetensors.state").exists()
    assert run("slim", *flags, "-o", "a.safetensors") == 1
    assert run("slim", "--keep", "2", *flags, "-o", "b.safetensors") == 2
    assert run("slim", "--crops", "0", "-o", "b.safetensors") == 2
    assert run("slim", "--images", "nowhere", "-o", "b.safetensors") == 4


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_training_that_a_signal_stops_continues(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ("--images", "pictures", "--crops", "2", "--distill-steps", "3", "-o", "a.safetensors")
    real, hangups = distill._train_step, [signal.SIGHUP, signal.SIGHUP]

    def train_step(*arguments: Any) -> distill.DistillStep:
        while hangups:
            signal.raise_signal(hangups.pop())
        return real(*arguments)

    monkeypatch.setattr(distill, "_train_step", train_step)
    assert run("slim", *flags) == 129
    assert capsys.readouterr().err.endswith(
        "The training is saved; run the same command again to continue.\nstyler: The terminal was closed.\n"
    )
    state = Path("a.safetensors.state").read_bytes()
    assert read_metadata(state)["done"] == "1"
    assert run("slim", *flags) == 0
    assert "step 3 of 3" in capsys.readouterr().err
    assert not Path("a.safetensors.state").exists()


def test_compare_prints_markdown(folder: Path, capsys: Capture) -> None:
    flags = ("--images", "pictures", "--pairs", "1", "--size", "64", "--iterations", "1", "--timed-at", "64")
    assert run("compare", "own.safetensors", "own.safetensors", *flags, "--plot", "a.png", "--pictures", "kept") == 0
    assert capsys.readouterr().out.startswith("| network |")
    assert len(list(Path("kept").iterdir())) == 1
    assert run("compare", "a.onnx", "own.safetensors") == 2


def test_missing_matplotlib_is_reported_before_any_work(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run("compare", "own.safetensors", "own.safetensors", "--plot", "a.png") == 1
    message = capsys.readouterr().err
    assert "pip install matplotlib" in message
    assert "timing" not in message


def test_diagnose_reports_every_layer(folder: Path, capsys: Capture) -> None:
    photo, painting = "pictures/contents/0.png", "pictures/styles/1.png"
    assert run("diagnose", photo, painting, photo, "--size", "64", "--sheet", "seen.png") == 0
    assert "relu5_1" in capsys.readouterr().out
    assert Path("seen.png").is_file()
    assert run("diagnose", photo, painting, "--size", "64", "--json") == 0
    assert {"layers", "gradients", "problems"} <= read_json(capsys).keys()
    assert run("diagnose", photo, "nowhere.png") == 1


def test_pictures_are_found_in_subfolders(folder: Path) -> None:
    assert len(crops.find_pictures(folder / "pictures")) == 4
