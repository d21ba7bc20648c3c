"""`vgg export`: the network as ONNX, to be run elsewhere, and checked against torch before it is believed.

The model takes RGB in [0, 1], (1, 3, H, W) of any size, and gives one output for each layer asked for, just what
`Features` gives: the normalisation and the rescaling are inside. `fp16` keeps inputs and outputs in float32 and
computes in float16; `int8` is static quantisation by onnxruntime, calibrated on pictures: each kernel in 8 bits with a
scale per output channel, each map in 8 bits with one scale.

Knows ONNX; does not know TensorRT (`styler.vgg.tensorrt`).
"""

import logging
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from styler import images
from styler.errors import OptionError, StylerError, WeightsError
from styler.vgg.arch import DEFAULT_POOLING
from styler.vgg.model import Features, apply_pooling
from styler.vgg.weights import Weights
from styler.workshop import crops

OPSET = 18
INPUT_NAME = "image"
EXPORT_FORMATS = ("fp32", "fp16", "int8")
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}
"""Largest relative error ‖a − b‖ / ‖b‖ of a layer that is let pass; int8 is reported, not judged."""
CHECKED_SIZES = ((64, 96), (160, 128), (224, 224))
"""Heights and widths that a model is checked at."""
CALIBRATION_SIDE = 256
MAX_CALIBRATION_PICTURES = 24
"""Pictures at most."""


class ExportModule(nn.Module):
    """What `Features` computes, without its checks and switches, as exporters want it."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features = features

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Features of a picture (1, 3, H, W), in the order of its layers."""
        found: dict[str, Tensor] = {}
        x = image
        for conv in self.features.convs:
            if conv.opens_block:
                x = apply_pooling(x, conv.block - 1, self.features.pooling)
            first = conv.name == "conv1_1"
            x = F.pad(x, (1, 1, 1, 1), mode="replicate") if first else x
            kernel, bias = (self.features.get_buffer(f"{conv.name}_{part}") for part in ("weight", "bias"))
            x = F.relu(F.conv2d(x, kernel, bias, padding=0 if first else conv.kernel // 2))  # (1, C, H, W)
            if conv.layer in self.features.layers:
                metric = dict(self.features.named_buffers()).get(f"{conv.name}_metric")
                found[conv.layer] = x if metric is None else F.conv2d(x, metric)
        return tuple(found[layer] for layer in self.features.layers)


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What was written, and how far it is from torch."""

    path: Path
    bytes: int
    errors: Mapping[str, float]
    """Largest relative error of each layer over the sizes of `CHECKED`."""


def require_onnx() -> tuple[Any, Any]:
    """The modules onnx and onnxruntime.

    Raises:
        StylerError: they, or what torch needs to export, are not installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript
    except ModuleNotFoundError as error:
        raise StylerError(f"Export takes {error.name}; run `pip install 'styler[onnx]'` first.") from error
    assert onnxscript is not None
    return onnx, onnxruntime


def export_onnx(
    weights: Weights,
    layers: Sequence[str],
    output: Path,
    *,
    form: str = "fp32",
    pooling: str = DEFAULT_POOLING,
    pictures: Sequence[Tensor] = (),
    overwrite: bool = False,
) -> ExportResult:
    """Write a network as ONNX and check it against torch at three sizes.

    Args:
        weights: the network.
        layers: the outputs, such as `relu4_2`.
        output: the file to write, `.onnx`.
        form: `fp32`, `fp16` or `int8`.
        pooling: one of `styler.vgg.pooling.KINDS`.
        pictures: to calibrate int8 with, each (1, 3, H, W).
        overwrite: whether a file that is there may go.

    Raises:
        StylerError: the extra is not installed.
        OptionError: there is no such form or layer, or int8 has no pictures.
        WeightsError: the model does not agree with torch.
        OutputError: the file cannot be written.
    """
    if form not in EXPORT_FORMATS:
        raise OptionError(f"There is no form '{form}'; it can be {', '.join(EXPORT_FORMATS)}.")
    if form == "int8" and not pictures:
        raise OptionError("int8 needs pictures to be calibrated with; name a folder with --images.")
    require_onnx()
    features = Features(weights, layers, pooling)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "model.onnx"
        made.write_bytes(_export_float32(features))
        if form == "fp16":
            made.write_bytes(_convert_float16(made))
        elif form == "int8":
            made.write_bytes(quantize_onnx(made.read_bytes(), pictures))
        data = made.read_bytes()
    errors = compare_with_torch(data, features)
    limit = TOLERANCE.get(form)
    worst = max(errors, key=lambda layer: errors[layer])
    if limit is not None and not errors[worst] <= limit:
        raise WeightsError(
            f"The ONNX model gives another {worst} than torch (relative error {errors[worst]:.1e}, at most {limit:g} "
            "is let pass), so it was not written; try another form."
        )
    return ExportResult(images.write_file(output, data, overwrite=overwrite), len(data), errors)


def _export_float32(features: Features) -> bytes:
    """The model in float32, with free height and width."""
    height, width = torch.export.Dim("height", min=16), torch.export.Dim("width", min=16)
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own parts
            program = torch.onnx.export(
                ExportModule(features).eval(),
                (torch.rand(1, 3, 96, 128),),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
                output_names=list(features.layers),
                dynamic_shapes=({2: height, 3: width},),
                external_data=False,
                verbose=False,
            )
    finally:
        log.setLevel(level)
    assert program is not None
    serialized: bytes = program.model_proto.SerializeToString()
    return serialized


def _convert_float16(path: Path) -> bytes:
    """The same model computing in float16, with inputs and outputs in float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load(str(path)), keep_io_types=True)
    serialized: bytes = model.SerializeToString()
    return serialized


def quantize_onnx(model: bytes, pictures: Sequence[Tensor]) -> bytes:
    """A model in static int8, by onnxruntime's quantiser; inputs and outputs stay float32.

    Args:
        model: ONNX, as `export` writes it.
        pictures: to calibrate with, each (1, 3, H, W).

    Raises:
        StylerError: the extra is not installed.
        WeightsError: the model cannot be read.
    """
    _, runtime = require_onnx()
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        open_session(model)
        with tempfile.TemporaryDirectory() as name:
            given, prepared, made = (Path(name) / f"{part}.onnx" for part in ("given", "prepared", "made"))
            given.write_bytes(model)
            quant_pre_process(str(given), str(prepared))
            types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
            reader = _Calibration(pictures)
            quantize_static(str(prepared), str(made), reader, quant_format=QuantFormat.QDQ, per_channel=True, **types)
            return made.read_bytes()
    except onnx_errors(runtime) as error:
        raise WeightsError(f"The ONNX model cannot be quantised ({str(error)[:120]}); export it again.") from error
    finally:
        log.setLevel(level)


class _Calibration:
    """Looks at pictures, one after another, all of one size, since calibration stacks their maps."""

    def __init__(self, pictures: Sequence[Tensor]) -> None:
        generator = torch.Generator().manual_seed(0)
        count = min(MAX_CALIBRATION_PICTURES, max(8, len(pictures)))
        looks = [crops.sample_crop(pictures, CALIBRATION_SIDE, generator) for _ in range(count)]
        self._left = iter([{INPUT_NAME: look.numpy()} for look in looks])

    def get_next(self) -> dict[str, Any] | None:
        """What onnxruntime asks for."""
        return next(self._left, None)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Onnxruntime may ask for a part; everything is one part."""


def onnx_errors(runtime: Any) -> tuple[type[Exception], ...]:
    """What ONNX and its runtime raise on a damaged model."""
    from google.protobuf.message import DecodeError

    state = runtime.capi.onnxruntime_pybind11_state
    return (
        *(DecodeError, ValueError, RuntimeError, state.Fail, state.InvalidProtobuf, state.InvalidGraph),
        *(state.InvalidArgument, state.NotImplemented),
    )


def compare_with_torch(data: bytes, features: Features) -> dict[str, float]:
    """Largest relative error ‖a − b‖ / ‖b‖ of every layer of a model, over three sizes of seeded pictures."""
    session = open_session(data)
    worst = dict.fromkeys(features.layers, 0.0)
    generator = torch.Generator().manual_seed(0)
    for height, width in CHECKED_SIZES:
        small = torch.rand((1, 3, 9, 9), generator=generator)
        image = F.interpolate(small, (height, width), mode="bicubic").clamp(0, 1).contiguous()
        expected = features(image)
        for layer, found in zip(
            features.layers, session.run(list(features.layers), {INPUT_NAME: image.numpy()}), strict=True
        ):
            error = (torch.from_numpy(found) - expected[layer]).norm() / expected[layer].norm().clamp(min=1e-12)
            worst[layer] = max(worst[layer], float(error))
    return worst


def open_session(data: bytes) -> Any:
    """A session of onnxruntime on the CPU."""
    _, runtime = require_onnx()
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


TRTEXEC = "trtexec"
MIN_SIZE, BEST_SIZE, MAX_SIZE = (64, 64), (512, 512), (2048, 2048)
"""Heights and widths that an engine takes: at least, at best, at most."""
TENSORRT_10_FLAGS = {"fp32": (), "fp16": ("--fp16",), "int8": ("--int8", "--fp16")}


def build_trtexec_command(model: Path, engine: Path, form: str = "fp32", version: int = 11) -> list[str]:
    """The arguments that build an engine from a model.

    Args:
        model: ONNX, as `styler.vgg.export` writes it.
        engine: the file to write.
        form: of the model: `fp32`, `fp16` or `int8`.
        version: of TensorRT; 10 has flags for the precision, which 11 dropped.
    """
    shapes = {
        name: f"--{name}Shapes={INPUT_NAME}:1x3x{height}x{width}"
        for name, (height, width) in {"min": MIN_SIZE, "opt": BEST_SIZE, "max": MAX_SIZE}.items()
    }
    flags = TENSORRT_10_FLAGS[form] if version <= 10 else ()
    return [TRTEXEC, f"--onnx={model}", f"--saveEngine={engine}", *shapes.values(), *flags]


def format_trtexec_commands(model: Path, engine: Path, form: str) -> list[str]:
    """Both forms, as one would type them."""
    eleven, ten = (shlex.join(build_trtexec_command(model, engine, form, version)) for version in (11, 10))
    return [f"TensorRT 11 and later: {eleven}", f"TensorRT 10: {ten}"]


def build_engine(model: Path, engine: Path, form: str = "fp32") -> Path:
    """Build the engine.

    Raises:
        StylerError: `trtexec` is not on the PATH, or failed; the sentence has the command.
    """
    found = shutil.which(TRTEXEC)
    arguments = build_trtexec_command(model, engine, form)
    if found is None:
        raise StylerError(
            f"{TRTEXEC} is not on the PATH, so no engine was built from '{model}'; where TensorRT is installed, run "
            f"`{shlex.join(arguments)}` (version 10: `{shlex.join(build_trtexec_command(model, engine, form, 10))}`)."
        )
    done = subprocess.run([found, *arguments[1:]], capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    if done.returncode or not engine.is_file():
        said = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it said nothing"]
        raise StylerError(
            f"{TRTEXEC} built no engine from '{model}' (exit code {done.returncode}: {said[0][:200]}); "
            f"run `{shlex.join(arguments)}` to see all it says."
        )
    return engine
