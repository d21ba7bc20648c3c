"""What all made pictures are made with: noise, blur, colour, light and the frame that brings them to their size."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Labels = NDArray[np.int64]
Shape = tuple[int, int]
OVER = 1.5
"""How much larger a picture is made than it is stored: the reduction smooths its edges."""


def grid(shape: Shape) -> tuple[Array, Array]:
    """The row and the column of every pixel."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return y.astype(np.float64), x.astype(np.float64)


def rgb(colour: str) -> Array:
    """A colour from six hexadecimal digits."""
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)])


def palette(t: Array, colours: str) -> Array:
    """Colours along a path through several, given with spaces between; `t` runs from 0 to 1."""
    stops = np.array([rgb(colour) for colour in colours.split()])
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(t, at, stops[:, channel]) for channel in range(3)], axis=-1)


def mix(first: Array, second: Array, share: Array) -> Array:
    """From the first colour to the second, by a field of shares."""
    result: Array = first + (second - first) * share[..., None]
    return result


def step(low: float | Array, high: float | Array, value: Array) -> Array:
    """A soft step: 0 below `low`, 1 above `high`."""
    t = np.clip((value - low) / (high - low), 0, 1)
    result: Array = t * t * (3 - 2 * t)
    return result


def blur(field: Array, sigma: float) -> Array:
    """Gaussian blur with mirrored borders; of every channel if there are several."""
    if field.ndim == 3:
        return np.stack([blur(field[..., channel], sigma) for channel in range(field.shape[2])], axis=-1)
    margin = min(int(3 * sigma) + 1, min(field.shape) - 1)
    padded = np.pad(field, margin, mode="reflect")
    fy, fx = np.fft.fftfreq(padded.shape[0])[:, None], np.fft.rfftfreq(padded.shape[1])[None]
    kernel = np.exp(-2 * (np.pi * sigma) ** 2 * (fy**2 + fx**2))
    result: Array = np.fft.irfft2(np.fft.rfft2(padded) * kernel, padded.shape)
    inner: Array = result[margin:-margin, margin:-margin]
    return inner


def noise(
    rng: np.random.Generator, shape: Shape, size: float, rough: float = 2.0, stretch: tuple[float, float] = (1, 1)
) -> Array:
    """Cloudy noise of mean 0 and deviation 1: shapes of about `size` pixels; the higher `rough`, the smoother."""
    fy, fx = np.fft.fftfreq(shape[0])[:, None] * stretch[0], np.fft.rfftfreq(shape[1])[None] * stretch[1]
    gain = (fy**2 + fx**2 + (0.5 / size) ** 2) ** (-rough / 2)
    gain[0, 0] = 0
    found: Array = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * gain, shape)
    found /= found.std()
    return found


def sample(field: Array, y: Array, x: Array) -> Array:
    """The values at places between pixels; what leaves at one border comes in at the other."""
    height, width = field.shape
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    v, u = y - top, x - left
    top, left = top % height, left % width
    below, right = (top + 1) % height, (left + 1) % width
    upper = field[top, left] * (1 - u) + field[top, right] * u
    lower = field[below, left] * (1 - u) + field[below, right] * u
    result: Array = upper * (1 - v) + lower * v
    return result


def shade(height: Array, strength: float) -> Array:
    """How much lighter a relief is where it faces the light, which comes from the upper left."""
    down, across = np.gradient(height)
    slope: Array = np.asarray((down + across) * strength)
    return np.clip(slope, -0.6, 0.6) + 1


def paper(rng: np.random.Generator, shape: Shape, strength: float = 0.05) -> Array:
    """The grain of a sheet, as a factor on its colour."""
    return shade(noise(rng, shape, 5, 1.6), strength) * (1 + 0.012 * noise(rng, shape, 180))


def size_of(width: int, height: int) -> Shape:
    """The shape in which a picture of this stored size is made."""
    return round(height * OVER), round(width * OVER)


def store(picture: Array, path: Path) -> None:
    """Reduce the picture and write it as a JPEG without metadata."""
    pixels: NDArray[Any] = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    size = round(picture.shape[1] / OVER), round(picture.shape[0] / OVER)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    image.save(path, quality=90, optimize=True)
