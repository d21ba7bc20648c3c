"""A slim network: fewer channels that give nearly the same losses of painting, chosen without labels.

Layer by layer, channels are chosen by how much they contribute to the style statistics and content features of that
layer and to the next convolution; then the convolution is refitted by least squares, so that it maps the slim
network's own inputs to the full network's outputs. A linear readout of every layer approximates the full network's
features; through it the losses of styler are the same losses (`Weights.factorize_readout`). The first convolution is
kept whole: it costs little, and matters most to the style.

Source of the idea: He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017; they
choose by LASSO for the labels of ImageNet, we choose greedily for the statistics of painting.

This module computes no gradients: `styler.workshop.distill` continues from here.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from styler.errors import OptionError
from styler.vgg import arch, weights
from styler.vgg.arch import DEFAULT_POOLING
from styler.vgg.model import prepare_input
from styler.vgg.weights import Weights
from styler.workshop import crops

MULTIPLE = 8
"""Widths are multiples of this, for which convolutions are fast."""
OWN_SHARE = 0.5
"""Weight of a layer's own statistics in the choice; the rest is the weight of the next convolution."""
RIDGE = 1e-4
"""Regularization of the least squares, in units of the mean diagonal."""
POSITIONS = 1500
"""Positions of each crop's map that are fitted, at most: neighbors carry the same information."""


@torch.no_grad()
def slim_network(
    teacher: Weights,
    keep: float,
    pictures: Sequence[Tensor],
    *,
    pooling: str = DEFAULT_POOLING,
    count: int = 160,
    side: int = 192,
    seed: int = 0,
    log: Callable[[str], None] = lambda _line: None,
) -> Weights:
    """Choose channels and refit the convolutions; deterministic for a seed and number of threads.

    Args:
        teacher: the full network.
        keep: share of the channels of every convolution after the first, in (0, 1].
        pictures: the pictures to choose by, each (1, 3, H, W).
        pooling: the pooling that the slim network is for.
        count: the number of crops that are fitted.
        side: side of a crop, in pixels.
        log: called with a line for every layer.

    Raises:
        OptionError: the share is out of range, or the network is already slim.
    """
    if not 0 < keep <= 1:
        raise OptionError(f"keep is {keep:g}; it can be above 0 and up to 1.")
    if teacher.widths:
        raise OptionError("This network is already slim; use the full one.")
    convs = teacher.convs
    widths = (convs[0].outputs, *(compute_slim_width(conv.outputs, keep) for conv in convs[1:]))
    generator = torch.Generator().manual_seed(seed)
    images = [crops.sample_crop(pictures, side, generator) for _ in range(count)]
    slimming = _Slimming(teacher, pooling, images, generator)
    slim_convs = arch.list_convolutions(teacher.network, widths)
    for full, conv, following in zip(convs, slim_convs, (*convs[1:], None), strict=True):
        error = slimming.slim_layer(full, conv, following)
        if error is not None:
            log(f"{conv.layer}: {conv.outputs} of {full.outputs} channels, {error:.1%} of the features lost")
    info = {
        "network": teacher.network,
        "convention": "rgb",
        "widths": list(widths),
        "pooling": pooling,
        "slim": {"of": teacher.sha256, "keep": keep, "pictures": len(pictures), "crops": count, "seed": seed},
        "credit": teacher.info.get("credit"),
    }
    return Weights(teacher.network, "", slimming.kernels, {}, info, widths, slimming.readouts)


class _Slimming:
    """The slim network up to a layer, with the maps of all crops in the full and in the slim network.

    Args:
        images: the crops, each (1, 3, H, W).
        generator: draws the positions that are fitted.
    """

    def __init__(self, teacher: Weights, pooling: str, images: list[Tensor], generator: torch.Generator) -> None:
        self.teacher, self.pooling, self.generator = teacher, pooling, generator
        self.theirs, self.ours = images, images
        self.kernels: dict[str, Tensor] = {}
        self.readouts: dict[str, Tensor] = {}

    def slim_layer(self, full: arch.Conv, conv: arch.Conv, following: arch.Conv | None) -> float | None:
        """Add the next layer, and return the share of its features that the readout loses; None if it is whole."""
        kernel, bias = self.teacher.rescale_convolution(full, self.pooling)
        outputs = [_convolve(x, kernel, bias, full) for x in self._prepare_inputs(self.theirs, full)]  # not rectified
        self.theirs = [x.clamp(min=0).half() for x in outputs]
        next_kernel = self.teacher.rescale_convolution(following, self.pooling)[0] if following else None
        chosen = choose_channels(_compute_second_moment(self.theirs), conv.outputs, next_kernel)
        inputs = self._prepare_inputs(self.ours, full)
        if conv.inputs == full.inputs:  # no input was dropped: the convolution is kept
            kernel, bias = kernel[chosen], bias[chosen]
        else:
            kernel, bias = refit_convolution(inputs, [x[:, chosen] for x in outputs], conv, self.generator)
        self.kernels |= {f"{conv.name}.weight": kernel, f"{conv.name}.bias": bias}
        self.ours = [_convolve(x, kernel, bias, conv).clamp(min=0).half() for x in inputs]
        if conv.outputs == full.outputs:
            return None
        self.readouts[conv.layer], error = fit_readout(self.ours, self.theirs)
        return error

    def _prepare_inputs(self, maps: Sequence[Tensor], conv: arch.Conv) -> list[Tensor]:
        return [prepare_input(x.float(), conv, self.pooling).to(x.dtype) for x in maps]


def compute_slim_width(channels: int, keep: float) -> int:
    """Return how many channels are kept of a convolution."""
    return min(channels, max(1, MULTIPLE * round(keep * channels / MULTIPLE) or min(channels, MULTIPLE)))


def dump_network(network: Weights, dtype: torch.dtype = torch.float16) -> bytes:
    """Return a slim network as the bytes of a weights file."""
    tensors = {name: tensor.detach().to(dtype) for name, tensor in network.tensors.items()}
    return weights.serialize_weights(tensors, network.info)


def choose_channels(second: Tensor, count: int, following: Tensor | None) -> Tensor:
    """Choose the channels, sorted, from which the others can best be predicted.

    The choice is greedy: each time the channel that explains most of the remaining second moment. That is measured by
    the layer's own statistics, where every channel has the same weight, and by the next convolution's kernel.

    Args:
        second: second moment of the rescaled features, (C, C).
        count: the number of channels to choose.
        following: the next convolution's kernel, (O, C, 3, 3), or None after the last.
    """
    channels = len(second)
    if count == channels:
        return torch.arange(channels)
    metric = torch.eye(channels, dtype=torch.float64) / second.trace()
    if following is not None:
        taps = following.double().transpose(0, 1).flatten(1)  # (C, O·9)
        next_metric = torch.einsum("ik,jk->ij", taps, taps)
        metric = OWN_SHARE * metric + (1 - OWN_SHARE) * next_metric / (next_metric * second).sum()
    rest = second.double().clone()
    chosen: list[int] = []
    floor = 1e-9 * float(rest.diagonal().mean())
    for _ in range(count):
        explained = (rest * (metric @ rest)).sum(dim=0) / rest.diagonal().clamp(min=floor)  # (C,)
        explained[chosen] = -1
        best = int(explained.argmax())
        chosen.append(best)
        column = rest[:, best].clone()
        rest -= torch.outer(column, column) / column[best].clamp(min=floor)
    return torch.tensor(sorted(chosen))


def refit_convolution(
    inputs: Sequence[Tensor], outputs: Sequence[Tensor], conv: arch.Conv, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Fit the kernel and bias that map the slim network's inputs to the full network's outputs.

    Ridge regression over random positions of all crops.

    Args:
        inputs: the slim network's maps, each (1, I, H, W).
        outputs: the full network's maps before the rectifier, each (1, O, H, W).
    """
    unknowns = conv.inputs * conv.kernel**2 + 1
    normal = torch.zeros((unknowns, unknowns), dtype=torch.float64)
    right = torch.zeros((unknowns, conv.outputs), dtype=torch.float64)
    for x, y in zip(inputs, outputs, strict=True):
        rows = F.unfold(x.float(), conv.kernel, padding=conv.padding)[0].T  # (N, I·9)
        targets = y[0].flatten(1).T.float()  # (N, O)
        positions = torch.randperm(len(rows), generator=generator)[:POSITIONS]
        rows = torch.cat([rows[positions], torch.ones((len(positions), 1))], dim=1)
        normal += rows.T @ rows
        right += rows.T @ targets[positions]
    solution = _solve_ridge(normal, right)
    return solution[:-1].T.reshape(conv.shape).float().contiguous(), solution[-1].float()


def fit_readout(ours: Iterable[Tensor], theirs: Sequence[Tensor]) -> tuple[Tensor, float]:
    """Fit the linear map (C, k) from slim to full features, and return the share of their energy that it loses."""
    normal, right, energy = torch.zeros(()), torch.zeros(()), 0.0
    for x, y in zip(ours, theirs, strict=True):
        rows, targets = x[0].flatten(1).float(), y[0].flatten(1).float()  # (k, N), (C, N)
        scale = 1 / rows.shape[1]
        normal = normal + scale * (rows @ rows.T).double()
        right = right + scale * (rows @ targets.T).double()
        energy += scale * float(targets.square().sum())
    solution = _solve_ridge(normal, right)  # (k, C)
    lost = energy - 2 * float((solution * right).sum()) + float((solution * (normal @ solution)).sum())
    return solution.T.float().contiguous(), lost / energy


def _solve_ridge(normal: Tensor, right: Tensor) -> Tensor:
    normal = normal + RIDGE * normal.diagonal().mean() * torch.eye(len(normal), dtype=normal.dtype)
    return torch.cholesky_solve(right, torch.linalg.cholesky(normal))


def _convolve(x: Tensor, kernel: Tensor, bias: Tensor, conv: arch.Conv) -> Tensor:
    x = x.float().contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, kernel, bias, padding=conv.padding)  # (1, C, H, W)


def _compute_second_moment(maps: Sequence[Tensor]) -> Tensor:
    """Return S = F Fᵀ / N over all crops, (C, C)."""
    total = torch.zeros(())
    for x in maps:
        rows = x[0].flatten(1).float()  # (C, N)
        total = total + (rows @ rows.T).double() / rows.shape[1]
    return total / len(maps)
