"""Show what a dial does: a sheet of pictures, a table and curves for the settings along it.

    python tests/bench/dials.py OUT DIAL [--pairs 8 | --pair CONTENT STYLE] [--size 256] [--preset standard] [--at 0 50]

DIAL is strength, brushwork, stroke-size, keep-color, blend, look, preset or size. OUT receives `DIAL.png` (one row per
pair), `DIAL-curve.png`, and the scores in `DIAL.md` and `DIAL.json`; pictures that exist in OUT are reused. `step` is
the held-out distance from the previous setting, which shows how even the steps are; `hue` is the mean distance from
the photo's hues, in degrees.
"""

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import quality
import reference
import scores
import torch
from heldout import StyleJudge
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from styler import Options, Painter, images, library
from styler.objective.losses import chroma
from styler.options import LOOKS, PRESETS
from styler.workshop import plots

PAIRS = (
    ("astronaut", "starry-night"),
    ("cat", "woodcut"),
    ("coffee", "marbled-paper"),
    ("bridge", "wheat-field"),
    ("citrus", "mosaic"),
    ("bee", "watercolour"),
    ("rocket", "ink-hatching"),
    ("astronaut", "stained-glass"),
)
"""Portraits and landscapes, calm styles and busy ones."""
OTHER = "mosaic"
"""Style that is blended with the pair's own; for this style itself, `woodcut` takes its place."""
DIALS: Mapping[str, Sequence[Any]] = {
    "strength": (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100),
    "brushwork": (0, 20, 40, 60, 80, 100),
    "stroke-size": (0.5, 0.7, 1.0, 1.4, 2.0),
    "keep-color": (0.0, 0.25, 0.5, 0.75, 1.0),
    "blend": (0.0, 0.25, 0.5, 0.75, 1.0),
    "look": tuple(LOOKS),
    "preset": tuple(PRESETS),
    "size": (256, 512, 1024),
}
STEP = (40, 60)
"""Strengths whose distance, at `--size`, is the unit for the distance of sizes, which are reduced to it."""
GRAY = 0.06
"""Chroma below which a pixel has no hue."""
COLUMNS = ("style", "patches", "coherence", "structure", "layout", "noise", "speckle", "blocks", "step", "hue")


def make_options(dial: str, value: Any, preset: str, size: int) -> Options:
    """Return the options at a position of the dial."""
    if dial == "preset":
        return Options.of(preset=value, size=size)
    if dial == "blend":
        return Options.of(preset=preset, size=size, style_weights=(1 - value, value))
    if dial == "size":
        return Options.of(preset=preset, size=value)
    return Options.of(**{"preset": preset, "size": size, dial.replace("-", "_"): value})


def measure_hue_distance(picture: Tensor, content: Tensor) -> float:
    """Return the mean distance of hues in degrees, weighted by the content's chroma, where both pictures have a hue."""
    ours, theirs = chroma(picture), chroma(content)  # (1, 2, H, W)
    both = (ours.norm(dim=1) > GRAY) & (theirs.norm(dim=1) > GRAY)
    if not both.any():
        return math.nan
    angle = torch.atan2(ours[:, 1], ours[:, 0]) - torch.atan2(theirs[:, 1], theirs[:, 0])
    difference = ((angle + math.pi) % (2 * math.pi) - math.pi).abs()[both]
    weight = theirs.norm(dim=1)[both]
    return float((difference * weight).sum() / weight.sum()) * 180 / math.pi


def paint_and_score(
    out: Path, dial: str, values: Sequence[Any], pairs: Sequence[tuple[str, str]], preset: str, size: int
) -> Any:
    """Paint what is missing and score everything: pair → setting → scores, and pair → setting → picture."""
    painter, judges = Painter(), quality.Judges()
    scored: dict[str, dict[str, dict[str, float]]] = {}
    pictures: dict[str, dict[str, Tensor]] = {}
    for content, style in pairs:
        pair, before = f"{content} × {style}", None
        scored[pair], pictures[pair] = {}, {}
        other = OTHER if style != OTHER else "woodcut"
        paths = [library.list_styles()[name] for name in ((style, other) if dial == "blend" else (style,))]
        for value in values:
            options = make_options(dial, value, preset, size)
            path = out / f"{content}.{style}.{dial}.{value}.{preset}.{options.size}.png"
            if not path.exists():
                pixels = painter.stylize(library.list_contents()[content], [*paths], options).pixels
                images.write_file(path, images.encode_image(pixels))
            picture = quality.to_tensor(Image.open(path))
            side = max(picture.shape)
            small = reference.fit_size(picture, size)
            photo = quality.load_fitted(library.list_contents()[content], side)
            row = quality.score(judges, picture, photo, quality.load_fitted(paths[0], side))
            row["step"] = (
                judges.style.distance(quality.to_image(small), quality.to_image(before)) if before is not None else 0.0
            )
            row["hue"] = measure_hue_distance(scores.blur_color(picture), scores.blur_color(photo))
            before = small
            scored[pair][str(value)], pictures[pair][str(value)] = row, small
            print(pair, dial, value, {key: round(row[key], 3) for key in COLUMNS}, flush=True)
    return scored, pictures


def format_table(dial: str, scored: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Format a Markdown table with a row per pair and setting, then statistics over all pairs."""
    lines = [f"| pair | {dial} | " + " | ".join(COLUMNS) + " |", "|---|---" + "|---:" * len(COLUMNS) + "|"]
    for pair, settings in scored.items():
        for value, row in settings.items():
            lines.append(f"| {pair} | {value} | " + " | ".join(f"{row[key]:.3f}" for key in COLUMNS) + " |")
    lines.append("")
    for value in next(iter(scored.values())):
        kept = [settings[value]["structure"] for settings in scored.values()]
        spread = statistics.pstdev(kept) / statistics.mean(kept)
        steps = [settings[value]["step"] for settings in scored.values()]
        lines.append(
            f"{dial} {value}: structure {statistics.mean(kept):.3f}, its coefficient of variation {spread:.3f}; "
            f"step {statistics.mean(steps):.2f}."
        )
    for pair, settings in scored.items():
        kept = [row["structure"] for row in settings.values()]
        away, patches = ([row[key] for row in settings.values()] for key in ("style", "patches"))
        rises = [sum(b > a for a, b in itertools.pairwise(curve)) for curve in (kept, away, patches)]
        lines.append(
            f"{pair}: structure rises {rises[0]} times, style distance {rises[1]}, patch distance {rises[2]} times."
        )
    return "\n".join(lines) + "\n"


def compare_sizes(
    out: Path, pairs: Sequence[tuple[str, str]], pictures: Mapping[str, Mapping[str, Tensor]], preset: str, size: int
) -> str:
    """Return how far the sizes of a pair are apart, as shares of the distance from strength 40 to 60 at `size`."""
    steps, _ = paint_and_score(out, "strength", STEP, pairs, preset, size)
    judge, lines = StyleJudge(), []
    for pair, sizes in pictures.items():
        step = steps[pair][str(STEP[1])]["step"]
        shares = (
            f"{one} and {other} px {judge.distance(quality.to_image(a), quality.to_image(b)) / step:.2f}"
            for (one, a), (other, b) in itertools.combinations(sizes.items(), 2)
        )
        lines.append(f"{pair}: strengths {STEP[0]} and {STEP[1]} are {step:.2f} apart; of that, " + ", ".join(shares))
    return "\n".join(lines) + "\n"


def draw_curves(dial: str, scored: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Draw style distance and structure along the dial, one line per pair."""
    figure = plots.make_figure(9, 4.5)
    charts = figure.subplots(1, 2)
    for chart, key in zip(charts, ("style", "structure"), strict=True):
        for pair, settings in scored.items():
            chart.plot(list(settings), [max(0.0, row[key]) for row in settings.values()], label=pair)
        chart.set_title(f"{key} along {dial}")
        chart.set_ylim(0, 1 if key == "structure" else None)
    figure.legend(*charts[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    return figure


def main() -> None:
    """Paint, score, lay out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("dial", choices=DIALS)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--pair", nargs=2, metavar=("CONTENT", "STYLE"), help="only this pair")
    parser.add_argument("--at", nargs="+", type=json.loads, help="other positions on the dial")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    pairs = [tuple(args.pair)] if args.pair else PAIRS[: args.pairs]
    scored, pictures = paint_and_score(args.out, args.dial, args.at or DIALS[args.dial], pairs, args.preset, args.size)
    side = min(256, 2048 // max(map(len, pictures.values())))
    quality.draw_sheet(pictures, side).save(args.out / f"{args.dial}.png")
    plots.save_plot(draw_curves(args.dial, scored), args.out / f"{args.dial}-curve.png", overwrite=True)
    report = format_table(args.dial, scored) + (
        compare_sizes(args.out, pairs, pictures, args.preset, args.size) if args.dial == "size" else ""
    )
    (args.out / f"{args.dial}.md").write_text(report)
    (args.out / f"{args.dial}.json").write_text(json.dumps(scored, indent=1))
    print(report)


if __name__ == "__main__":
    main()
