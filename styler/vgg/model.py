"""A block of a VGG, convolutions with their rectifiers and the pooling after them, as one step of autograd.

Autograd by itself writes a new gradient at every rectifier, at every pooling, and wherever a layer's own loss joins in.
The weights are frozen, and a gradient between two layers of a block belongs to nobody else: here it is changed in
place, which saves a tenth of an evaluation's time on a CPU and a map's memory.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.utils.checkpoint import checkpoint as recompute

from styler.errors import ImageError, OptionError
from styler.vgg import arch
from styler.vgg.arch import pooling_after
from styler.vgg.weights import Weights

Check = Callable[[], None]
"""Called between convolutions, forward and backward; it stops the work by raising."""

aten: Any = torch.ops.aten


class ConvStep(NamedTuple):
    """A convolution, with the rectifier after it."""

    kernel: Tensor
    bias: Tensor
    padding: int
    """Zeros on every side."""


class Block(NamedTuple):
    """What is done with a map (1, C, H, W)."""

    steps: tuple[ConvStep, ...]
    pooling: str = ""
    """`max` or `average` of 2 × 2 at the end, or none."""
    check: Check | None = None


def run_block(x: Tensor, block: Block) -> tuple[Tensor, ...]:
    """Every rectified map of a block, in order, and then the pooled last one if it pools.

    Args:
        x: (1, C, H, W), channels-last.
        block: what is done with it.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        found: tuple[Tensor, ...] = _BlockFunction.apply(x, block)
        return found
    return _compute_block(x, block)[0]


def _compute_block(x: Tensor, block: Block) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """What `run` gives; and where the largest of four were, for the way back."""
    maps, places = [], None
    for step in block.steps:
        if block.check:
            block.check()
        x = F.relu(F.conv2d(x, step.kernel, step.bias, padding=step.padding), inplace=True)  # (1, C, H, W)
        maps.append(x)
    if block.pooling == "max":
        x, places = F.max_pool2d(x, 2, return_indices=True)  # (1, C, H // 2, W // 2)
    elif block.pooling:
        x = F.avg_pool2d(x, 2)
    return (*maps, x) if block.pooling else tuple(maps), places


class _BlockFunction(torch.autograd.Function):
    """`run`, with a gradient that is changed in place from layer to layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: Block) -> tuple[Tensor, ...]:
        found, places = _compute_block(x, block)
        ctx.block = block
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, places, *found[: len(block.steps)])
        return found

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        block: Block = ctx.block  # type: ignore[attr-defined]
        x, places, *maps = ctx.saved_tensors  # type: ignore[attr-defined]
        after = gradients[len(maps)] if block.pooling else None
        gradient = None if after is None else _pooling_backward(after, maps[-1], places)
        for step, source, ours, own in reversed([*zip(block.steps, (x, *maps), maps, gradients, strict=False)]):
            if block.check:
                block.check()
            if gradient is not None:
                gradient = gradient if own is None else gradient.add_(own)
                aten.threshold_backward.grad_input(gradient, ours, 0, grad_input=gradient)
            elif own is not None:  # it may be somebody else's: not in place
                gradient = aten.threshold_backward(own, ours, 0)
            if gradient is not None:
                gradient = _convolution_backward(gradient, source, step)
        return gradient, None


def _convolution_backward(gradient: Tensor, source: Tensor, step: ConvStep) -> Tensor:
    """The gradient before a convolution from that after it: a new tensor."""
    kernel, pads = step.kernel.to(gradient.dtype), [step.padding] * 2
    only_input = [True, False, False]
    found: Tensor = aten.convolution_backward(
        gradient, source.to(gradient.dtype), kernel, None, [1, 1], pads, [1, 1], False, [0, 0], 1, only_input
    )[0]
    return found.to(source.dtype)


def _pooling_backward(gradient: Tensor, before: Tensor, places: Tensor | None) -> Tensor:
    """The gradient before pooling from that after it: a new tensor, shaped as the map `before`."""
    if places is not None:
        found: Tensor = aten.max_pool2d_with_indices_backward(
            gradient, before, [2, 2], [2, 2], [0, 0], [1, 1], False, places
        )
        return found
    height, width = gradient.shape[-2:]
    wide = torch.empty_like(before)
    wide[..., 2 * height :, :] = 0  # an odd row or column is in no average
    wide[..., 2 * width :] = 0
    fours = wide[..., : 2 * height, : 2 * width].view(*wide.shape[:2], height, 2, width, 2)
    fours.copy_((gradient / 4)[..., :, None, :, None])
    return wide


class Features(nn.Module):
    """A VGG, frozen, from a picture to `{"relu4_2": (1, C, H/8, W/8), …}`.

    The picture is RGB in [0, 1], (1, 3, H, W); the network's own normalisation is folded into its first convolution,
    whose border is padded by replication (zeros would draw a dark frame) and the others by zeros, as trained. Every
    filter is rescaled so that its mean activation over natural pictures is 1 (Gatys, Ecker and Bethge, "Image Style
    Transfer Using Convolutional Neural Networks", CVPR 2016, §2), which changes nothing in what the network computes
    and keeps a few loud filters from deciding every loss. Nothing beyond the last layer asked for is computed.

    Args:
        weights: a verified set of weights; the rescaling constants come with them.
        layers: names such as `relu4_2` (`conv4_2` is an alias).
        pooling: one of `styler.vgg.pooling.KINDS`.
        precision: the dtype of the convolutions; float32 switches autocast off.

    Raises:
        OptionError: the network, or what is kept of it, has no such layer.
    """

    def __init__(
        self,
        weights: Weights,
        layers: Iterable[str],
        pooling: str = "max",
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.network = weights.network
        self.sha256 = weights.sha256
        self.layers = tuple(dict.fromkeys(arch.canonical_layer(layer, weights.network) for layer in layers))
        self.pooling = pooling
        self.precision = precision
        self.widths = weights.widths
        self.convs = arch.convolutions_until(weights.network, self.layers, weights.widths)
        missing = [layer for layer in arch.list_layers(weights.network) if layer in {*self.layers} - {*weights.layers}]
        if missing:
            raise OptionError(
                f"The weights of {weights.network} end before {missing[-1]}; choose from {', '.join(weights.layers)}."
            )
        if weights.pooling not in (None, pooling):
            raise OptionError(
                f"This slim network was made for {weights.pooling} pooling; take --pooling {weights.pooling} with it."
            )
        for conv in self.convs:
            kernel, bias = weights.rescaled(conv, pooling)
            self.register_buffer(f"{conv.name}_weight", kernel.contiguous(memory_format=torch.channels_last))
            self.register_buffer(f"{conv.name}_bias", bias)
            if conv.layer in self.layers and (metric := weights.metric(conv.layer)) is not None:
                self.register_buffer(f"{conv.name}_metric", metric[:, :, None, None])
        self.requires_grad_(False).eval()

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.buffers()).device

    @property
    def min_side(self) -> int:
        """Shortest side of a picture, in pixels, that still leaves one value in the last layer asked for."""
        return max((conv.stride for conv in self.convs), default=1)

    def forward(self, image: Tensor, check: Check | None = None, *, checkpoint: bool = False) -> dict[str, Tensor]:
        """Compute the features of a picture.

        Args:
            image: (1, 3, H, W), RGB in [0, 1].
            check: called between convolutions in the forward and the backward pass.
            checkpoint: keep only the blocks' inputs and compute the rest again in the backward pass: slower, less
                memory.

        Returns:
            One rectified map per layer asked for, (1, C, H/stride, W/stride), in the precision of the convolutions.

        Raises:
            ImageError: the picture is smaller than the stride of the last layer.
        """
        height, width = image.shape[-2:]
        if min(height, width) < self.min_side:
            raise ImageError(
                f"A picture of {width}×{height} pixels is too small for {self.convs[-1].layer}; give it at least "
                f"{self.min_side} pixels on each side."
            )
        found: dict[str, Tensor] = {}
        x = F.pad(image.contiguous(memory_format=torch.channels_last), (1, 1, 1, 1), mode="replicate")
        with torch.autocast(image.device.type, self.precision, enabled=self.precision is not torch.float32):
            for layers, block in self._blocks(check):
                if checkpoint and torch.is_grad_enabled():
                    maps = recompute(run_block, x, block, use_reentrant=False)
                else:
                    maps = run_block(x, block)
                x = maps[-1]
                found |= {layer: x for layer, x in zip(layers, maps, strict=False) if layer in self.layers}
            return {layer: self._measured(layer, maps) for layer, maps in found.items()}

    def _measured(self, layer: str, maps: Tensor) -> Tensor:
        """A slim layer's channels in the full network's metric; those of a full network as they are."""
        metric = getattr(self, layer.replace("relu", "conv") + "_metric", None)
        return maps if metric is None else F.conv2d(maps, metric)  # (1, C, H, W)

    def _blocks(self, check: Check | None) -> Iterator[tuple[list[str], Block]]:
        """The layers of each block, and what is done in it."""
        last = self.convs[-1].block if self.convs else 0
        for number in dict.fromkeys(conv.block for conv in self.convs):
            convs = [conv for conv in self.convs if conv.block == number]
            steps = tuple(
                ConvStep(
                    self.get_buffer(f"{conv.name}_weight"),
                    self.get_buffer(f"{conv.name}_bias"),
                    0 if conv.block == conv.index == 1 else conv.kernel // 2,
                )
                for conv in convs
            )
            pooling = "" if number == last else pooling_after(number, self.pooling)
            yield [conv.layer for conv in convs], Block(steps, pooling, check)


MEAN_FLOOR = 0.05
"""A filter that hardly ever fires is divided by this share of its layer's mean, not by nearly nothing."""


@torch.no_grad()
def compute_mean_activations(
    kernels: Mapping[str, Tensor], network: str, pooling: str, pictures: Iterable[Tensor]
) -> dict[str, Tensor]:
    """Mean rectified activation of every filter over pictures, each picture counting alike.

    Args:
        kernels: `conv1_1.weight` (O, I, 3, 3) and `conv1_1.bias` (O,), for RGB in [0, 1].
        network: a name of the family.
        pooling: one of `styler.vgg.pooling.KINDS`; the constants hold for that one alone.
        pictures: each (1, 3, H, W), RGB in [0, 1].

    Returns:
        `{"conv1_1": (O,)}`, all above 0.
    """
    convs = [conv for conv in arch.list_convolutions(network) if f"{conv.name}.weight" in kernels]
    sums = {conv.name: torch.zeros(conv.outputs) for conv in convs}
    count = 0
    for picture in pictures:
        count += 1
        x = F.pad(picture, (1, 1, 1, 1), mode="replicate")
        for conv in convs:
            x = apply_pooling(x, conv.block - 1, pooling) if conv.opens_block else x
            kernel, bias = kernels[f"{conv.name}.weight"].float(), kernels[f"{conv.name}.bias"].float()
            x = F.relu(F.conv2d(x, kernel, bias, padding=0 if conv.name == "conv1_1" else 1))  # (1, C, H, W)
            sums[conv.name] += x.mean(dim=(0, 2, 3))
    return {name: _floor_means(total / count) for name, total in sums.items()}


def _floor_means(means: Tensor) -> Tensor:
    """The means (C,), with those of nearly dead filters raised to a share of the layer's mean."""
    return means.clamp(min=MEAN_FLOOR * float(means.mean()))


def apply_pooling(x: Tensor, block: int, pooling: str) -> Tensor:
    """A block's last map (B, C, H, W), pooled, (B, C, H // 2, W // 2)."""
    return F.max_pool2d(x, 2) if pooling_after(block, pooling) == "max" else F.avg_pool2d(x, 2)
