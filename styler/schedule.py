"""The plan of a painting: which scales, how many evaluations at each, by which optimiser. Arithmetic only."""

import dataclasses
import math
from dataclasses import dataclass

from styler.errors import ImageError
from styler.geometry import count_halvings, fit_size
from styler.options import Options, list_options

SKETCH_COST = 0.45
"""What an evaluation by the slim network costs, beside one by the full one: .43 to .47 at 128 and 256 pixels,
and .4 at 512, on a CPU."""
COARSEST_COPY = 256
"""Long side of the smallest picture that a larger one is also looked at as. There the deepest layers see most of the
picture at once, so that what is coarser still needs no look of its own."""


@dataclass(frozen=True, slots=True)
class Scale:
    """One size of the picture and the work to be done there."""

    width: int
    height: int
    iterations: int
    """Evaluations of the objective."""
    optimizer: str
    """`adam` or `lbfgs`."""
    planned: int = 0
    """Evaluations that Adam's rate is laid out for, where the work ends before them; 0 where it does not."""
    sketch: bool = False
    """Whether the slim network looks, in place of the backbone."""
    half_size_copies: int = 0
    """How often the picture is looked at once more, each time half as large."""

    @property
    def work(self) -> float:
        """Of one evaluation: pixels that the backbone looks at in that time."""
        seen = sum(0.25**octave for octave in range(self.half_size_copies + 1))
        return self.width * self.height * seen * (SKETCH_COST if self.sketch else 1.0)

    def halve(self) -> "Scale":
        """The next octave, as a scale of its own."""
        size = fit_size(self.width, self.height, max(self.width, self.height) // 2)
        return dataclasses.replace(self, width=size[0], height=size[1], half_size_copies=self.half_size_copies - 1)

    def truncate(self, iterations: int) -> "Scale":
        """The scale as it was executed, with so many evaluations made. L-BFGS does not care how many were planned."""
        planned = max(self.iterations, self.planned)
        is_cut = self.optimizer == "adam" and iterations < planned
        return dataclasses.replace(self, iterations=iterations, planned=planned if is_cut else 0)


Schedule = tuple[Scale, ...]


@dataclass(frozen=True, slots=True)
class Replay:
    """What was done for a result of some size, which a painting that was stopped never reached; to be done again."""

    schedule: Schedule
    width: int
    height: int


def compute_result_size(options: Options, width: int, height: int) -> tuple[int, int]:
    """Width and height of the result for a content of that size."""
    return (width, height) if options.size == "original" else fit_size(width, height, options.size)


def build_schedule(options: Options, width: int, height: int, min_side: int) -> Schedule:
    """Scales from coarse to fine, each twice the one before, the last being the size asked for.

    Where there is to be a sketch, the slim network has all scales but the last for itself, and there its share; it
    makes more evaluations in the same time. The full network has the last word. Without a sketch, large scales look at
    the picture in smaller octaves too; a sketch is too short to paint over what smaller scales have found.

    Args:
        options: size, steps, taper, first_size, optimizer, sketch, octaves and strength are read.
        width: of the content, in pixels.
        height: likewise.
        min_side: what the network needs on the short side.

    Returns:
        The plan; empty at strength 0, which gives the content back.

    Raises:
        ImageError: the result would be too narrow for the network; the sentence names the size that would do.
    """
    end = compute_result_size(options, width, height)
    if min(end) < min_side:
        needed = math.ceil(min_side * max(width, height) / min(width, height))
        way = f"give a --size of at least {needed} or " if needed <= (list_options()["size"].high or needed) else ""
        raise ImageError(
            f"The result would be {end[0]}×{end[1]} pixels, but the network needs {min_side} on the short side; "
            f"{way}crop the picture."
        )
    if options.strength == 0:
        return ()
    sides = [max(end)]
    while sides[0] // 2 >= options.first_size and min(fit_size(*end, sides[0] // 2)) >= 2 * min_side:
        sides.insert(0, sides[0] // 2)
    scales = []
    for index, side in enumerate(sides):
        is_last = side == sides[-1]
        size = end if is_last else fit_size(*end, side)
        steps = options.iterations * options.taper**index
        first = index == 0 and len(sides) > 1
        by_lbfgs = options.optimizer == "lbfgs" or (options.optimizer == "mixed" and first)
        optimizer = "lbfgs" if by_lbfgs else "adam"
        share = options.effective_sketch if is_last else float(options.effective_sketch > 0)
        if share:
            scales.append(Scale(*size, max(1, round(share * steps / SKETCH_COST)), optimizer, sketch=True))
        if share < 1:
            also = (
                count_halvings(size, COARSEST_COPY, min_side)
                if options.multiscale and not options.effective_sketch
                else 0
            )
            scales.append(Scale(*size, max(1, round((1 - share) * steps)), optimizer, half_size_copies=also))
    return tuple(scales)


def refit_schedule(replay: Replay, width: int, height: int, min_side: int = 1, *, sketched: bool = True) -> Schedule:
    """The same work for a result of another size: scales keep their share of the final size, steps and optimiser.

    Args:
        replay: what was done, and for which size.
        width: of the new result.
        height: likewise.
        min_side: what the network needs on the short side; scales that have become narrower are left out.
        sketched: whether what the slim network did is done by it again.

    Raises:
        ImageError: none would be left.
    """
    share = max(width, height) / max(replay.width, replay.height)
    scales = []
    for scale in replay.schedule:
        is_final = (scale.width, scale.height) == (replay.width, replay.height)
        side = max(1, round(share * max(scale.width, scale.height)))
        size = (width, height) if is_final else fit_size(width, height, side)
        if min(size) >= min_side:
            sketch, also = scale.sketch and sketched, min(scale.half_size_copies, count_halvings(size, 1, min_side))
            scales.append(
                dataclasses.replace(scale, width=size[0], height=size[1], sketch=sketch, half_size_copies=also)
            )
    if replay.schedule and not scales:
        raise ImageError(
            f"Nothing of the plan can be repeated at {width}×{height} pixels, since the network needs {min_side} on "
            "the short side; ask for a larger size, or for another plan."
        )
    return tuple(scales)


def follows_sketch(plan: Schedule, index: int) -> bool:
    """Whether the full network goes on at a scale where the slim one has sketched."""
    before, scale = plan[index - 1], plan[index]
    is_larger = (before.width, before.height) != (scale.width, scale.height)
    return index > 0 and before.sketch and not scale.sketch and not is_larger


def count_units(plan: Schedule) -> float:
    """Work of a plan: one unit is one look of the backbone at the final size; smaller sizes and octaves count less."""
    if not plan:
        return 0.0
    return sum(scale.iterations * scale.work for scale in plan) / (plan[-1].width * plan[-1].height)
