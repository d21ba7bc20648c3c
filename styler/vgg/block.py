"""A block of a VGG, convolutions with their rectifiers and the pooling after them, as one step of autograd.

Autograd by itself writes a new gradient at every rectifier, at every pooling, and wherever a layer's own loss joins in.
The weights are frozen, and a gradient between two layers of a block belongs to nobody else: here it is changed in
place, which saves a tenth of an evaluation's time on a CPU and a map's memory.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

Check = Callable[[], None]
"""Called between convolutions, forward and backward; it stops the work by raising."""

aten: Any = torch.ops.aten


class Step(NamedTuple):
    """A convolution, with the rectifier after it."""

    kernel: Tensor
    bias: Tensor
    padding: int
    """Zeros on every side."""


class Block(NamedTuple):
    """What is done with a map (1, C, H, W)."""

    steps: tuple[Step, ...]
    pooling: str = ""
    """`max` or `average` of 2 × 2 at the end, or none."""
    check: Check | None = None


def run(x: Tensor, block: Block) -> tuple[Tensor, ...]:
    """Every rectified map of a block, in order, and then the pooled last one if it pools.

    Args:
        x: (1, C, H, W), channels-last.
        block: what is done with it.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        found: tuple[Tensor, ...] = _Run.apply(x, block)
        return found
    return _computed(x, block)[0]


def _computed(x: Tensor, block: Block) -> tuple[tuple[Tensor, ...], Tensor | None]:
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


class _Run(torch.autograd.Function):
    """`run`, with a gradient that is changed in place from layer to layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: Block) -> tuple[Tensor, ...]:
        found, places = _computed(x, block)
        ctx.block = block
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, places, *found[: len(block.steps)])
        return found

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        block: Block = ctx.block  # type: ignore[attr-defined]
        x, places, *maps = ctx.saved_tensors  # type: ignore[attr-defined]
        after = gradients[len(maps)] if block.pooling else None
        gradient = None if after is None else _unpooled(after, maps[-1], places)
        for step, source, ours, own in reversed([*zip(block.steps, (x, *maps), maps, gradients, strict=False)]):
            if block.check:
                block.check()
            if gradient is not None:
                gradient = gradient if own is None else gradient.add_(own)
                aten.threshold_backward.grad_input(gradient, ours, 0, grad_input=gradient)
            elif own is not None:  # it may be somebody else's: not in place
                gradient = aten.threshold_backward(own, ours, 0)
            if gradient is not None:
                gradient = _convolved_back(gradient, source, step)
        return gradient, None


def _convolved_back(gradient: Tensor, source: Tensor, step: Step) -> Tensor:
    """The gradient before a convolution from that after it: a new tensor."""
    kernel, pads = step.kernel.to(gradient.dtype), [step.padding] * 2
    only_input = [True, False, False]
    found: Tensor = aten.convolution_backward(
        gradient, source.to(gradient.dtype), kernel, None, [1, 1], pads, [1, 1], False, [0, 0], 1, only_input
    )[0]
    return found.to(source.dtype)


def _unpooled(gradient: Tensor, before: Tensor, places: Tensor | None) -> Tensor:
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
