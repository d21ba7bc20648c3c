"""Paint and lay out what the README shows: `hero.jpg` and `dials.jpg`.

    python assets/shown/build.py FOLDER

FOLDER gets every picture, painted by the commands that stand in the README; one that is there already is not painted
again. Take a new FOLDER after a change of the program. Some twenty minutes on two cores.
"""

import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from styler import Options, Painter, images, library

HERE = Path(__file__).parent
HERO = (
    ("bridge", "wheat-field"),
    ("astronaut", "starry-night"),
    ("citrus", "mosaic"),
    ("coffee", "marbled-paper"),
)
STRENGTHS = tuple({"strength": value} for value in (0, 25, 50, 75, 100))
DIALS = (
    ("astronaut", "stained-glass", STRENGTHS),
    ("cat", "woodcut", STRENGTHS),
    ("citrus", "mosaic", STRENGTHS),
    ("bridge", "wheat-field", tuple({"stroke_size": value} for value in (0.5, 0.7, 1.0, 1.4, 2.0))),
    ("bridge", "wheat-field", tuple({"keep_color": value} for value in (0.0, 0.25, 0.5, 0.75, 1.0))),
    ("bridge", "wheat-field", tuple({"look": name} for name in ("faithful", "bold", "oil", "ink", "gatys"))),
)
HIGH, SMALL, GAP = 340, 140, 6
"""Pixels of the hero's rows, and between pictures."""
CELL, LABEL = 220, 18
"""Pixels of the sheet's columns, and of the line above each picture."""


def painted(folder: Path, painter: Painter, content: str, style: str, **settings: Any) -> Image.Image:
    """A bundled photo in the manner of a bundled painting."""
    named = [f"{name}-{value}" for name, value in settings.items()]
    path = folder / (".".join([content, style, *named]) + ".png")
    if not path.exists():
        result = painter.stylize(library.list_contents()[content], library.list_styles()[style], Options.of(**settings))
        images.write_file(path, images.encode_image(result.pixels))
    return Image.open(path).convert("RGB")


def tall(image: Image.Image, height: int) -> Image.Image:
    """The picture with that height."""
    return image.resize((round(image.width * height / image.height), height), Image.Resampling.LANCZOS)


def row(cells: list[Image.Image], background: str = "white") -> Image.Image:
    """Pictures of one height beside each other."""
    page = Image.new("RGB", (sum(cell.width + GAP for cell in cells) - GAP, cells[0].height), background)
    left = 0
    for cell in cells:
        page.paste(cell, (left, 0))
        left += cell.width + GAP
    return page


def stack(rows: list[Image.Image]) -> Image.Image:
    """Rows under each other, all as wide as the first."""
    fitted = [part.resize((rows[0].width, round(part.height * rows[0].width / part.width))) for part in rows]
    page = Image.new("RGB", (rows[0].width, sum(part.height + GAP for part in fitted) - GAP), "white")
    top = 0
    for part in fitted:
        page.paste(part, (0, top))
        top += part.height + GAP
    return page


def hero(folder: Path, painter: Painter) -> Image.Image:
    """The paintings large; the photo and the painting they come from small, above each."""
    columns = []
    for content, style in HERO:
        result = tall(painted(folder, painter, content, style), HIGH)
        wide = (result.width - GAP) // 2
        sources = [
            ImageOps.fit(Image.open(path).convert("RGB"), (wide, SMALL))
            for path in (library.list_contents()[content], library.list_styles()[style])
        ]
        columns.append(stack([result, row(sources)]))
    return row(columns)


def labelled(image: Image.Image, what: str) -> Image.Image:
    """The picture as wide as a column, with a line above it."""
    small = image.resize((CELL, round(image.height * CELL / image.width)), Image.Resampling.LANCZOS)
    page = Image.new("RGB", (CELL, small.height + LABEL), "white")
    ImageDraw.Draw(page).text((0, 1), what, fill="#222222", font=ImageFont.load_default(13))
    page.paste(small, (0, LABEL))
    return page


def dials(folder: Path, painter: Painter) -> Image.Image:
    """A row for each dial, with what was typed above each picture."""
    rows = []
    for content, style, settings in DIALS:
        cells = []
        for setting in settings:
            ((name, value),) = setting.items()
            image = painted(folder, painter, content, style, size=256, **setting)
            cells.append(
                labelled(image, f"--{name.replace('_', '-')} {value:g}" if name != "look" else f"--look {value}")
            )
        rows.append(row(cells))
    return stack(rows)


def main() -> None:
    """Write both."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder, painter = Path(sys.argv[1]), Painter()
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in (("hero", hero(folder, painter)), ("dials", dials(folder, painter))):
        page.save(HERE / f"{name}.jpg", quality=90, subsampling=0, optimize=True)
        print(f"{name}.jpg: {page.width}×{page.height}, {(HERE / f'{name}.jpg').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
