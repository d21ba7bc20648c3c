"""Building blocks of the generated styles: noise, blur, color, light and storage.

`mix` and `smoothstep` are those of GLSL; fields are float arrays (H, W), images (H, W, 3) with values from 0 to 1.
"""

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
"""Factor by which an image is painted larger than it is stored: downscaling smooths its edges."""


def make_grid(shape: Shape) -> tuple[Array, Array]:
    """Return the row and the column of every pixel."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return y.astype(np.float64), x.astype(np.float64)


def parse_color(color: str) -> Array:
    """Convert six hexadecimal digits to a color in [0, 1]."""
    return np.array([int(color[i : i + 2], 16) / 255 for i in (0, 2, 4)])


def palette(t: Array, colors: str) -> Array:
    """Interpolate between colors given as hexadecimal digits with spaces between; `t` runs from 0 to 1."""
    stops = np.array([parse_color(color) for color in colors.split()])
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(t, at, stops[:, channel]) for channel in range(3)], axis=-1)


def mix(first: Array, second: Array, share: Array) -> Array:
    """Blend two color images; a share of 1 gives the second."""
    result: Array = first + (second - first) * share[..., None]
    return result


def smoothstep(low: float | Array, high: float | Array, value: Array) -> Array:
    """Interpolate smoothly from 0 at `low` to 1 at `high`."""
    t = np.clip((value - low) / (high - low), 0, 1)
    result: Array = t * t * (3 - 2 * t)
    return result


def blur(field: Array, sigma: float) -> Array:
    """Apply a Gaussian blur with mirrored borders to a field, or to every channel of an image."""
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
    """Generate cloudy noise of mean 0 and standard deviation 1.

    Args:
        rng: source of randomness.
        shape: height and width.
        size: extent of the largest shapes, in pixels.
        rough: exponent of the spectrum's decay: the higher, the smoother.
        stretch: factors on the vertical and horizontal frequencies.
    """
    fy, fx = np.fft.fftfreq(shape[0])[:, None] * stretch[0], np.fft.rfftfreq(shape[1])[None] * stretch[1]
    gain = (fy**2 + fx**2 + (0.5 / size) ** 2) ** (-rough / 2)
    gain[0, 0] = 0
    field: Array = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * gain, shape)
    field /= field.std()
    return field


def sample(field: Array, y: Array, x: Array) -> Array:
    """Sample a field bilinearly at fractional coordinates, with periodic borders."""
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
    """Return the brightness factor of a relief lit from the upper left."""
    down, across = np.gradient(height)
    slope: Array = np.asarray((down + across) * strength)
    return np.clip(slope, -0.6, 0.6) + 1


def paper(rng: np.random.Generator, shape: Shape, strength: float = 0.05) -> Array:
    """Generate the grain of a sheet of paper, as a factor on its color."""
    return shade(noise(rng, shape, 5, 1.6), strength) * (1 + 0.012 * noise(rng, shape, 180))


def scale_shape(width: int, height: int) -> Shape:
    """Return the shape in which an image of this stored size is painted."""
    return round(height * OVER), round(width * OVER)


def store(picture: Array, path: Path) -> None:
    """Downscale the image and write it as a JPEG without metadata."""
    pixels: NDArray[Any] = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    size = round(picture.shape[1] / OVER), round(picture.shape[0] / OVER)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    image.save(path, quality=90, optimize=True)
