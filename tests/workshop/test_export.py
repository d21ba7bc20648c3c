"""Tests of export: a model computes the same in ONNX, and errors without the tools say what to do."""

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from styler.errors import OptionError, StylerError, WeightsError
from styler.vgg.arch import DEFAULT_POOLING
from styler.vgg.model import Features
from styler.vgg.weights import Weights
from styler.workshop import export

pytest.importorskip("onnxscript", reason="export needs onnx, onnxscript and onnxruntime")

LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_2", "relu5_1")
Picture = Callable[..., Tensor]


@pytest.fixture(scope="module")
def exported(tiny: Weights, tmp_path_factory: pytest.TempPathFactory) -> export.ExportResult:
    return export.export_onnx(tiny, LAYERS, tmp_path_factory.mktemp("onnx") / "tiny.onnx")


def test_onnx_matches_torch_to_within_1e_4_at_three_sizes(exported: export.ExportResult) -> None:
    assert exported.errors.keys() == set(LAYERS)
    assert len(export.CHECKED_SIZES) == 3
    assert max(exported.errors.values()) < 1e-4


@pytest.mark.parametrize("size", [(16, 16), (40, 72), (97, 65)])
def test_height_and_width_are_dynamic(
    size: tuple[int, int], exported: export.ExportResult, tiny: Weights, picture: Picture
) -> None:
    image = picture(*size)
    session = export.open_session(exported.path.read_bytes())
    outputs = session.run(list(LAYERS), {export.INPUT_NAME: image.numpy()})
    for layer, maps in Features(tiny, LAYERS, DEFAULT_POOLING)(image).items():
        torch.testing.assert_close(torch.from_numpy(outputs[LAYERS.index(layer)]), maps, rtol=1e-4, atol=1e-4)


def test_fp16_is_smaller_and_close(tiny: Weights, exported: export.ExportResult, tmp_path: Path) -> None:
    half = export.export_onnx(tiny, LAYERS, tmp_path / "half.onnx", form="fp16")
    assert half.bytes < exported.bytes
    assert max(half.errors.values()) < export.TOLERANCE["fp16"]


def test_int8_has_8_bit_kernels_and_is_calibrated_on_pictures(
    tiny: Weights, tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    monkeypatch.setattr(export, "CALIBRATION_SIDE", 64)
    image = picture(64, 64, 1)
    result = export.export_onnx(tiny, LAYERS, tmp_path / "int8.onnx", form="int8", pictures=[image])
    data = result.path.read_bytes()
    kinds = [item.data_type for item in onnx.load_model_from_string(data).graph.initializer if len(item.dims) == 4]
    assert kinds == [onnx.TensorProto.INT8] * 9
    outputs = export.open_session(data).run(["relu3_1"], {export.INPUT_NAME: image.numpy()})[0]
    expected = Features(tiny, ["relu3_1"], DEFAULT_POOLING)(image)["relu3_1"]
    assert torch.cosine_similarity(torch.from_numpy(outputs).flatten(), expected.flatten(), dim=0) > 0.98
    with pytest.raises(OptionError, match="--images"):
        export.export_onnx(tiny, LAYERS, tmp_path / "none.onnx", form="int8")


def test_model_that_disagrees_with_torch_is_not_written(
    tiny: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "TOLERANCE", {"fp32": 0.0})
    with pytest.raises(WeightsError, match="not written"):
        export.export_onnx(tiny, ["relu1_1"], tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_error_without_the_extra_says_how_to_install_it(
    tiny: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(StylerError, match=r"pip install onnx onnxscript onnxruntime"):
        export.export_onnx(tiny, LAYERS, tmp_path / "a.onnx")


def test_damaged_model_is_not_quantized(picture: Picture) -> None:
    with pytest.raises(WeightsError, match="export it again"):
        export.quantize_onnx(b"no model", [picture(64, 64)])


@pytest.fixture
def fake_trtexec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a `trtexec` on the PATH that records its arguments and writes the engine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "trtexec"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib, sys\n"
        "pathlib.Path(__file__).with_name('arguments.json').write_text(json.dumps(sys.argv[1:]))\n"
        "engine = next(a.split('=', 1)[1] for a in sys.argv if a.startswith('--saveEngine='))\n"
        "if 'fails' in engine: sys.exit('no such device')\n"
        "pathlib.Path(engine).write_bytes(b'engine')\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder / "arguments.json"


def test_trtexec_receives_model_engine_and_shapes_but_no_precision(fake_trtexec: Path, tmp_path: Path) -> None:
    engine = export.build_engine(tmp_path / "a.onnx", tmp_path / "a.engine", "fp16")
    assert engine.read_bytes() == b"engine"
    arguments = json.loads(fake_trtexec.read_text())
    assert arguments == [
        f"--onnx={tmp_path / 'a.onnx'}",
        f"--saveEngine={engine}",
        "--minShapes=image:1x3x64x64",
        "--optShapes=image:1x3x512x512",
        "--maxShapes=image:1x3x2048x2048",
    ]


def test_version_10_receives_flags_for_the_precision() -> None:
    later, ten = export.format_trtexec_commands(Path("a.onnx"), Path("a.engine"), "int8")
    assert later.startswith("TensorRT 11")
    assert "--int8" not in later
    assert ten.endswith("--int8 --fp16")


def test_error_output_of_trtexec_is_reported(fake_trtexec: Path, tmp_path: Path) -> None:
    with pytest.raises(StylerError, match="no such device"):
        export.build_engine(tmp_path / "a.onnx", tmp_path / "fails.engine")


def test_error_without_trtexec_contains_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StylerError, match=r"trtexec --onnx=.*a\.onnx --saveEngine=.*a\.engine --minShapes"):
        export.build_engine(tmp_path / "a.onnx", tmp_path / "a.engine")
