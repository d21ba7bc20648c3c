"""The optimizers on simple objectives."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from styler.engine import optimizers
from styler.engine.optimizers import AdamState, IterationLimit, OptimizerStep
from styler.objective.terms import Objective

Optimizer = Callable[[Objective, Tensor, IterationLimit], Iterator[OptimizerStep]]
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
        """Return the loss and its gradient, as `Objective.gradient` gives them."""
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
        """Return the loss, even at failing evaluations."""
        return float((self.steepness * (image - self.goal).square()).mean())


def adam(objective: Objective, image: Tensor, limit: IterationLimit) -> Iterator[OptimizerStep]:
    return optimizers.adam(objective, image, limit, 0.05)


both = pytest.mark.parametrize("optimizer", [adam, optimizers.lbfgs])
failures = pytest.mark.parametrize(("what", "value"), [("loss", math.nan), ("loss", math.inf), ("gradient", math.nan)])


def goal(outside: float = 0.0) -> Tensor:
    """Return the minimum, (1, 3, 4, 4); partly outside the range if asked for."""
    inside = torch.rand((1, 3, 4, 4), generator=torch.Generator().manual_seed(4))
    return inside * (1 + 2 * outside) - outside


def start() -> Tensor:
    return torch.full((1, 3, 4, 4), 0.5)


def run(optimizer: Optimizer, bowl: Bowl, steps: int, image: Tensor | None = None) -> list[OptimizerStep]:
    return list(optimizer(cast(Objective, bowl), start() if image is None else image, IterationLimit(steps)))


@both
def test_the_minimum_is_found(optimizer: Optimizer) -> None:
    bowl = Bowl(goal())
    steps = run(optimizer, bowl, 60)
    assert float(steps[-1].losses["total"]) < 1e-3 * bowl.loss(start())
    torch.testing.assert_close(steps[-1].best, bowl.goal, rtol=0, atol=0.03)


@both
def test_the_image_stays_in_its_range(optimizer: Optimizer) -> None:
    bowl = Bowl(goal(outside=0.5))
    for step in run(optimizer, bowl, 60):
        assert step.image.min() >= 0
        assert step.image.max() <= 1
    assert all(image.min() >= 0 and image.max() <= 1 for image in bowl.seen)
    torch.testing.assert_close(bowl.seen[-1], bowl.goal.clamp(0, 1), rtol=0, atol=0.03)


def test_adam_reports_the_losses_of_the_evaluated_image() -> None:
    bowl = Bowl(goal())
    for step, image in zip(run(adam, bowl, 20), bowl.seen, strict=True):
        assert float(step.losses["total"]) == pytest.approx(bowl.loss(image))


def test_lbfgs_reports_the_losses_of_the_accepted_image() -> None:
    bowl = Bowl(goal())
    steps = run(optimizers.lbfgs, bowl, 20)
    kept = [bowl.loss(step.image) for step in steps]
    assert [float(step.losses["total"]) for step in steps] == pytest.approx(kept)
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) < len(bowl.seen)  # some trials did not help


@both
@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_iteration_limit_is_kept(optimizer: Optimizer, count: int) -> None:
    bowl = Bowl(goal())
    assert len(run(optimizer, bowl, count)) == count == len(bowl.seen)


def test_adam_uses_all_iterations_even_at_the_minimum() -> None:
    assert len(run(adam, Bowl(start()), 9)) == 9


def test_lbfgs_ends_early_if_no_step_helps() -> None:
    assert len(run(optimizers.lbfgs, Bowl(start()), 50)) < 5
    corner = Bowl(torch.full((1, 3, 4, 4), 2.0))
    assert len(run(optimizers.lbfgs, corner, 500, torch.ones(1, 3, 4, 4))) < 50
    assert all(bool((image == 1).all()) for image in corner.seen)


@both
def test_best_is_the_best_evaluated_image(optimizer: Optimizer) -> None:
    bowl = Bowl(goal())
    steps = run(optimizer, bowl, 40)
    bests = [bowl.loss(step.best) for step in steps]
    seen = [bowl.loss(image) for image in bowl.seen]
    assert bests[:-1] == [min(seen[: i + 1]) for i in range(len(seen) - 1)]
    assert bests[-1] <= min(seen)
    assert [float(step.best_losses["total"]) for step in steps] == pytest.approx(
        [min(seen[: i + 1]) for i in range(len(seen))]
    )


def test_the_last_step_of_adam_is_kept() -> None:
    (only,) = run(adam, Bowl(goal()), 1)
    torch.testing.assert_close(only.best, only.image, rtol=0, atol=0)
    assert not torch.equal(only.best, start())


@both
def test_the_start_image_is_not_modified(optimizer: Optimizer) -> None:
    image = start()
    run(optimizer, Bowl(goal()), 5, image)
    torch.testing.assert_close(image, start(), rtol=0, atol=0)


@failures
@pytest.mark.parametrize("bad", [{0}, {5}, {5, 6, 7}, {19}])
def test_adam_recovers_from_a_loss_that_is_not_finite(what: str, value: float, bad: set[int]) -> None:
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


@pytest.mark.parametrize("floored", [False, True])
def test_a_first_step_of_adam_is_short_only_where_a_small_gradient_is_floored(floored: bool) -> None:
    bowl = Bowl(goal())
    bowl.steepness[..., :2] /= 1e4
    (first,) = optimizers.adam(cast(Objective, bowl), start(), IterationLimit(1), 0.05, floored=floored)
    moves = (first.image - start()).abs()
    assert float(moves[..., 2:].max()) == pytest.approx(0.05, rel=0.05)
    assert float(moves.max()) <= 0.05 + 1e-6
    if floored:
        assert float(moves[..., :2].max()) < 0.01 * 0.05
    else:
        torch.testing.assert_close(moves, torch.full_like(moves, 0.05), rtol=1e-3, atol=0)


def test_adam_survives_an_objective_that_is_never_finite() -> None:
    bowl = Bowl(goal(), set(range(10)))
    steps = run(adam, bowl, 10)
    assert float(steps[-1].recovered) == 10
    torch.testing.assert_close(steps[-1].best, start(), rtol=0, atol=0)
    torch.testing.assert_close(steps[-1].image, start(), rtol=0, atol=0)


@failures
@pytest.mark.parametrize("bad", [{1}, {4}, {4, 5}])
def test_lbfgs_rejects_a_trial_that_is_not_finite(what: str, value: float, bad: set[int]) -> None:
    bowl = Bowl(goal(), bad, what, value)
    steps = run(optimizers.lbfgs, bowl, 60)
    for count, step in enumerate(steps):
        assert step.image.isfinite().all()
        assert float(step.recovered) == sum(at <= count for at in bad)
        if count in bad:
            torch.testing.assert_close(step.image, steps[count - 1].image, rtol=0, atol=0)
    assert bowl.loss(steps[-1].best) < 1e-3 * bowl.loss(start())


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_lbfgs_ends_if_its_start_is_not_finite(what: str) -> None:
    steps = run(optimizers.lbfgs, Bowl(goal(), set(range(10)), what), 10)
    torch.testing.assert_close(steps[-1].best, start(), rtol=0, atol=0)
    assert float(steps[-1].recovered) == len(steps)


def test_steps_of_lbfgs_are_capped() -> None:
    bowl = Bowl(10 * goal())
    run(optimizers.lbfgs, bowl, 30)
    moves = [after - before for before, after in itertools.pairwise(bowl.seen)]
    assert max(float(move.abs().max()) for move in moves) <= optimizers.MAX_MOVE + 1e-6
    assert float(moves[0].square().mean().sqrt()) <= optimizers.FIRST_RMS_MOVE + 1e-6


def test_lbfgs_needs_fewer_evaluations_than_pixels() -> None:
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
    """Counts operations that read a tensor on the host and so wait for the device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reads: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.reads += "_local_scalar_dense" in str(func) or "nonzero" in str(func)
        return func(*args, **(kwargs or {}))


def reads(optimizer: Optimizer, bowl: Bowl, steps: int) -> int:
    with NoWaiting() as mode:
        run(optimizer, bowl, steps)
    return int(mode.reads)


def test_reads_are_counted_however_they_are_made() -> None:
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


def test_lbfgs_waits_for_the_device_once_per_evaluation() -> None:
    bowl = Bowl(goal())
    assert reads(optimizers.lbfgs, bowl, 20) <= len(bowl.seen)


@both
def test_images_that_were_reported_are_never_modified(optimizer: Optimizer) -> None:
    """A live view may read them later, from another thread."""
    steps = optimizer(cast(Objective, Bowl(goal(), {4})), start(), IterationLimit(12))
    seen = [(image, image.clone()) for step in steps for image in (step.image, step.best)]
    assert all(torch.equal(image, before) for image, before in seen)


def test_adam_takes_the_gradients_memory_and_keeps_that_of_its_moments() -> None:
    bowl, gradients = Bowl(goal()), []
    evaluate = bowl.gradient

    def noted(image: Tensor) -> tuple[Losses, Tensor]:
        losses, gradient = evaluate(image)
        gradients.append(gradient.data_ptr())
        return losses, gradient

    bowl.gradient = noted  # type: ignore[method-assign]
    images, moments = [], set()
    for step in adam(cast(Objective, bowl), start(), IterationLimit(5)):
        assert isinstance(step.state, AdamState)
        images.append(step.image.data_ptr())
        moments.add((step.state.first.data_ptr(), step.state.second.data_ptr()))
    assert images == gradients
    assert len(moments) == 1


@pytest.mark.parametrize("floored", [False, True])
@pytest.mark.parametrize("bad", [set(), {0}, {3, 4}])
def test_adam_has_the_same_bits_however_many_rows_it_updates_at_once(
    floored: bool, bad: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def paint() -> list[Tensor]:
        image = torch.rand((1, 3, 37, 53), generator=torch.Generator().manual_seed(1))
        bowl = cast(Objective, Bowl(torch.rand(image.shape, generator=torch.Generator().manual_seed(2)), bad))
        steps = [*optimizers.adam(bowl, image, IterationLimit(9), 0.05, floored=floored)]
        return [*(step.image for step in steps), *(step.best for step in steps)]

    whole = paint()
    monkeypatch.setattr(optimizers, "PART_VALUES", 500)
    assert all(map(torch.equal, whole, paint()))


def test_adam_accepts_gradients_with_another_layout() -> None:
    bowl, other = Bowl(goal()), Bowl(goal())
    evaluate = other.gradient

    def turned(image: Tensor) -> tuple[Losses, Tensor]:
        losses, gradient = evaluate(image)
        return losses, gradient.contiguous(memory_format=torch.channels_last)

    other.gradient = turned  # type: ignore[method-assign]
    ours, theirs = (run(adam, each, 6) for each in (bowl, other))
    assert torch.equal(ours[-1].image, theirs[-1].image)
    assert theirs[-1].image.is_contiguous()
