"""The frozen network: one forward pass for painting, export, rescaling, slimming and distillation.

`run_layers` is that pass, layer by layer; callers provide the kernels, and a hook if they change what a layer computes.
`Features` is its fast path for painting: it runs each block as one step of autograd. Autograd by itself allocates a
new gradient at every rectifier, at every pooling, and wherever the loss of a layer joins in. The weights are frozen,
and a gradient between two layers of a block is not used elsewhere, so here it is updated in place, which saves a tenth
of the time of an iteration on a CPU and the memory of one map.

This module knows kernels and maps; it does not know files or losses.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.utils.checkpoint import checkpoint as recompute

from styler.errors import ImageError, OptionError
from styler.vgg import arch
from styler.vgg.weights import Weights

Check = Callable[[], None]
"""A function called between convolutions, forward and backward; it stops the work by raising."""
GetKernel = Callable[[arch.Conv], tuple[Tensor, Tensor]]
"""A function that returns the kernel (O, I, 3, 3) and the bias (O,) of a convolution."""

aten: Any = torch.ops.aten


def run_layers(
    image: Tensor,
    convs: Iterable[arch.Conv],
    get_kernel: GetKernel,
    pooling: str,
    normalize: Callable[[arch.Conv, Tensor], Tensor] | None = None,
) -> Iterator[tuple[arch.Conv, Tensor]]:
    """Yield every convolution with its rectified output.

    Args:
        image: RGB in [0, 1], (B, 3, H, W).
        pooling: one of `arch.POOLINGS`.
        normalize: a function applied to the output of each convolution, before the rectifier.

    Yields:
        A convolution and its map, (B, C, H/stride, W/stride).
    """
    x = image
    for conv in convs:
        x = prepare_input(x, conv, pooling)
        x = F.conv2d(x, *get_kernel(conv), padding=conv.padding)
        if normalize is not None:
            x = normalize(conv, x)
        x = F.relu(x)
        yield conv, x


def prepare_input(x: Tensor, conv: arch.Conv, pooling: str) -> Tensor:
    """Return the input of a convolution: the previous map, pooled at the start of a block, or the padded image.

    The image is padded by replication, since zeros would draw a dark frame; all other maps are padded with zeros
    (`Conv.padding`), as in training.
    """
    if conv.is_first:
        return _repeat_border(x)
    if not conv.follows_pooling:
        return x
    return F.max_pool2d(x, 2) if arch.choose_pooling(conv.block - 1, pooling) == "max" else F.avg_pool2d(x, 2)


def _repeat_border(image: Tensor) -> Tensor:
    """Pad an image by a copy of its border, (B, 3, H + 2, W + 2).

    The gradient of `F.pad` adds up in any order on CUDA; that of this does not.
    """
    image = torch.cat([image[..., :1, :], image, image[..., -1:, :]], dim=-2)
    return torch.cat([image[..., :1], image, image[..., -1:]], dim=-1)


def _split_image(image: Tensor, precision: torch.dtype) -> Tensor:
    """Return a padded image and what is lost of it in half precision, (1, 10, H, W): high, low, high, and ones.

    With `_split_kernel`, the first convolution is then as exact as in float32. With colors rounded to bfloat16, the
    error of the gradient was twice as large. The channels are free on CPUs, where convolutions pad them to 16.
    """
    high = image.to(precision)
    low = (image - high).detach().to(precision)
    channels = torch.cat([high, low, high, torch.ones_like(high[:, :1])], dim=1)  # (1, 10, H, W)
    return channels.contiguous(memory_format=torch.channels_last)


def _split_kernel(kernel: Tensor, bias: Tensor, precision: torch.dtype) -> Tensor:
    """Return the kernel (O, 10, 3, 3) for `_split_image`, whose last channel has the rounding error of the bias."""
    high = kernel.to(precision)
    last = torch.zeros_like(kernel[:, :1])  # (O, 1, 3, 3)
    last[:, 0, 1, 1] = bias - bias.to(precision)
    parts = torch.cat([high, high, (kernel - high).to(precision), last.to(precision)], dim=1)
    return parts.contiguous(memory_format=torch.channels_last)


class ConvStep(NamedTuple):
    """A convolution and its rectifier."""

    kernel: Tensor
    bias: Tensor
    padding: int
    """Zeros on each side."""


class Block(NamedTuple):
    """The layers between two poolings, and the pooling after them."""

    steps: tuple[ConvStep, ...]
    pooling: str = ""
    """2×2 pooling at the end: `max`, `average`, or empty for none."""
    check: Check | None = None


def run_block(x: Tensor, block: Block) -> tuple[Tensor, ...]:
    """Return every rectified map of a block, in order, followed by the pooled last one if the block pools.

    Args:
        x: (1, C, H, W), channels-last, in the precision of the kernels; so are the maps and all gradients.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        maps: tuple[Tensor, ...] = _BlockFunction.apply(x, block)
        return maps
    return _compute_block(x, block)[0]


def _compute_block(x: Tensor, block: Block) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Return the maps of `run_block`, and for max pooling the indices of the maxima."""
    maps, indices = [], None
    for step in block.steps:
        if block.check:
            block.check()
        x = F.relu(F.conv2d(x, step.kernel, step.bias, padding=step.padding), inplace=True)  # (1, C, H, W)
        maps.append(x)
    if block.pooling == "max":
        x, indices = F.max_pool2d(x, 2, return_indices=True)  # (1, C, H // 2, W // 2)
    elif block.pooling:
        x = F.avg_pool2d(x, 2)
    return (*maps, x) if block.pooling else tuple(maps), indices


class _BlockFunction(torch.autograd.Function):
    """A block whose gradient is updated in place from layer to layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: Block) -> tuple[Tensor, ...]:
        maps, indices = _compute_block(x, block)
        ctx.block = block
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, indices, *maps[: len(block.steps)])
        return maps

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        block: Block = ctx.block  # type: ignore[attr-defined]
        x, indices, *maps = ctx.saved_tensors  # type: ignore[attr-defined]
        pooled = gradients[len(maps)] if block.pooling else None
        gradient = None if pooled is None else _pooling_backward(pooled, maps[-1], indices)
        for step, source, output, own in reversed([*zip(block.steps, (x, *maps), maps, gradients, strict=False)]):
            if block.check:
                block.check()
            if gradient is not None:
                gradient = gradient if own is None else gradient.add_(own)
                aten.threshold_backward.grad_input(gradient, output, 0, grad_input=gradient)
            elif own is not None:  # it may be used elsewhere, so it is not changed in place
                gradient = aten.threshold_backward(own, output, 0)
            if gradient is not None:
                gradient = _convolution_backward(gradient, source, step)
        return gradient, None


def _convolution_backward(gradient: Tensor, source: Tensor, step: ConvStep) -> Tensor:
    """Return the gradient of a convolution's input, a new tensor."""
    pads, only_input = [step.padding] * 2, [True, False, False]
    result: Tensor = aten.convolution_backward(
        gradient, source, step.kernel, None, [1, 1], pads, [1, 1], False, [0, 0], 1, only_input
    )[0]
    return result


def _pooling_backward(gradient: Tensor, before: Tensor, indices: Tensor | None) -> Tensor:
    """Return the gradient of a pooling's input `before`, a new tensor."""
    if indices is not None and before.device.type == "cpu":
        result: Tensor = aten.max_pool2d_with_indices_backward(
            gradient, before, [2, 2], [2, 2], [0, 0], [1, 1], False, indices
        )
        return result
    height, width = gradient.shape[-2:]
    result = torch.empty_like(before)
    result[..., 2 * height :, :] = 0  # an odd last row or column is not part of any square
    result[..., 2 * width :] = 0
    squares = result[..., : 2 * height, : 2 * width].view(*result.shape[:2], height, 2, width, 2)
    spread = gradient[..., :, None, :, None]
    squares.copy_(spread / 4 if indices is None else torch.where(_mark_maxima(indices, before), spread, 0))
    return result


def _mark_maxima(indices: Tensor, before: Tensor) -> Tensor:
    """Return where the maximum of each 2×2 square of `before` is, (1, C, H // 2, 2, W // 2, 2).

    Squares do not overlap, so PyTorch's own gradient of the pooling is in fact deterministic; but on CUDA, PyTorch
    counts it among those that may not be, and refuses it if only deterministic ones are allowed.
    """
    height, width = indices.shape[-2:]
    positions = torch.arange(before.shape[-2] * before.shape[-1], device=before.device).view(before.shape[-2:])
    return indices[..., :, None, :, None] == positions[: 2 * height, : 2 * width].view(height, 2, width, 2)


class Features(nn.Module):
    """A frozen VGG that maps an image to `{"relu4_2": (1, C, H/8, W/8), …}`.

    The network's own input normalization is folded into its first convolution. Every filter is rescaled so that its
    mean activation over natural images is 1 (Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional
    Neural Networks", CVPR 2016, §2), which does not change what the network computes and keeps a few strong filters
    from dominating every loss. Nothing beyond the last requested layer is computed.

    Args:
        weights: verified weights, with their rescaling constants.
        layers: names such as `relu4_2` (`conv4_2` is an alias).
        pooling: one of `arch.POOLINGS`.
        precision: the dtype of the kernels, of all maps and of their gradients; that of the image stays float32.

    Raises:
        OptionError: the network, or its weights file, lacks one of the layers, or a slim network was made
            for another pooling.
    """

    def __init__(
        self, weights: Weights, layers: Iterable[str], pooling: str = "max", precision: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.network, self.sha256 = weights.network, weights.sha256
        self.pooling, self.precision = pooling, precision
        self.widths, self._available = weights.widths, weights.layers
        self._choose_layers(layers)
        if weights.pooling not in (None, pooling):
            raise OptionError(
                f"This slim network was made for {weights.pooling} pooling; use it with --pooling {weights.pooling}."
            )
        for conv in self.convs:
            kernel, bias = weights.rescale_convolution(conv, pooling)
            if conv.is_first and precision in (torch.bfloat16, torch.float16):
                self.register_buffer("split_weight", _split_kernel(kernel, bias, precision))
            # Copies, since the weights may be tensors of inference mode.
            kernel = kernel.to(precision, memory_format=torch.channels_last, copy=True)
            self.register_buffer(f"{conv.name}_weight", kernel)
            self.register_buffer(f"{conv.name}_bias", bias.to(precision, copy=True))
            if (factors := weights.factorize_readout(conv.layer)) is not None:
                self.register_buffer(f"{conv.layer}_metric", factors[1][:, :, None, None].to(precision, copy=True))
        self._available = tuple(conv.layer for conv in self.convs)
        self.requires_grad_(False).eval()

    def select(self, layers: Iterable[str]) -> "Features":
        """Return a network that computes other layers, all up to the last of this one, by the same kernels.

        Raises:
            OptionError: the network, or its weights file, lacks one of the layers.
        """
        other = copy.copy(self)
        other._buffers = {**self._buffers}
        other._choose_layers(layers)
        return other

    def _choose_layers(self, layers: Iterable[str]) -> None:
        """Set the layers that are computed, in the order of the network."""
        names = {arch.canonicalize_layer(layer, self.network) for layer in layers}
        self.layers = tuple(layer for layer in arch.list_layers(self.network) if layer in names)
        self.convs = arch.list_convolutions_until(self.network, self.layers, self.widths)
        if missing := names - {*self._available}:
            raise OptionError(
                f"The weights of {self.network} end before {max(missing)}; choose from {', '.join(self._available)}."
            )

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.buffers()).device

    @property
    def min_side(self) -> int:
        """The shortest side, in pixels, of an image that leaves one value in the last requested layer."""
        return max((conv.stride for conv in self.convs), default=1)

    @property
    def margin(self) -> int:
        """The pixels around a tile on which its features depend, a multiple of the largest stride."""
        return arch.compute_margin(self.convs)

    @property
    def strides(self) -> dict[str, int]:
        """Image pixels per position of each layer up to the last requested one."""
        return {conv.layer: conv.stride for conv in self.convs}

    def forward(self, image: Tensor, check: Check | None = None, *, checkpoint: bool = False) -> dict[str, Tensor]:
        """Compute the features of an image.

        Args:
            image: RGB in [0, 1], (1, 3, H, W).
            check: called between convolutions, in the forward and the backward pass.
            checkpoint: keep only the inputs of the blocks and recompute the rest in the backward pass: slower, less
                memory.

        Returns:
            One rectified map per requested layer, (1, C, H/stride, W/stride), in the precision of the network.

        Raises:
            ImageError: the image is smaller than the stride of the last layer.
        """
        height, width = image.shape[-2:]
        if min(height, width) < self.min_side:
            raise ImageError(
                f"A picture of {width}×{height} pixels is too small for {self.convs[-1].layer}; give it at least "
                f"{self.min_side} pixels on each side."
            )
        maps: dict[str, Tensor] = {}
        x = image.contiguous(memory_format=torch.channels_last)
        if self.convs:
            x, dtype = prepare_input(x, self.convs[0], self.pooling), self.get_kernel(self.convs[0])[0].dtype
            x = x.to(dtype) if self._split_weight is None else _split_image(x, dtype)
        for layers, block in self._build_blocks(check):
            if checkpoint and torch.is_grad_enabled():
                outputs = recompute(run_block, x, block, use_reentrant=False)
            else:
                outputs = run_block(x, block)
            x = outputs[-1]
            maps |= {layer: x for layer, x in zip(layers, outputs, strict=False) if layer in self.layers}
        return {layer: self.apply_metric(layer, x) for layer, x in maps.items()}

    def get_kernel(self, conv: arch.Conv) -> tuple[Tensor, Tensor]:
        """Return the rescaled kernel (O, I, 3, 3) and bias (O,) of a convolution, in the precision of the network."""
        return self.get_buffer(f"{conv.name}_weight"), self.get_buffer(f"{conv.name}_bias")

    @property
    def _split_weight(self) -> Tensor | None:
        """The kernel of the first convolution for a split image, (O, 10, 3, 3); only in half precision."""
        return self._buffers.get("split_weight")

    def apply_metric(self, layer: str, maps: Tensor) -> Tensor:
        """Return the maps of a slim network's layer in the full network's metric, and those of a full one unchanged."""
        metric = getattr(self, f"{layer}_metric", None)
        return maps if metric is None else F.conv2d(maps, metric)  # (1, C, H, W)

    def _build_blocks(self, check: Check | None) -> Iterator[tuple[list[str], Block]]:
        """Yield each block and the names of its layers."""
        for number, group in groupby(self.convs, key=lambda conv: conv.block):
            convs = [*group]
            steps = [ConvStep(*self.get_kernel(conv), conv.padding) for conv in convs]
            if convs[0].is_first and self._split_weight is not None:
                steps[0] = steps[0]._replace(kernel=self._split_weight)
            pooling = "" if convs[-1] is self.convs[-1] else arch.choose_pooling(number, self.pooling)
            yield [conv.layer for conv in convs], Block(tuple(steps), pooling, check)


MEAN_FLOOR = 0.05
"""A filter that hardly ever fires is divided by this share of its layer's mean, not by nearly zero."""


@torch.no_grad()
def compute_mean_activations(
    kernels: Mapping[str, Tensor], network: str, pooling: str, images: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return the mean rectified activation of every filter over images, each image with the same weight.

    Args:
        kernels: `conv1_1.weight` (O, I, 3, 3) and `conv1_1.bias` (O,) …, for RGB in [0, 1].
        pooling: one of `arch.POOLINGS`; the constants hold for it alone.
        images: RGB in [0, 1], each (1, 3, H, W).

    Returns:
        `{"conv1_1": (O,)}`, all above 0.
    """
    convs = [conv for conv in arch.list_convolutions(network) if f"{conv.name}.weight" in kernels]
    sums = {conv.name: torch.zeros(conv.outputs, dtype=torch.float32) for conv in convs}

    def get_kernel(conv: arch.Conv) -> tuple[Tensor, Tensor]:
        return kernels[f"{conv.name}.weight"].float(), kernels[f"{conv.name}.bias"].float()

    for image in images:
        for conv, maps in run_layers(image, convs, get_kernel, pooling):
            sums[conv.name] += maps.mean(dim=(0, 2, 3))
    return {name: _floor_means(total / len(images)) for name, total in sums.items()}


def _floor_means(means: Tensor) -> Tensor:
    """Raise the means (C,) of nearly dead filters to a share of the layer's mean."""
    return means.clamp(min=MEAN_FLOOR * float(means.mean()))
