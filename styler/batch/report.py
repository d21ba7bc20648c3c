"""Small copies of pictures, kept by the hash of what they show, for the index of a batch."""

import hashlib
import html
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from styler import images
from styler.batch import manifest
from styler.batch.manifest import MANIFEST_FOLDER, Manifest
from styler.batch.plan import BatchPlan
from styler.errors import quote_name

THUMBNAIL_SIDE = 240
"""Pixels of the long side."""


def thumbnail_path(out: Path, sha256: str) -> Path:
    """Where the small copy of what has that hash is."""
    return out / MANIFEST_FOLDER / "thumbs" / sha256[:2] / f"{sha256}.jpg"


def make_thumbnail(pixels: NDArray[np.floating]) -> bytes:
    """A small copy, JPEG.

    Args:
        pixels: (H, W, 3), sRGB in [0, 1].
    """
    image = Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    small = np.asarray(image, np.float32) / 255  # (h, w, 3)
    return images.encode_image(small, format="jpeg", quality=85)


def save_thumbnail(out: Path, sha256: str, data: bytes) -> None:
    """Keep a small copy, unless there is one.

    Args:
        out: the folder of the batch.
        sha256: of the file that it shows.
        data: what `made` made.

    Raises:
        OutputError: it cannot be written.
    """
    place = thumbnail_path(out, sha256)
    if not place.is_file():
        images.write_file(place, data, overwrite=True)


INDEX_PAGE, CONTACT_SHEET = "index.html", "contact-sheet.jpg"
MAX_ROWS, MAX_SHEET_ROWS = 5000, 60
"""Pictures on the page, and on the sheet, at most: the first ones."""
SHEET_GAP, TEXT_HEIGHT = 8, 16
"""Pixels between the pictures of the sheet, and the height of a line of text."""

_HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222; }}
figure {{ display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; margin: 0 0 2rem; }}
figure img {{ max-height: 240px; max-width: 100%; display: block; }}
figcaption {{ flex-basis: 100%; overflow-wrap: anywhere; }}
.failed {{ color: #a00; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #181818; color: #ddd; }} .failed {{ color: #f88; }} }}
</style>
<h1>{title}</h1>
<p>{counts}</p>
"""


def write_index(batch: BatchPlan, book: Manifest) -> list[str]:
    """Write both; return sentences on what was not replaced.

    Raises:
        OutputError: one cannot be written.
    """
    entries = [
        (pair.output, book.past.entries[pair.output]) for pair in batch.pairs if pair.output in book.past.entries
    ]
    done = [(name, entry) for name, entry in entries if entry["state"] == manifest.DONE]
    failed = [(name, entry) for name, entry in entries if entry["state"] == manifest.FAILED]
    made = {INDEX_PAGE: make_index_page(batch.out, len(batch.pairs), done, failed)}
    if done:
        made[CONTACT_SHEET] = make_contact_sheet(batch.out, done)
    notes, hashes = [], {}
    for name, data in made.items():
        place = batch.out / name
        if os.path.lexists(place) and not _is_ours(place, book.past.index.get(name)):
            notes.append(f"{quote_name(place)} is not of this batch, or was changed since, and stays as it is.")
            continue
        hashes[name] = hashlib.sha256(data).hexdigest()
        if hashes[name] != book.past.index.get(name) or not place.exists():
            book.add(manifest.INDEX, files={name: hashes[name]})
            images.write_file(place, data, overwrite=True)
    return notes


def _is_ours(place: Path, recorded: str | None) -> bool:
    return recorded is not None and hashlib.sha256(place.read_bytes()).hexdigest() == recorded


def make_index_page(
    out: Path,
    total: int,
    done: Sequence[tuple[str, dict[str, Any]]],
    failed: Sequence[tuple[str, dict[str, Any]]],
) -> bytes:
    """The page, with links that hold as long as the folder is moved as a whole."""
    counts = f"{len(done)} of {total} done, {len(failed)} failed."
    if len(done) > MAX_ROWS:
        counts += f" These are the first {MAX_ROWS}."
    parts = [_HEAD.format(title=_escape_text(out.absolute().name), counts=counts)]
    for name, entry in done[:MAX_ROWS]:
        inputs = [entry["content"], *entry["styles"]]
        shown = "".join(_image_html(out, it["sha256"], os.path.basename(it["path"])) for it in inputs)  # noqa: PTH119
        link = f'<a href="{_quote_link(name)}">{_image_html(out, entry["sha256"], name)}</a>'
        parts.append(f"<figure>{shown}{link}<figcaption>{_escape_text(name)}</figcaption></figure>\n")
    for name, entry in failed[:MAX_ROWS]:
        parts.append(f'<p class="failed">{_escape_text(name)}: {_escape_text(entry["error"])}</p>\n')
    return "".join([*parts, "</html>\n"]).encode("utf-8", "backslashreplace")


def _image_html(out: Path, sha256: str, name: str) -> str:
    place = thumbnail_path(out, sha256)
    if not place.is_file():
        return f"<span>{_escape_text(name)}</span>"
    link = _quote_link(place.relative_to(out).as_posix())
    return f'<img loading="lazy" src="{link}" alt="{_escape_text(name)}" title="{_escape_text(name)}">'


def _quote_link(name: str) -> str:
    return quote(os.fsencode(name))


def _escape_text(name: str) -> str:
    return html.escape(quote_name(name)[1:-1])


def make_contact_sheet(out: Path, done: Sequence[tuple[str, dict[str, Any]]]) -> bytes:
    """The sheet: a row of small pictures for each painting, content first, with its name below."""
    rows = done[:MAX_SHEET_ROWS]
    most = max(len(entry["styles"]) for _, entry in rows)
    columns = min(most, 4) + 2
    cell = THUMBNAIL_SIDE
    width, high = SHEET_GAP + columns * (cell + SHEET_GAP), cell + TEXT_HEIGHT + 2 * SHEET_GAP
    whole = Image.new("RGB", (width, SHEET_GAP + high * len(rows)), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(size=12)
    for index, (name, entry) in enumerate(rows):
        top = SHEET_GAP + index * high
        inputs = [entry["content"], *entry["styles"]][: columns - 1]
        for column, sha256 in enumerate([*(it["sha256"] for it in inputs), entry["sha256"]]):
            _paste(whole, thumbnail_path(out, sha256), SHEET_GAP + column * (cell + SHEET_GAP), top, cell)
        draw.text(
            (SHEET_GAP, top + cell + 2), _fit_text(quote_name(name)[1:-1], font, width - 2 * SHEET_GAP), "black", font
        )
    stream = BytesIO()
    whole.save(stream, "JPEG", quality=88)
    return stream.getvalue()


def _paste(whole: Image.Image, place: Path, left: int, top: int, cell: int) -> None:
    """Put a small copy into the middle of its cell; a grey cell stands for one that is missing."""
    if not place.is_file():
        whole.paste("#dddddd", (left, top, left + cell, top + cell))
        return
    with Image.open(place, formats=("JPEG",)) as small:
        small.thumbnail((cell, cell))
        whole.paste(small.convert("RGB"), (left + (cell - small.width) // 2, top + (cell - small.height) // 2))


def _fit_text(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """As much of the end of a text as fits."""
    while font.getlength(text) > width:
        text = "…" + text[2:]
    return text
