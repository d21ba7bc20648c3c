"""Images of many small pieces: a mosaic laid along flow lines, and a landscape in dots."""

import heapq

import numpy as np
from PIL import Image, ImageDraw

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

FISH = ((0.24, 0.56, 0.50, -1.15, 1.5), (0.78, 0.46, 0.48, 2.0, 1.5))
"""Two fish: center (across and down), length, direction and bend."""
PADS = ((0.10, 0.84, 0.115), (0.93, 0.12, 0.13), (0.985, 0.40, 0.07), (0.285, 0.985, 0.07))
"""Lily pads: center (across and down) and radius."""
POPLARS = (
    *((0.07, 0.46, 0.040), (0.14, 0.36, 0.034), (0.205, 0.27, 0.028), (0.60, 0.25, 0.026)),
    *((0.66, 0.33, 0.030), (0.735, 0.43, 0.038), (0.82, 0.50, 0.045), (0.92, 0.56, 0.052)),
)
"""Poplars: position across, height, and half the breadth."""


def _measure_koi(shape: Shape, fish: tuple[float, ...]) -> tuple[Array, Array, Array]:
    """Return the distance to a fish (negative inside), and the position along its spine and beside it."""
    y, x = make_grid(shape)
    across, down, length, direction, bend = fish
    length *= shape[1]
    best, along, beside = np.full(shape, 1e9), np.zeros(shape), np.zeros(shape)
    cx, cy = across * shape[1], down * shape[0]
    count = 46
    for index in range(count):
        t = index / (count - 1)
        angle = direction + bend * (t - 0.3)
        body = 0.135 * np.sin(np.pi * min(1.0, t / 0.80 + 0.07)) ** 0.8 if t < 0.744 else 0.0
        tail = 0.020 + 0.13 * max(0.0, (t - 0.74) / 0.26) ** 1.15
        fin = 0.055 * np.exp(-(((t - 0.27) / 0.035) ** 2)) + 0.03 * np.exp(-(((t - 0.55) / 0.03) ** 2))
        wide = (max(body, tail) + fin) * length
        dx, dy = x - cx, y - cy
        forward, side = dx * np.cos(angle) + dy * np.sin(angle), -dx * np.sin(angle) + dy * np.cos(angle)
        distance = np.hypot(forward, np.maximum(np.abs(side) - wide, 0)) - length / count
        distance = np.where((np.abs(forward) < length / count) & (np.abs(side) < wide), np.abs(side) - wide, distance)
        nearer = distance < best
        best[nearer], along[nearer], beside[nearer] = distance[nearer], t, side[nearer] / (wide + 1)
        cx, cy = cx + np.cos(angle) * length / count, cy + np.sin(angle) * length / count
    return best, along, beside


def _compose_pond(rng: np.random.Generator, shape: Shape) -> tuple[Array, Array, Array]:
    """Return the colors of a pond, the distance to the next outline, and the field whose contours the rows follow."""
    y, x = make_grid(shape)
    swirl = noise(rng, shape, 170, 3.2)
    flow = 95 * swirl + 0.30 * np.hypot(x - 0.5 * shape[1], y - 0.5 * shape[0])
    nearest = np.full(shape, 1e9)
    picture = palette(
        (np.sin(flow / 21) * 0.5 + 0.5) * 0.72 + 0.14 * swirl, "0d2f4f 12476b 1d6f8c 2f93a0 79c2bb d5e6cf"
    )
    for across, down, radius in PADS:
        dx, dy = x - across * shape[1], y - down * shape[0]
        distance = np.hypot(dx, dy) - radius * shape[1]
        veins = np.abs(np.sin(4.5 * np.arctan2(dy, dx) + across * 9))
        leaf = palette(np.clip(0.25 + 0.5 * veins + 0.012 * (distance + 40), 0, 1), "1f4d33 3f7a3c 8bab4b c9cf7c")
        picture = mix(picture, leaf, smoothstep(1, -1, distance))
        nearest = np.minimum(nearest, np.where(distance < 0, np.abs(distance) % 45, distance))
    for number, fish in enumerate(FISH):
        distance, along, beside = _measure_koi(shape, fish)
        patches = noise(rng, shape, 62, 2.8)
        skin = palette(
            np.clip(0.46 + 0.5 * patches - 0.25 * np.abs(beside), 0, 1), "f6ead2 f3dfb8 ee8a35 d9481f a8261b"
        )
        if number:
            skin = palette(np.clip(0.30 + 0.45 * patches, 0, 1), "fbf3df f4e6c4 f0c25a e08a2a c2401f")
        tail = palette(np.clip(np.abs(np.sin(beside * 9)), 0, 1), "f4dcae e9973f")
        skin = mix(skin, tail, smoothstep(0.72, 0.8, along))
        skin = mix(
            skin,
            np.ones((*shape, 3)) * parse_color("2a1a22"),
            smoothstep(0.25, 0.0, np.abs(np.abs(beside) - 0.62) + 9 * np.abs(along - 0.10)),
        )
        picture = mix(
            picture, np.ones((*shape, 3)) * parse_color("07203a"), 0.6 * smoothstep(34, 6, np.abs(distance - 12))
        )
        picture = mix(picture, skin, smoothstep(1, -1, distance))
        nearest = np.minimum(nearest, np.abs(distance))
    near = smoothstep(130, 45, nearest)
    return picture, nearest, nearest * near + flow * (1 - near)


def _lay_pieces(
    rng: np.random.Generator, follow: Array, first: Array, pitch: float
) -> list[tuple[float, float, float]]:
    """Place the pieces, each beside an earlier one and those near an outline first; return position and rotation."""
    height, width = follow.shape
    down, across = np.gradient(blur(follow, 3))
    angle = np.arctan2(across, -down)
    cells: dict[tuple[int, int], list[tuple[float, float]]] = {}
    waiting = [
        (min(float(first[int(v), int(u)]), 1e4), float(v), float(u))
        for v, u in rng.uniform((0, 0), (height, width), (900, 2))
    ]
    heapq.heapify(waiting)
    places = []
    while waiting:
        _, v, u = heapq.heappop(waiting)
        if not (0 <= v < height and 0 <= u < width):
            continue
        row, column = int(v / pitch), int(u / pitch)
        around = (cells.get((row + i, column + j), []) for i in (-1, 0, 1) for j in (-1, 0, 1))
        if any((v - b) ** 2 + (u - a) ** 2 < (0.87 * pitch) ** 2 for cell in around for b, a in cell):
            continue
        turn = float(angle[int(v), int(u)])
        cells.setdefault((row, column), []).append((v, u))
        places.append((v, u, turn))
        for quarter in range(4):
            b, a = v + pitch * np.sin(turn + quarter * np.pi / 2), u + pitch * np.cos(turn + quarter * np.pi / 2)
            if 0 <= b < height and 0 <= a < width:
                rank = min(float(first[int(b), int(a)]), 110 + 0.01 * len(places))
                heapq.heappush(waiting, (rank, float(b), float(a)))
    return places


def paint_mosaic(rng: np.random.Generator) -> Array:
    """Paint two koi among lily pads, of glass and stone in rows that follow the water."""
    shape = scale_shape(960, 768)
    picture, nearest, follow = _compose_pond(rng, shape)
    pitch = 15.0
    laid = _lay_pieces(rng, follow, nearest, pitch)
    image = Image.new("I", (shape[1], shape[0]), 0)
    draw = ImageDraw.Draw(image)
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    for number, (v, u, turn) in enumerate(laid, start=1):
        local = corners * (0.435 * pitch) * rng.uniform(0.88, 1.1, 2) + rng.normal(0, 0.75, (4, 2))
        cosine, sine = np.cos(turn), np.sin(turn)
        places = [(u + a * cosine - b * sine, v + a * sine + b * cosine) for a, b in local]
        draw.polygon([(float(a), float(b)) for a, b in places], fill=number)
    piece: Labels = np.asarray(image).astype(np.int64)
    rows, columns = (np.array([place[axis] for place in laid]).astype(np.int64) for axis in (0, 1))
    colors = picture[rows, columns] * rng.normal(1, 0.085, (len(laid), 1)) + rng.normal(0, 0.022, (len(laid), 3))
    tilt = np.concatenate([[0.0], rng.normal(0, 1, len(laid))])[piece]
    grout = parse_color("8d8474") * (0.62 + 0.06 * noise(rng, shape, 4, 1.2))[..., None]
    solid = (piece > 0).astype(np.float64)
    height = blur(solid, 1.7)
    glaze = 1 + 0.035 * noise(rng, shape, 7, 1.7) + 0.05 * tilt
    stone = np.concatenate([grout[:1, 0], np.clip(colors, 0.02, 1)])[piece] * glaze[..., None]
    shine = smoothstep(1.35, 2.3, tilt + 0.4 * noise(rng, shape, 10, 2.2))
    stone = mix(stone, np.ones((*shape, 3)) * parse_color("fff6df"), 0.30 * shine)
    shadow = 1 - 0.45 * blur(np.roll(solid, (2, 2), (0, 1)), 1.5)
    wall = mix(grout * shadow[..., None], stone, blur(solid, 0.6))
    return wall * (shade(height, 0.75) * (1 + 0.05 * noise(rng, shape, 260, 2.6)))[..., None]


def _compose_riverside(rng: np.random.Generator, shape: Shape) -> Array:
    """Return the colors of a river at evening, with poplars and their reflections."""
    y, x = make_grid(shape)
    height, width = shape
    v, u = y / height, x / width
    glow = np.exp(-(((u - 0.36) / 0.33) ** 2 + ((v - 0.44) / 0.22) ** 2))
    cloud = 0.11 * noise(rng, shape, 130, 2.6, (1.0, 3.0))
    sky = palette(np.clip(v / 0.5 + cloud, 0, 1), "3f5fae 6f8fd0 b7a6d6 f2b8a0 fbd27a")
    picture = mix(sky, np.ones((*shape, 3)) * parse_color("ffe9a0"), 0.9 * glow)
    sun = np.hypot(u - 0.36, (v - 0.36) * 0.75)
    picture = mix(picture, np.ones((*shape, 3)) * parse_color("fff6cf"), smoothstep(0.062, 0.056, sun))
    hills = 0.43 + 0.03 * np.sin(u * 7 + 1) + 0.012 * np.sin(u * 19)
    picture = mix(
        picture, palette(np.clip((v - hills) * 9, 0, 1), "6a62b0 5a7fb8 4f9a8a"), smoothstep(0, 0.004, v - hills)
    )
    bank = 0.535 + 0.012 * np.sin(u * 9)
    leaf = np.zeros(shape)
    light = np.zeros(shape)
    for across, tall, broad in POPLARS:
        t = np.clip((bank - v) / tall, 0, 1)
        breadth = broad * np.sqrt(np.clip(1 - t, 0, 1)) * np.clip(0.25 + 6 * t, 0, 1)
        inside = (
            smoothstep(0.006, -0.006, np.abs(u - across) - breadth + 0.004 * noise(rng, shape, 16))
            * (bank > v)
            * (bank - v < tall)
        )
        leaf = np.maximum(leaf, inside)
        light = np.where(
            inside > 0.2, 0.5 + 0.5 * (0.36 - across) / np.abs(0.36 - across) * (u - across) / broad, light
        )
    green = palette(np.clip(0.15 + 0.8 * light + 0.3 * cloud, 0, 1), "1f3a6b 1f5f56 3f8a44 a6b83a f3d05a")
    picture = mix(picture, green, leaf)
    grass = palette(np.clip((v - bank) * 22 + 2 * cloud, 0, 1), "c9c648 6fa245 2f6f5a 2a4a80")
    picture = mix(picture, grass, smoothstep(0, 0.004, v - bank))
    shore = 0.565 + 0.010 * np.sin(u * 6 + 2)
    up = np.clip(2 * shore - v + 0.004 * noise(rng, shape, 12, 1.8, (1, 5)), 0, 0.999) * height
    sway = x + 9 * noise(rng, shape, 18, 2.0, (0.6, 5.0))
    mirror = np.stack([sample(picture[..., channel], up, sway) for channel in range(3)], axis=-1)
    water = mix(mirror, np.ones((*shape, 3)) * parse_color("2f4f9a"), 0.08 + 0.42 * smoothstep(0.62, 1.0, v))
    picture = mix(picture, water, smoothstep(0, 0.004, v - shore))
    meadow = 1.0 - 0.30 * np.clip(0.62 - u, 0, 1) ** 1.3 - 0.06
    near = palette(np.clip((v - meadow) * 6 + 2.5 * cloud + 0.3, 0, 1), "e8c84a 8fae3f 3f7f4a 2a4f7a")
    return mix(picture, near, smoothstep(0, 0.006, v - meadow))


def paint_pointillism(rng: np.random.Generator) -> Array:
    """Paint a river at evening in dots of pure color, each hue beside its complement."""
    shape = scale_shape(960, 720)
    scene = _compose_riverside(rng, shape)
    image = Image.new("RGB", (shape[1], shape[0]), (236, 224, 200))
    draw = ImageDraw.Draw(image)
    for pitch, radius, stray in ((9.0, 6.6, 0.5), (7.5, 4.6, 1.0), (8.0, 3.1, 1.0)):
        v, u = np.meshgrid(np.arange(0, shape[0], pitch), np.arange(0, shape[1], pitch), indexing="ij")
        places = np.stack([v.ravel(), u.ravel()], axis=1) + rng.uniform(-0.75, 0.75, (v.size, 2)) * pitch
        places = places[rng.permutation(len(places))]
        rows, columns = (np.clip(places[:, axis], 0, shape[axis] - 1).astype(np.int64) for axis in (0, 1))
        colors = scene[rows, columns]
        gray = colors.mean(axis=1, keepdims=True)
        vivid = gray + (colors - gray) * rng.normal(1.15, 0.25, (len(places), 1))
        other = gray * 1.08 - (colors - gray) * 0.75
        swap = (rng.random((len(places), 1)) < 0.09 * stray).astype(np.float64)
        dots = vivid + (other - vivid) * swap + rng.normal(0, 0.05, (len(places), 3)) * (0.5 + stray)
        dots = np.clip(dots + rng.normal(0, 0.05, (len(places), 1)), 0, 1)
        for (b, a), dot, size in zip(places, dots, rng.normal(1, 0.14, len(places)) * radius, strict=True):
            fill = int(dot[0] * 255), int(dot[1] * 255), int(dot[2] * 255)
            draw.ellipse((a - size, b - size * 0.92, a + size, b + size * 0.92), fill=fill)
    painted = np.asarray(image).astype(np.float64) / 255
    body = blur(painted.mean(axis=-1), 0.8)
    weave = noise(rng, shape, 3, 1.0)
    return painted * (shade(body, 0.35) * (1 + 0.018 * weave))[..., None]
