"""The planner: on which rung each scale of a painting is painted, so that it fits into the memory there is.

The rungs are tried in order: as a whole, with checkpointing, in ever smaller tiles, and then in tiles with the picture
and the optimizer's state in the memory of the host. The last exists on GPUs only: on a CPU there is no other memory.
"""

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from styler.engine import targets
from styler.engine.device import CPU
from styler.engine.memory.estimate import (
    Demand,
    Need,
    Rung,
    count_tiles,
    count_window_pixels,
    estimate_memory,
    estimate_scale,
)
from styler.engine.memory.measure import USABLE_SHARE, measure_free_memory, measure_usable_memory, release_memory
from styler.errors import OutOfMemory
from styler.geometry import fit_size
from styler.options import Options, format_estimate
from styler.schedule import SETUP_ITERATIONS, Scale, Schedule

TILE_SIDES = (1024, 768, 512, 384, 256)
"""Sides of tiles, in pixels: multiples of the network's stride, largest first."""
HOST_TILE_SIDES = (1024, 512, 256)
"""The same while the picture is in the host's memory."""
TILED_PASSES = 1.4
"""Forward passes that tiles add: one, and that of the photo."""
MATCHING_COST, TILED_MATCHING_COST = 1.5, 3.0
"""Iterations of the full network that it takes to match the features of a scale, as a whole or in tiles: measured on a
CPU at 1024 and 2048 pixels, where the number of candidates is at its limit."""
AMPLE_FACTOR = 2.0
"""Usable memory divided by the estimate above which freed memory is kept between iterations: fragmentation was
measured at up to 1.8 times the estimate, at 2048 pixels."""
SPARE_FACTOR = 1.3
"""The same for tiles, below which blocks of a megabyte, too, are returned at once. Keeping them takes 1.15 times the
memory and 0.9 times the time, in tiles of 1024 pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class MemoryPlan:
    """How a painting fits into memory."""

    demand: Demand
    """What was planned."""
    needed: float
    """Estimated peak of the device, in bytes."""
    usable: float
    """Bytes that may be used: `options.memory`, or else the usable share of what is free."""
    margin: int
    """Pixels around each tile."""
    rungs: Mapping[tuple[int, int], Rung]
    """The rung of each scale, by its width and height."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the result."""
        return self.demand.size

    @property
    def final(self) -> Rung:
        """The rung of the final size."""
        return self.choose(self.size)

    @property
    def is_ample(self) -> bool:
        """Whether there is room to keep freed memory between two iterations."""
        return AMPLE_FACTOR * self.needed <= self.usable

    @property
    def is_scarce(self) -> bool:
        """Whether tiles leave no room for freed memory between blocks in use."""
        return SPARE_FACTOR * self.needed > self.usable

    def choose(self, size: tuple[int, int]) -> Rung:
        """Return the rung of a scale of a size (width, height)."""
        return self.rungs.get(size, Rung())

    def slow_down(self, size: tuple[int, int]) -> float:
        """Return the time of an iteration at a size (width, height) relative to one that is painted as a whole.

        A backward pass takes as long as a forward pass. Checkpointing adds a forward pass, and tiles add another, and
        one of the photo as far as its features are compared; and they have margins.
        """
        rung = self.choose(size)
        passes = 2 + rung.checkpoint + TILED_PASSES * rung.splits(size)
        return passes / 2 * count_window_pixels(size, rung.tile, self.margin) / math.prod(size)

    def count_tiles(self) -> int:
        """Return the number of tiles of the final size; 1 if it is painted as a whole."""
        return count_tiles(self.size, self.final.tile)

    def count_work(self, scales: Schedule) -> float:
        """Return the work of a schedule: the pixels that the backbone processes in the same time, as a whole."""
        return sum(map(self.count_scale_work, scales))

    def count_scale_work(self, scale: Scale) -> float:
        """Return the work of a scale; unlike the schedule's own, it counts what begins it, its matching, and tiles."""
        work = (scale.iterations + SETUP_ITERATIONS) * scale.cost * self.slow_down(scale.size)
        matching = targets.plan_matching(self.demand.options, self.demand.features.network, self.size, scale)
        if not matching:
            return work
        count = math.ceil(scale.iterations / matching.interval) if matching.interval else 1
        cost = TILED_MATCHING_COST if self.choose(scale.size).splits(scale.size) else MATCHING_COST
        return work + count * cost * math.prod(scale.size)

    def describe(self, seconds: float, device: str) -> str:
        """Return the plan in a sentence, such as `8192×6144: 48 tiles of 1024 (margin 80), 3.9 GB, about 14 min on …`.

        Args:
            seconds: the estimated time of the painting.
            device: where it is painted.
        """
        rung, count = self.final, self.count_tiles()
        parts = [f"{count} tiles of {rung.tile} (margin {self.margin})"] if count > 1 else ["as a whole"]
        parts += ["with checkpointing"] if rung.checkpoint else []
        parts += ["picture in the host's memory"] if rung.on_host else []
        parts += [f"{self.needed / 1e9:.1f} GB", f"{format_estimate(seconds)} on {device}"]
        return f"{self.size[0]}×{self.size[1]}: {', '.join(parts)}"


def list_rungs(options: Options, device: torch.device) -> tuple[Rung, ...]:
    """Return the rungs that the options allow on a device, in the order in which they are tried."""
    whole = [
        Rung(checkpoint=each) for each in {"off": (False,), "auto": (False, True), "on": (True,)}[options.checkpoint]
    ]
    if options.tile == "off":
        return tuple(whole)
    is_saving, is_fixed = options.checkpoint == "on", isinstance(options.tile, int)
    sides = (int(options.tile),) if is_fixed else TILE_SIDES
    tiles = [Rung(is_saving, side) for side in sides]
    on_host = [Rung(is_saving, side, on_host=True) for side in (sides if is_fixed else HOST_TILE_SIDES)]
    return (*([] if is_fixed else whole), *tiles, *([] if device.type == "cpu" else on_host))


def step_down(rung: Rung, size: tuple[int, int], device: torch.device) -> Rung | None:
    """Return the next rung after memory has run out, whatever the options say; None if none is left.

    Args:
        rung: on which it ran out.
        size: width and height of the scale; tiles that it does not exceed would not help.
        device: on which it is painted.
    """
    if not rung.tile and not rung.checkpoint:
        return Rung(checkpoint=True)
    sides = HOST_TILE_SIDES if rung.on_host else TILE_SIDES
    before = min(rung.tile or math.inf, max(size))
    smaller = [Rung(tile=side, on_host=rung.on_host) for side in sides if side < before]
    if not smaller and not rung.on_host and device.type != "cpu":
        smaller = [Rung(tile=side, on_host=True) for side in HOST_TILE_SIDES if side < max(size)]
    return smaller[0] if smaller else None


def plan_memory(demand: Demand, scales: Schedule) -> MemoryPlan:
    """Return the first rung on which each scale fits.

    Small scales are painted as a whole even if the last are not, with the pixels that they always have.

    Args:
        demand: what the memory depends on; its options say how much may be used, and which rungs there are.
        scales: of the painting.

    Raises:
        OutOfMemory: a scale does not fit on any rung; the message names a size that would.
    """
    device, rungs, highest = demand.features.device, list_rungs(demand.options, demand.features.device), 0.0
    room = _measure_room(demand)
    is_tight = any(estimate_scale(demand, it.size, it.optimizer, rungs[0]).device > room.device for it in scales)
    if is_tight and not demand.options.memory:
        release_memory(device)  # memory kept from earlier pictures does not count as free
        room = _measure_room(demand)
    chosen: dict[tuple[int, int], Rung] = {}
    for scale in scales:
        rung, needed = _choose_rung(demand, scale.size, scale.optimizer, rungs, room)
        before = chosen.get(scale.size, rung)
        chosen[scale.size] = max(before, rung, key=rungs.index)
        highest = max(highest, needed)
    return MemoryPlan(demand, highest, room.device, demand.features.margin, chosen)


def _measure_room(demand: Demand) -> Need:
    """Return what may be used of the device, and of the host if that is another; in bytes."""
    device = demand.features.device
    host = math.inf if device.type == "cpu" else USABLE_SHARE * measure_free_memory(CPU)
    return Need(measure_usable_memory(device, demand.options), host)


def _choose_rung(
    demand: Demand, size: tuple[int, int], optimizer: str, rungs: Sequence[Rung], room: Need
) -> tuple[Rung, float]:
    """Return the first rung on which a scale fits, and what it needs of the device."""
    for rung in rungs:
        if rung.tile >= max(size) and rung is not rungs[0]:
            continue  # the same as a whole, which did not fit
        need = estimate_scale(demand, size, optimizer, rung)
        if need.device <= room.device and need.host <= room.host:
            return rung, need.device
    raise OutOfMemory(advise_smaller(demand))


def fits(demand: Demand, room: Need) -> bool:
    """Return whether a painting fits on the most sparing rung that its options allow."""
    need = estimate_memory(demand, list_rungs(demand.options, demand.features.device)[-1])
    return need.device <= room.device and need.host <= room.host


def find_largest_side(demand: Demand, room: Need) -> int:
    """Return the largest long side, in steps of 32 pixels, of a picture with the same proportions that fits."""
    size = demand.size
    return 32 * _find_last(lambda steps: fits(demand.resize(fit_size(*size, 32 * steps)), room), max(size) // 32)


def _find_last(is_good: Callable[[int], bool], highest: int) -> int:
    """Return the highest number up to `highest` that is good, if all lower ones are; 0 if none is."""
    return bisect.bisect_left(range(1, highest + 1), True, key=lambda number: not is_good(number))


def advise_smaller(demand: Demand) -> str:
    """Return the message for a picture that does not fit.

    The size it names is well below the one that failed, even if memory has become free again.
    """
    options, device, size, room = demand.options, demand.features.device, demand.size, _measure_room(demand)
    rung = list_rungs(options, device)[-1]
    need = estimate_memory(demand, rung)
    side = min(find_largest_side(demand, room), max(size) * 3 // 4 // 32 * 32)
    advice = [f"use --size {side}" if side >= 64 else "close other programs"]
    stroke_sizes = (options.replace(stroke_size=step / 4) for step in range(1, 16))
    fitting = [each.stroke_size for each in stroke_sizes if fits(replace(demand, options=each), room)]
    if fitting and 1 <= fitting[-1] < options.stroke_size:
        advice.append(f"--stroke-size {fitting[-1]:g}")
    advice += ["use --checkpoint auto"] if options.checkpoint == "off" and options.tile == "off" else []
    advice += [] if options.tile == "auto" else ["use --tile auto"]
    if not options.memory:
        advice.append("give --memory if more can be used")
    needed, spare, owner = need.device, room.device, str(device)
    if need.device <= room.device and need.host > room.host:
        needed, spare, owner = need.host, room.host, "the host"
    limit = (
        f"--memory allows {spare / 1e9:.1f} GB"
        if options.memory and owner == str(device)
        else f"{owner} has {spare / 1e9:.1f} GB to spare"
    )
    how = f" even {rung.describe()}" if rung.tile else ""
    return (
        f"A picture of {size[0]}×{size[1]} needs about {needed / 1e9:.1f} GB{how}, but {limit}; {', or '.join(advice)}."
    )
