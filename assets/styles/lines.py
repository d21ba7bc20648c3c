"""Images of lines that follow form: a woodcut and a drawing in ink."""

import numpy as np
from PIL import Image, ImageDraw

from assets.styles.canvas import (
    Array,
    Shape,
    blur,
    make_grid,
    mix,
    noise,
    palette,
    paper,
    parse_color,
    scale_shape,
    smoothstep,
)


def _carve(phase: Array, tone: Array, period: float) -> Array:
    """Return the ink left between carved lines: the lighter the tone (0 to 1), the wider the cuts."""
    wave = np.abs((phase % 1) - 0.5) * 2
    soft = 1.6 / period
    return np.where(tone > 0.985, 0.0, smoothstep(-soft, soft, wave - np.clip(tone, 0, 1)))


def _count_lines(distance: Array, period: float) -> Array:
    """Return how many times to multiply diverging lines so that they stay about a period apart, as a power of two."""
    result: Array = 2.0 ** np.floor(np.log2(np.maximum(distance, period) / period))
    return result


def _draw_volcano(rng: np.random.Generator, shape: Shape) -> tuple[Array, Array, Array]:
    """Return the depth of every pixel inside a mountain, the phase of its lines, and its tone."""
    y, x = make_grid(shape)
    px, py = 0.40 * shape[1], 0.235 * shape[0]
    drop, side = np.maximum(y - py, 1), x - px
    rough = noise(rng, shape, 70, 2.4)
    slope = 0.062 * shape[1] + 0.62 * drop + 0.00062 * drop**2
    inside = np.minimum(slope - np.abs(side) + 3 * rough, y - py + 9 * np.cos(side / 26) + 4 * rough)
    spread = side / slope * 15 * _count_lines(slope, 0.1 * shape[1])
    phase = spread + 0.16 * rough
    ravine = noise(rng, shape, 46, 2.2, (4.0, 1.0))
    tone = 0.62 - 0.62 * smoothstep(-0.05, 0.35, side / slope + 0.12 * ravine) + 0.13 * ravine
    snow = smoothstep(-4, 4, 0.155 * shape[0] + 26 * np.roll(ravine, 90, axis=1) - drop)
    shadow = smoothstep(0.0, 0.12, side / slope + 0.12 * ravine)
    tone = tone * (1 - snow) + (1.2 - 0.75 * shadow * smoothstep(-0.2, 0.6, np.abs(ravine))) * snow
    return inside, phase, tone


def _draw_reeds(rng: np.random.Generator, shape: Shape) -> tuple[Array, Array]:
    """Draw reeds in front: their ink, and the light rim that the knife left around them."""
    plates = []
    stalks = [(rng.normal(0.84, 0.10), rng.uniform(0.24, 0.62), rng.normal(-0.10, 0.08)) for _ in range(34)]
    stalks += [(rng.normal(0.04, 0.06), rng.uniform(0.12, 0.34), rng.normal(0.07, 0.05)) for _ in range(16)]
    for extra in (0.0, 4.0):
        image = Image.new("L", (shape[1], shape[0]), 0)
        draw = ImageDraw.Draw(image)
        for index, (foot, tall, lean) in enumerate(stalks):
            t = np.linspace(0, 1, 40)
            middle = (foot + lean * t**2.2) * shape[1]
            rows = (1.02 - tall * t) * shape[0]
            ear = 5.5 * np.exp(-(((t - 0.86) / 0.07) ** 4)) * (index % 3 == 0)
            wide = 4.4 * (1 - t) ** 0.7 + ear + extra * (t < 0.995) + 0.3
            left, right = list(zip(middle - wide, rows, strict=True)), list(zip(middle + wide, rows, strict=True))
            draw.polygon([(float(a), float(b)) for a, b in left + right[::-1]], fill=255)
        plates.append(np.asarray(image).astype(np.float64) / 255)
    return plates[0], plates[1]


def paint_woodcut(rng: np.random.Generator) -> Array:
    """Paint a mountain, the sun and the sea, cut in wood and printed in black over three colors."""
    shape = scale_shape(960, 720)
    y, x = make_grid(shape)
    height, width = shape
    grain = noise(rng, shape, 60, 1.7, (0.12, 5.0))
    wobble = noise(rng, shape, 90, 2.6)
    sun = np.hypot(x - 0.73 * width, y - 0.24 * height)
    period = 17.0
    cloud = noise(rng, shape, 120, 2.4, (0.7, 3.0))
    tone = 0.97 - 0.55 * smoothstep(0.10 * width, 0.62 * width, sun) + 0.17 * cloud
    ink = _carve(sun / period + 0.16 * wobble + 0.02 * grain, np.clip(tone, 0.16, 1), period)
    disc = smoothstep(2, -2, sun - 0.088 * width)
    ink = ink * smoothstep(0.0, 6.0, sun - 0.1 * width)
    inside, phase, light = _draw_volcano(rng, shape)
    rock = smoothstep(-1.5, 1.5, inside)
    ink = ink * smoothstep(-1.0, -9.0, inside) * (1 - rock) + rock * _carve(phase, light, period)
    ink = np.maximum(ink, smoothstep(7.0, 1.5, np.abs(inside - 3)))
    hills = y - (0.585 * height + 26 * np.sin(x / 190 + 1.2) + 15 * np.sin(x / 71) + 10 * wobble)
    hill = smoothstep(-1.5, 1.5, hills)
    bush = noise(rng, shape, 40, 2.2)
    ink = _blend_plates(ink, _carve(hills / 13 + 0.35 * bush, 0.36 + 0.2 * bush - hills / 420, 13), hill)
    ink = np.maximum(ink, smoothstep(6, 2, np.abs(hills)))
    shore = 0.665 * height
    depth = np.clip((y - shore) / (height - shore), 0.0, 1)
    swell = noise(rng, shape, 110, 2.6, (0.5, 2.6))
    waves = 17 * depth**0.62 + 0.62 * swell + 0.30 * np.sin(x / 62 + 9 * depth + swell) * (0.3 + depth)
    glitter = np.exp(-(((x - 0.73 * width) / (0.07 * width * (1 + depth))) ** 2))
    foam = 0.30 + 0.34 * np.sin(x / 62 + 9 * depth + swell + 1.3) + 0.20 * swell + 0.45 * glitter
    sea = smoothstep(-1, 1, y - shore)
    ink = _blend_plates(ink, _carve(waves, np.clip(foam, 0.05, 0.92), 17), sea)
    reed, rim = _draw_reeds(rng, shape)
    ink = np.maximum(ink * (1 - blur(rim, 0.8)), blur(reed, 0.8))
    sheet = np.ones((*shape, 3)) * parse_color("f0e4c9")
    dawn = palette(np.clip(y / (0.6 * height) + 0.02 * grain, 0, 1), "35577d 6f93a2 c9c7ab f0dcae f3cfa0")
    sheet = mix(sheet, dawn, 0.92 * (1 - hill) * (1 - rock) * (1 - sea))
    sheet = mix(sheet, np.ones((*shape, 3)) * parse_color("cf3f2a"), disc * (1 - rock))
    sheet = mix(sheet, np.ones((*shape, 3)) * parse_color("a9b5b4"), rock * smoothstep(0.9, 0.5, light) * 0.8)
    sheet = mix(sheet, np.ones((*shape, 3)) * parse_color("7f9a6b"), hill * (1 - sea))
    water = palette(depth + 0.03 * grain, "a9c3bb 5f97a3 2f6789 1f4468")
    sheet = mix(sheet, mix(water, np.ones((*shape, 3)) * parse_color("e5a27a"), 0.7 * glitter), sea)
    worn = np.clip(0.95 + 0.045 * grain + 0.03 * noise(rng, shape, 4, 1.0), 0, 1)
    worn = worn * (1 - 0.6 * smoothstep(2.1, 2.8, noise(rng, shape, 3, 1.0) + 0.4 * grain))
    printed = mix(sheet, np.ones((*shape, 3)) * parse_color("1b1d29"), ink * worn)
    return printed * paper(rng, shape, 0.022)[..., None]


def _blend_plates(first: Array, second: Array, share: Array) -> Array:
    """Blend two plates; a share of 1 gives the second."""
    return first + (second - first) * share


def _place_stones(rng: np.random.Generator) -> list[tuple[float, float, float, float, float]]:
    """Return center, half axes and rotation of the stones, from far and small to near and large."""
    stones = []
    for row in range(9):
        t = row / 8
        size = 38 + 150 * t**1.5
        down = 250 + 850 * t**1.25
        for place in np.arange(-0.5, 1440 / (1.55 * size) + 1):
            across = (place + 0.5 * (row % 2) + rng.uniform(-0.18, 0.18)) * 1.55 * size
            broad = size * rng.uniform(0.74, 1.12)
            stones.append((float(across), float(down + rng.uniform(-0.22, 0.22) * size), float(broad),
                          float(broad * rng.uniform(0.6, 0.82)), float(rng.normal(0, 0.28))))  # fmt: skip
    return stones


def _draw_stone(plates: dict[str, Array], stone: tuple[float, ...], tint: float, hand: Array, pressure: Array) -> None:
    """Draw one stone over the plates: its light, tint, outline and the phases of its three hatchings."""
    cx, cy, broad, tall, turn = stone
    reach = int(broad * 1.5)
    box = tuple(slice(max(0, int(middle) - reach), max(0, int(middle) + reach)) for middle in (cy, cx))
    wobble, weight = hand[box], pressure[box]
    if not wobble.size:
        return
    rows, columns = np.arange(hand.shape[0])[box[0], None], np.arange(hand.shape[1])[None, box[1]]
    dx, dy = (columns - cx) + np.zeros(wobble.shape), (rows - cy) + np.zeros(wobble.shape)
    u, v = (dx * np.cos(turn) + dy * np.sin(turn)) / broad, (-dx * np.sin(turn) + dy * np.cos(turn)) / tall
    radius = (np.abs(u) ** 2.35 + np.abs(v) ** 2.35) ** (1 / 2.35) + 0.03 * wobble
    shadow = smoothstep(1.25, 0.75, np.hypot(dx - 0.25 * broad, dy - 0.30 * tall) / broad)
    plates["light"][box] *= 1 - 0.62 * shadow
    inside = radius < 1
    z = np.sqrt(np.clip(1 - radius**2, 0, 1))
    echo = 0.26 * smoothstep(0.6, 1, radius) * (u + v > 0.9)
    lit = np.clip(0.16 + 0.62 * (-0.55 * u - 0.66 * v + 0.62 * z) + echo, 0, 1)
    values = {
        "light": lit * 1.08 + 0.07 * weight,
        "tint": np.full(dx.shape, tint),
        "along": np.arctan2(v, z + 0.25) * tall / 10.5 + 0.35 * wobble,
        "across": np.arctan2(u + 0.5 * v, z + 0.25) * broad / 10.5 + 0.35 * wobble,
        "third": (u - v) * broad / 11 + 0.35 * wobble,
    }
    for name, value in values.items():
        plates[name][box] = np.where(inside, value, plates[name][box])
    wide = 0.016 + 0.014 * smoothstep(-0.5, 0.9, u + v)
    line = smoothstep(wide + 1.3 / broad, wide, np.abs(radius - 0.985)) * (0.75 + 0.25 * (weight > -1))
    plates["outline"][box] = np.where(inside | (line > plates["outline"][box]), line, plates["outline"][box])


def paint_ink_hatching(rng: np.random.Generator) -> Array:
    """Paint stones on a shore below a wide sky, hatched with a pen along their form over a gray and a warm wash."""
    shape = scale_shape(960, 720)
    y, x = make_grid(shape)
    hand, wander = noise(rng, shape, 60, 2.6), noise(rng, shape, 25, 2.2)
    pressure = noise(rng, shape, 34, 1.9)
    sky = noise(rng, shape, 210, 2.5, (0.8, 1.9)) + 0.9 * (y / shape[0] - 0.12)
    plates = {
        "light": np.clip(0.84 + 0.24 * sky, 0.42, 1),
        "tint": np.full(shape, 0.55),
        "along": (y + 0.45 * x) / 9.5 + 0.8 * hand,
        "across": (y - 0.8 * x) / 9.5 + 0.8 * hand,
        "third": y / 8.5 + 0.5 * hand,
        "outline": np.zeros(shape),
    }
    for stone in _place_stones(rng):
        _draw_stone(plates, stone, float(rng.uniform(0, 1)), hand, pressure)
    light, ink = plates["light"] + 0.03 * wander, plates["outline"]
    for name, threshold, heavy in (("along", 0.80, 0.62), ("across", 0.50, 0.66), ("third", 0.30, 0.80)):
        dark = np.clip((threshold - light) / threshold, 0, 1)
        pressed = 0.05 * (dark > 0.02) + 0.05 * pressure * (dark > 0.05)
        stroke = _carve(plates[name] + 0.06 * wander, 1 - heavy * dark**0.75 - pressed, 10)
        ink = np.maximum(ink, stroke * smoothstep(0.01, 0.05, dark))
    wash = palette(np.clip(plates["tint"], 0, 1), "8d9ba6 a9b0ad d9c7a4 c98f6a 7f8c96")
    soft = blur(np.clip(1 - light, 0, 1), 5) * np.clip(0.75 + 0.12 * hand, 0, 2)
    wet = np.clip(0.18 + 0.75 * soft, 0, 1) * np.sqrt(smoothstep(0.16, 0.24, y / shape[0]))
    sheet = parse_color("f3ead6") * (1 - (1 - wash) * wet[..., None])
    inked = mix(sheet, np.ones((*shape, 3)) * parse_color("231d22"), ink * np.clip(0.9 + 0.05 * pressure, 0, 1))
    return inked * paper(rng, shape, 0.025)[..., None]
