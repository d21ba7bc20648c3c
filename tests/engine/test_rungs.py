"""What happens when memory runs out while a painting is in progress, and what the record says of it."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from styler.engine import run
from styler.engine.memory import measure, plan
from styler.engine.memory.estimate import Demand, Rung, estimate_scale
from styler.engine.memory.host import HostObjective
from styler.engine.painter import Painter
from styler.engine.result import Progress
from styler.engine.run import Run
from styler.errors import OutOfMemory
from styler.images import Picture
from styler.objective.terms import Objective
from styler.options import Options

Array = NDArray[Any]
Watch = Callable[[Callable[[Rung, int], bool]], list[Rung]]
FAST = Options(size=64, first_size=32, iterations=6, taper=0.5, device="cpu")
"""Six iterations at 32 pixels by L-BFGS, three at 64 by Adam."""
SHORT: dict[str, Exception] = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."),
    "python": MemoryError(),
}


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tiles of the rungs small enough for the pictures of the tests."""
    monkeypatch.setattr(plan, "TILE_SIDES", (48, 32, 16))


@pytest.fixture(params=SHORT)
def watch(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Watch:
    """Return `watch(is_short)`, which lets memory run out where `is_short(rung, side)` and records all rungs tried."""
    gradient, optimize = Objective.gradient, Run._optimize

    def watch(is_short: Callable[[Rung, int], bool]) -> list[Rung]:
        seen: list[Rung] = []

        def watched(self: Objective, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
            if is_short(seen[-1], image.shape[-1]):
                raise SHORT[request.param]
            return gradient(self, image)

        def optimized(self: Run, *given: Any) -> Any:
            seen.append(Rung(self.checkpoint, self.tile))
            return optimize(self, *given)

        monkeypatch.setattr(Objective, "gradient", watched)
        monkeypatch.setattr(Run, "_optimize", optimized)
        return seen

    return watch


@pytest.mark.parametrize("enough", [Rung(checkpoint=True), Rung(tile=48), Rung(tile=32), Rung(tile=16)])
def test_a_painting_steps_down_until_memory_is_enough_and_finishes(
    painter: Painter, content: Array, style: Array, small_tiles: None, watch: Watch, enough: Rung
) -> None:
    seen = watch(lambda rung, side: side == 64 and rung.order < enough.order)
    result = painter.stylize(content, style, FAST)
    rungs = [Rung(), Rung(checkpoint=True), Rung(tile=48), Rung(tile=32), Rung(tile=16)]
    tried = rungs[: rungs.index(enough) + 1]
    assert seen == [Rung(), *tried]  # the first is that of 32×32
    assert list(result.notes) == [f"Memory ran out at 64×64; continued {rung.describe()}." for rung in tried[1:]]
    assert (result.iterations, result.stopped) == (9, False)


def test_a_later_scale_begins_on_the_rung_to_which_the_one_before_has_led(
    painter: Painter, content: Array, style: Array, small_tiles: None, watch: Watch
) -> None:
    seen = watch(lambda rung, side: side == 32 and not rung.tile)
    result = painter.stylize(content, style, FAST)
    assert seen == [Rung(), Rung(checkpoint=True), Rung(tile=16), Rung(tile=16)]
    assert result.notes[-1] == "64×64 was painted in tiles of 16 px."


def test_iterations_made_before_memory_ran_out_count(
    painter: Painter, content: Array, style: Array, small_tiles: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every iteration is made on a lower rung than the one before, from the best image so far."""
    gradient, starts, count = Objective.gradient, [], 0

    def watched(self: Objective, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        nonlocal count
        count += 1
        if image.shape[-1] == 64 and count % 2:
            raise MemoryError
        starts.append(image)
        return gradient(self, image)

    monkeypatch.setattr(Objective, "gradient", watched)
    reports = [*painter.stream(content, style, FAST.replace(optimizer="adam"))]
    result = reports[-1].result
    assert result is not None
    assert [report.iteration for report in reports[:-1]] == [*range(1, 7), 1, 2, 3]
    assert len(result.notes) == 3
    assert len(starts) == 9


def test_without_a_rung_that_is_left_the_message_names_a_smaller_size(
    painter: Painter, content: Array, style: Array, watch: Watch
) -> None:
    seen = watch(lambda _rung, side: side > 128)
    with pytest.raises(
        OutOfMemory, match=r"320×320 needs about .* even in tiles of 256 px and with checkpointing, but"
    ):
        painter.stylize(content, style, FAST.replace(size=320, first_size=320))
    assert seen == [Rung(), Rung(checkpoint=True), Rung(tile=256)]


def test_a_scale_that_paintings_share_has_no_tiles(
    painter: Painter, content: Array, style: Array, small_tiles: None, watch: Watch
) -> None:
    """It would be in the cache with other pixels than those that it has in other paintings."""
    options = FAST.replace(tile=64)
    assert [preview.result.notes for preview in painter.previews(content, style, options)] == [()]
    watch(lambda _rung, _side: True)
    with pytest.raises(OutOfMemory):
        [*painter.previews(content, style, options.replace(seed=1))]


@pytest.mark.parametrize(("tile", "expected"), [("off", ()), (64, ("128×128 was painted in tiles of 64 px.",))])
def test_the_record_says_which_scales_had_tiles(
    painter: Painter, content: Array, style: Array, tile: int | str, expected: tuple[str, ...]
) -> None:
    result = painter.stylize(content, style, FAST.replace(size=128, tile=tile))
    assert result.notes == expected
    assert result.options.tile == tile


@pytest.mark.parametrize("is_scarce", [False, True])
def test_tiles_return_smaller_blocks_of_freed_memory_where_it_is_scarce(
    painter: Painter, content: Array, style: Array, monkeypatch: pytest.MonkeyPatch, is_scarce: bool
) -> None:
    policies: list[dict[str, bool]] = []
    monkeypatch.setattr(run, "keep_freed_memory", lambda _device, **policy: policies.append(policy))
    monkeypatch.setattr(plan, "SPARE_FACTOR", 1e9 if is_scarce else 0.0)
    painter.stylize(content, style, FAST.replace(size=128, tile=64))
    assert policies == [{"keep": False, "is_scarce": True}] * is_scarce


def test_little_memory_gives_the_last_scales_tiles(
    painter: Painter, content: Array, style: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "TILE_SIDES", (64,))
    options = FAST.replace(size=256, checkpoint="off", iterations=2, brushwork=0)
    features = painter.features(options)
    given = Demand(features=features, size=(256, 256), styles=[(64, 48)], options=options, photo=(64, 64))
    tiled, whole = (estimate_scale(given, (256, 256), "adam", rung).device for rung in (Rung(tile=64), Rung()))
    room = int((tiled + whole) / 2 / measure.USABLE_SHARE)
    monkeypatch.setattr(measure, "measure_free_memory", lambda _device: room)
    result = painter.stylize(content, style, options)
    assert [note.partition(" ")[0] for note in result.notes] == ["256×256"]


def test_an_objective_of_the_host_gives_what_one_of_the_device_gives(
    painter: Painter, content: Array, style: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = painter.stylize(content, style, FAST)
    used = []
    gradient = HostObjective.gradient

    def counted(self: HostObjective, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        used.append(image.device.type)
        return gradient(self, image)

    monkeypatch.setattr(HostObjective, "gradient", counted)
    monkeypatch.setattr(plan.MemoryPlan, "choose", lambda *_: Rung(on_host=True))
    on_host = painter.stylize(content, style, FAST)
    assert np.array_equal(plain.pixels, on_host.pixels)
    assert used == ["cpu"] * 9


def test_a_photo_that_nobody_else_keeps_is_freed_once_the_painter_has_it(painter: Painter, style: Array) -> None:
    pixels = np.random.default_rng(0).random((64, 64, 3), dtype=np.float32)
    photo, steps = weakref.ref(pixels), painter.stream(Picture(pixels), style, FAST)
    del pixels
    next(steps)
    assert photo() is None


def test_the_last_report_keeps_nothing_but_the_result(painter: Painter, content: Array, style: Array) -> None:
    photos = []
    paint = Run.paint

    def watched(run: Run) -> Iterator[Progress]:
        photos.append(weakref.ref(run.content.image))
        return paint(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "paint", watched)
        for report in painter.stream(content, style, FAST):
            last = report  # those before it keep the run
    del report
    assert photos[0]() is None
    assert last.result is not None
    assert last.live_view() is last.result.pixels
