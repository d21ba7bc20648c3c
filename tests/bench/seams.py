"""Measure whether the borders of the tiles can be found in a picture that was painted in tiles.

    python tests/bench/seams.py PICTURE --tile 512 [--against OTHER] [--crops FOLDER]

The energy of the gradient is the mean squared difference of neighboring pixels. That across the borders of the tiles is
divided by that across the lines around them; and so is, for comparison, that across as many lines at every other
distance from the borders: their standard deviation says what chance does. With `--against`, the same is said of another
picture, which has no borders there, such as one that was painted as a whole: what lies there is the same in both. With
`--crops`, parts of the picture around the corners of tiles are written, at full size, to be looked at.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styler import Options, Painter, images
from styler.objective.tiles import split_picture

STRIDE, REACH = 16, 96
"""Lines up to that far from a border are compared with it, in steps of the network's stride: pooling and enlarging give
a picture a grain of that period, and tiles begin at multiples of it."""
CELL, FLAT = 32, 1e-6
"""Pixels of a line that are compared at once, so that a few strong edges do not decide; and the least energy around."""
CROP = 512
"""Side of a crop, in pixels."""


def measure_lines(pixels: NDArray[np.float32], axis: int) -> NDArray[np.float64]:
    """Return the energy across each line between two rows (axis 0) or columns (axis 1) of pixels (H, W, 3), by cell."""
    lines = pixels if axis == 0 else pixels.swapaxes(0, 1)
    count = lines.shape[1] // CELL
    pairs = zip(lines[:-1, : count * CELL], lines[1:, : count * CELL], strict=True)
    return np.array([np.square(after - before).reshape(count, -1).mean(1, dtype=np.float64) for before, after in pairs])


def measure_shift(energies: NDArray[np.float64], borders: list[int], shift: int) -> NDArray[np.float64]:
    """Return the energy of each cell of the lines at a distance from the borders, relative to that around it.

    Args:
        energies: of the line between each pixel and the next, by cell, (N, cells).
        borders: the first pixels of tiles.
        shift: distance from them.
    """
    lines = np.array(borders) - 1 + shift
    around = np.mean([energies[lines + each] for each in range(-REACH, REACH + 1, STRIDE) if each], axis=0)
    ratios: NDArray[np.float64] = energies[lines] / np.maximum(around, FLAT)
    return ratios.ravel()


def read_pixels(path: Path) -> NDArray[np.float32]:
    """Return the pixels of a picture, (H, W, 3)."""
    return images.read_image(path).pixels.astype(np.float32)[..., :3]


def print_energy(name: str, pixels: NDArray[np.float32], rows: list[int], columns: list[int]) -> float:
    """Print and return the energy across the borders of tiles, whose first pixels are given, relative to elsewhere."""
    lines = [(measure_lines(pixels, axis), borders) for axis, borders in ((0, rows), (1, columns)) if borders]
    step = min(min(np.diff([0, *borders, len(energies) + 1])) for energies, borders in lines)
    shifts = range(REACH - step // 2, step // 2 - REACH)
    found = {s: float(np.concatenate([measure_shift(*each, s) for each in lines]).mean()) for s in shifts}
    others = [each for shift, each in found.items() if abs(shift) >= STRIDE]
    ratio, deviation = float(found[0] / np.mean(others)), np.std(others) / np.mean(others)
    count = len(rows) + len(columns)
    print(f"{name}: {count} borders with {ratio:.4f} of the energy elsewhere, by chance ±{deviation:.4f}")
    return ratio


def main() -> None:
    """Print the energy across the borders of tiles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--tile", type=int, required=True, help="longest side of a tile, in pixels")
    parser.add_argument("--against", type=Path, help="a picture of the same pair without these tiles")
    parser.add_argument("--crops", type=Path, help="folder for parts of the picture")
    arguments = parser.parse_args()
    options = Options()
    pixels = read_pixels(arguments.picture)
    size = pixels.shape[:2]
    tiles = split_picture((size[0], size[1]), arguments.tile, Painter.of(options).features(options))
    rows, columns = sorted({tile.top for tile in tiles} - {0}), sorted({tile.left for tile in tiles} - {0})
    print(f"{size[1]}×{size[0]} pixels, {len(tiles)} tiles")
    ratio = print_energy(arguments.picture.name, pixels, rows, columns)
    if arguments.against:
        other = print_energy(arguments.against.name, read_pixels(arguments.against), rows, columns)
        print(f"{ratio / other:.4f} of what the other has there")
    if arguments.crops:
        arguments.crops.mkdir(parents=True, exist_ok=True)
        for index, (row, column) in enumerate(zip(rows, columns, strict=False)):
            part = pixels[max(0, row - CROP // 2) : row + CROP // 2, max(0, column - CROP // 2) : column + CROP // 2]
            Image.fromarray(images.to_uint8(part)).save(arguments.crops / f"corner-{index}.png")


if __name__ == "__main__":
    main()
