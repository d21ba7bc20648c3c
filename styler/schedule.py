"""The schedule of a painting: its scales, and the iterations and optimizer of each. Arithmetic only, without torch."""

import dataclasses
import math
from dataclasses import dataclass

from styler.errors import ImageError
from styler.geometry import count_halvings, crop_to_proportion, fit_inside, fit_size, turn_like
from styler.options import Options, list_options

SKETCH_COST = 0.45
"""Cost of an iteration with the slim network relative to the full one: 0.43 to 0.47 at 128 and 256 pixels, and 0.4 at
512, on a CPU."""
SETUP_ITERATIONS = 1.0
"""Cost of starting a scale, in iterations: its targets take two forward passes and a decomposition."""
COARSEST_COPY = 256
"""Long side of the smallest half-size copy. At this size the receptive field of the deepest layers covers most of the
picture, so a coarser copy adds nothing."""
COARSEST_SKETCH_COPY = 512
"""The same where a sketch is finished, which is too short to paint over the composition of the smaller scales. With
smaller copies, a draft of 1024 px is less like one of 512 px, and without any much less: 0.30, 0.41 and, down to 512
px, 0.28 of the distance from strength 40 to 60."""
OPENING_SIDE, OPENING_ITERATIONS = 128, 18
"""Long side, in pixels, and iterations of an opening. They replace as much work at the coarsest scale, whose loss then
ends at 0.993 times that without an opening: the mean of six pairs at 128 px. With 16, previews are less true."""
FULL_OPENING_ITERATIONS, NOISE_OPENING_ITERATIONS = 12, 48
"""Iterations of a preview's first scale where the slim network cannot stand in, and where it starts from noise."""
STROKES_ITERATIONS = 4
"""Iterations that add strokes to a preview."""
PREVIEW_SKETCH = 0.6
"""The option `sketch` of a preview: it is painted as a draft is."""


@dataclass(frozen=True, slots=True)
class Scale:
    """One size of the picture and the work to be done at it."""

    width: int
    height: int
    iterations: int
    """Each is one evaluation of the objective."""
    optimizer: str
    """`adam` or `lbfgs`."""
    planned: int = 0
    """Iterations over which Adam's rate decays, if more than `iterations`; else 0."""
    sketch: bool = False
    """Whether the slim network is used in place of the backbone."""
    half_size_copies: int = 0
    """Number of copies, each half as large as the one before, that are part of the objective."""
    opening: bool = False
    """Whether it is the same for every size and preset, and thus shared by previews and paintings; without strokes."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return (self.width, self.height)

    @property
    def cost(self) -> float:
        """Cost of one iteration: the pixels that the backbone processes in the same time."""
        copies = sum(0.25**level for level in range(self.half_size_copies + 1))
        return self.width * self.height * copies * (SKETCH_COST if self.sketch else 1.0)

    def halve(self) -> "Scale":
        """Return the next half-size copy as a scale of its own."""
        width, height = fit_size(*self.size, max(self.size) // 2)
        return dataclasses.replace(self, width=width, height=height, half_size_copies=self.half_size_copies - 1)

    def truncate(self, iterations: int) -> "Scale":
        """Return the scale as executed with that many iterations; L-BFGS does not depend on how many were planned."""
        planned = max(self.iterations, self.planned)
        is_cut = self.optimizer == "adam" and iterations < planned
        return dataclasses.replace(self, iterations=iterations, planned=planned if is_cut else 0)


Schedule = tuple[Scale, ...]


@dataclass(frozen=True, slots=True)
class Replay:
    """The executed schedule of a result and the result's size, which a stopped painting may not have reached."""

    schedule: Schedule
    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the result."""
        return (self.width, self.height)


def compute_result_size(options: Options, width: int, height: int) -> tuple[int, int]:
    """Return width and height of the result for a content of the given size, which may have been cropped already."""
    if paper := options.paper_size:
        paper = turn_like(paper, width, height)
        return paper if options.fit == "crop" else fit_inside(width, height, paper)
    return (width, height) if options.size == "original" else fit_size(width, height, options.size)


def find_painted_part(options: Options, width: int, height: int) -> tuple[int, int, int, int]:
    """Return the part of a content of the given size that is painted: left, top, right and bottom, in pixels.

    It is all of it unless `options.fit` crops it for a paper. Of what is cropped already, it is all.
    """
    paper = options.paper_size
    if not paper or options.fit != "crop":
        return 0, 0, width, height
    return crop_to_proportion(width, height, turn_like(paper, width, height))


def compute_sketch_share(options: Options) -> float:
    """Return the share of the work that the slim network does.

    It is `options.sketch` where the slim network can stand in: for the backbone and the pooling from which it was
    distilled, and without a time budget.
    """
    return options.sketch if can_sketch(options) else 0.0


def can_sketch(options: Options) -> bool:
    """Return whether the slim network can stand in for the backbone of a painting."""
    return options.backbone == "vgg16" and options.pooling == "mixed" and not options.time


def plan_opening(options: Options, width: int, height: int, min_side: int) -> Scale:
    """Return the first scale of a painting whose content has that width and height, and of its previews.

    It depends neither on the size of the result nor on the preset: by L-BFGS, at about `OPENING_SIDE` pixels, by the
    slim network where it can stand in.
    """
    side = max(OPENING_SIDE, math.ceil(2 * min_side * max(width, height) / min(width, height)))
    sketch = can_sketch(options)
    iterations = OPENING_ITERATIONS if sketch else FULL_OPENING_ITERATIONS
    iterations = NOISE_OPENING_ITERATIONS if options.init == "noise" else iterations
    return Scale(*fit_size(width, height, side), iterations, "lbfgs", sketch=sketch, opening=True)


def plan_preview(options: Options, width: int, height: int, min_side: int) -> Schedule:
    """Return the scales of a preview: the opening, then a few iterations that add the strokes, if there are any.

    Args:
        options: of the painting that is previewed; `size` does not matter.
        width: of the content, in pixels.
        height: of the content, in pixels.
        min_side: shortest side that the network accepts.

    Returns:
        The schedule; empty at strength 0.
    """
    if options.strength == 0:
        return ()
    opening = plan_opening(options, width, height, min_side)
    strokes = Scale(*opening.size, STROKES_ITERATIONS, "adam", sketch=opening.sketch)
    return (opening, strokes) if options.brushwork else (opening,)


def make_preview_options(options: Options, width: int, height: int, min_side: int) -> Options:
    """Return the options of a preview, given those of the painting: its size, and the finish of a draft.

    Raises:
        ImageError: the content is too narrow.
    """
    side = max(plan_opening(options, width, height, min_side).size)
    if side > (list_options()["size"].high or side):
        raise ImageError(f"The picture has {width}×{height} pixels, which is too narrow for a preview; crop it.")
    return options.replace(size=side, sketch=PREVIEW_SKETCH, style_weights=(), regions=())


def build_schedule(options: Options, width: int, height: int, min_side: int) -> Schedule:
    """Return the scales from coarse to fine, each twice the size of the one before; the last is the requested size.

    The slim network opens a painting with a few iterations of L-BFGS, which its previews share. In a sketch, it paints
    all scales but the last alone, and a share of the last; since it is faster, it makes more iterations in the same
    time. The full network finishes the last scale. Where the full network paints, large scales have half-size copies.

    Args:
        options: size, iterations, taper, first_size, optimizer, sketch, multiscale, init and strength are read, and
            what `can_sketch` reads.
        width: of the content, in pixels, also before it is cropped for a paper.
        height: of the content, in pixels.
        min_side: shortest side that the network accepts.

    Returns:
        The schedule; empty at strength 0, which returns the content.

    Raises:
        ImageError: the result would be too narrow for the network; the message names the size to use.
    """
    left, top, right, bottom = find_painted_part(options, width, height)
    width, height = right - left, bottom - top
    end = compute_result_size(options, width, height)
    if min(end) < min_side:
        needed = math.ceil(min_side * max(width, height) / min(width, height))
        can_grow = needed <= (list_options()["size"].high or needed) and not options.paper
        advice = f"use --size {needed} or more, or " if can_grow else ""
        raise ImageError(
            f"The result would be {end[0]}×{end[1]} pixels, but the network needs {min_side} on the short side; "
            f"{advice}crop the picture."
        )
    if options.strength == 0:
        return ()
    sides = [max(end)]
    while sides[0] // 2 >= options.first_size and min(fit_size(*end, sides[0] // 2)) >= 2 * min_side:
        sides.insert(0, sides[0] // 2)
    opening = _find_opening(options, width, height, min_side, sides)
    scales = [opening] if opening else []
    for index, side in enumerate(sides):
        size = end if side == sides[-1] else fit_size(*end, side)
        iterations = options.iterations * options.taper**index
        if opening and index == 0:
            iterations -= _count_replaced(opening, size)
        use_lbfgs = options.optimizer == "lbfgs" or (options.optimizer == "mixed" and index == 0 and len(sides) > 1)
        optimizer = "lbfgs" if use_lbfgs else "adam"
        scales += _split_scale(size, iterations, optimizer, options, min_side, is_last=side == sides[-1])
    return tuple(scales)


def _split_scale(
    size: tuple[int, int], iterations: float, optimizer: str, options: Options, min_side: int, *, is_last: bool
) -> list[Scale]:
    """Return the work at one size: what the slim network does of it, and what the full network does."""
    sketch_share, scales = compute_sketch_share(options), []
    share = sketch_share if is_last else float(sketch_share > 0)
    if share:
        scales.append(Scale(*size, max(1, round(share * iterations / SKETCH_COST)), optimizer, sketch=True))
    if share < 1:
        coarsest = COARSEST_SKETCH_COPY if sketch_share else COARSEST_COPY
        copies = count_halvings(size, coarsest, min_side) if options.multiscale else 0
        scales.append(Scale(*size, max(1, round((1 - share) * iterations)), optimizer, half_size_copies=copies))
    return scales


def _find_opening(options: Options, width: int, height: int, min_side: int, sides: list[int]) -> Scale | None:
    """Return the opening of a painting whose scales have these long sides; None if it has none.

    It has one if it begins with L-BFGS at a coarse scale, with the slim network, and without a budget, which might end
    the opening early; and if the opening is no more than two thirds of the work at that scale.
    """
    is_coarse_to_fine = len(sides) > 1 and options.optimizer != "adam"
    if not is_coarse_to_fine or not can_sketch(options) or options.patience or options.init == "noise":
        return None
    opening = plan_opening(options, width, height, min_side)
    if not options.first_size <= max(opening.size) <= sides[0]:
        return None
    replaced = _count_replaced(opening, fit_size(width, height, sides[0]))
    return opening if 3 * replaced <= 2 * options.iterations else None


def _count_replaced(opening: Scale, size: tuple[int, int]) -> float:
    """Return how many iterations of the full network at a size do as much work as an opening."""
    return opening.iterations * opening.cost / (size[0] * size[1])


def refit_schedule(
    replay: Replay, width: int, height: int, min_side: int = 1, *, allow_sketch: bool = True
) -> Schedule:
    """Return an executed schedule for a result of another size; each scale keeps its share of the final size.

    Args:
        replay: the executed schedule and its size.
        width: of the new result.
        height: of the new result.
        min_side: shortest side that the network accepts; scales that would be narrower are left out.
        allow_sketch: whether the slim network repeats its part; otherwise the full network does.

    Raises:
        ImageError: no scale would be left.
    """
    ratio, is_same_size = max(width, height) / max(replay.width, replay.height), (width, height) == replay.size
    scales = []
    for scale in replay.schedule:
        is_final = scale.size == replay.size
        side = max(1, round(ratio * max(scale.size)))
        size = (width, height) if is_final else scale.size if is_same_size else fit_size(width, height, side)
        if min(size) < min_side:
            continue
        copies = min(scale.half_size_copies, count_halvings(size, 1, min_side))
        sketch = scale.sketch and allow_sketch
        scales.append(dataclasses.replace(scale, width=size[0], height=size[1], sketch=sketch, half_size_copies=copies))
    if replay.schedule and not scales:
        raise ImageError(
            f"No scale of the recorded schedule can be painted at {width}×{height} pixels, since the network needs "
            f"{min_side} on the short side; use a larger size or another schedule."
        )
    return tuple(scales)


def follows_sketch(schedule: Schedule, index: int) -> bool:
    """Return whether the full network continues at scale `index` what the slim network sketched at the same size."""
    before, scale = schedule[index - 1], schedule[index]
    is_same_size = before.size == scale.size
    return index > 0 and before.sketch and not scale.sketch and is_same_size


def count_work(schedule: Schedule) -> float:
    """Return the work of a schedule: the pixels that the backbone processes in the same time."""
    return sum(scale.iterations * scale.cost for scale in schedule)


def count_units(schedule: Schedule) -> float:
    """Return the work of a schedule in units of one iteration at the final size, without half-size copies."""
    return count_work(schedule) / (schedule[-1].width * schedule[-1].height) if schedule else 0.0
