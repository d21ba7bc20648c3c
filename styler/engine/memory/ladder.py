"""The rungs of a painting in progress: those of its plan, and lower ones once memory has run out."""

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

    def begin_scale(self, scale: Scale, *, is_shared: bool) -> str:
        """Choose the rung of a scale; return a note that says so if it has tiles, and else an empty text.

        Args:
            scale: that begins.
            is_shared: whether other paintings have the same scale. It is painted as a whole, with the same pixels in
                all of them.
        """
        if self.plan is not None:
            self.rung = max(self.plan.choose(scale.size), self.lowest, key=lambda rung: rung.order)
        if is_shared:
            self.rung = Rung(self.rung.checkpoint)
        if not self.rung.splits(scale.size):
            return ""
        return f"{scale.width}×{scale.height} was painted {self.rung.describe()}."

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
