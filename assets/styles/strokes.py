"""An image of brush strokes: thick paint that follows what it depicts."""

import numpy as np
from PIL import Image

from assets.styles.canvas import (
    Array,
    Shape,
    blur,
    make_grid,
    mix,
    noise,
    palette,
    parse_color,
    scale_shape,
    shade,
    smoothstep,
)

CYPRESSES = ((0.80, 0.88, 0.066), (0.905, 0.60, 0.050))
"""Cypresses: position across, height, and half the breadth."""


def _compose_field(rng: np.random.Generator, shape: Shape) -> tuple[Array, Array]:
    """Return the colors of a wheat field with cypresses below a moving sky, and the direction of the brush."""
    height, width = shape
    y, x = make_grid(shape)
    v, u = y / height, x / width
    drift = noise(rng, shape, 150, 2.8, (0.8, 1.5))
    cloud = noise(rng, shape, 120, 2.5, (0.7, 1.8))
    picture = palette(np.clip(v / 0.5 + 0.10 * drift, 0, 1), "2f7f9f 4f9fb0 7fbdb5 b9d6bd e6e2b8")
    picture = mix(
        picture, palette(np.clip(0.5 + 0.3 * drift, 0, 1), "d8a8b0 f3dccb fbf4e0"), smoothstep(0.25, 1.1, cloud)
    )
    turn = 0.55 * np.sin(6.5 * u + 5 * v) + 0.30 * noise(rng, shape, 260, 3.4)
    for across, down, reach in ((0.30, 0.17, 0.13), (0.57, 0.27, 0.09)):
        dy, dx = v * height / width - down, u - across
        swirl = np.exp(-((np.hypot(dy, dx) / reach) ** 4))
        around = np.arctan2(dy, dx) + np.pi / 2 + 0.25
        turn = turn + swirl * ((around - turn + np.pi / 2) % np.pi - np.pi / 2)
        arms = np.sin(2 * np.arctan2(dy, dx) - 70 * np.hypot(dy, dx) + 1)
        picture = mix(picture, palette(0.5 + 0.5 * arms, "3f8fa8 8fc8c0 fbf0d4"), 0.75 * swirl)
    far = v - (0.43 + 0.035 * np.sin(5.2 * u + 0.6) + 0.012 * np.sin(17 * u))
    hills = palette(np.clip(far * 8 + 0.12 * drift, 0, 1), "3f4f95 4f74a8 5f9a94 8fb27a")
    picture = mix(picture, hills, smoothstep(0, 0.003, far))
    turn = np.where(far > 0, 0.30 * np.cos(5.2 * u + 0.6) + 0.4 * far, turn)
    near = v - (0.565 + 0.022 * np.sin(4.1 * u + 2.4))
    depth = np.clip(near / 0.43, 0, 1)
    rows = np.sin((u - 0.30 + 0.06 * np.sin(9 * depth)) / (0.02 + 0.10 * depth) + 0.5 * drift)
    gold = np.clip(0.48 + 0.27 * rows + 0.16 * drift - 0.12 * depth, 0, 1)
    wheat = palette(gold, "7f4a1c b8701f d99a2b efc04a f8e08a")
    picture = mix(picture, wheat, smoothstep(0, 0.003, near))
    lean = np.pi / 2 + 0.55 * np.clip((u - 0.36) * 1.8, -1, 1) + 0.35 * drift * depth
    turn = np.where(near > 0, lean, turn)
    poppy = smoothstep(1.15, 1.35, noise(rng, shape, 15, 2.0) + 0.5 * np.roll(drift, 200, axis=1) - 0.8 * (1 - depth))
    picture = mix(picture, palette(0.5 + 0.2 * drift, "a81f1c d8301f f0603a"), poppy * smoothstep(0.01, 0.05, near))
    for foot, tall, broad in CYPRESSES:
        t = (1.03 - v) / tall
        flame = foot + 0.016 * np.sin(9 * t + 30 * foot) * t - u
        flicker = 1 + 0.16 * np.sin(26 * t + 9 * drift)
        wide = broad * np.sqrt(np.clip(1 - t, 0, 1)) * np.clip(0.5 + 1.2 * t, 0, 1) * flicker
        tree = smoothstep(0.004, -0.002, np.abs(flame) - wide) * (t < 1) * (t > 0)
        leaf = np.clip(0.40 + 5.5 * flame + 0.22 * np.sin(60 * flame / (0.2 + broad) + 12 * t), 0, 1)
        picture = mix(picture, palette(leaf, "12241f 1c3f33 2f5f3c 5f8440 a8a845"), tree)
        turn = np.where(tree > 0.5, np.pi / 2 + 0.45 * np.sin(11 * t + 40 * flame), turn)
    return picture, turn


def _make_marks(rng: np.random.Generator, length: int, width: int) -> list[tuple[Array, Array]]:
    """Make marks of one brush: where each covers, and how thick its paint is, with the furrows of the bristles."""
    marks = []
    y, x = make_grid((width, length))
    for _ in range(12):
        bristles = noise(rng, (width, length), 3, 1.1, (0.6, 16.0))
        across, along = (y - (width - 1) / 2) / (width / 2), (x - (length - 1) / 2) / (length / 2)
        edge = 1 - np.abs(across) ** 3 - np.abs(along + 0.06 * bristles) ** 6
        cover = smoothstep(0.06, 0.30, edge)
        thick = cover * (0.75 + 0.30 * bristles + 0.35 * np.abs(across) ** 2 + 0.35 * along)
        marks.append((cover, thick))
    return marks


def _rotate(mark: Array, angle: float) -> Array:
    """Rotate a mark by an angle in radians."""
    image = Image.fromarray(mark.astype(np.float32))
    turned = image.rotate(-np.degrees(angle), Image.Resampling.BILINEAR, expand=True)
    return np.asarray(turned).astype(np.float64)


def _apply_stroke(canvas: Array, relief: Array, at: tuple[int, int], mark: tuple[Array, Array], paint: Array) -> None:
    """Set one mark on the canvas and its paint on the relief."""
    cover, thick = mark
    top, left = at[0] - cover.shape[0] // 2, at[1] - cover.shape[1] // 2
    above, before = max(0, -top), max(0, -left)
    box = slice(top + above, top + cover.shape[0]), slice(left + before, left + cover.shape[1])
    part = relief[box]
    cut = slice(above, above + part.shape[0]), slice(before, before + part.shape[1])
    streak = 1 + 0.10 * (thick[cut] - 0.8)
    canvas[box] = mix(canvas[box], paint * streak[..., None], 0.94 * cover[cut])
    relief[box] = part * (1 - 0.85 * cover[cut]) + thick[cut]


def paint_wheat_field(rng: np.random.Generator) -> Array:
    """Paint a wheat field with poppies and cypresses below a moving sky, in thick strokes."""
    shape = scale_shape(960, 752)
    scene, turn = _compose_field(rng, shape)
    canvas, relief = np.ones((*shape, 3)) * parse_color("a8744a"), np.zeros(shape)
    detail = np.abs(scene - blur(scene, 9)).sum(axis=-1)
    for length, width, pitch, busy in ((92, 26, 17.0, -1.0), (62, 15, 11.0, -1.0), (40, 9, 8.5, 0.10)):
        marks = _make_marks(rng, length, width)
        places = np.stack(np.meshgrid(np.arange(0, shape[0], pitch), np.arange(0, shape[1], pitch)), axis=-1)
        points = places.reshape(-1, 2) + rng.uniform(-0.6, 0.6, (places.size // 2, 2)) * pitch
        soft = blur(scene, width / 7)
        for v, u in points[rng.permutation(len(points))]:
            row, column = int(np.clip(v, 0, shape[0] - 1)), int(np.clip(u, 0, shape[1] - 1))
            if detail[row, column] < busy * rng.uniform(0.4, 1.6):
                continue
            angle = float(turn[row, column] + rng.normal(0, 0.10))
            cover, thick = (_rotate(part, angle) for part in marks[rng.integers(len(marks))])
            paint = np.clip(soft[row, column] * rng.normal(1, 0.10) + rng.normal(0, 0.030, 3), 0, 1)
            _apply_stroke(canvas, relief, (row, column), (cover, thick * (0.5 + width / 40)), paint)
    weave = noise(rng, shape, 3, 1.0)
    return canvas * shade(blur(relief, 0.8) + 0.03 * weave, 0.42)[..., None]
