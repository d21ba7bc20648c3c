"""Measure whether previews tell the truth: is each nearest to its own finished picture among all of the same photo?

    python tests/bench/previews.py [--photos 4] [--styles 0] [--size 256] [--continued 3] [--images FOLDER]

For each photo, every bundled painting is previewed and painted by the preset `standard`, and the finished pictures are
reduced to the previews' size. A preview hits if none of them is nearer, by the mean absolute difference, than its own.
Prints the share of hits, the misses by name, and the seconds of both; for some pairs also the objective of a painting
continued from its preview, relative to one from nothing, which should be 1.
"""

import argparse
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from styler import Options, Painter, Result, library
from styler.workshop import crops


@dataclass(slots=True, eq=False)
class PhotoRow:
    """The previews and paintings of one photo, in the order of the styles."""

    name: str
    previews: list[Result] = field(default_factory=list)
    paintings: list[Result] = field(default_factory=list)

    def find_nearest(self) -> list[int]:
        """Return for every preview the index of the painting that is nearest to it."""
        reduced = [reduce(painting.pixels, self.previews[0].pixels.shape) for painting in self.paintings]
        return [
            int(np.argmin([np.abs(preview.pixels - picture).mean() for picture in reduced]))
            for preview in self.previews
        ]


def reduce(pixels: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return pixels (H, W, 3) at a smaller shape (h, w, 3), without aliasing."""
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]  # (1, 3, H, W)
    small = F.interpolate(image, shape[:2], mode="bicubic", antialias=True).clamp(0, 1)  # (1, 3, h, w)
    return np.ascontiguousarray(small[0].permute(1, 2, 0).numpy())


def paint(name: str, photo: Path, styles: Mapping[str, Path], options: Options, continued: int) -> PhotoRow:
    """Preview and paint a photo in every style, and print the objectives of some paintings that were continued."""
    row = PhotoRow(name)
    alone, shared = Painter(), Painter()  # only the second knows the openings of previews
    for painter in (alone, shared):  # so that the first painting is not timed with loading
        painter.load_networks(options)
    found = {each.style: each.result for each in shared.previews(photo, [*styles.values()], options)}
    row.previews = [found[index] for index in range(len(styles))]  # two at once end in any order
    for number, (style, path) in enumerate(styles.items()):
        row.paintings.append(alone.stylize(photo, path, options))
        if number < continued:
            again, ours = shared.stylize(photo, path, options), row.paintings[-1]
            ratio = again.losses["total"] / ours.losses["total"]
            is_same = np.array_equal(again.pixels, ours.pixels)
            print(
                f"{name} × {style}: continued from its preview, objective {ratio:.4f} ×, "
                f"{'the same' if is_same else 'other'} pixels, {again.seconds:.1f} s instead of {ours.seconds:.1f} s",
                flush=True,
            )
    return row


def print_row(row: PhotoRow, styles: list[str]) -> int:
    """Print the hits and misses of a photo, and return the number of hits."""
    nearest = row.find_nearest()
    misses = [f"{styles[index]} (nearest is {styles[found]})" for index, found in enumerate(nearest) if found != index]
    seconds = [statistics.mean(result.seconds for result in results) for results in (row.previews, row.paintings)]
    print(
        f"{row.name}: {len(styles) - len(misses)} of {len(styles)}; a preview takes {seconds[0]:.2f} s, a painting "
        f"{seconds[1]:.1f} s; misses: {', '.join(misses) or 'none'}",
        flush=True,
    )
    return len(styles) - len(misses)


def main() -> None:
    """Preview, paint, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=4)
    parser.add_argument("--styles", type=int, default=0, help="number of bundled paintings; 0 for all")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--continued", type=int, default=3, help="paintings of the first photo to continue")
    parser.add_argument("--images", type=Path, help="folder of photos, in place of the bundled ones")
    args = parser.parse_args()
    options = Options(size=args.size)
    paths = crops.find_pictures(args.images) if args.images else [*library.list_contents().values()]
    styles = dict([*library.list_styles().items()][: args.styles or None])
    hits = 0
    for number, path in enumerate(paths[: args.photos]):
        row = paint(path.stem, path, styles, options, args.continued if number == 0 else 0)
        hits += print_row(row, [*styles])
    total = len(paths[: args.photos]) * len(styles)
    print(f"{hits} of {total} previews ({hits / total:.0%}) are nearest to their own picture.")


if __name__ == "__main__":
    main()
