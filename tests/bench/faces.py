"""Measure what the gentle protection of faces keeps of them, and whether the rest is painted as well as without it.

    python tests/bench/faces.py [--size 256] [--preset standard] [--images FOLDER] [--styles NAME ...]

Each photo with a face is painted with the protection that is the default, and with none. Prints, protected relative to
not, the correlation of the gradients of luminance inside the faces with the photo's, and the distance to the painting
of the largest part of the picture beside all faces, by the judges of `heldout.py`.
"""

import argparse
from pathlib import Path
from statistics import mean

import torch
from heldout import PatchJudge, StyleJudge
from quality import load_fitted, to_image
from torch import Tensor

from styler import Options, Painter, library
from styler.engine.sources import load_content
from styler.resample import resize
from styler.workshop import crops

STYLES = ("starry-night", "mosaic", "woodcut")
INSIDE = 0.5
"""Least value of the mask inside a face."""
BESIDE = 0.02
"""Largest value of the mask beside it."""


def find_luminance_gradients(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Return the differences of luminance across and down of a picture (1, 3, H, W), each (H − 1, W − 1)."""
    red, green, blue = picture[0]
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return luma[:-1, 1:] - luma[:-1, :-1], luma[1:, :-1] - luma[:-1, :-1]


def correlate_gradients(picture: Tensor, photo: Tensor, mask: Tensor) -> float:
    """Return the correlation of the gradients of luminance of two pictures (1, 3, H, W) inside a mask (H, W)."""
    inside = mask[:-1, :-1] > INSIDE
    ours, theirs = (
        torch.cat([gradient[inside] for gradient in find_luminance_gradients(each)]) for each in (picture, photo)
    )
    return float(torch.corrcoef(torch.stack([ours, theirs]))[0, 1])


def find_largest_rest(mask: Tensor) -> tuple[slice, slice]:
    """Return rows and columns of the largest of the four parts above, below, left and right of all faces, (H, W)."""
    rows, columns = torch.nonzero(mask > BESIDE, as_tuple=True)
    height, width = mask.shape
    top, bottom, left, right = int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1
    everything = slice(None)
    parts = {
        top * width: (slice(0, top), everything),
        (height - bottom) * width: (slice(bottom, None), everything),
        left * height: (everything, slice(0, left)),
        (width - right) * height: (everything, slice(right, None)),
    }
    return parts[max(parts)]


def paint(painter: Painter, photo: Path, style: Path, options: Options) -> Tensor:
    """Return the painting, (1, 3, H, W)."""
    pixels = painter.stylize(photo, style, options).pixels
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()


def main() -> None:
    """Paint, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--images", type=Path, help="folder of photos, in place of the bundled one with a face")
    parser.add_argument("--styles", nargs="+", default=STYLES)
    args = parser.parse_args()
    painter, patches, style_judge = Painter(), PatchJudge(), StyleJudge()
    print(f"{painter.device}, {painter.precision}, {torch.get_num_threads()} threads")
    options = Options.of(preset=args.preset, size=args.size)
    photos = crops.find_pictures(args.images) if args.images else [library.find_content("astronaut")]
    found = []
    for path in photos:
        faces = painter.find_mask(path, "faces")
        if faces is None:
            print(f"{path.stem}: no face is found")
            continue
        for name in args.styles:
            style = library.find_style(name)
            kept, free = (paint(painter, path, style, options.replace(protect=p)) for p in ((), ("none",)))
            size = (kept.shape[-1], kept.shape[-2])
            photo, mask = resize(load_content(path).image, *size), resize(torch.from_numpy(faces)[None, None], *size)
            part, painting = find_largest_rest(mask[0, 0]), load_fitted(style, args.size)
            ours, theirs = (picture[..., *part].contiguous() for picture in (kept, free))
            correlations = [correlate_gradients(picture, photo, mask[0, 0]) for picture in (kept, free)]
            by_patches = [patches.distance(each, painting) for each in (ours, theirs)]
            by_style = [style_judge.distance(to_image(each), to_image(painting)) for each in (ours, theirs)]
            found.append(tuple(one / other for one, other in (correlations, by_patches, by_style)))
            print(
                f"{path.stem} × {name}: gradients {correlations[0]:.2f} / {correlations[1]:.2f} = {found[-1][0]:.2f} "
                f"×; beside the faces, distance by patches {found[-1][1]:.3f} ×, by style vectors {found[-1][2]:.3f} ×",
                flush=True,
            )
    columns = [mean(column) for column in zip(*found, strict=True)]
    print("mean: gradients {:.2f} ×, distance by patches {:.3f} ×, by style vectors {:.3f} ×".format(*columns))


if __name__ == "__main__":
    main()
