"""Find the border of a photographed or scanned painting, so that it is not taken for a part of the style.

A border is cut only if it is certain: plain or gently shaded along every side, or a lit frame; straight, with an abrupt
inner edge; of a color that is rare inside. A frame line that belongs to a print, a white ground, a sky or a dark
background stays. Pure functions of arrays.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from styler.resample import resize

_Lines = NDArray[np.float32]

COPY_SIDE = 512
"""Long side of the copy in which borders are looked for."""
MAX_SHARE = 0.25
"""Largest part of a side's extent that is cut."""
MIN_SHARE = 0.01
"""Smallest border, as a part of the extent; also `MIN_DEPTH`."""
MIN_DEPTH = 3  # pixels of the copy
MIN_SIDE = 32
"""Shortest side of what is left, in pixels of the image."""
EVEN = 0.07
"""Largest deviation, of 98 % of the pixels, from a straight run of color along a line of a border."""
FRAME_EVEN = 0.12
"""The same for a frame, with the grain of its wood."""
MAX_SLOPE = 0.25
"""Largest change of color along a line of a border, by uneven light."""
MAX_STEP = 0.03
"""Largest change of color from line to line inside a plain border."""
DISTINCT = 0.1
"""Smallest difference between a border and the painting beside it …"""
DISTINCT_SHARE = 0.8
"""… for this part of the edge."""
NEIGHBOR, BUSY, BUSY_SHARE = 6, 0.04, 0.25
"""Along the edge of a painting, at least this share of the pixels differ by so much from those so many pixels on."""
RAMP = 2
"""Lines over which the inner edge is blurred."""
BLUR = 8
"""Further lines that compression may have blurred."""
FRAME_LINE = 8
"""A line around all sides within so many pixels of the border is a drawn frame."""
LINE_EVEN = 0.25
"""Largest deviation along such a line, as a part of its difference from the border."""
COMMON = 0.15
"""Share of the inside that has the border's color, above which it may be the painting's own ground."""
NEAR = 0.06
"""Difference up to which colors count as the same."""
DARKEST, BRIGHTEST, FLAT = 0.04, 0.96, 0.02
"""Bars on two sides only must be as black or white, and as even, as these."""
FRAME_SHARES = (0.03, 0.2)
"""Width of a frame, as a part of the short side."""
FRAME_RELIEF = 0.08
"""Smallest range of brightness across a frame."""
FRAME_RATIO = 1.35
"""Largest ratio of the widths of a frame's sides."""
FRAME_LIGHT = 0.04
"""Smallest difference in brightness between the sides of a frame: light falls on one of them more than on another."""


class Box(NamedTuple):
    """A part of an image, in pixels."""

    left: int
    top: int
    right: int
    """Exclusive."""
    bottom: int
    """Exclusive."""


class _Side(NamedTuple):
    """The lines parallel to one side, from the edge inward."""

    lines: _Lines
    """(L, N, 3), smoothed along the lines; as many as may be cut, and some more."""
    fits: _Lines
    """A straight run of color along each line, (L, N, 3)."""
    deviations: _Lines
    """Of 98 % of each line's pixels from its fit, (L,)."""
    means: _Lines
    """(L, 3)."""

    extent: int
    """Number of lines from this edge to the opposite one."""


def find_painting(image: Tensor, alpha: NDArray[np.floating] | None = None) -> Box | None:
    """Return the part of an image that is inside its border; None if it has none, or none that is certain.

    Args:
        image: (1, 3, H, W), sRGB in [0, 1].
        alpha: (H, W) in [0, 1]; a margin that is fully transparent is a border.
    """
    height, width = image.shape[-2:]
    whole = Box(0, 0, width, height)
    opaque = _find_opaque(alpha) or whole
    inner = image[..., opaque.top : opaque.bottom, opaque.left : opaque.right]
    left, top, right, bottom = _find_border(inner) or (0, 0, 0, 0)
    box = Box(opaque.left + left, opaque.top + top, opaque.right - right, opaque.bottom - bottom)
    is_large = min(box.right - box.left, box.bottom - box.top) >= MIN_SIDE
    return box if box != whole and is_large else None


def _find_opaque(alpha: NDArray[np.floating] | None) -> Box | None:
    """Return the box around everything that is not fully transparent; None if that is everything or nothing."""
    if alpha is None or not alpha.any():
        return None
    columns, rows = np.flatnonzero(alpha.any(axis=0)), np.flatnonzero(alpha.any(axis=1))
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _find_border(image: Tensor) -> tuple[int, int, int, int] | None:
    """Return how much to cut at the left, top, right and bottom, in pixels of the image (1, 3, H, W)."""
    height, width = image.shape[-2:]
    if min(height, width) < MIN_SIDE:
        return None
    coarse = image[..., :: max(1, height // (2 * COPY_SIDE)), :: max(1, width // (2 * COPY_SIDE))]
    ratio = min(1.0, COPY_SIDE / max(height, width))
    copy = resize(coarse, max(1, round(width * ratio)), max(1, round(height * ratio)))[0].permute(1, 2, 0).numpy()
    if min(copy.shape[:2]) < MIN_SIDE // 2:
        return None
    edges = _list_edges(copy)
    depths = _find_plain_border(copy, edges) or _find_frame(copy, edges)
    if depths is None:
        return None
    scales = (width / copy.shape[1], height / copy.shape[0]) * 2
    return tuple(int(np.ceil((depth + 1) * scale)) if depth else 0 for depth, scale in zip(depths, scales, strict=True))  # type: ignore[return-value]


def _list_edges(copy: _Lines) -> list[_Lines]:
    """Return the lines from each edge inward: left, top, right, bottom."""
    across = copy.transpose(1, 0, 2)
    return [across, copy, across[::-1], copy[::-1]]


def _measure_side(edge: _Lines, count: int = 0) -> _Side:
    """Measure the lines of a side, or only its first `count`, which suffice to rule most borders out."""
    lines = edge[: count or int(len(edge) * MAX_SHARE) + BLUR + FRAME_LINE + RAMP]
    padded = np.pad(lines, ((0, 0), (2, 2), (0, 0)), mode="edge")
    length = lines.shape[1]
    smooth = np.mean([padded[:, shift : shift + length] for shift in range(5)], axis=0)  # (L, N, 3)
    at = np.linspace(-1, 1, length, dtype=np.float32)[None, :, None]
    means = smooth.mean(axis=1)
    slopes = (smooth * at).mean(axis=1) / (at**2).mean()
    fits = means[:, None] + slopes[:, None] * at
    deviations = np.quantile(np.abs(smooth - fits).max(axis=2), 0.98, axis=1)
    deviations = np.where(2 * np.abs(slopes).max(axis=1) > MAX_SLOPE, 1.0, deviations)
    return _Side(smooth, fits, deviations.astype(np.float32), means, len(edge))


def _find_plain_border(copy: _Lines, edges: Sequence[_Lines]) -> tuple[int, ...] | None:
    """Return the widths of a border of one color, which may be unevenly lit; bars may be on two opposite sides."""
    if sum(_count_plain(_measure_side(edge, MIN_DEPTH)) == MIN_DEPTH for edge in edges) < 2:
        return None
    sides = [_measure_side(edge) for edge in edges]
    depths = [_count_plain(side) for side in sides]
    found = [_is_thick(depth, side) for depth, side in zip(depths, sides, strict=True)]
    if not all(found):
        pairs = [pair for pair in ((0, 2), (1, 3)) if found == [index in pair for index in range(4)]]
        if not pairs or not _are_bars([sides[index] for index in pairs[0]], [depths[index] for index in pairs[0]]):
            return None
        depths = [depth if is_found else 0 for depth, is_found in zip(depths, found, strict=True)]
    found_edges = _find_inner_edge(sides, depths, depths)
    if found_edges is None:
        return None
    inner = _crop(copy, depths).reshape(-1, 3)
    colors = [side.means[depth // 2] for side, depth in zip(sides, depths, strict=True) if depth]
    common = [float((np.abs(inner - color).max(axis=1) <= NEAR).mean()) for color in colors]
    return found_edges if max(common) <= COMMON else None


def _count_plain(side: _Side) -> int:
    """Return how many lines from the edge are even and continue the color of the one before."""
    for index in range(len(side.lines)):
        step = np.abs(side.means[index] - side.means[max(0, index - 1)]).max()
        if side.deviations[index] > EVEN or step > MAX_STEP:
            return index
    return len(side.lines)


def _is_thick(depth: int, side: _Side) -> bool:
    return max(MIN_DEPTH, MIN_SHARE * side.extent) <= depth <= MAX_SHARE * side.extent


def _are_bars(sides: Sequence[_Side], depths: Sequence[int]) -> bool:
    """Return whether two opposite borders are the black or white bars with which pictures are filled up."""
    parts = [side.means[: depth - 1] for side, depth in zip(sides, depths, strict=True)]
    is_extreme = all((part <= DARKEST).all() for part in parts) or all((part >= BRIGHTEST).all() for part in parts)
    is_flat = all((side.deviations[: depth - 1] <= FLAT).all() for side, depth in zip(sides, depths, strict=True))
    return is_extreme and is_flat and abs(depths[0] - depths[1]) <= RAMP


def _find_inner_edge(sides: Sequence[_Side], depths: Sequence[int], corners: Sequence[int]) -> tuple[int, ...] | None:
    """Return the depths at which the painting begins; None if it does not begin abruptly and along the whole length.

    Args:
        sides: left, top, right, bottom.
        depths: the even part of the border at each side; compression and shadows may have blurred a little more.
        corners: how far the border of each side reaches into the lines of its neighbors.
    """
    edges, busy, framed = [0, 0, 0, 0], 0, 0
    for index, (side, depth) in enumerate(zip(sides, depths, strict=True)):
        if not depth:
            continue
        first, last = (corners[1], corners[3]) if index in (0, 2) else (corners[0], corners[2])
        span = slice(first + RAMP, side.lines.shape[1] - last - RAMP)
        border = side.fits[max(0, depth - 2), span]
        near = side.lines[depth : depth + RAMP + BLUR, span]
        shares = (np.abs(near - border).max(axis=2) > DISTINCT).mean(axis=1)
        distinct = np.flatnonzero(shares[RAMP:] >= DISTINCT_SHARE)
        if not len(distinct):
            return None
        edges[index] = edge = depth + int(distinct[0])
        inside = side.lines[edge + RAMP, span]
        change = np.abs(inside[NEIGHBOR:] - inside[:-NEIGHBOR]).max(axis=1)
        busy += bool((change >= BUSY).mean() >= BUSY_SHARE)
        framed += _has_frame_line(side.lines[depth : edge + FRAME_LINE, span], border)
    is_painting = busy >= 2 and framed < min(3, sum(edge > 0 for edge in edges))
    return tuple(edges) if is_painting else None


def _has_frame_line(lines: _Lines, border: _Lines) -> bool:
    """Return whether one of the lines (L, N, 3) is of one color all along, and not that of the border (N, 3)."""
    apart = np.abs((lines - border).mean(axis=1)).max(axis=1)  # (L,)
    uneven = np.quantile(np.abs(lines - np.median(lines, axis=1, keepdims=True)).max(axis=2), 0.9, axis=1)
    return bool(((apart >= DISTINCT) & (uneven <= LINE_EVEN * apart)).any())


def _find_frame(copy: _Lines, edges: Sequence[_Lines]) -> tuple[int, ...] | None:
    """Return the widths of a molded frame around the painting, with the wall around it; ornaments are not recognized.

    A frame differs from one that is drawn by its relief, and by the light that falls on its sides. It is measured in
    the middle of each side, since it is mitered at the corners.
    """
    short, shares = min(copy.shape[:2]), FRAME_SHARES
    middles = [edge[:, edge.shape[1] // 4 : -(edge.shape[1] // 4)] for edge in edges]
    least = int(shares[0] * short)
    if any(_count_even(_measure_side(middle, max(1, least))) < least for middle in middles):
        return None
    sides = [_measure_side(middle) for middle in middles]
    depths, walls = [_count_even(side) for side in sides], [_count_plain(side) for side in sides]
    is_wall = all(depth - wall >= shares[0] * short for depth, wall in zip(depths, walls, strict=True))
    walls = walls if is_wall and min(walls) >= MIN_DEPTH else [0, 0, 0, 0]
    widths = [depth - wall for depth, wall in zip(depths, walls, strict=True)]
    if not all(depth <= MAX_SHARE * side.extent for depth, side in zip(depths, sides, strict=True)):
        return None
    if not all(shares[0] * short <= width <= shares[1] * short for width in widths):
        return None
    if max(widths) > FRAME_RATIO * min(widths) + RAMP:
        return None
    parts = [
        side.means[wall + RAMP : depth - RAMP].mean(axis=1)
        for side, wall, depth in zip(sides, walls, depths, strict=True)
    ]
    light = [part.mean() for part in parts]
    if min(np.ptp(part) for part in parts) < FRAME_RELIEF or max(light) - min(light) < FRAME_LIGHT:
        return None
    return _find_inner_edge(sides, depths, [0, 0, 0, 0])


def _count_even(side: _Side) -> int:
    """Return how many lines from the edge are even, whatever their colors."""
    uneven = np.flatnonzero(side.deviations > FRAME_EVEN)
    return int(uneven[0]) if len(uneven) else len(side.lines)


def _crop(copy: _Lines, depths: Sequence[int]) -> _Lines:
    left, top, right, bottom = depths
    return copy[top : len(copy) - bottom, left : copy.shape[1] - right]
