"""Works on paper: marbling, a paper cut, and a watercolor."""

import numpy as np

from assets.styles.canvas import (
    Array,
    Mask,
    Shape,
    blur,
    make_grid,
    mix,
    noise,
    palette,
    paper,
    parse_color,
    scale_shape,
    shade,
    smoothstep,
)

RANGES = (("c98f96", 0.36, 90, 225), ("8d8db5", 0.44, 78, 165), ("5b7fa3", 0.53, 57, 120), ("2f6277", 0.61, 33, 75))
"""Mountain ranges, the farthest first: pigment, foot, rise, and breadth of the peaks."""


def paint_marbled_paper(rng: np.random.Generator) -> Array:
    """Paint drops of ink on water, drawn with combs and lifted by a sheet: every stroke is undone for every pixel."""
    shape = scale_shape(960, 720)
    scale = shape[1] / 960
    y, x = (field / scale for field in make_grid(shape))
    drift = noise(rng, shape, 260, 3.0)
    y, x = y + 7 * drift, x + 7 * np.roll(drift, 300, axis=1)
    for center, spin, reach in ((250, 235, 2.6), (690, 480, -2.8), (850, 150, 2.2), (420, 640, 2.0)):
        dy, dx = y - spin, x - center
        angle = reach * np.exp(-np.hypot(dy, dx) / 62)
        y, x = spin + dy * np.cos(angle) - dx * np.sin(angle), center + dx * np.cos(angle) + dy * np.sin(angle)
    x = x + 22 * np.sin(y / 70 + 0.6)
    y = y - 85 * np.exp(-np.abs((x + 16) % 32 - 16) / 9)
    x = x + 150 * np.exp(-np.abs((y + 55) % 110 - 55) / 22) * np.where((y + 55) // 110 % 2, 1, -1)
    color = np.zeros((*shape, 3))
    free = np.ones(shape, dtype=bool)
    inks = np.array(
        [parse_color(ink) for ink in ["14264a", "14264a", "b23a2a", "e9dcc0", "2f6a73", "d69a3c", "7d1f2b", "8fb0a8"]]
    )
    for _ in range(950):
        radius = float(rng.uniform(10, 58))
        cy, cx = rng.uniform(-190, 910), rng.uniform(-200, 1160)
        dy, dx = y - cy, x - cx
        square = dy * dy + dx * dx
        inside = free & (square < radius * radius)
        rim = 1 - 0.16 * (square[inside] / radius**2)[:, None] ** 3
        color[inside] = inks[rng.integers(len(inks))] * rim
        free &= ~inside
        pull = np.sqrt(np.clip(1 - radius * radius / np.maximum(square, 1e-9), 0.0, 1))
        y, x = cy + dy * pull, cx + dx * pull
    color[free] = parse_color("e9dcc0")
    veins = 1 + 0.05 * noise(rng, shape, 9, 1.8) * (0.4 + color.mean(axis=-1))
    sheet: Array = blur(color, 0.7) * (veins * paper(rng, shape, 0.03))[..., None]
    return sheet


def paint_paper_cut(rng: np.random.Generator) -> Array:
    """Paint nine sheets, one behind the other, each with a hole through which the next one is seen."""
    shape = scale_shape(960, 768)
    scale = shape[1] / 960
    y, x = make_grid(shape)
    field = 0.85 * noise(rng, shape, 150 * scale, 3.2) + 0.09 * noise(rng, shape, 34 * scale, 3.5)
    bend = np.hypot((x / shape[1] - 0.54) * 1.35, (y / shape[0] - 0.47) * 1.15)
    field = field + 4.6 * (0.55 - bend)
    sheets = ["122b4f", "17466d", "1f6f86", "4fa39a", "a9cbb0", "f0dfb4", "f3b183", "e67a62", "bf4a55", "7f2a4d"]
    picture = np.ones((*shape, 3)) * parse_color(sheets[0])
    disc = smoothstep(-1.2, 1.2, 62 * scale - np.hypot(x - 0.5 * shape[1], y - 0.45 * shape[0]))
    picture = mix(picture, np.ones((*shape, 3)) * parse_color("f6e3b0"), disc) * paper(rng, shape, 0.02)[..., None]
    levels = np.linspace(2.15, -2.0, len(sheets) - 1)
    for sheet, level in zip(sheets[1:], levels, strict=True):
        wobble = field + 0.13 * noise(rng, shape, 90 * scale, 3.2)
        slope = np.hypot(*np.gradient(wobble)) + 1e-4
        solid = np.clip((level - wobble) / slope / 1.6 + 0.5, 0, 1)
        near, far = blur(np.roll(solid, (5, 5), (0, 1)), 4 * scale), blur(np.roll(solid, (17, 15), (0, 1)), 15 * scale)
        picture = picture * (1 - 0.42 * near - 0.4 * far * (1 - 0.3 * near))[..., None]
        lit = paper(rng, shape, 0.035) * (1.03 - 0.07 * y / shape[0])
        lip = np.clip(solid - np.roll(solid, (2, 2), (0, 1)), 0, 1)
        color = parse_color(sheet) * lit[..., None] + 0.22 * lip[..., None]
        picture = mix(picture, color, solid)
    return picture


def _apply_wash(picture: Array, mask: Array, pigment: str, density: Array, grain: Array) -> Array:
    """Apply one glaze: denser where it dried last, at its edge, and in the hollows of the sheet."""
    edge = np.clip(mask - blur(mask, 5), 0, 1) * 1.1
    depth = np.clip(mask * density * (1 + 0.11 * grain) + edge * np.clip(density, 0, 0.7), 0, 4)
    return picture * np.clip(parse_color(pigment), 0.02, 1) ** depth[..., None]


def _measure_ridge(rng: np.random.Generator, shape: Shape, base: float, rise: float, size: float) -> Array:
    """Return how far every pixel lies below the skyline of a mountain range."""
    y, _ = make_grid(shape)
    line = noise(rng, (8, shape[1] * 2), size, 2.3, (0.0, 1.0))[0, : shape[1]]
    below: Array = y - (base - rise * line)[None]
    return below


def _draw_pines(rng: np.random.Generator, shape: Shape, ground: Array, many: int, tall: float) -> Array:
    """Draw pines that stand on a line, as one mask."""
    y, x = make_grid(shape)
    mask: Mask = np.zeros(shape, dtype=bool)
    fringe = noise(rng, shape, 7, 1.4)
    for _ in range(many):
        foot = float(rng.choice([rng.normal(0.13, 0.07), rng.normal(0.86, 0.09)])) * shape[1]
        height = tall * float(rng.uniform(0.5, 1.15))
        bottom = ground[int(np.clip(foot, 0, shape[1] - 1))]
        rows = slice(max(0, int(bottom - height)), int(bottom) + 12)
        columns = slice(max(0, int(foot - height / 2)), max(0, int(foot + height / 2)))
        t = (y[rows, columns] - (bottom - height)) / height
        tier = 0.55 + 0.45 * ((t * 9 + 0.1 * fringe[rows, columns]) % 1)
        broad = height * (0.004 + 0.17 * t * tier) + 1.6 * fringe[rows, columns] * np.clip(3 * t, 0, 1)
        mask[rows, columns] |= np.abs(x[rows, columns] - foot) < broad
    return blur(mask.astype(np.float64), 1.0)


def _paint_dawn(rng: np.random.Generator, picture: Array, grain: Array, bloom: Array, shore: float) -> Array:
    """Paint the sky and four mountain ranges in mist."""
    shape: Shape = (grain.shape[0], grain.shape[1])
    height, width = shape
    y, x = make_grid(shape)
    sun = np.hypot(x - 0.63 * width, y - 0.26 * height)
    clear = smoothstep(36, 46, sun + 3 * bloom)
    warm = np.exp(-((sun / (0.33 * width)) ** 2)) * clear
    everywhere = np.ones(shape)
    picture = _apply_wash(picture, everywhere, "f2a65a", 0.95 * warm * (1 + 0.14 * bloom), grain)
    sky = np.clip(1.15 - y / (0.5 * height) - 0.7 * warm, 0, 1) * clear
    picture = _apply_wash(picture, everywhere, "5f8fb4", sky * np.clip(0.85 + 0.22 * bloom, 0, 2), grain)
    for pigment, base, rise, size in RANGES:
        below = _measure_ridge(rng, shape, base * height, rise, size) + 0.8 * grain
        mask = smoothstep(-1.5, 1.5, below) * smoothstep(1.0, -1.0, y - shore - 2 * bloom)
        fade = np.exp(-np.clip(below, 0, None) / (0.13 * height)) * np.clip(1 + 0.35 * bloom, 0.2, 2)
        picture = _apply_wash(picture, mask, pigment, 0.04 + 0.74 * fade, grain)
    return picture


def _paint_lake(rng: np.random.Generator, picture: Array, bloom: Array, shore: float) -> Array:
    """Paint the reflection below the shore, blurred and broken by glinting ripples."""
    shape: Shape = (bloom.shape[0], bloom.shape[1])
    height, width = shape
    y, x = make_grid(shape)
    mirror = np.clip(2 * shore - y, 0, height - 1).astype(np.int64)
    ripple = np.clip(x + 7 * noise(rng, shape, 14, 2.4, (0.5, 4.0)), 0, width - 1).astype(np.int64)
    lake = smoothstep(-1.0, 1.0, y - shore - 2 * bloom)
    reflected = blur(picture[mirror, ripple], 2.5)
    picture = mix(picture, reflected * palette(y / height, "e8eef0 e8eef0 b8d0d8"), lake)
    glints = smoothstep(1.2, 1.9, noise(rng, shape, 10, 1.6, (0.35, 7.0)))
    path = np.exp(-(((x / width - 0.62) / 0.16) ** 2))
    return mix(picture, np.ones((*shape, 3)) * parse_color("f6f1e4"), 0.7 * glints * lake * path)


def paint_watercolor(rng: np.random.Generator) -> Array:
    """Paint mountains in mist above a lake, in glazes from pale to dark, on cold-pressed paper."""
    shape = scale_shape(960, 720)
    height, width = shape
    y, _ = make_grid(shape)
    grain = noise(rng, shape, 6, 1.3)
    bloom = noise(rng, shape, 120, 2.3)
    shore = 0.66 * height
    picture = _paint_dawn(rng, np.ones((*shape, 3)) * parse_color("faf5e8"), grain, bloom, shore)
    picture = _paint_lake(rng, picture, bloom, shore)
    bank = 0.9 * height + 40 * noise(rng, (8, width * 2), 260, 2.6, (0.0, 1.0))[0, :width]
    bank = bank - 190 * (np.abs(np.arange(width) / width - 0.5) * 2) ** 3
    mist = smoothstep(28, -70, y - bank[None])
    trees = _draw_pines(rng, shape, bank, 26, 0.32 * height) * mist
    picture = _apply_wash(picture, trees, "6f9088", 0.85 + 0.3 * bloom, grain)
    front = smoothstep(-2, 2, y - bank[None] + 3 * grain)
    picture = _apply_wash(picture, front, "98a06e", 0.9 + 0.4 * bloom, grain)
    picture = _apply_wash(
        picture, _draw_pines(rng, shape, bank + 30, 7, 0.5 * height) * mist, "3c5a5c", 1.0 + 0.3 * bloom, grain
    )
    return picture * shade(grain, 0.022)[..., None]
