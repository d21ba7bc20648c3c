"""A slim network: fewer channels that tell the losses of painting nearly the same, without labels.

Layer by layer, channels are chosen by what they contribute to the style statistics and content features of that layer
and to what the next layer makes of them; then the convolution is fitted anew by least squares, so that from the slim
network's own inputs it gives what the full network gives. A linear readout of every layer gives the full network's
features back, nearly; through it the losses of styler are the same losses (`Weights.metric`). The first convolution
stays whole: it costs little, and weighs most in the style.

Source of the idea: He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017; their
choice is by LASSO and their aim ImageNet's labels, ours is greedy and the painting's own statistics.

Knows nothing of gradients: `styler.vgg.distil` goes on from here.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from styler.errors import OptionError
from styler.vgg import arch
from styler.vgg.arch import DEFAULT_POOLING
from styler.vgg.model import apply_pooling
from styler.vgg.weights import Weights
from styler.workshop import crops

MULTIPLE = 8
"""Widths are multiples of it, as convolution kernels like them."""
OWN_SHARE = 0.5
"""How much a layer's own statistics count in the choice, beside what the next layer makes of it."""
RIDGE = 1e-4
"""Of the least squares, in units of the mean diagonal."""
POSITIONS = 1500
"""Of each crop's map at most so many are fitted: neighbours tell the same."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What of a network is kept."""

    convs: tuple[arch.Conv, ...]
    """The slim ones."""
    kept: Mapping[str, Tensor]
    """Indices of the channels kept, by convolution."""


def slim_width(channels: int, keep: float) -> int:
    """How many of so many channels are kept."""
    return min(channels, max(1, MULTIPLE * round(keep * channels / MULTIPLE) or min(channels, MULTIPLE)))


@torch.no_grad()
def slim_network(
    teacher: Weights,
    keep: float,
    pictures: Sequence[Tensor],
    *,
    pooling: str = DEFAULT_POOLING,
    looks: int = 160,
    side: int = 192,
    seed: int = 0,
    say: Say = lambda _line: None,
) -> Weights:
    """Choose channels and refit the convolutions; deterministic for a seed at an equal number of threads.

    Args:
        teacher: the full network.
        keep: share of the channels of every convolution after the first, in (0, 1].
        pictures: to choose by, each (1, 3, H, W).
        pooling: the one the slim network is for.
        looks: how many crops are fitted.
        side: of a crop, in pixels.
        seed: of the crops.
        say: told a line per layer.

    Raises:
        OptionError: the share is out of its range, or the network is slim already.
    """
    if not 0 < keep <= 1:
        raise OptionError(f"keep is {keep:g}; it can be above 0 and up to 1.")
    if teacher.widths:
        raise OptionError("This network is slim already; take the full one.")
    generator = torch.Generator().manual_seed(seed)
    looked = [crops.sample_crop(pictures, side, generator) for _ in range(looks)]
    convs = teacher.convs
    widths = (convs[0].outputs, *(slim_width(conv.outputs, keep) for conv in convs[1:]))
    slimmed = arch.list_convolutions(teacher.network, widths)
    theirs = [F.pad(image, (1, 1, 1, 1), mode="replicate") for image in looked]
    ours = list(theirs)
    kernels: dict[str, Tensor] = {}
    readouts: dict[str, Tensor] = {}
    before = torch.arange(3)
    for position, (full, conv) in enumerate(zip(convs, slimmed, strict=True)):
        kernel, bias = teacher.rescaled(full, pooling)
        inputs = _pool_all(theirs, full, pooling)
        raw = [_convolve(x, kernel, bias, full) for x in inputs]  # each (1, C, H, W), not rectified
        theirs = [x.clamp(min=0).half() for x in raw]
        following = teacher.rescaled(convs[position + 1], pooling)[0] if position + 1 < len(convs) else None
        chosen = choose_channels(_second_moment(theirs), conv.outputs, following)
        inputs = _pool_all(ours, full, pooling)
        if torch.equal(before, torch.arange(full.inputs)):  # all there is came through: the convolution is kept
            fitted = (kernel[chosen], bias[chosen])
        else:
            fitted = refit_convolution(inputs, [x[:, chosen] for x in raw], conv, generator)
        kernels |= {f"{conv.name}.weight": fitted[0], f"{conv.name}.bias": fitted[1]}
        ours = [_convolve(x, *fitted, conv).clamp(min=0).half() for x in inputs]
        if conv.outputs < full.outputs:
            readouts[conv.layer], error = fit_readout(ours, theirs)
            say(f"{conv.layer}: {conv.outputs} of {full.outputs} channels, {error:.1%} of the features missed")
        before = chosen
    info = {
        "network": teacher.network,
        "convention": "rgb",
        "widths": list(widths),
        "pooling": pooling,
        "slim": {"of": teacher.sha256, "keep": keep, "pictures": len(pictures), "looks": looks, "seed": seed},
        "credit": teacher.info.get("credit"),
    }
    return Weights(teacher.network, "", kernels, {}, info, widths, readouts)


def dump_network(weights: Weights, dtype: torch.dtype = torch.float16) -> bytes:
    """A slim network as the bytes of a weights file."""
    tensors = {**weights.kernels, **{f"readout.{layer}": readout for layer, readout in weights.readouts.items()}}
    stored = {name: tensor.detach().to(dtype).contiguous() for name, tensor in tensors.items()}
    return save(stored, {"styler": json.dumps(weights.info)})


def choose_channels(second: Tensor, count: int, following: Tensor | None) -> Tensor:
    """The channels, sorted, from which the others can best be told, counted by what depends on them.

    Greedy: each time the channel that explains most of what is left. What is left of the channels' second moment is
    measured by their own statistics, where every channel counts alike, and by the next convolution's kernel.

    Args:
        second: (C, C), of the rescaled features.
        count: how many.
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
    inputs: Sequence[Tensor], wanted: Sequence[Tensor], conv: arch.Conv, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Kernel and bias that give, from the slim network's maps, what the full network's convolution gives.

    Ridge regression over random positions of all crops; inputs are (1, I, H, W), the wanted maps (1, O, H, W), before
    rectification.
    """
    unknowns = conv.inputs * conv.kernel**2 + 1
    normal = torch.zeros((unknowns, unknowns), dtype=torch.float64)
    right = torch.zeros((unknowns, conv.outputs), dtype=torch.float64)
    for x, y in zip(inputs, wanted, strict=True):
        rows = F.unfold(x.float(), conv.kernel, padding=conv.kernel // 2)[0].T  # (N, I·9)
        targets = y[0].flatten(1).T.float()  # (N, O)
        some = torch.randperm(len(rows), generator=generator)[:POSITIONS]
        rows = torch.cat([rows[some], torch.ones((len(some), 1))], dim=1)
        normal += rows.T @ rows
        right += rows.T @ targets[some]
    solution = _solve_ridge(normal, right)
    return solution[:-1].T.reshape(conv.shape).float().contiguous(), solution[-1].float()


def fit_readout(ours: Iterable[Tensor], theirs: Sequence[Tensor]) -> tuple[Tensor, float]:
    """The linear map (C, k) from slim to full features, and the share of their energy that it misses."""
    normal, right, energy = torch.zeros(()), torch.zeros(()), 0.0
    for x, y in zip(ours, theirs, strict=True):
        rows, targets = x[0].flatten(1).float(), y[0].flatten(1).float()  # (k, N), (C, N)
        scale = 1 / rows.shape[1]
        normal = normal + scale * (rows @ rows.T).double()
        right = right + scale * (rows @ targets.T).double()
        energy += scale * float(targets.square().sum())
    solution = _solve_ridge(normal, right)  # (k, C)
    missed = energy - 2 * float((solution * right).sum()) + float((solution * (normal @ solution)).sum())
    return solution.T.float().contiguous(), missed / energy


def _solve_ridge(normal: Tensor, right: Tensor) -> Tensor:
    normal = normal + RIDGE * normal.diagonal().mean() * torch.eye(len(normal), dtype=normal.dtype)
    return torch.cholesky_solve(right, torch.linalg.cholesky(normal))


def _pool_all(maps: Sequence[Tensor], conv: arch.Conv, pooling: str) -> list[Tensor]:
    if not conv.opens_block:
        return [*maps]
    return [apply_pooling(x.float(), conv.block - 1, pooling).to(x.dtype) for x in maps]


def _convolve(x: Tensor, kernel: Tensor, bias: Tensor, conv: arch.Conv) -> Tensor:
    padding = 0 if conv.name == "conv1_1" else conv.kernel // 2
    return F.conv2d(x.float().contiguous(memory_format=torch.channels_last), kernel, bias, padding=padding)


def _second_moment(maps: Sequence[Tensor]) -> Tensor:
    """S = F Fᵀ / N over all crops, (C, C)."""
    total = torch.zeros(())
    for x in maps:
        rows = x[0].flatten(1).float()  # (C, N)
        total = total + (rows @ rows.T).double() / rows.shape[1]
    return total / len(maps)
