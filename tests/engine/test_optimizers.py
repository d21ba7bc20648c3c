"""The two optimisers on objectives one can see through."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from styler.engine import optimizers
from styler.engine.objective import Objective
from styler.engine.optimizers import IterationLimit, OptimizerStep

Optimiser = Callable[[Objective, Tensor, IterationLimit], Iterator[OptimizerStep]]
Losses = dict[str, Tensor]


class Bowl:
    """A quadratic with its minimum at `goal`, steeper in some pixels than in others; it can fail at some evaluations.

    Args:
        goal: (1, 3, H, W).
        bad: evaluations, from 0, at which the loss is not finite.
        what: `loss` or `gradient`: where it is not finite.
    """

    def __init__(self, goal: Tensor, bad: set[int] | None = None, what: str = "loss", value: float = math.nan) -> None:
        self.goal, self.bad, self.what, self.value = goal, bad or set(), what, value
        self.steepness = torch.linspace(1, 20, goal.numel()).reshape(goal.shape)
        self.seen: list[Tensor] = []

    def gradient(self, image: Tensor) -> tuple[Losses, Tensor]:
        """The loss and its gradient, as `Objective.gradient` gives them."""
        bad = len(self.seen) in self.bad
        self.seen.append(image.clone())
        away = image - self.goal
        loss, slope = (self.steepness * away.square()).mean(), 2 * self.steepness * away / away.numel()
        if bad and self.what == "loss":
            loss = loss * self.value
        if bad and self.what == "gradient":
            slope = slope.clone()
            slope.view(-1)[3] = self.value
        return {"total": loss}, slope

    def loss(self, image: Tensor) -> float:
        """The loss, whatever fails."""
        return float((self.steepness * (image - self.goal).square()).mean())


def adam(objective: Objective, image: Tensor, span: IterationLimit) -> Iterator[OptimizerStep]:
    return optimizers.adam(objective, image, span, 0.05)


both = pytest.mark.parametrize("optimiser", [adam, optimizers.lbfgs])
failures = pytest.mark.parametrize(("what", "value"), [("loss", math.nan), ("loss", math.inf), ("gradient", math.nan)])


def goal(outside: float = 0.0) -> Tensor:
    """Where the minimum lies, (1, 3, 4, 4); partly outside the range if asked for."""
    inside = torch.rand((1, 3, 4, 4), generator=torch.Generator().manual_seed(4))
    return inside * (1 + 2 * outside) - outside


def start() -> Tensor:
    return torch.full((1, 3, 4, 4), 0.5)


def run(optimiser: Optimiser, bowl: Bowl, steps: int, image: Tensor | None = None) -> list[OptimizerStep]:
    return list(optimiser(cast(Objective, bowl), start() if image is None else image, IterationLimit(steps)))


@both
def test_the_loss_falls_to_the_minimum(optimiser: Optimiser) -> None:
    bowl = Bowl(goal())
    steps = run(optimiser, bowl, 60)
    assert float(steps[-1].losses["total"]) < 1e-3 * bowl.loss(start())
    torch.testing.assert_close(steps[-1].best, bowl.goal, rtol=0, atol=0.03)


@both
def test_the_picture_stays_in_its_range(optimiser: Optimiser) -> None:
    bowl = Bowl(goal(outside=0.5))
    for step in run(optimiser, bowl, 60):
        assert step.image.min() >= 0
        assert step.image.max() <= 1
    assert all(image.min() >= 0 and image.max() <= 1 for image in bowl.seen)
    torch.testing.assert_close(bowl.seen[-1], bowl.goal.clamp(0, 1), rtol=0, atol=0.03)


def test_every_step_of_adam_reports_the_picture_that_was_evaluated() -> None:
    bowl = Bowl(goal())
    for step, image in zip(run(adam, bowl, 20), bowl.seen, strict=True):
        assert float(step.losses["total"]) == pytest.approx(bowl.loss(image))


def test_every_step_of_lbfgs_reports_the_picture_that_was_kept() -> None:
    bowl = Bowl(goal())
    steps = run(optimizers.lbfgs, bowl, 20)
    kept = [bowl.loss(step.image) for step in steps]
    assert [float(step.losses["total"]) for step in steps] == pytest.approx(kept)
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) < len(bowl.seen)  # some trials did not help


@both
@pytest.mark.parametrize("count", [1, 2, 7])
def test_no_more_evaluations_are_made_than_asked_for(optimiser: Optimiser, count: int) -> None:
    bowl = Bowl(goal())
    assert len(run(optimiser, bowl, count)) == count == len(bowl.seen)


def test_adam_makes_just_as_many_even_at_the_minimum() -> None:
    assert len(run(adam, Bowl(start()), 9)) == 9


def test_lbfgs_ends_early_where_nothing_helps() -> None:
    assert len(run(optimizers.lbfgs, Bowl(start()), 50)) < 5
    corner = Bowl(torch.full((1, 3, 4, 4), 2.0))
    assert len(run(optimizers.lbfgs, corner, 500, torch.ones(1, 3, 4, 4))) < 50
    assert all(bool((image == 1).all()) for image in corner.seen)


@both
def test_best_is_the_best_of_those_evaluated_and_never_gets_worse(optimiser: Optimiser) -> None:
    bowl = Bowl(goal())
    steps = run(optimiser, bowl, 40)
    bests = [bowl.loss(step.best) for step in steps]
    seen = [bowl.loss(image) for image in bowl.seen]
    assert bests[:-1] == [min(seen[: i + 1]) for i in range(len(seen) - 1)]
    assert bests[-1] <= min(seen)
    assert [float(step.best_losses["total"]) for step in steps] == pytest.approx(
        [min(seen[: i + 1]) for i in range(len(seen))]
    )


def test_the_last_step_of_adam_is_not_thrown_away() -> None:
    (only,) = run(adam, Bowl(goal()), 1)
    torch.testing.assert_close(only.best, only.image, rtol=0, atol=0)
    assert not torch.equal(only.best, start())


@both
def test_the_picture_that_is_given_is_left_as_it_is(optimiser: Optimiser) -> None:
    image = start()
    run(optimiser, Bowl(goal()), 5, image)
    torch.testing.assert_close(image, start(), rtol=0, atol=0)


@failures
@pytest.mark.parametrize("bad", [{0}, {5}, {5, 6, 7}, {19}])
def test_adam_goes_back_to_the_best_picture_and_on_with_shorter_steps(what: str, value: float, bad: set[int]) -> None:
    bowl = Bowl(goal(), bad, what, value)
    steps = run(adam, bowl, 40)
    assert len(steps) == 40
    for count, step in enumerate(steps):
        assert step.image.isfinite().all()
        assert float(step.recovered) == sum(at <= count for at in bad)
        if count in bad:
            torch.testing.assert_close(step.image, step.best, rtol=0, atol=0)
    assert all(image.isfinite().all() for image in bowl.seen)
    assert bowl.loss(steps[-1].best) < 0.1 * bowl.loss(start())
    after = max(bad) + 1
    move = (bowl.seen[after + 1] - bowl.seen[after]).abs().max()
    assert float(move) == pytest.approx(0.05 * 0.5 ** len(bad), rel=1e-3)  # the first step of Adam is its rate


def test_adam_survives_an_objective_that_is_never_finite() -> None:
    bowl = Bowl(goal(), set(range(10)))
    steps = run(adam, bowl, 10)
    assert float(steps[-1].recovered) == 10
    torch.testing.assert_close(steps[-1].best, start(), rtol=0, atol=0)
    torch.testing.assert_close(steps[-1].image, start(), rtol=0, atol=0)


@failures
@pytest.mark.parametrize("bad", [{1}, {4}, {4, 5}])
def test_lbfgs_takes_a_trial_that_is_not_finite_for_one_that_did_not_help(
    what: str, value: float, bad: set[int]
) -> None:
    bowl = Bowl(goal(), bad, what, value)
    steps = run(optimizers.lbfgs, bowl, 60)
    for count, step in enumerate(steps):
        assert step.image.isfinite().all()
        assert float(step.recovered) == sum(at <= count for at in bad)
        if count in bad:
            torch.testing.assert_close(step.image, steps[count - 1].image, rtol=0, atol=0)
    assert bowl.loss(steps[-1].best) < 1e-3 * bowl.loss(start())


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_lbfgs_that_starts_where_nothing_is_finite_says_so(what: str) -> None:
    steps = run(optimizers.lbfgs, Bowl(goal(), set(range(10)), what), 10)
    torch.testing.assert_close(steps[-1].best, start(), rtol=0, atol=0)
    assert float(steps[-1].recovered) == len(steps)


def test_no_step_of_lbfgs_is_larger_than_can_be_trusted() -> None:
    bowl = Bowl(10 * goal())
    run(optimizers.lbfgs, bowl, 30)
    moves = [after - before for before, after in itertools.pairwise(bowl.seen)]
    assert max(float(move.abs().max()) for move in moves) <= optimizers.MAX_MOVE + 1e-6
    assert float(moves[0].square().mean().sqrt()) <= optimizers.FIRST_RMS_MOVE + 1e-6


def test_lbfgs_needs_fewer_evaluations_than_there_are_pixels() -> None:
    bowl = Bowl(goal())
    run(optimizers.lbfgs, bowl, 40)
    assert min(bowl.loss(image) for image in bowl.seen) < 1e-6


def test_the_rate_is_flat_and_then_a_cosine() -> None:
    shares = [optimizers.scale_rate(step, 100) for step in range(101)]
    assert shares[:51] == [1.0] * 51
    assert shares[75] == pytest.approx(0.5)
    assert shares[100] == pytest.approx(0.0)
    assert all(before >= after for before, after in itertools.pairwise(shares))
    assert shares[99] > 0
    assert optimizers.scale_rate(0, 1) == 1.0


class NoWaiting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what reads a tensor's value on the host, and so would wait for a device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reads: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += "_local_scalar_dense" in str(func) or "nonzero" in str(func)
        return func(*args, **(kwargs or {}))


def reads(optimiser: Optimiser, bowl: Bowl, steps: int) -> int:
    with NoWaiting() as mode:
        run(optimiser, bowl, steps)
    return int(mode.reads)


def test_the_count_of_reads_sees_every_way_to_read() -> None:
    with NoWaiting() as mode:
        one = torch.ones(())
        assert float(one) == int(one) == one.item()
        assert bool(one)
    assert mode.reads == 4


def test_adam_never_waits_for_the_device() -> None:
    assert reads(adam, Bowl(goal(), {3, 4}), 12) == 0


def test_adam_reads_no_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Tensor, *_: Any) -> None:
        raise AssertionError("read a tensor")

    stepping = adam(cast(Objective, Bowl(goal(), {3})), start(), IterationLimit(8))
    with monkeypatch.context() as patch:
        for name in ("item", "__float__", "__bool__", "__int__", "tolist", "numpy", "cpu"):
            patch.setattr(Tensor, name, refuse)
        count = sum(1 for _ in stepping)
    assert count == 8


def test_lbfgs_waits_once_for_an_evaluation() -> None:
    bowl = Bowl(goal())
    assert reads(optimizers.lbfgs, bowl, 20) <= len(bowl.seen)
