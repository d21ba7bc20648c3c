"""Paint and lay out the figures of the README: `hero.jpg` and `dials.jpg`.

    python assets/shown/build.py FOLDER

FOLDER receives every picture, painted with the settings that the README names. Existing pictures are reused, so use a
new FOLDER after the program has changed. It takes about twenty minutes on two cores.
"""

import sys
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from styler import Options, Painter, images, library

HERE = Path(__file__).parent
HERO = (("bridge", "wheat-field"), ("astronaut", "starry-night"), ("citrus", "mosaic"), ("coffee", "marbled-paper"))
STRENGTHS = tuple({"strength": value} for value in (0, 25, 50, 75, 100))
DIALS = (
    ("astronaut", "stained-glass", STRENGTHS),
    ("cat", "woodcut", STRENGTHS),
    ("citrus", "mosaic", STRENGTHS),
    ("bridge", "wheat-field", tuple({"stroke_size": value} for value in (0.5, 0.7, 1.0, 1.4, 2.0))),
    ("bridge", "wheat-field", tuple({"brushwork": value} for value in (0, 25, 50, 75, 100))),
    ("bridge", "wheat-field", tuple({"keep_color": value} for value in (0.0, 0.25, 0.5, 0.75, 1.0))),
    ("bridge", "wheat-field", tuple({"look": name} for name in ("faithful", "bold", "oil", "ink", "gatys"))),
)
HIGH, SMALL, GAP = 340, 140, 6
"""Heights of the rows of the hero, and the gap between images, in pixels."""
CELL, LABEL = 220, 18
"""Width of the columns of the sheet, and height of the line above each image, in pixels."""


def paint_pair(folder: Path, painter: Painter, content: str, style: str, **settings: Any) -> Image.Image:
    """Paint a bundled photo in the style of a bundled painting, or read it from the folder."""
    labels = [f"{name}-{value}" for name, value in settings.items()]
    path = folder / (".".join([content, style, *labels]) + ".png")
    if not path.exists():
        result = painter.stylize(library.list_contents()[content], library.list_styles()[style], Options.of(**settings))
        images.write_file(path, images.encode_image(result.pixels))
    return Image.open(path).convert("RGB")


def fit_height(image: Image.Image, height: int) -> Image.Image:
    """Resize an image to a height."""
    return image.resize((round(image.width * height / image.height), height), Image.Resampling.LANCZOS)


def join_row(cells: list[Image.Image], background: str = "white") -> Image.Image:
    """Place images of one height side by side."""
    page = Image.new("RGB", (sum(cell.width + GAP for cell in cells) - GAP, cells[0].height), background)
    left = 0
    for cell in cells:
        page.paste(cell, (left, 0))
        left += cell.width + GAP
    return page


def stack_rows(rows: list[Image.Image]) -> Image.Image:
    """Place rows below each other, all as wide as the first."""
    fitted = [part.resize((rows[0].width, round(part.height * rows[0].width / part.width))) for part in rows]
    page = Image.new("RGB", (rows[0].width, sum(part.height + GAP for part in fitted) - GAP), "white")
    top = 0
    for part in fitted:
        page.paste(part, (0, top))
        top += part.height + GAP
    return page


def lay_out_hero(folder: Path, painter: Painter) -> Image.Image:
    """Show each result large, with its photo and its painting small below it."""
    columns = []
    for content, style in HERO:
        result = fit_height(paint_pair(folder, painter, content, style), HIGH)
        wide = (result.width - GAP) // 2
        sources = [
            ImageOps.fit(Image.open(path).convert("RGB"), (wide, SMALL))
            for path in (library.list_contents()[content], library.list_styles()[style])
        ]
        columns.append(stack_rows([result, join_row(sources)]))
    return join_row(columns)


def add_label(image: Image.Image, label: str) -> Image.Image:
    """Resize an image to the width of a column and write a line above it."""
    small = image.resize((CELL, round(image.height * CELL / image.width)), Image.Resampling.LANCZOS)
    page = Image.new("RGB", (CELL, small.height + LABEL), "white")
    ImageDraw.Draw(page).text((0, 1), label, fill="#222222", font=ImageFont.load_default(13))
    page.paste(small, (0, LABEL))
    return page


def lay_out_dials(folder: Path, painter: Painter) -> Image.Image:
    """Show one row per option, with the flag above each picture."""
    rows = []
    for content, style, settings in DIALS:
        cells = []
        for setting in settings:
            ((name, value),) = setting.items()
            image = paint_pair(folder, painter, content, style, size=256, **setting)
            cells.append(
                add_label(image, f"--{name.replace('_', '-')} {value:g}" if name != "look" else f"--look {value}")
            )
        rows.append(join_row(cells))
    return stack_rows(rows)


def main() -> None:
    """Write both figures."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder, painter = Path(sys.argv[1]), Painter()
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in (("hero", lay_out_hero(folder, painter)), ("dials", lay_out_dials(folder, painter))):
        page.save(HERE / f"{name}.jpg", quality=90, subsampling=0, optimize=True)
        print(f"{name}.jpg: {page.width}×{page.height}, {(HERE / f'{name}.jpg').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
