"""Adam and L-BFGS on the pixels of an image.

Each optimizer is a generator that yields an `OptimizerStep` after every evaluation of the objective. Neither knows
scales, files or the network.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from styler.objective.terms import TOTAL, Objective

FIRST_WINDOW, LAST_WINDOW, WINDOW_GROWTH = 3.0, 10.0, 1 / 6
"""Steps over which Adam averages the gradient: at first, at most, and how many more with every step. The gradient has
no noise, so a short window is best in few steps, and a long one in many: measured at 256 px, 32 steps end 3% lower with
3 steps than with 10, 42 are equal from 3 to 10, and 104 end 2% lower with 10."""
SECOND_BETA = 0.8
"""Far below the usual 0.999: the gradient changes so much from step to step that only the last few show its scale.
Measured on one pair at 256 px, 104 steps end 2% lower than with 0.99."""
MOMENT_FLOOR = 0.1
"""Share of its mean that a floored second moment gets added. Otherwise, the first step moves every value by the full
rate, even in flat areas, where the gradient is next to nothing and its sign is a pattern of the network."""
FLAT_SHARE = 0.5
"""Share of Adam's steps at the full rate; the rest follow a cosine down to 0."""

LBFGS_HISTORY = 20
"""Pairs in the history of L-BFGS."""
MAX_MOVE = 0.3
"""Largest change of one value in one step of L-BFGS, in units of the image's range."""
MAX_RMS_MOVE = 0.05
"""Largest root mean square change of the image in one step of L-BFGS."""
FIRST_RMS_MOVE = 0.01
"""The same for the first step, which has no curvature information yet."""
MIN_RMS_MOVE = 1e-5
"""L-BFGS ends when a step along the gradient would have to be shorter than this."""
BACKTRACKS = 4
"""Trials along one direction."""
SHORTENING = 0.4
"""Factor of the step length after a trial that did not help."""
SUFFICIENT_DECREASE = 1e-4
"""Constant of the Armijo condition."""


@dataclass(frozen=True, slots=True, eq=False)
class OptimizerStep:
    """The state after one evaluation. All tensors stay on their device until they are read."""

    losses: dict[str, Tensor]
    """Terms of the image evaluated last (with L-BFGS, accepted last), each (), with their sum as `total`."""
    image: Tensor
    """The image after the step, (1, 3, H, W) in [0, 1]."""
    best: Tensor
    """The image with the lowest finite total so far; after the very last step, the image it led to."""
    best_losses: dict[str, Tensor]
    """Terms of the image with the lowest finite total."""
    recovered: Tensor
    """Number of evaluations so far that were not finite and were undone, ()."""


@dataclass(slots=True)
class IterationLimit:
    """How long an optimizer runs; may be changed between its steps, with Adam to no less than `min_iterations`."""

    iterations: int
    """Maximum number of evaluations."""
    planned: int = 0
    """Evaluations over which Adam's rate decays, if more than `iterations`: as if it had been stopped early."""

    @property
    def decay_length(self) -> int:
        """Evaluations over which the rate decays to 0."""
        return max(self.iterations, self.planned)


def min_iterations(done: int) -> int:
    """Return the smallest limit under which Adam's first `done` steps were all at the full rate.

    Any limit of at least this leaves the steps already made as they are.
    """
    return max(done, math.ceil((done - 1) / FLAT_SHARE))


def adam(
    objective: Objective, image: Tensor, limit: IterationLimit, rate: float, *, floored: bool = False
) -> Iterator[OptimizerStep]:
    """Minimize by Adam with a flat-then-cosine rate, clamping to [0, 1] after each step.

    Never waits for the device: an evaluation that is not finite is undone there, by selection: the best image is
    restored, the moments are reset and the rate is halved from then on.

    Source: D. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", 2015.

    Args:
        objective: what to minimize.
        image: where to start, (1, 3, H, W) in [0, 1].
        limit: the number of evaluations.
        rate: largest step, in units of the image's range.
        floored: whether steps are shorter where the gradient is small, which is for very few steps.
    """
    first, second = torch.zeros_like(image), torch.zeros_like(image)
    best, lowest = image, torch.full((), math.inf, dtype=image.dtype, device=image.device)
    zero, one = torch.zeros_like(lowest), torch.ones_like(lowest)
    shortened, recovered = one, zero
    first_mass, second_mass = zero, zero  # sums of the weights in the moments
    best_losses: dict[str, Tensor] = {}
    step = 0
    while step < limit.iterations:
        losses, gradient = objective.gradient(image)
        finite = losses[TOTAL].isfinite() & gradient.isfinite().all()
        better = finite & (losses[TOTAL] < lowest)
        lowest, best_losses = torch.where(better, losses[TOTAL], lowest), _select_losses(better, losses, best_losses)
        best = torch.where(better, image, best)
        recovered, shortened = recovered + ~finite, torch.where(finite, shortened, shortened / 2)
        gradient = torch.where(finite, gradient, 0)
        share = 1 / min(LAST_WINDOW, FIRST_WINDOW + WINDOW_GROWTH * step)
        first, first_mass = _average(first, gradient, share, finite), _average(first_mass, one, share, finite)
        second = _average(second, gradient.square(), 1 - SECOND_BETA, finite)
        second_mass = _average(second_mass, one, 1 - SECOND_BETA, finite)
        floor = MOMENT_FLOOR * second.mean() if floored else zero
        direction = (first / first_mass) / (((second + floor) / second_mass).sqrt() + 1e-12)
        moved = (image - rate * scale_rate(step, limit.decay_length) * shortened * direction).clamp(0, 1)
        image = torch.where(finite, moved, best)
        step += 1
        if step == limit.decay_length:
            best = torch.where(better, moved, best)  # never evaluated, but the last step improves
        yield OptimizerStep(losses, image, best, best_losses, recovered)


def _average(before: Tensor, value: Tensor, share: float, finite: Tensor) -> Tensor:
    """Move an average toward a value by a share of the way; it starts again from 0 where `finite`, (), is false."""
    return torch.where(finite, before.lerp(value, share), 0)


def _select_losses(better: Tensor, losses: dict[str, Tensor], before: dict[str, Tensor]) -> dict[str, Tensor]:
    """Select the terms of the better image on the device."""
    new = torch.stack(list(losses.values()))
    old = torch.stack(list(before.values())) if before else torch.full_like(new, math.inf)
    return dict(zip(losses, torch.where(better, new, old).unbind(), strict=True))


def scale_rate(step: int, steps: int) -> float:
    """Return the share of the full rate at a step, from 0: 1 for the first half, then a cosine to 0 after the last."""
    done = step / steps
    return 1.0 if done <= FLAT_SHARE else (1 + math.cos(math.pi * (done - FLAT_SHARE) / (1 - FLAT_SHARE))) / 2


def lbfgs(objective: Objective, image: Tensor, limit: IterationLimit) -> Iterator[OptimizerStep]:
    """Minimize by L-BFGS with capped steps and backtracking, clamping to [0, 1] after each step.

    Reads from the device once per evaluation. When no step along its direction helps, the history is reset and the
    next direction is the gradient; when that does not help either, it ends early. A trial whose loss is not finite
    counts as one that did not help.

    Source: J. Nocedal and S. Wright, "Numerical Optimization", 2nd edition, 2006, algorithm 7.5.

    Args:
        objective: what to minimize.
        image: where to start, (1, 3, H, W) in [0, 1].
        limit: the number of evaluations.
    """
    losses, gradient = objective.gradient(image)
    loss, good = _read_values(losses[TOTAL], gradient.isfinite().all())
    lost = 0 if good and math.isfinite(loss) else 1
    yield OptimizerStep(losses, image, image, losses, torch.tensor(lost))
    if lost:
        return  # there is no finite image to start from
    used, history, reach = 1, _History(), FIRST_RMS_MOVE
    while used < limit.iterations:
        free = _mask_free(image, gradient)
        direction = _cap_step(free * history.find_direction(free * gradient), reach if not history.pairs else None)
        length, accepted = 1.0, False
        for _ in range(BACKTRACKS):
            trial = (image + length * direction).clamp(0, 1)
            trial_losses, trial_gradient = objective.gradient(trial)
            used += 1
            move, change = trial - image, trial_gradient - gradient
            curvature, finite = (move * change).sum(), trial_gradient.isfinite().all()
            slope = (move * gradient).sum()  # along the actual move, which the clamp may have shortened
            trial_loss, fall, bend, good = _read_values(trial_losses[TOTAL], slope, curvature, finite)
            lost += not (good and math.isfinite(trial_loss))
            accepted = bool(good) and trial_loss < loss and trial_loss <= loss + SUFFICIENT_DECREASE * fall
            if accepted:
                history.add(move, change, curvature, bend)
                image, gradient, losses, loss = trial, trial_gradient, trial_losses, trial_loss
            yield OptimizerStep(losses, image, image, losses, torch.tensor(lost))
            if accepted or used >= limit.iterations or fall >= 0:
                break
            length *= SHORTENING
        if not accepted:
            if not history.pairs and fall >= 0:
                return  # every value is held at the end of its range
            if not history.pairs:
                reach *= SHORTENING**BACKTRACKS
            history = _History()
        if reach < MIN_RMS_MOVE:
            return


def _read_values(*values: Tensor) -> list[float]:
    """Read several numbers (), waiting for the device once."""
    numbers: list[float] = torch.stack([value.float() for value in values]).tolist()
    return numbers


def _mask_free(image: Tensor, gradient: Tensor) -> Tensor:
    """Return 1 where a value can move against its gradient, 0 where it is held at 0 or 1; (1, 3, H, W)."""
    return ~(((image <= 0) & (gradient > 0)) | ((image >= 1) & (gradient < 0)))


def _cap_step(direction: Tensor, reach: float | None) -> Tensor:
    """Cap a direction's length; one along the gradient, which has no scale, gets the length `reach`."""
    size = direction.square().mean().sqrt() + 1e-30
    scale = reach / size if reach else (MAX_RMS_MOVE / size).clamp(max=1)
    return (direction * scale).clamp(-MAX_MOVE, MAX_MOVE)


class _History:
    """The last moves and changes of the gradient, and the two-loop recursion over them."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, move: Tensor, change: Tensor, curvature: Tensor, value: float) -> None:
        """Add a pair if its curvature, move · change, is positive; `value` is the curvature on the CPU."""
        if value > 0:
            self.pairs = [*self.pairs[-(LBFGS_HISTORY - 1) :], (move, change, curvature)]

    def find_direction(self, gradient: Tensor) -> Tensor:
        """Return −H g, with H the approximate inverse Hessian; −g without pairs."""
        q = gradient
        shares: list[Tensor] = []
        for move, change, curvature in reversed(self.pairs):
            share = (move * q).sum() / curvature
            q, shares = q - share * change, [share, *shares]
        if self.pairs:
            _, change, curvature = self.pairs[-1]
            q = q * (curvature / change.square().sum())
        for (move, change, curvature), share in zip(self.pairs, shares, strict=True):
            q = q + move * (share - (change * q).sum() / curvature)
        return -q
