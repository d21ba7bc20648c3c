"""Weights of the VGG family: find, verify, read.

The embedded file holds the original Oxford VGG-16; `styler.vgg.download` fetches others. A file of ours is a
safetensors file with `conv1_1.weight` and `conv1_1.bias` … in any float type, in the convention of whoever trained
them, `mean_activation.<pooling>.conv1_1` (O,) for the rescaling, and one metadata entry, `styler`, a JSON object that
says network, convention, source and credit.

Never unpickles anything. Does not know what the network is for.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from torch import Tensor

from styler.errors import OptionError, WeightsError
from styler.vgg import arch
from styler.vgg.arch import POOLINGS

EMBEDDED, SLIM = "vgg16", "vgg16-slim"
SHA256 = {
    EMBEDDED: "eb97a435e4554117a2bac92360cf45035ad9afc16bb27af45d9699c30f89dac5",
    SLIM: "84228b22043bede370b78470c2e46b1eb20d951e4b16b264148d082ff42f8feb",
}
"""Of the files that come with styler."""

CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
IMAGENET_MEAN_RGB, IMAGENET_STD_RGB = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """A verified network.

    `kernels` holds `conv1_1.weight` (O, I, 3, 3) and `conv1_1.bias` (O,) in float32 for RGB in [0, 1];
    `mean_activation` the constants of `styler.vgg.rescale`, by pooling and convolution. A slim network has `widths` of
    its own, and `readouts` (C, k): what gives the full network's C rescaled features, nearly, from its own k.
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
        """The convolutions there are, first to last."""
        convs = arch.list_convolutions(self.network, self.widths)
        return tuple(conv for conv in convs if f"{conv.name}.weight" in self.kernels)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that the kernels reach, first to last."""
        return tuple(conv.layer for conv in self.convs)

    @property
    def pooling(self) -> str | None:
        """The one pooling that a slim network was made for."""
        return self.info.get("pooling")

    def metric(self, layer: str) -> Tensor | None:
        """What brings a slim layer's k channels to the full layer's scale: (k, k), or None where nothing is to do.

        Every loss of styler is a mean over channels of something that does not change when the channels are rotated.
        With the readout A = Q R, Q of orthonormal columns, the losses of A g over C channels are therefore those of
        R g (k / C)^½ over k, at a fraction of the work.
        """
        found = self._factors(layer)
        return None if found is None else found[1]

    def expansion(self, layer: str) -> Tensor | None:
        """What turns the features that `metric` gives, (k), into the full network's, nearly: (C, k)."""
        found = self._factors(layer)
        return None if found is None else found[0]

    def _factors(self, layer: str) -> tuple[Tensor, Tensor] | None:
        readout = self.readouts.get(layer)
        if readout is None:
            return None
        scale = (readout.shape[1] / readout.shape[0]) ** 0.5
        basis, root = torch.linalg.qr(readout.double())
        return (basis / scale).float(), (root * scale).float()

    def rescaled(self, conv: arch.Conv, pooling: str) -> tuple[Tensor, Tensor]:
        """Kernel (O, I, 3, 3) and bias (O,) of a convolution whose inputs and outputs all have mean activation 1."""
        kernel, bias = self.kernels[f"{conv.name}.weight"], self.kernels[f"{conv.name}.bias"]
        if not self.mean_activation:  # a slim network was made from one that was rescaled
            return kernel, bias
        if (means := self.mean_activation.get(pooling)) is None:
            raise OptionError(
                f"These weights of {self.network} have no constants for {pooling} pooling; import or fetch them again, "
                f"or take --pooling {next(iter(self.mean_activation))}."
            )
        names = [c.name for c in arch.list_convolutions(self.network)]
        position = names.index(conv.name)
        ours = means[conv.name]
        if position:
            kernel = kernel * means[names[position - 1]][None, :, None, None]
        return kernel / ours[:, None, None, None], bias / ours


def read_weights(path: Path, *, sha256: str | None = None) -> Weights:
    """Read and verify a weights file of ours.

    Args:
        path: a safetensors file.
        sha256: what its bytes must hash to; without it only its form is checked.

    Raises:
        WeightsError: missing, altered, truncated, of another form, or not finite.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"The weights file '{path}' cannot be read ({error.strerror}); "
            "install styler again or choose another --backbone."
        ) from error
    return parse_weights(data, path, sha256=sha256)


def parse_weights(data: bytes, path: Path, *, sha256: str | None = None) -> Weights:
    """Verify the bytes of a weights file of ours; `path` is how a refusal names it.

    Raises:
        WeightsError: altered, truncated, of another form, or not finite.
    """
    digest = hashlib.sha256(data).hexdigest()
    if sha256 is not None and digest != sha256:
        raise WeightsError(
            f"The weights file '{path}' is truncated or has been altered "
            f"(its SHA-256 is {digest[:12]}…, not {sha256[:12]}…); install styler again, or delete the file "
            "so that it is fetched anew."
        )
    try:
        tensors = dequantize(parse_safetensors(data))
        info = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["styler"])
        return _build_weights(tensors, info, digest)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"The file '{path}' holds no VGG weights that styler can use ({error}); "
            "delete it or choose another --backbone."
        ) from error


def dequantize(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors stored as 8-bit whole numbers, times their scale of each output channel, `conv1_1.weight.scale` (O,)."""
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(".scale"):
            continue
        if tensor.dtype is torch.int8:
            scale = tensors[f"{name}.scale"]
            if scale.shape != tensor.shape[:1]:
                raise ValueError(f"{name}.scale has the shape {tuple(scale.shape)}")
            found[name] = tensor.float() * scale.float().reshape(-1, *(1,) * (tensor.dim() - 1))
        else:
            found[name] = tensor
    return found


def _build_weights(tensors: Mapping[str, Tensor], info: Mapping[str, Any], digest: str) -> Weights:
    network, widths = info["network"], tuple(info.get("widths", ()))
    if network not in arch.NETWORKS:
        raise ValueError(f"its network is '{network}'")
    if not all(isinstance(width, int) and width > 0 for width in widths):
        raise ValueError(f"its widths are {widths}")
    if widths and info.get("pooling") not in POOLINGS:
        raise ValueError(f"its pooling is '{info.get('pooling')}'")
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} is not finite")
    kernels = _collect_kernels(tensors, network, widths)
    kernel, bias = fold_convention(kernels["conv1_1.weight"], kernels["conv1_1.bias"], info["convention"])
    kernels |= {"conv1_1.weight": kernel, "conv1_1.bias": bias}
    readouts = _collect_readouts(tensors, network, widths)
    means = _collect_means(tensors)
    for pooling, of in means.items():
        for conv in arch.list_convolutions(network):
            if f"{conv.name}.weight" in kernels and not _is_mean(of.get(conv.name), conv):
                raise ValueError(f"mean_activation.{pooling}.{conv.name} is missing or no mean activation")
    return Weights(network, digest, kernels, means, info, widths, readouts)


def _collect_kernels(tensors: Mapping[str, Tensor], network: str, widths: tuple[int, ...]) -> dict[str, Tensor]:
    """The convolutions, of the right shapes, as stored."""
    kernels: dict[str, Tensor] = {}
    for conv in arch.list_convolutions(network, widths):
        if f"{conv.name}.weight" not in tensors:
            break  # pruned: the file ends where painting ends
        kernel, bias = tensors[f"{conv.name}.weight"].float(), tensors[f"{conv.name}.bias"].float()
        if kernel.shape != conv.shape or bias.shape != (conv.outputs,):
            raise ValueError(f"{conv.name} has the shape {tuple(kernel.shape)}")
        kernels |= {f"{conv.name}.weight": kernel, f"{conv.name}.bias": bias}
    if not kernels:
        raise ValueError("it has no conv1_1.weight")
    return kernels


def _collect_means(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Constants for rescaling, by pooling and convolution."""
    means: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("mean_activation."):
            _, pooling, conv = name.split(".")
            means.setdefault(pooling, {})[conv] = tensor.float()
    return means


def _collect_readouts(tensors: Mapping[str, Tensor], network: str, widths: tuple[int, ...]) -> dict[str, Tensor]:
    """`readout.relu2_1` (C, k) of every layer of a slim network that is narrower than the full one's."""
    found: dict[str, Tensor] = {}
    for slim, full in zip(arch.list_convolutions(network, widths), arch.list_convolutions(network), strict=False):
        if slim.outputs == full.outputs:
            continue
        readout = tensors.get(f"readout.{slim.layer}")
        if readout is None or readout.shape != (full.outputs, slim.outputs):
            raise ValueError(f"readout.{slim.layer} is missing or of another shape")
        found[slim.layer] = readout.float()
    return found


def _is_mean(means: Tensor | None, conv: arch.Conv) -> bool:
    """Whether these are mean activations of every filter: (O,), above 0."""
    return means is not None and means.shape == (conv.outputs,) and bool((means > 0).all())


def fold_convention(kernel: Tensor, bias: Tensor, convention: str) -> tuple[Tensor, Tensor]:
    """Fold an input convention into the first convolution, so that it takes RGB in [0, 1].

    `caffe` networks were trained on BGR in 0 to 255 minus a mean; `torchvision` ones on RGB in [0, 1], minus a mean,
    over a standard deviation. Folding the mean into the bias is exact, since the first convolution is padded by
    replication.
    """
    if convention == "caffe":
        mean = torch.tensor(CAFFE_MEAN_BGR)
        bias = bias - torch.einsum("oihw,i->o", kernel, mean)
        return kernel.flip(1) * 255, bias
    if convention == "torchvision":
        kernel = kernel / torch.tensor(IMAGENET_STD_RGB)[None, :, None, None]
        return kernel, bias - torch.einsum("oihw,i->o", kernel, torch.tensor(IMAGENET_MEAN_RGB))
    if convention == "rgb":
        return kernel, bias
    raise ValueError(f"its convention is '{convention}'")
