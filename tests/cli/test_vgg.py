"""The workshop's verbs on the command line: help, answers, refusals, each with its exit code."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from styler import images
from styler.cli import main
from styler.vgg import registry
from styler.vgg.weights import Weights
from styler.workshop import crops, distill, memory, quantize, slim

Capture = pytest.CaptureFixture[str]
VERBS = ("info", "import", "quantize", "export", "slim", "compare", "diagnose")


@pytest.fixture
def folder(
    tmp_path: Path,
    pixels: Callable[..., NDArray[np.float32]],
    monkeypatch: pytest.MonkeyPatch,
    use_tiny: None,
    tiny: Weights,
) -> Path:
    """The working folder, with pictures, and the tiny network as every backbone."""
    for kind in ("contents", "styles"):
        for seed in range(2):
            images.write_file(tmp_path / "pictures" / kind / f"{seed}.png", images.encode_image(pixels(64, 72, seed)))
    (tmp_path / "own.safetensors").write_bytes(quantize.quantize_network(tiny, "float32"))
    monkeypatch.setattr(registry, "get_cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(slim, "MULTIPLE", 1)
    monkeypatch.setattr(distill, "LESSON_SIDE", 32)
    monkeypatch.setattr(memory, "measure_peak_memory", lambda *_given: 1e6)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*tokens: str) -> int:
    return main(["vgg", *tokens])


def answer(capsys: Capture) -> dict[str, object]:
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("verb", VERBS)
def test_help_begins_with_three_examples_and_names_the_exit_codes(verb: str, capsys: Capture) -> None:
    assert run(verb, "--help") == 0
    page = capsys.readouterr().out
    assert page.count("\n  styler ") == 3
    assert f"Usage: styler vgg {verb}" in page
    assert "Exit codes" in page
    assert "--json" in page


def test_the_workshop_lists_its_verbs(capsys: Capture) -> None:
    assert run("--help") == 0
    page = capsys.readouterr().out
    assert all(f"\n  {verb} " in page for verb in VERBS)


@pytest.mark.parametrize(("verb", "name"), [("import", "FILE"), ("compare", "A"), ("diagnose", "CONTENT")])
def test_what_is_missing_is_named(verb: str, name: str, capsys: Capture) -> None:
    assert run(verb) == 2
    assert f"{name} is required; see 'styler vgg {verb} --help'." in capsys.readouterr().err


def test_info_is_a_table_json_and_a_picture(folder: Path, capsys: Capture) -> None:
    assert run("info") == 0
    assert "138,357,544" in capsys.readouterr().out
    assert run("info", "vgg19-bn", "--size", "64", "--json", "--plot", "a.png") == 0
    found = answer(capsys)
    assert found["configuration"] == "E"
    with Image.open("a.png") as image:
        assert image.width > 500
    assert run("info", "vgg12") == 2
    assert run("info", "--plot", "a.jpg") == 2
    assert run("info", "--plot", "a.png") == 1
    assert "exists already" in capsys.readouterr().err


def test_import_quantize_and_what_they_refuse(folder: Path, capsys: Capture) -> None:
    assert run("import", "own.safetensors", "mine") == 0
    assert Path(capsys.readouterr().out.strip()).is_file()
    assert run("import", "own.safetensors", "vgg16") == 2
    assert run("import", "absent.pth", "other") == 1
    assert run("import", "own.safetensors", "other", "--convention", "bgr") == 2
    capsys.readouterr()
    assert run("quantize", "vgg16", "--json") == 0
    assert answer(capsys)["output"] == "vgg16.int8.safetensors"
    assert run("quantize", "vgg16") == 1
    assert run("quantize", "vgg16", "--to", "int4", "-o", "a.safetensors") == 2


def test_export_writes_a_model_and_says_how_near_it_is(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript", reason="export needs onnx, onnxscript and onnxruntime")
    assert run("export", "-o", "a.onnx", "--layers", "relu1_1,relu4_2", "--json") == 0
    assert answer(capsys)["errors"].keys() == {"relu1_1", "relu4_2"}  # type: ignore[attr-defined]
    assert run("export", "--fp16", "--int8") == 2
    monkeypatch.setenv("PATH", str(folder))
    assert run("export", "-o", "b.onnx", "--layers", "relu1_1", "--tensorrt") == 1
    said = capsys.readouterr().err
    assert "--onnx=b.onnx" in said
    assert "TensorRT 10" in said
    monkeypatch.setattr("styler.workshop.export.CALIBRATION_SIDE", 48)
    assert run("quantize", "a.onnx", "-o", "a8.onnx", "--images", "pictures") == 0
    assert run("quantize", "a.onnx", "--to", "float16", "-o", "a16.onnx") == 2
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert run("export", "-o", "c.onnx") == 1
    assert "pip install 'styler[onnx]'" in capsys.readouterr().err


def test_slim_reports_the_channels_kept_and_learns(folder: Path, capsys: Capture) -> None:
    flags = ("--images", "pictures", "--crops", "3")
    assert run("slim", "--keep", "0.5", *flags, "--distill-steps", "2", "--json", "-o", "a.safetensors") == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["channels"]["conv1_1"] == 4
    assert found["channels"]["conv4_1"] == 4
    assert "step 2 of 2" in captured.err
    assert not Path("a.safetensors.state").exists()
    assert run("slim", *flags, "-o", "a.safetensors") == 1
    assert run("slim", "--keep", "2", *flags, "-o", "b.safetensors") == 2
    assert run("slim", "--crops", "0", "-o", "b.safetensors") == 2
    assert run("slim", "--images", "nowhere", "-o", "b.safetensors") == 4


def test_compare_answers_in_markdown(folder: Path, capsys: Capture) -> None:
    flags = ("--images", "pictures", "--pairs", "1", "--size", "64", "--iterations", "1", "--timed-at", "64")
    assert run("compare", "own.safetensors", "own.safetensors", *flags, "--plot", "a.png", "--pictures", "kept") == 0
    assert capsys.readouterr().out.startswith("| network |")
    assert len(list(Path("kept").iterdir())) == 1
    assert run("compare", "a.onnx", "own.safetensors") == 2


def test_diagnose_tells_what_each_layer_sees(folder: Path, capsys: Capture) -> None:
    photo, painting = "pictures/contents/0.png", "pictures/styles/1.png"
    assert run("diagnose", photo, painting, photo, "--size", "64", "--sheet", "seen.png") == 0
    assert "relu5_1" in capsys.readouterr().out
    assert Path("seen.png").is_file()
    assert run("diagnose", photo, painting, "--size", "64", "--json") == 0
    assert {"layers", "gradients", "problems"} <= answer(capsys).keys()
    assert run("diagnose", photo, "nowhere.png") == 1


def test_pictures_of_a_folder_are_found_in_folders_too(folder: Path) -> None:
    assert len(crops.find_pictures(folder / "pictures")) == 4
