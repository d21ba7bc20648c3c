"""Measure regions: what an iteration costs with three of them, and how well each takes on its own painting.

    python tests/bench/regions.py [--sizes 256 512] [--rounds 5] [--pairs 2] [--size 256] [--out FOLDER]

An iteration with three regions and one with none take turns within one run, so that the ratio does not depend on how
busy the machine is. For the quality, the left half of a photo is painted in one painting and the right half in another;
the judges of `heldout.py` compare each half with its own painting and with the other one. `own` is the distance to its
own painting relative to that of the same half of a photo that is painted in it as a whole; `other` is the distance to
the other painting relative to that to its own.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from heldout import PatchJudge, StyleJudge
from quality import load_fitted, to_image
from torch import Tensor

from styler import Options, Painter, library
from styler.engine.sources import load_content
from styler.regions.areas import Areas, normalize_regions

PAINTINGS = ("starry-night", "mosaic", "woodcut")
PAIRS = (
    ("bridge", "starry-night", "woodcut"),
    ("cat", "mosaic", "wheat-field"),
    ("coffee", "woodcut", "mosaic"),
    ("bee", "wheat-field", "stained-glass"),
)
"""A photo, and the paintings of its left and of its right half."""
Judge = Callable[[Tensor, Tensor], float]
"""The distance of a picture and a painting, each (1, 3, H, W)."""
SPAN = 5
"""Iterations timed together: the interval between matches."""


def make_bands(height: int, width: int) -> Areas:
    """Return three regions whose borders are waves: each about a third of the photo."""
    across = torch.linspace(0, 12, width)
    down = torch.arange(height)[:, None] / height + 0.08 * across.sin()  # (H, W)
    masks = [((down > low) & (down <= low + 1 / 3)).float()[None, None] for low in (1 / 3, 2 / 3)]
    return Areas.of(normalize_regions(masks), [(0,), (1,), (2,)])


def make_halves(height: int, width: int) -> Areas:
    """Return the left half, which has the first painting, and the right half, which has the second."""
    right = torch.zeros(1, 1, height, width)
    right[..., width // 2 :] = 1
    return Areas.of(normalize_regions([right]), [(0,), (1,)])


def measure_iterations(painter: Painter, size: int, brushwork: float, rounds: int) -> None:
    """Print the seconds of an iteration with three regions and without, in turns, and their ratio."""
    photo = library.find_content("bridge")
    width, height = load_content(photo).size
    variants: dict[str, tuple[Any, Areas | None]] = {
        "one": (PAINTINGS[0], None),
        "three": (list(PAINTINGS), make_bands(height, width)),
    }
    options = Options(size=size, first_size=size, iterations=1000, optimizer="adam", brushwork=brushwork)
    runs: dict[str, Iterator[Any]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for name, (paintings, areas) in variants.items():
        runs[name] = painter.stream(photo, paintings, options, areas=areas)
        advance(runs[name])
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(advance(run))
    one, three = (min(each) / SPAN for each in seconds.values())  # what else runs only makes them slower
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    print(
        f"{size} px, brushwork {brushwork:.0f}: {one:.3f} s, with three regions {three:.3f} s: "
        f"{three / one:.2f} ×, median of {len(ratios)} rounds {median(ratios):.2f} ×",
        flush=True,
    )


def advance(run: Iterator[Any]) -> float:
    """Make some iterations and return their seconds."""
    began = time.perf_counter()
    for _ in itertools.islice(run, SPAN):
        pass
    return time.perf_counter() - began


def measure_quality(
    painter: Painter, judges: Mapping[str, Judge], pair: tuple[str, str, str], size: int, out: Path | None
) -> dict[str, list[tuple[float, float, float]]]:
    """Return by judge, for each half, `own`, `other`, and the latter of the photo that is painted as a whole."""
    photo, *names = pair
    path, paths = library.find_content(photo), [library.find_style(name) for name in names]
    width, height = load_content(path).size
    options = Options.of(preset="standard", size=size)
    divided = paint(painter, path, paths, options, make_halves(height, width))
    whole = [paint(painter, path, each, options, None) for each in paths]
    paintings = [load_fitted(each, size) for each in paths]
    if out:
        out.mkdir(parents=True, exist_ok=True)
        to_image(divided).save(out / f"{photo}.{'.'.join(names)}.png")
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in judges}
    for side, (name, judge) in itertools.product((0, 1), judges.items()):
        ours, alone = (cut_half(picture, side) for picture in (divided, whole[side]))
        mine, theirs, own, others = (judge(half, paintings[k]) for half in (ours, alone) for k in (side, 1 - side))
        found[name].append((mine / own, theirs / mine, others / own))
        print_quality(f"{photo}, {'right' if side else 'left'} half in {names[side]}", name, found[name][-1])
    return found


def print_quality(what: str, judge: str, values: tuple[float, ...]) -> None:
    """Print what `measure_quality` returns for one half, or means of it."""
    own, other, reference = values
    print(f"{what}, {judge}: own {own:.2f} ×, other {other:.2f} × (as a whole {reference:.2f} ×)", flush=True)


def paint(painter: Painter, photo: Path, paintings: Any, options: Options, areas: Areas | None) -> Tensor:
    """Return the painting, (1, 3, H, W)."""
    result = painter.stylize(photo, paintings, options, areas=areas)
    return torch.from_numpy(result.pixels).permute(2, 0, 1)[None].contiguous()


def cut_half(picture: Tensor, side: int) -> Tensor:
    """Return the left (0) or right (1) half of a picture (1, 3, H, W)."""
    middle = picture.shape[-1] // 2
    return (picture[..., middle:] if side else picture[..., :middle]).contiguous()


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", type=int, default=[256, 512])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    painter = Painter()
    print(f"{painter.device}, {painter.precision}, {torch.get_num_threads()} threads")
    for size, brushwork in itertools.product(args.sizes, (0.0, 50.0)):
        measure_iterations(painter, size, brushwork, args.rounds)
    if not args.pairs:
        return
    patches, style = PatchJudge(), StyleJudge()
    judges = {"patches": patches.distance, "style": lambda one, other: style.distance(to_image(one), to_image(other))}
    found = [measure_quality(painter, judges, pair, args.size, args.out) for pair in PAIRS[: args.pairs]]
    for name in judges:
        halves = [half for each in found for half in each[name]]
        print_quality("mean", name, tuple(sum(column) / len(halves) for column in zip(*halves, strict=True)))


if __name__ == "__main__":
    main()
