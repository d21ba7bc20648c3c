"""What a dial does: one sheet of pictures, one table and one curve for every setting along it.

    python tests/bench/dials.py OUT DIAL [--pairs 8 | --pair CONTENT STYLE] [--size 256] [--preset standard] [--at 0 50]

DIAL is one of strength, stroke_size, keep-color, blend, look, preset and size. OUT gets `DIAL.png` (a row for each pair),
`DIAL-curve.png`, and the scores in `DIAL.md` and `DIAL.json`; a picture that is in OUT already is not painted again.
`step` is the held-out distance from the setting before, which tells how even the steps are; `hue` the mean distance
from the photo's hues, in degrees.
"""

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import quality
import reference
import scores
import torch
from heldout import StyleJudge
from PIL import Image, ImageDraw
from torch import Tensor

from styler import Options, Painter, images, library
from styler.engine.losses import chroma
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
"""What is blended with the pair's style (`woodcut` with itself)."""
DIALS: Mapping[str, Sequence[Any]] = {
    "strength": (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100),
    "stroke_size": (0.5, 0.7, 1.0, 1.4, 2.0),
    "keep-color": (0.0, 0.25, 0.5, 0.75, 1.0),
    "blend": (0.0, 0.25, 0.5, 0.75, 1.0),
    "look": tuple(LOOKS),
    "preset": tuple(PRESETS),
    "size": (256, 512, 1024),
}
STEP = (40, 60)
"""Strengths that sizes of one picture are to be nearer than."""
GREY = 0.06
"""Chroma below which a pixel has no hue."""
COLUMNS = ("style", "structure", "noise", "speckle", "step", "hue")


def options(dial: str, value: Any, preset: str, size: int) -> Options:
    """The options at a place of the dial."""
    if dial == "preset":
        return Options.of(preset=value, size=size)
    if dial == "blend":
        return Options.of(preset=preset, size=size, style_weights=(1 - value, value))
    if dial == "size":
        return Options.of(preset=preset, size=value)
    return Options.of(**{"preset": preset, "size": size, dial.replace("-", "_"): value})


def hue_distance(picture: Tensor, content: Tensor) -> float:
    """Mean distance of hues in degrees, weighted by the content's chroma, where both pictures have one."""
    ours, theirs = chroma(picture), chroma(content)  # (1, 2, H, W)
    both = (ours.norm(dim=1) > GREY) & (theirs.norm(dim=1) > GREY)
    if not both.any():
        return math.nan
    angle = torch.atan2(ours[:, 1], ours[:, 0]) - torch.atan2(theirs[:, 1], theirs[:, 0])
    apart = ((angle + math.pi) % (2 * math.pi) - math.pi).abs()[both]
    weight = theirs.norm(dim=1)[both]
    return float((apart * weight).sum() / weight.sum()) * 180 / math.pi


def rows(out: Path, dial: str, values: Sequence[Any], pairs: Sequence[tuple[str, str]], preset: str, size: int) -> Any:
    """Paint what is missing and score everything: pair → setting → scores, and the pictures likewise."""
    painter, judge = Painter(), StyleJudge()
    found: dict[str, dict[str, dict[str, float]]] = {}
    pictures: dict[str, dict[str, Tensor]] = {}
    for content, style in pairs:
        pair, before = f"{content} × {style}", None
        found[pair], pictures[pair] = {}, {}
        other = OTHER if style != OTHER else "woodcut"
        paths = [library.list_styles()[name] for name in ((style, other) if dial == "blend" else (style,))]
        for value in values:
            wanted = options(dial, value, preset, size)
            kept = out / f"{content}.{style}.{dial}.{value}.{preset}.{wanted.size}.png"
            if not kept.exists():
                painted = painter.stylize(library.list_contents()[content], [*paths], wanted).pixels
                images.write_file(kept, images.encode_image(painted))
            picture = quality.to_tensor(Image.open(kept))
            side = max(picture.shape)
            small = reference.fitted(picture, 256)
            photo = quality.fitted(library.list_contents()[content], side)
            scored = quality.score(judge, picture, photo, quality.fitted(paths[0], side))
            scored["step"] = (
                judge.distance(quality.to_image(small), quality.to_image(before)) if before is not None else 0.0
            )
            scored["hue"] = hue_distance(scores.blurred_color(picture), scores.blurred_color(photo))
            before = small
            found[pair][str(value)], pictures[pair][str(value)] = scored, small
            print(pair, dial, value, {key: round(scored[key], 3) for key in COLUMNS}, flush=True)
    return found, pictures


def table(dial: str, found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Markdown: a row for each pair and setting, then what holds over all pairs."""
    lines = [f"| pair | {dial} | " + " | ".join(COLUMNS) + " |", "|---|---" + "|---:" * len(COLUMNS) + "|"]
    for pair, settings in found.items():
        for value, scored in settings.items():
            lines.append(f"| {pair} | {value} | " + " | ".join(f"{scored[key]:.3f}" for key in COLUMNS) + " |")
    lines.append("")
    for value in next(iter(found.values())):
        kept = [settings[value]["structure"] for settings in found.values()]
        spread = statistics.pstdev(kept) / statistics.mean(kept)
        steps = [settings[value]["step"] for settings in found.values()]
        lines.append(
            f"{dial} {value}: structure {statistics.mean(kept):.3f}, its coefficient of variation {spread:.3f}; "
            f"step {statistics.mean(steps):.2f}."
        )
    for pair, settings in found.items():
        kept = [scored["structure"] for scored in settings.values()]
        away = [scored["style"] for scored in settings.values()]
        rises = [sum(b > a for a, b in itertools.pairwise(curve)) for curve in (kept, away)]
        lines.append(f"{pair}: structure rises {rises[0]} times, style distance {rises[1]} times.")
    return "\n".join(lines) + "\n"


def alike(
    out: Path, pairs: Sequence[tuple[str, str]], pictures: Mapping[str, Mapping[str, Tensor]], preset: str
) -> str:
    """How far the sizes of a pair are apart, at 256 px, as shares of the way from strength 40 to 60."""
    steps, _ = rows(out, "strength", STEP, pairs, preset, 256)
    judge, lines = StyleJudge(), []
    for pair, sizes in pictures.items():
        step = steps[pair][str(STEP[1])]["step"]
        shares = (
            f"{one} and {other} px {judge.distance(quality.to_image(a), quality.to_image(b)) / step:.2f}"
            for (one, a), (other, b) in itertools.combinations(sizes.items(), 2)
        )
        lines.append(f"{pair}: strengths {STEP[0]} and {STEP[1]} are {step:.2f} apart; of that, " + ", ".join(shares))
    return "\n".join(lines) + "\n"


def curve(dial: str, found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Image.Image:
    """Style distance and structure along the dial, a line for each pair."""
    wide, high, edge = 420, 300, 40
    page = Image.new("RGB", (2 * (wide + edge), high + edge + 16 * len(found)), "white")
    draw = ImageDraw.Draw(page)
    for panel, (key, most) in enumerate((("style", None), ("structure", 1.0))):
        left = panel * (wide + edge) + edge
        top = most or max(scored[key] for settings in found.values() for scored in settings.values())
        plots.draw_text(draw, (left, 4), f"{key} along {dial}")
        draw.line((left, 24, left, high, left + wide - edge, high), fill=plots.FAINT)
        plots.draw_text(draw, (left - 4, 24), f"{top:.2f}", "ra", 11)
        for number, (pair, settings) in enumerate(found.items()):
            across = np.linspace(left, left + wide - edge, len(settings))
            line = [
                (x, high - (high - 24) * max(0.0, scored[key]) / top)
                for x, scored in zip(across, settings.values(), strict=True)
            ]
            draw.line(line, fill=plots.COLOURS[number % len(plots.COLOURS)], width=2)
            if not panel:
                y = high + 24 + 16 * number
                draw.line((left, y + 6, left + 24, y + 6), fill=plots.COLOURS[number % len(plots.COLOURS)], width=3)
                plots.draw_text(draw, (left + 30, y), pair, size=11)
        for x, value in zip(across, settings, strict=True):
            plots.draw_text(draw, (x, high + 4), value, "ma", 11)
    return page


def main() -> None:
    """Paint, score, lay out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("dial", choices=DIALS)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--pair", nargs=2, metavar=("CONTENT", "STYLE"), help="this pair alone")
    parser.add_argument("--at", nargs="+", type=json.loads, help="other places on the dial")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    pairs = [tuple(args.pair)] if args.pair else PAIRS[: args.pairs]
    found, pictures = rows(args.out, args.dial, args.at or DIALS[args.dial], pairs, args.preset, args.size)
    side = min(256, 2048 // max(map(len, pictures.values())))
    quality.sheet(pictures, side).save(args.out / f"{args.dial}.png")
    curve(args.dial, found).save(args.out / f"{args.dial}-curve.png")
    told = table(args.dial, found) + (alike(args.out, pairs, pictures, args.preset) if args.dial == "size" else "")
    (args.out / f"{args.dial}.md").write_text(told)
    (args.out / f"{args.dial}.json").write_text(json.dumps(found, indent=1))
    print(told)


if __name__ == "__main__":
    main()
