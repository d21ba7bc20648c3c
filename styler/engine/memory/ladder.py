"""The rungs of a painting in progress: those of its plan, and lower ones once memory has run out."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from styler.engine.memory.estimate import Rung
from styler.engine.memory.plan import MemoryPlan, advise_smaller, step_down
from styler.errors import OutOfMemory
from styler.schedule import Scale


@dataclass(slots=True, eq=False)
class Ladder:
    """The rung of the current scale."""

    plan: MemoryPlan | None
    """None if nothing is painted."""
    rung: Rung = field(default_factory=Rung)
    """On which the current scale is painted."""
    lowest: Rung = field(default_factory=Rung)
    """To which memory that ran out has led; no later scale is painted on one that needs more."""

    @property
    def is_scarce(self) -> bool:
        """Whether memory has run out, or the plan leaves little of it."""
        return self.lowest != Rung() or (self.plan is not None and self.plan.is_scarce)

    def begin_scale(self, scale: Scale, *, is_shared: bool) -> str:
        """Choose the rung of a scale; return a note that says so if it has tiles, and else an empty text.

        Args:
            scale: that begins.
            is_shared: whether other paintings have the same scale. It is painted as a whole, with the same pixels in
                all of them.
        """
        self.rung = self.choose(scale, is_shared=is_shared)
        if not self.rung.splits(scale.size):
            return ""
        return f"{scale.width}×{scale.height} was painted {self.rung.describe()}."

    def export(self) -> list[list[int]]:
        """Return the rungs of all scales, each with width and height, and the lowest, whose size is 0×0, as numbers."""
        planned = {} if self.plan is None else self.plan.rungs
        return [[*size, *dataclasses.astuple(rung)] for size, rung in (*planned.items(), ((0, 0), self.lowest))]

    def restore(self, exported: Sequence[Sequence[int]]) -> None:
        """Take the rungs of an earlier run, with which the pixels are the same, in place of those planned.

        Args:
            exported: as `export` returns them.
        """
        rungs = {(width, height): Rung(bool(saves), tile, bool(host)) for width, height, saves, tile, host in exported}
        self.lowest = rungs.pop((0, 0))
        if self.plan is not None:
            self.plan = replace(self.plan, rungs=rungs)

    def choose(self, scale: Scale, *, is_shared: bool) -> Rung:
        """Return the rung of a scale; see `begin_scale`."""
        planned = self.rung if self.plan is None else self.plan.choose(scale.size)
        rung = max(planned, self.lowest, key=lambda each: each.order)
        return Rung(rung.checkpoint) if is_shared else rung

    def step_down(self, scale: Scale, error: Exception, *, is_shared: bool) -> str:
        """Choose the next rung after memory has run out, and return a note that says so.

        Args:
            scale: at which it ran out.
            error: that said so.
            is_shared: as in `begin_scale`.

        Raises:
            OutOfMemory: no rung is left; the message names a size that fits.
        """
        if self.plan is None:
            raise error
        demand = self.plan.demand
        lower = step_down(self.rung, scale.size, demand.features.device)
        if lower is None or (lower.tile and is_shared):
            options = demand.options.replace(checkpoint="on")
            raise OutOfMemory(advise_smaller(replace(demand, options=options))) from error
        self.rung = self.lowest = lower
        return f"Memory ran out at {scale.width}×{scale.height}; continued {lower.describe()}."
