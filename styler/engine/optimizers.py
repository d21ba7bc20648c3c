"""Adam and L-BFGS on the pixels of an image.

Each optimizer is a generator that yields an `OptimizerStep` after every evaluation of the objective. All that it knows
is then in its state, from which another can go on as if nothing had happened. Neither knows scales, files or the
network.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

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
PART_VALUES = 1 << 20
"""Values of an image that Adam updates at once, so that what it makes on the way takes little memory."""

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
    state: "AdamState | LbfgsState"
    """From which the next evaluation goes on, and changes it."""


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


@dataclass(slots=True, eq=False)
class AdamState:
    """All that Adam knows between two evaluations. The images are never modified, the moments are."""

    image: Tensor
    """The image to evaluate next, (1, 3, H, W) in [0, 1]."""
    best: Tensor
    """The image with the lowest finite total so far; at first, and after the very last step, the current one."""
    first: Tensor
    """Moving sum of the gradient, (1, 3, H, W)."""
    second: Tensor
    """Moving sum of the gradient's square, (1, 3, H, W)."""
    first_mass: Tensor
    """Sum of the weights in the first moment, ()."""
    second_mass: Tensor
    """Sum of the weights in the second moment, ()."""
    lowest: Tensor
    """The lowest finite total so far, ()."""
    shortened: Tensor
    """Share of the rate that is left: a half for every evaluation that was undone, ()."""
    recovered: Tensor
    """Number of evaluations that were undone, ()."""
    best_losses: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    """Evaluations made."""

    @classmethod
    def begin(cls, image: Tensor) -> "AdamState":
        """Return the state before the first evaluation."""
        zero = torch.zeros((), dtype=image.dtype, device=image.device)
        lowest, moments = torch.full_like(zero, math.inf), (torch.zeros_like(image), torch.zeros_like(image))
        return cls(image, image, *moments, zero, zero, lowest, torch.ones_like(zero), zero)

    def forget(self) -> None:
        """Free the moments, since nothing goes on from here but perhaps the best image."""
        self.first = self.second = self.first.new_empty(0)

    def judge(self, losses: dict[str, Tensor], finite: Tensor) -> Tensor:
        """Note the losses of the current image, if they are `finite`, (); return whether it is the best so far, ()."""
        better = finite & (losses[TOTAL] < self.lowest)
        self.lowest = torch.where(better, losses[TOTAL], self.lowest)
        self.best_losses = _select_losses(better, losses, self.best_losses)
        self.best = torch.where(better, self.image, self.best)
        self.recovered = self.recovered + ~finite
        self.shortened = torch.where(finite, self.shortened, self.shortened / 2)
        return better

    def accumulate(self, gradient: Tensor, finite: Tensor) -> None:
        """Add a gradient to the moments; they start again from 0 where `finite`, (), is false."""
        share, lost = 1 / min(LAST_WINDOW, FIRST_WINDOW + WINDOW_GROWTH * self.step), ~finite
        for rows in _split_rows(gradient):
            part, first, second = gradient[..., rows, :], self.first[..., rows, :], self.second[..., rows, :]
            part.masked_fill_(lost, 0)
            first.lerp_(part, share).masked_fill_(lost, 0)
            second.lerp_(part.square(), 1 - SECOND_BETA).masked_fill_(lost, 0)
        one = torch.ones_like(self.lowest)
        self.first_mass = torch.where(finite, self.first_mass.lerp(one, share), 0)
        self.second_mass = torch.where(finite, self.second_mass.lerp(one, 1 - SECOND_BETA), 0)

    def move(self, rate: Tensor, finite: Tensor, target: Tensor, *, floored: bool) -> None:
        """Move the image by a rate, (), or back to the best one; the new image takes the memory of `target`."""
        floor = MOMENT_FLOOR * self.second.mean() if floored else torch.zeros_like(self.lowest)
        for rows in _split_rows(target):
            part, first, second = target[..., rows, :], self.first[..., rows, :], self.second[..., rows, :]
            scale = (second + floor).div_(self.second_mass).sqrt_().add_(1e-12)
            direction = (first / self.first_mass).div_(scale).mul_(rate)
            moved = torch.sub(self.image[..., rows, :], direction, out=direction).clamp_(0, 1)
            part.copy_(torch.where(finite, moved, self.best[..., rows, :]))
        self.image = target
        self.step += 1


def adam(
    objective: Objective, start: Tensor | AdamState, limit: IterationLimit, rate: float, *, floored: bool = False
) -> Iterator[OptimizerStep]:
    """Minimize by Adam with a flat-then-cosine rate, clamping to [0, 1] after each step.

    Never waits for the device: an evaluation that is not finite is undone there, by selection: the best image is
    restored, the moments are reset and the rate is halved from then on. Holds the image, the best one, two moments and
    the gradient, whose memory the next image takes; all else is made for some rows at a time.

    Source: D. Kingma and J. Ba, "Adam: A Method for Stochastic Optimization", 2015.

    Args:
        objective: what to minimize.
        start: the first image, (1, 3, H, W) in [0, 1], or the state in which to go on, which is updated.
        limit: the number of evaluations.
        rate: largest step, in units of the image's range.
        floored: whether steps are shorter where the gradient is small, which is for very few steps.
    """
    state = start if isinstance(start, AdamState) else AdamState.begin(start)
    del start  # the first image is held no longer than it is needed
    while state.step < limit.iterations:
        losses, gradient = objective.gradient(state.image)
        if gradient.stride() != state.image.stride():
            gradient = torch.empty_like(state.image).copy_(gradient)
        finite = losses[TOTAL].isfinite()
        for rows in _split_rows(gradient):
            finite = finite & gradient[..., rows, :].isfinite().all()
        better = state.judge(losses, finite)
        state.accumulate(gradient, finite)
        step_rate = rate * scale_rate(state.step, limit.decay_length) * state.shortened
        state.move(step_rate, finite, gradient, floored=floored)
        if state.step == limit.decay_length:  # never evaluated, but the last step improves
            torch.where(better, state.image, state.best, out=state.best)  # made by `judge`, and not yet reported
        del gradient  # it is the image now, and would else be held during the next evaluation
        yield OptimizerStep(losses, state.image, state.best, state.best_losses, state.recovered, state)


def _split_rows(image: Tensor) -> list[slice]:
    """Split the rows of an image (1, 3, H, W) into parts of at most `PART_VALUES`, as far as rows are that short."""
    count = max(1, PART_VALUES // max(1, image[..., 0, :].numel()))
    return [slice(first, first + count) for first in range(0, image.shape[-2], count)]


def _select_losses(better: Tensor, losses: dict[str, Tensor], before: dict[str, Tensor]) -> dict[str, Tensor]:
    """Select the terms of the better image on the device."""
    new = torch.stack(list(losses.values()))
    old = torch.stack(list(before.values())) if before else torch.full_like(new, math.inf)
    return dict(zip(losses, torch.where(better, new, old).unbind(), strict=True))


def scale_rate(step: int, steps: int) -> float:
    """Return the share of the full rate at a step, from 0: 1 for the first half, then a cosine to 0 after the last."""
    done = step / steps
    return 1.0 if done <= FLAT_SHARE else (1 + math.cos(math.pi * (done - FLAT_SHARE) / (1 - FLAT_SHARE))) / 2


@dataclass(slots=True, eq=False)
class LbfgsState:
    """All that L-BFGS knows between two evaluations. No tensor is ever modified."""

    image: Tensor
    """The image accepted last, (1, 3, H, W) in [0, 1]; it is also the best."""
    gradient: Tensor | None = None
    """Its gradient, (1, 3, H, W); None before the first evaluation."""
    losses: dict[str, Tensor] = field(default_factory=dict)
    """Its terms, each ()."""
    loss: float = math.inf
    """Their sum."""
    pairs: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    """The last moves and changes of the gradient, each (1, 3, H, W), and their products, ()."""
    direction: Tensor | None = None
    """Along which the next trial is, (1, 3, H, W); None if a new one is to be found."""
    length: float = 1.0
    """Of the next trial, relative to the direction's."""
    trials: int = 0
    """Made along the direction."""
    reach: float = FIRST_RMS_MOVE
    """Root mean square of a step along the gradient."""
    used: int = 0
    """Evaluations made."""
    recovered: int = 0
    """Those that were not finite."""
    is_over: bool = False
    """Whether no step helps."""

    @property
    def best(self) -> Tensor:
        """The image with the lowest total, (1, 3, H, W)."""
        return self.image

    def forget(self) -> None:
        """Free the history, since nothing goes on from here but perhaps the image."""
        self.gradient, self.direction, self.pairs = None, None, []

    def find_direction(self) -> None:
        """Set the direction of the next trial: −H g, with H the approximate inverse Hessian; −g without pairs."""
        assert self.gradient is not None
        free = _mask_free(self.image, self.gradient)
        direction = free * _multiply_by_hessian(free * self.gradient, self.pairs)
        self.direction = _cap_step(direction, self.reach if not self.pairs else None)
        self.length, self.trials = 1.0, 0

    def judge(
        self, trial: Tensor, gradient: Tensor, losses: dict[str, Tensor], move: Tensor, change: Tensor, product: Tensor
    ) -> None:
        """Accept a trial if it helps; `move`, `change` and their `product`, (), lead to it. Waits for the device."""
        assert self.gradient is not None
        slope = (move * self.gradient).sum()  # along the actual move, which the clamp may have shortened
        loss, fall, bend, good = _read_values(losses[TOTAL], slope, product, gradient.isfinite().all())
        self.recovered += not (good and math.isfinite(loss))
        self.used, self.trials = self.used + 1, self.trials + 1
        if bool(good) and loss < self.loss and loss <= self.loss + SUFFICIENT_DECREASE * fall:
            if bend > 0:
                self.pairs = [*self.pairs[-(LBFGS_HISTORY - 1) :], (move, change, product)]
            self.image, self.gradient, self.losses, self.loss = trial, gradient, losses, loss
            self.direction = None
        elif fall < 0 and self.trials < BACKTRACKS:
            self.length *= SHORTENING
        else:
            self._give_up(is_held=fall >= 0)

    def _give_up(self, *, is_held: bool) -> None:
        """Forget a direction along which no trial helped; `is_held` if the image did not move against its gradient."""
        self.direction = None
        if not self.pairs:
            self.reach *= SHORTENING**BACKTRACKS
            self.is_over = is_held or self.reach < MIN_RMS_MOVE  # every value may be held at the end of its range
        self.pairs = []


def lbfgs(objective: Objective, start: Tensor | LbfgsState, limit: IterationLimit) -> Iterator[OptimizerStep]:
    """Minimize by L-BFGS with capped steps and backtracking, clamping to [0, 1] after each step.

    Reads from the device once per evaluation. When no step along its direction helps, the history is reset and the
    next direction is the gradient; when that does not help either, it ends early. A trial whose loss is not finite
    counts as one that did not help.

    Source: J. Nocedal and S. Wright, "Numerical Optimization", 2nd edition, 2006, algorithm 7.5.

    Args:
        objective: what to minimize.
        start: the first image, (1, 3, H, W) in [0, 1], or the state in which to go on, which is updated.
        limit: the number of evaluations.
    """
    state = start if isinstance(start, LbfgsState) else LbfgsState(start)
    if state.gradient is None:
        state.losses, state.gradient = objective.gradient(state.image)
        state.loss, good = _read_values(state.losses[TOTAL], state.gradient.isfinite().all())
        state.used, state.is_over = 1, not (good and math.isfinite(state.loss))  # there may be no image to start from
        state.recovered = int(state.is_over)
        yield _report(state)
    while state.used < limit.iterations and not state.is_over:
        if state.direction is None:
            state.find_direction()
        assert state.direction is not None
        trial = (state.image + state.length * state.direction).clamp(0, 1)
        losses, gradient = objective.gradient(trial)
        move, change = trial - state.image, gradient - state.gradient
        state.judge(trial, gradient, losses, move, change, (move * change).sum())
        yield _report(state)


def _report(state: LbfgsState) -> OptimizerStep:
    recovered = torch.tensor(state.recovered)
    return OptimizerStep(state.losses, state.image, state.image, state.losses, recovered, state)


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


def _multiply_by_hessian(gradient: Tensor, pairs: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Return −H g by the two-loop recursion over pairs of moves and changes, with their products; −g without any."""
    q = gradient
    shares: list[Tensor] = []
    for move, change, product in reversed(pairs):
        share = (move * q).sum() / product
        q, shares = q - share * change, [share, *shares]
    if pairs:
        _, change, product = pairs[-1]
        q = q * (product / change.square().sum())
    for (move, change, product), share in zip(pairs, shares, strict=True):
        q = q + move * (share - (change * q).sum() / product)
    return -q
