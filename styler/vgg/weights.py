"""Weights of the VGG family: read, verify and serialize them.

The embedded file holds the original Oxford VGG-16; `styler.vgg.registry` fetches others. A weights file of styler is a
safetensors file with `conv1_1.weight` and `conv1_1.bias` … in any float type, in the input convention of its
training, `mean_activation.<pooling>.conv1_1` (O,) for the rescaling, and one metadata entry, `styler`, a JSON
object with the network, convention, source and credit.

This module never unpickles anything. It does not know what the network is for.
"""

import hashlib
import json
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from styler.errors import OptionError, WeightsError
from styler.vgg import arch
from styler.vgg.arch import POOLINGS

EMBEDDED, SLIM = "vgg16", "vgg16-slim"
SHA256 = {
    EMBEDDED: "eb97a435e4554117a2bac92360cf45035ad9afc16bb27af45d9699c30f89dac5",
    SLIM: "84228b22043bede370b78470c2e46b1eb20d951e4b16b264148d082ff42f8feb",
}
"""Hashes of the weights files that come with styler."""

CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
IMAGENET_MEAN_RGB, IMAGENET_STD_RGB = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

STORED_TYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
}
"""Types of the numbers in a safetensors file."""

FileData = bytes | mmap.mmap
"""The bytes of a file, read or memory-mapped."""


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """A verified network.

    `kernels` holds `conv1_1.weight` (O, I, 3, 3) and `conv1_1.bias` (O,) … in float32 for RGB in [0, 1];
    `mean_activation` the rescaling constants, by pooling and convolution. A slim network has its own `widths` and
    `readouts` (C, k), which map its k channels to an approximation of the full network's C rescaled features.
    """

    network: str
    sha256: str
    kernels: Mapping[str, Tensor]
    mean_activation: Mapping[str, Mapping[str, Tensor]]
    info: Mapping[str, Any]
    widths: tuple[int, ...] = ()
    readouts: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def convs(self) -> tuple[arch.Conv, ...]:
        """The convolutions that the file holds, first to last."""
        convs = arch.list_convolutions(self.network, self.widths)
        return tuple(conv for conv in convs if f"{conv.name}.weight" in self.kernels)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that the kernels reach, first to last."""
        return tuple(conv.layer for conv in self.convs)

    @property
    def pooling(self) -> str | None:
        """The only pooling that a slim network was made for; None for a full network."""
        return self.info.get("pooling")

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Kernels, biases and readouts by their names in a weights file."""
        return {**self.kernels, **{f"readout.{layer}": readout for layer, readout in self.readouts.items()}}

    def factorize_readout(self, layer: str) -> tuple[Tensor, Tensor] | None:
        """Return the expansion (C, k) and the metric (k, k) of a slim layer; None for a full layer.

        The metric brings the layer's k channels to the scale of the full layer; the expansion maps the result to an
        approximation of the full layer's C features. Every loss of styler is a mean over channels of something that
        does not change when the channels are rotated. With the readout A = Q R, Q of orthonormal columns, the losses
        of A g over C channels are therefore those of R g (k / C)^½ over k, at a fraction of the work.
        """
        readout = self.readouts.get(layer)
        if readout is None:
            return None
        scale = (readout.shape[1] / readout.shape[0]) ** 0.5
        basis, root = torch.linalg.qr(readout.double())
        return (basis / scale).float(), (root * scale).float()

    def rescale_convolution(self, conv: arch.Conv, pooling: str) -> tuple[Tensor, Tensor]:
        """Return the kernel (O, I, 3, 3) and bias (O,) for inputs and outputs of mean activation 1.

        Raises:
            OptionError: the weights lack the constants of that pooling.
        """
        kernel, bias = self.kernels[f"{conv.name}.weight"], self.kernels[f"{conv.name}.bias"]
        if not self.mean_activation:  # a slim network was made from a rescaled one
            return kernel, bias
        if (means := self.mean_activation.get(pooling)) is None:
            raise OptionError(
                f"These weights of {self.network} lack the constants for {pooling} pooling; import or fetch them "
                f"again, or use --pooling {next(iter(self.mean_activation))}."
            )
        names = [c.name for c in arch.list_convolutions(self.network)]
        mean, position = means[conv.name], names.index(conv.name)
        before = means[names[position - 1]][None, :, None, None] if position else torch.ones(())
        rescaled = torch.empty_like(kernel, memory_format=torch.channels_last)  # as it is used
        return torch.mul(kernel, before, out=rescaled).div_(mean[:, None, None, None]), bias / mean


def hash_bytes(data: FileData) -> str:
    """Return the SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def read_bytes(path: Path, advice: str = "check its name") -> bytes:
    """Return the bytes of a weights file in any format.

    Raises:
        WeightsError: it cannot be read; the message ends with the advice.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise WeightsError(f"Cannot read the weights file '{path}': {error.strerror}; {advice}.") from error


def read_weights(path: Path, *, sha256: str | None = None) -> Weights:
    """Map a weights file of styler into memory and verify it.

    Args:
        sha256: the expected hash of the file; without it only the form is checked.

    Raises:
        WeightsError: the file is missing, altered, truncated, of another form, or not finite.
    """
    try:
        with path.open("rb") as file:
            is_empty = not path.stat().st_size  # which cannot be mapped
            data = b"" if is_empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        advice = "reinstall styler or choose another --backbone"
        raise WeightsError(f"Cannot read the weights file '{path}': {error.strerror}; {advice}.") from error
    return parse_weights(data, path, sha256=sha256)


def parse_weights(data: FileData, path: Path, *, sha256: str | None = None) -> Weights:
    """Parse and verify the bytes of a weights file of styler; error messages name it by `path`.

    Raises:
        WeightsError: the bytes are altered, truncated, of another form, or not finite.
    """
    digest = hash_bytes(data)
    if sha256 is not None and digest != sha256:
        raise WeightsError(
            f"The weights file '{path}' is truncated or has been altered "
            f"(its SHA-256 is {digest[:12]}…, not {sha256[:12]}…); reinstall styler, or delete the file "
            "so that it is fetched again."
        )
    try:
        return _build_weights(dequantize_tensors(view_tensors(data)), json.loads(read_metadata(data)["styler"]), digest)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise WeightsError(
            f"The file '{path}' does not hold VGG weights that styler can use ({error}); "
            "delete it or choose another --backbone."
        ) from error


def view_tensors(data: FileData) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file as views of its bytes, which are not copied if they are mapped.

    Source: the description of the format, https://github.com/huggingface/safetensors#format.

    Raises:
        KeyError, TypeError, ValueError, AttributeError, RecursionError: the file is damaged.
    """
    tensors: dict[str, Tensor] = {}
    start, header = _read_header(data)
    buffer = bytearray(data) if isinstance(data, bytes) else data  # tensors are writable
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        dtype, shape, (begin, end) = STORED_TYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        count = math.prod(shape)
        is_inside = 0 <= begin <= end <= len(data) - start
        if min(shape, default=0) < 0 or not is_inside or count * dtype.itemsize != end - begin:
            raise ValueError(f"{name} is not in the file")
        tensors[name] = torch.frombuffer(buffer, dtype=dtype, count=count, offset=start + begin).reshape(shape)
    return tensors


def read_metadata(data: FileData) -> dict[str, str]:
    """Return the metadata of a safetensors file."""
    metadata: dict[str, str] = _read_header(data)[1].get("__metadata__", {})
    return metadata


def _read_header(data: FileData) -> tuple[int, dict[str, Any]]:
    """Return where the numbers of a safetensors file begin, after 8 bytes of length and a header in JSON; the header.

    Raises:
        ValueError, RecursionError: there is no such header.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    return start, json.loads(data[8:start])


def serialize_weights(tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> bytes:
    """Return the bytes of a weights file of styler."""
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"styler": json.dumps(info)})


def dequantize_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply 8-bit integers by the scale of each output channel, `conv1_1.weight.scale` (O,)."""
    result = {}
    for name, tensor in tensors.items():
        if name.endswith(".scale"):
            continue
        if tensor.dtype is torch.int8:
            scale = tensors[f"{name}.scale"]
            if scale.shape != tensor.shape[:1]:
                raise ValueError(f"{name}.scale has the shape {tuple(scale.shape)}")
            result[name] = tensor.float() * scale.float().reshape(-1, *(1,) * (tensor.dim() - 1))
        else:
            result[name] = tensor
    return result


def _build_weights(tensors: Mapping[str, Tensor], info: Mapping[str, Any], digest: str) -> Weights:
    network, widths = info["network"], tuple(info.get("widths", ()))
    if network not in arch.NETWORKS:
        raise ValueError(f"its network is '{network}'")
    if not all(isinstance(width, int) and width > 0 for width in widths):
        raise ValueError(f"its widths are {widths}")
    if widths and info.get("pooling") not in POOLINGS:
        raise ValueError(f"its pooling is '{info.get('pooling')}'")
    for name, tensor in tensors.items() if digest not in SHA256.values() else ():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} is not finite")
    kernels = fold_convention(_collect_kernels(tensors, network, widths), info["convention"])
    readouts = _collect_readouts(tensors, network, widths)
    means = _collect_means(tensors)
    for pooling, of_pooling in means.items():
        for conv in arch.list_convolutions(network):
            mean = of_pooling.get(conv.name, torch.zeros((), dtype=torch.float32))  # (O,)
            if f"{conv.name}.weight" in kernels and not (mean.shape == (conv.outputs,) and (mean > 0).all()):
                raise ValueError(f"mean_activation.{pooling}.{conv.name} is missing or not a mean activation")
    return Weights(network, digest, kernels, means, info, widths, readouts)


def _collect_kernels(tensors: Mapping[str, Tensor], network: str, widths: tuple[int, ...]) -> dict[str, Tensor]:
    """Return the convolutions as stored, their shapes verified."""
    kernels: dict[str, Tensor] = {}
    for conv in arch.list_convolutions(network, widths):
        if f"{conv.name}.weight" not in tensors:
            break  # the file ends with the last layer that painting needs
        kernel, bias = tensors[f"{conv.name}.weight"].float(), tensors[f"{conv.name}.bias"].float()
        if kernel.shape != conv.shape or bias.shape != (conv.outputs,):
            raise ValueError(f"{conv.name} has the shape {tuple(kernel.shape)}")
        kernels |= {f"{conv.name}.weight": kernel, f"{conv.name}.bias": bias}
    if not kernels:
        raise ValueError("it has no conv1_1.weight")
    return kernels


def _collect_means(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the rescaling constants by pooling and convolution."""
    means: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("mean_activation."):
            _, pooling, conv = name.split(".")
            means.setdefault(pooling, {})[conv] = tensor.float()
    return means


def _collect_readouts(tensors: Mapping[str, Tensor], network: str, widths: tuple[int, ...]) -> dict[str, Tensor]:
    """Return `readout.relu2_1` (C, k) of every layer that is narrower than the full network's."""
    readouts: dict[str, Tensor] = {}
    for slim, full in zip(arch.list_convolutions(network, widths), arch.list_convolutions(network), strict=False):
        if slim.outputs == full.outputs:
            continue
        readout = tensors.get(f"readout.{slim.layer}")
        if readout is None or readout.shape != (full.outputs, slim.outputs):
            raise ValueError(f"readout.{slim.layer} is missing or of another shape")
        readouts[slim.layer] = readout.float()
    return readouts


def fold_convention(kernels: Mapping[str, Tensor], convention: str) -> dict[str, Tensor]:
    """Return the kernels with an input convention folded into the first convolution, so that it takes RGB in [0, 1].

    `caffe` networks were trained on BGR in 0 to 255 minus a mean; `torchvision` ones on RGB in [0, 1], minus a mean,
    divided by a standard deviation. Folding the mean into the bias is exact, since the image is padded by replication.

    Raises:
        ValueError: the convention is unknown.
    """
    kernel, bias = kernels["conv1_1.weight"], kernels["conv1_1.bias"]
    if convention == "caffe":
        bias = bias - torch.einsum("oihw,i->o", kernel, torch.tensor(CAFFE_MEAN_BGR, dtype=torch.float32))
        kernel = kernel.flip(1) * 255
    elif convention == "torchvision":
        kernel = kernel / torch.tensor(IMAGENET_STD_RGB, dtype=torch.float32)[None, :, None, None]
        bias = bias - torch.einsum("oihw,i->o", kernel, torch.tensor(IMAGENET_MEAN_RGB, dtype=torch.float32))
    elif convention != "rgb":
        raise ValueError(f"its convention is '{convention}'")
    return {**kernels, "conv1_1.weight": kernel, "conv1_1.bias": bias}
