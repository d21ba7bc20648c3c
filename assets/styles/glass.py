"""Images in glass and glaze: a leaded window, and a bowl mended with gold."""

import numpy as np

from assets.styles.canvas import (
    Array,
    Labels,
    Shape,
    blur,
    make_grid,
    mix,
    noise,
    palette,
    parse_color,
    sample,
    scale_shape,
    shade,
    smoothstep,
)

FLOWERS = ((0.23, 0.80, 0.150, 6), (0.70, 0.875, 0.165, 6), (0.49, 0.685, 0.095, 5), (0.90, 0.67, 0.080, 5))
"""Poppies: center (across and down), length of the petals, and number of petals."""


class _Panes:
    """The panes of a window while they are cut: a number and a color for every pixel."""

    def __init__(self, shape: Shape) -> None:
        self.number: Labels = np.zeros(shape, dtype=np.int64)
        self.base = np.zeros((*shape, 3))
        self._layers = 0

    def put(self, where: Array, pieces: Labels, color: Array) -> None:
        """Lay panes over the existing ones, wherever `where` is positive."""
        self._layers += 1
        self.number = np.where(where > 0, pieces + 100_000 * self._layers, self.number)
        self.base = np.where((where > 0)[..., None], color, self.base)


def _lay_sky(panes: _Panes, x: Array, y: Array, bend: Array) -> None:
    """Lay rings of glass around the sun, cut into sectors."""
    height, width = x.shape
    dx, dy = x - 0.60 * width, y - 0.27 * height
    away = np.hypot(dx, dy) + 5 * bend
    turn = np.arctan2(dy, dx) / (2 * np.pi) + 0.5 + 0.006 * bend
    radii = width * np.array([0.115, 0.175, 0.25, 0.34, 0.44, 0.56, 0.70, 0.86, 1.05])
    ring = np.searchsorted(radii, away)
    many = np.array([1, 14, 14, 14, 21, 21, 28, 28, 28, 28])[ring]
    sector = np.floor((turn + np.array([0, 0, 0.5, 0, 0.3, 0.8, 0.2, 0.7, 0.4, 0])[ring] / many) * many)
    color = palette(ring / 9, "fff0a8 ffc63d f7922e e2573f b83a6b 6f3f9a 3350a8 2a6fbc 2f94c4 1f5a9c")
    panes.put(np.ones(x.shape), ring * 1000 + sector.astype(np.int64) % many, color)


def _lay_land(panes: _Panes, x: Array, y: Array, bend: Array) -> None:
    """Lay hills and a river that comes down between them."""
    height, width = x.shape
    colors = ["3b3f8f", "2f6f9c", "1f8a86", "2f9a5a", "6fae3c"]
    for index, color in enumerate(colors):
        base = 0.46 + 0.085 * index
        line = (base + (0.050 - 0.004 * index) * np.sin(x / width * (4.2 + index) + 2.1 * index)) * height
        lean = x + (y - line) * (0.9 if index % 2 else -0.8) + 14 * bend
        cut = np.floor(lean / (0.135 * width) + 0.37 * index).astype(np.int64) + 50
        panes.put(y - line, cut, np.ones((*x.shape, 3)) * parse_color(color))
        if index:
            t = np.clip((y - line) / (0.5 * height), 0, 1)
            middle = (0.56 + 0.10 * np.sin(y / height * 13 + 0.4)) * width
            ribbon = (0.020 + 0.19 * (y / height - 0.5)) * width - np.abs(x - middle)
            where = np.where(y > line, ribbon, -1.0)
            piece = np.floor(y / (0.062 * height) + 0.35 * np.sin(x / 90)).astype(np.int64)
            panes.put(where, piece, palette(t, "bfe8ea 63c3d8 2b8fc6"))


def _lay_poppies(panes: _Panes, x: Array, y: Array) -> None:
    """Lay flowers in front, with stems and leaves."""
    height, width = x.shape
    for across, down, reach, petals in FLOWERS:
        dx, dy = x - across * width, y - down * height
        away, turn = np.hypot(dx, dy), np.arctan2(dy, dx) + across * 7
        stem = 0.008 * width - np.abs(dx - 26 * np.sin(dy / 120))
        panes.put(
            np.where(dy > 0, stem, -1.0),
            np.zeros(x.shape, dtype=np.int64),
            np.ones((*x.shape, 3)) * parse_color("1f6b3a"),
        )
        lobe = np.abs(((turn * petals / (2 * np.pi)) % 1) - 0.5) * 2
        edge = reach * width * (1.0 - 0.30 * lobe**2.6)
        petal = np.floor(turn * petals / (2 * np.pi)).astype(np.int64) % petals
        outer = (away > 0.62 * edge).astype(np.int64)
        fire = np.where(outer[..., None] > 0, parse_color("e0262b"), parse_color("f0622c"))
        panes.put(edge - away, petal * 2 + outer, fire * np.ones((*x.shape, 3)))
        heart = 0.25 * reach * width - away
        panes.put(heart, np.zeros(x.shape, dtype=np.int64), np.ones((*x.shape, 3)) * parse_color("5a2a6b"))
        panes.put(
            0.11 * reach * width - away,
            np.zeros(x.shape, dtype=np.int64),
            np.ones((*x.shape, 3)) * parse_color("ffd24a"),
        )


def _lay_border(panes: _Panes, x: Array, y: Array) -> None:
    """Lay a frame of narrow panes."""
    height, width = x.shape
    inset = np.minimum(np.minimum(x, width - 1 - x), np.minimum(y, height - 1 - y))
    band = 0.042 * width
    sides = np.minimum(x, width - 1 - x) < np.minimum(y, height - 1 - y)
    along = np.where(sides, y / (height / 15), x / (width / 12))
    piece = np.floor(along).astype(np.int64)
    color = np.where(
        (piece % 3 == 0)[..., None],
        parse_color("c8303a"),
        np.where((piece % 3 == 1)[..., None], parse_color("2a4fa0"), parse_color("e9b23c")),
    )
    side = np.where(sides, np.where(x < width / 2, 1, 2), np.where(y < height / 2, 3, 4))
    panes.put(band - inset, piece + 100 * side, color)


def _light_panes(rng: np.random.Generator, panes: _Panes) -> tuple[Array, Labels]:
    """Return the light that comes through, with streaks and seeds that differ by pane, and the pane numbers."""
    shape = panes.number.shape
    y, x = make_grid((shape[0], shape[1]))
    numbers, flat = np.unique(panes.number, return_inverse=True)
    piece: Labels = flat.reshape(shape)
    count = len(numbers)
    turn, shift = rng.uniform(0, np.pi, count)[piece], rng.uniform(0, 2000, count)[piece]
    streak = noise(rng, (1024, 1024), 40, 2.25, (0.5, 3.0))
    u, v = x * np.cos(turn) + y * np.sin(turn), -x * np.sin(turn) + y * np.cos(turn)
    swirl = sample(streak, v + shift, u + shift)
    ripple = sample(noise(rng, (1024, 1024), 14, 2.2), v - shift, u)
    tone = (1 + rng.normal(0, 0.17, count))[piece]
    tint = np.clip(1 + rng.normal(0, 0.10, (count, 3)), 0.7, 1.3)[piece]
    color = np.clip(panes.base * tint * tone[..., None], 0.01, 1)
    depth = np.clip(0.92 - 0.26 * swirl + 0.06 * ripple, 0.25, 2.4)
    lit = color ** depth[..., None]
    seeds = smoothstep(2.55, 2.9, noise(rng, (shape[0], shape[1]), 3, 1.3))
    lit = mix(lit, np.ones((*shape, 3)), 0.35 * seeds)
    return lit * shade(ripple, 0.28)[..., None], piece


def paint_stained_glass(rng: np.random.Generator) -> Array:
    """Paint a leaded window of a rising sun, hills, a river and poppies, with the day behind it."""
    shape = scale_shape(768, 1024)
    y, x = make_grid(shape)
    bend = noise(rng, shape, 190, 3.2)
    panes = _Panes(shape)
    _lay_sky(panes, x, y, bend)
    _lay_land(panes, x, y, bend)
    _lay_poppies(panes, x + 5 * bend, y)
    _lay_border(panes, x, y)
    light, piece = _light_panes(rng, panes)
    seam = np.zeros(shape)
    for axis in (0, 1):
        seam = np.maximum(seam, (piece != np.roll(piece, 1, axis)).astype(np.float64))
    wide = blur(seam, 3.2) * 3.2 * 2.5066
    lead = smoothstep(0.30, 0.42, wide + 0.03 * noise(rng, shape, 30))
    close = np.clip(blur(seam, 16) * 16 * 2.5066, 0, 1.6)
    day = 1.14 - 0.26 * np.hypot(x / shape[1] - 0.58, (y / shape[0] - 0.33) * 1.2) + 0.05 * noise(rng, shape, 200, 2.6)
    picture = light * (day * (1 - 0.20 * close))[..., None]
    metal = (
        parse_color("2c2b2e")
        * (shade(blur(np.clip(wide, 0, 1.2), 1.2), 3.2) * (1 + 0.10 * noise(rng, shape, 6, 1.5)))[..., None]
    )
    solder = smoothstep(1.25, 1.6, wide)
    metal = mix(metal, metal * 1.6 + 0.03, solder)
    window = mix(picture, metal, lead)
    return window + 0.13 * blur(np.clip(picture * (1 - lead)[..., None] - 0.35, 0, 1), 14)


def _crack_glaze(rng: np.random.Generator, shape: Shape) -> tuple[Array, Labels]:
    """Return the distance to the nearest crack and the shard numbers; shards are cells around scattered points."""
    y, x = make_grid(shape)
    bend = [26 * noise(rng, shape, 160, 2.9) + 2.2 * noise(rng, shape, 30, 2.6) for _ in range(2)]
    first, second = np.full(shape, 1e9), np.full(shape, 1e9)
    shard = np.zeros(shape, dtype=np.int64)
    middle = np.array([0.42 * shape[0], 0.60 * shape[1]])
    for index in range(17):
        away, turn = 60 + 760 * rng.random() ** 0.8, 2.399963 * index
        py, px = middle + away * np.array([np.sin(turn), np.cos(turn)])
        distance = np.hypot(y + bend[0] - py, x + bend[1] - px)
        nearer = distance < first
        second = np.where(nearer, first, np.minimum(second, distance))
        shard, first = np.where(nearer, index, shard), np.where(nearer, distance, first)
    gap = second - first
    slope = np.clip(blur(np.hypot(*np.gradient(gap)), 6), 0.35, None)
    return gap / slope, shard


def paint_kintsugi(rng: np.random.Generator) -> Array:
    """Paint a glaze of indigo and celadon that broke into shards and was mended with gold."""
    shape = scale_shape(960, 768)
    y, _ = make_grid(shape)
    gap, shard = _crack_glaze(rng, shape)
    fold = noise(rng, shape, 210, 2.8)
    run = noise(rng, shape, 60, 2.3, (5.0, 1.0))
    flow = y / shape[0] * 1.25 - 0.12 + 0.16 * fold + 0.075 * run
    glaze = palette(np.clip(flow, 0, 1), "0b1c3d 12305f 1f4f86 3f7fa6 86b5b4 c9d8c2 e9e2cd 8fb4ad 2f6488 14305c")
    hare = smoothstep(0.4, 1.7, noise(rng, shape, 26, 1.8, (9.0, 0.7)))
    glaze = mix(
        glaze, np.ones((*shape, 3)) * parse_color("dfe6d4"), 0.34 * hare * smoothstep(0.75, 0.2, np.abs(flow - 0.42))
    )
    rust = smoothstep(0.9, 2.0, noise(rng, shape, 40, 1.8)) * smoothstep(0.12, 0.02, np.abs(flow - 0.68))
    glaze = mix(glaze, np.ones((*shape, 3)) * parse_color("a8683a"), 0.5 * rust)
    web = np.abs(noise(rng, shape, 44, 2.4))
    crackle = smoothstep(0.035, 0.012, web) * 0.30
    glaze = glaze * (1 - crackle * smoothstep(0.25, 0.6, flow))[..., None]
    tone = (1 + rng.normal(0, 0.075, 17))[shard]
    pools = noise(rng, shape, 34, 2.6)
    glaze = glaze * (tone * shade(pools, 0.32) * (1 - 0.30 * np.exp(-np.abs(gap) / 16)))[..., None]
    speck = smoothstep(2.35, 2.7, noise(rng, shape, 4, 1.3))
    glaze = mix(glaze, np.ones((*shape, 3)) * parse_color("2b2320"), 0.6 * speck)
    width = 6.4 + 1.5 * noise(rng, shape, 60, 2.2)
    seam = smoothstep(1.1, -1.1, gap - width)
    ridge = blur(np.sqrt(np.clip(1 - (gap / np.maximum(width, 2.0)) ** 2, 0, 1)) * 5.5, 1.3)
    leafed = 0.5 + 0.16 * noise(rng, shape, 9, 1.7) + 0.24 * noise(rng, shape, 70, 2.2)
    relief = shade(ridge + 0.25 * noise(rng, shape, 5, 1.4), 0.55)
    gold = palette(
        np.clip(leafed * 0.7 + (relief - 1) * 0.75 + 0.08, 0, 1), "5f3a0e 9c6a1c c9952f e6bd55 f8e3a0 fffbe6"
    )
    shadow = blur(np.roll(seam, (4, 4), (0, 1)), 3.0)
    mended = mix(glaze * (1 - 0.5 * shadow)[..., None], gold, seam)
    shine = smoothstep(1.1, 2.4, fold + 0.25 * pools)
    return mended + (0.07 * shine * (1 - seam))[..., None]
