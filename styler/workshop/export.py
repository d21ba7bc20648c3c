"""`vgg export`: the network as ONNX, verified against torch, and as a TensorRT engine.

The model takes RGB in [0, 1], (1, 3, H, W) of any size, and has one output per requested layer, equal to that of
`Features`: normalization and rescaling are included. `fp16` keeps inputs and outputs in float32 and computes in
float16; `int8` is static quantization by onnxruntime, calibrated on pictures: each kernel in 8 bits with a scale per
output channel, each map in 8 bits with one scale.
"""

import logging
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from styler import images
from styler.errors import OptionError, StylerError, WeightsError
from styler.vgg.arch import DEFAULT_POOLING
from styler.vgg.model import Features, run_layers
from styler.vgg.weights import Weights
from styler.workshop import crops

OPSET = 18
INPUT_NAME = "image"
EXPORT_FORMATS = ("fp32", "fp16", "int8")
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}
"""Largest accepted relative error ‖a − b‖ / ‖b‖ of a layer; the error of int8 is reported, but not limited."""
CHECKED_SIZES = ((64, 96), (160, 128), (224, 224))
"""Heights and widths at which a model is verified."""
CALIBRATION_SIDE = 256
MAX_CALIBRATION_CROPS = 24


class ExportModule(nn.Module):
    """The computation of `Features` without its checks and in-place steps, for exporters."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self.features = features

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the features of an image (1, 3, H, W), in the order of the layers."""
        features = self.features
        walk = run_layers(image, features.convs, features.get_kernel, features.pooling)
        maps = {conv.layer: x for conv, x in walk if conv.layer in features.layers}
        return tuple(features.apply_metric(layer, maps[layer]) for layer in features.layers)


@dataclass(frozen=True, slots=True)
class ExportResult:
    """A written model and its errors."""

    path: Path
    bytes: int
    errors: Mapping[str, float]
    """Largest relative error of each layer over `CHECKED_SIZES`."""


def require_onnx() -> tuple[Any, Any]:
    """Return the modules onnx and onnxruntime.

    Raises:
        StylerError: they, or the onnxscript that torch needs to export, are not installed.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript
    except ModuleNotFoundError as error:
        raise StylerError(f"Export needs {error.name}; run 'pip install onnx onnxscript onnxruntime' first.") from error
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
    """Write a network as ONNX and verify it against torch at three sizes.

    Args:
        layers: the outputs, such as `relu4_2`.
        form: one of `EXPORT_FORMATS`.
        pooling: one of `arch.POOLINGS`.
        pictures: the pictures that int8 is calibrated on, each (1, 3, H, W).

    Raises:
        StylerError: the extra is not installed.
        OptionError: there is no such format or layer, or int8 has no pictures.
        WeightsError: the model does not agree with torch.
        OutputError: the file cannot be written.
    """
    if form not in EXPORT_FORMATS:
        raise OptionError(f"There is no format '{form}'; it can be {', '.join(EXPORT_FORMATS)}.")
    if form == "int8" and not pictures:
        raise OptionError("int8 needs pictures for calibration; name a folder with --images.")
    require_onnx()
    features = Features(weights, layers, pooling)
    data = _export_float32(features)
    if form == "fp16":
        data = _convert_float16(data)
    elif form == "int8":
        data = quantize_onnx(data, pictures)
    errors = compare_with_torch(data, features)
    limit = TOLERANCE.get(form)
    worst = max(errors, key=lambda layer: errors[layer])
    if limit is not None and not errors[worst] <= limit:
        raise WeightsError(
            f"The ONNX model computes {worst} differently from torch (relative error {errors[worst]:.1e}, the limit is "
            f"{limit:g}), so it was not written; try another format."
        )
    return ExportResult(images.write_file(output, data, overwrite=overwrite), len(data), errors)


def _export_float32(features: Features) -> bytes:
    """Return the model in float32, with free height and width."""
    height, width = torch.export.Dim("height", min=16), torch.export.Dim("width", min=16)
    with _silence_log("torch.onnx"), warnings.catch_warnings():
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
    assert program is not None
    serialized: bytes = program.model_proto.SerializeToString()
    return serialized


@contextmanager
def _silence_log(name: str) -> Iterator[None]:
    """Make a logger report only errors until the block ends."""
    log = logging.getLogger(name or None)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _convert_float16(data: bytes) -> bytes:
    """Return the model computing in float16, with inputs and outputs in float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = convert_float_to_float16(onnx.load_model_from_string(data), keep_io_types=True)
    serialized: bytes = model.SerializeToString()
    return serialized


def quantize_onnx(data: bytes, pictures: Sequence[Tensor]) -> bytes:
    """Return an ONNX model in static int8, by onnxruntime's quantizer; inputs and outputs stay float32.

    Args:
        pictures: the pictures that it is calibrated on, each (1, 3, H, W).

    Raises:
        StylerError: the extra is not installed.
        WeightsError: the model cannot be read.
    """
    _, runtime = require_onnx()
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    try:
        with _silence_log(""), tempfile.TemporaryDirectory() as folder:
            open_session(data)
            source, prepared, target = (Path(folder) / f"{part}.onnx" for part in ("source", "prepared", "target"))
            source.write_bytes(data)
            quant_pre_process(str(source), str(prepared))
            types = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
            reader = _CalibrationReader(pictures)
            quantize_static(str(prepared), str(target), reader, quant_format=QuantFormat.QDQ, per_channel=True, **types)
            return target.read_bytes()
    except list_onnx_errors(runtime) as error:
        raise WeightsError(f"Cannot quantize the ONNX model: {str(error)[:120]}; export it again.") from error


class _CalibrationReader:
    """The crops that onnxruntime calibrates on, all of one size, since it stacks their maps."""

    def __init__(self, pictures: Sequence[Tensor]) -> None:
        generator = torch.Generator().manual_seed(0)
        count = min(MAX_CALIBRATION_CROPS, max(8, len(pictures)))
        samples = [crops.sample_crop(pictures, CALIBRATION_SIDE, generator) for _ in range(count)]
        self._rest = iter([{INPUT_NAME: sample.numpy()} for sample in samples])

    def get_next(self) -> dict[str, Any] | None:
        """Return the next input; onnxruntime calls this."""
        return next(self._rest, None)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Do nothing: onnxruntime may request a range, but all inputs are read in one pass."""


def list_onnx_errors(runtime: Any) -> tuple[type[Exception], ...]:
    """Return the exceptions that ONNX and its runtime raise for a damaged model."""
    from google.protobuf.message import DecodeError

    state = runtime.capi.onnxruntime_pybind11_state
    return (
        *(DecodeError, ValueError, RuntimeError, state.Fail, state.InvalidProtobuf, state.InvalidGraph),
        *(state.InvalidArgument, state.NotImplemented),
    )


def compare_with_torch(data: bytes, features: Features) -> dict[str, float]:
    """Return the largest relative error ‖a − b‖ / ‖b‖ of every layer of a model, over three sizes of seeded images."""
    session = open_session(data)
    worst = dict.fromkeys(features.layers, 0.0)
    generator = torch.Generator().manual_seed(0)
    for height, width in CHECKED_SIZES:
        small = torch.rand((1, 3, 9, 9), generator=generator)
        image = F.interpolate(small, (height, width), mode="bicubic").clamp(0, 1).contiguous()
        expected = features(image)
        outputs = session.run(list(features.layers), {INPUT_NAME: image.numpy()})
        for layer, output in zip(features.layers, outputs, strict=True):
            error = (torch.from_numpy(output) - expected[layer]).norm() / expected[layer].norm().clamp(min=1e-12)
            worst[layer] = max(worst[layer], float(error))
    return worst


def open_session(data: bytes) -> Any:
    """Open a session of onnxruntime on the CPU."""
    _, runtime = require_onnx()
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    return runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


TRTEXEC = "trtexec"
ENGINE_SIZES = {"min": (64, 64), "opt": (512, 512), "max": (2048, 2048)}
"""Smallest, optimal and largest height and width of an engine's input."""
TENSORRT_10_FLAGS = {"fp32": (), "fp16": ("--fp16",), "int8": ("--int8", "--fp16")}


def build_trtexec_command(model: Path, engine: Path, form: str = "fp32", version: int = 11) -> list[str]:
    """Return the command that builds an engine from an ONNX model.

    Args:
        form: format of the model, one of `EXPORT_FORMATS`.
        version: version of TensorRT; 10 has flags for the precision, which 11 dropped.
    """
    shapes = [f"--{name}Shapes={INPUT_NAME}:1x3x{height}x{width}" for name, (height, width) in ENGINE_SIZES.items()]
    flags = TENSORRT_10_FLAGS[form] if version <= 10 else ()
    return [TRTEXEC, f"--onnx={model}", f"--saveEngine={engine}", *shapes, *flags]


def format_trtexec_commands(model: Path, engine: Path, form: str) -> list[str]:
    """Return the commands of both versions, as typed in a shell."""
    eleven, ten = (shlex.join(build_trtexec_command(model, engine, form, version)) for version in (11, 10))
    return [f"TensorRT 11 and later: {eleven}", f"TensorRT 10: {ten}"]


def build_engine(model: Path, engine: Path, form: str = "fp32") -> Path:
    """Build the engine.

    Raises:
        StylerError: `trtexec` is not on the PATH, or failed; the message has the command.
    """
    program = shutil.which(TRTEXEC)
    command = build_trtexec_command(model, engine, form)
    if program is None:
        raise StylerError(
            f"{TRTEXEC} is not on the PATH, so no engine was built from '{model}'; where TensorRT is installed, run "
            f"`{shlex.join(command)}` (version 10: `{shlex.join(build_trtexec_command(model, engine, form, 10))}`)."
        )
    process = subprocess.run([program, *command[1:]], capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    if process.returncode or not engine.is_file():
        reason = (process.stderr or process.stdout).strip().splitlines()[-1:] or ["it printed nothing"]
        raise StylerError(
            f"{TRTEXEC} built no engine from '{model}' (exit code {process.returncode}: {reason[0][:200]}); "
            f"run `{shlex.join(command)}` to see its full output."
        )
    return engine
