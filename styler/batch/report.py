"""Write the index of a batch: a page and a contact sheet that show content, style and result, and their thumbnails."""

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
from styler.batch.discover import CONTACT_SHEET, MANIFEST_FOLDER
from styler.batch.manifest import DONE, FAILED, INDEX, Manifest
from styler.batch.plan import BatchPlan
from styler.errors import quote_name

INDEX_PAGE = "index.html"
MAX_PAGE_ROWS, MAX_SHEET_ROWS = 5000, 60
"""Maximum number of pictures on the page and on the sheet, which show only the first."""
MAX_SHEET_STYLES = 4
THUMBNAIL_SIDE = 240
"""Long side of a thumbnail, in pixels."""
SHEET_GAP, TEXT_HEIGHT = 8, 16
"""Pixels between the thumbnails of the sheet, and height of a line of text."""

Entry = tuple[str, dict[str, Any]]
"""Name of a picture, and its entry in the manifest."""

_PAGE_HEAD = """<!doctype html>
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


def make_thumbnail(pixels: NDArray[np.floating]) -> bytes:
    """Return a thumbnail as JPEG.

    Args:
        pixels: (H, W, 3), sRGB in [0, 1].
    """
    image = Image.fromarray(images.to_uint8(pixels))
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    small = np.asarray(image, np.float32) / 255  # (h, w, 3)
    return images.encode_image(small, format="jpeg", quality=85)


def locate_thumbnail(out: Path, sha256: str) -> Path:
    """Return the path of the thumbnail of a file with this hash."""
    return out / MANIFEST_FOLDER / "thumbs" / sha256[:2] / f"{sha256}.jpg"


def save_thumbnail(out: Path, sha256: str, data: bytes) -> None:
    """Save a thumbnail in an output folder, unless it is already there.

    Args:
        out: the output folder.
        sha256: hash of the file that the thumbnail shows.
        data: the thumbnail.

    Raises:
        OutputError: it cannot be written.
    """
    path = locate_thumbnail(out, sha256)
    if not path.is_file():
        images.write_file(path, data, overwrite=True)


def write_index(plan: BatchPlan, manifest: Manifest) -> list[str]:
    """Write the index page and the contact sheet; return messages about files that were not replaced.

    Raises:
        OutputError: one of them cannot be written.
    """
    history = manifest.history
    entries = [(pair.output, history.entries[pair.output]) for pair in plan.pairs if pair.output in history.entries]
    done = [(name, entry) for name, entry in entries if entry["state"] == DONE]
    failed = [(name, entry) for name, entry in entries if entry["state"] == FAILED]
    files = {INDEX_PAGE: make_index_page(plan.out, len(plan.pairs), done, failed)}
    if done:
        files[CONTACT_SHEET] = make_contact_sheet(plan.out, done)
    messages = []
    for name, data in files.items():
        path, recorded = plan.out / name, history.index.get(name)
        is_there = os.path.lexists(path)
        if is_there and (recorded is None or hashlib.sha256(path.read_bytes()).hexdigest() != recorded):
            messages.append(f"{quote_name(path)} was not written by this batch, or has been changed since; it is kept.")
            continue
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != recorded or not is_there:
            manifest.add(INDEX, files={name: sha256})
            images.write_file(path, data, overwrite=True)
    return messages


def make_index_page(out: Path, total: int, done: Sequence[Entry], failed: Sequence[Entry]) -> bytes:
    """Return the index page as HTML; its links are relative to the output folder.

    Args:
        out: the output folder.
        total: number of pictures of the batch.
        done: pictures that are painted.
        failed: pictures that failed.
    """
    counts = f"{len(done)} of {total} done, {len(failed)} failed."
    if len(done) > MAX_PAGE_ROWS:
        counts += f" These are the first {MAX_PAGE_ROWS}."
    parts = [_PAGE_HEAD.format(title=_escape(out.absolute().name), counts=counts)]
    for name, entry in done[:MAX_PAGE_ROWS]:
        inputs = "".join(
            _format_image(out, item["sha256"], os.path.basename(item["path"]))  # noqa: PTH119 - may be a URL
            for item in (entry["content"], *entry["styles"])
        )
        result = f'<a href="{_quote_link(name)}">{_format_image(out, entry["sha256"], name)}</a>'
        parts.append(f"<figure>{inputs}{result}<figcaption>{_escape(name)}</figcaption></figure>\n")
    for name, entry in failed[:MAX_PAGE_ROWS]:
        parts.append(f'<p class="failed">{_escape(name)}: {_escape(entry["error"])}</p>\n')
    return "".join([*parts, "</html>\n"]).encode("utf-8", "backslashreplace")


def _format_image(out: Path, sha256: str, name: str) -> str:
    path = locate_thumbnail(out, sha256)
    if not path.is_file():
        return f"<span>{_escape(name)}</span>"
    link = _quote_link(path.relative_to(out).as_posix())
    return f'<img loading="lazy" src="{link}" alt="{_escape(name)}" title="{_escape(name)}">'


def _quote_link(name: str) -> str:
    return quote(os.fsencode(name))


def _escape(text: str) -> str:
    return html.escape(quote_name(text)[1:-1])


def make_contact_sheet(out: Path, done: Sequence[Entry]) -> bytes:
    """Return the contact sheet as JPEG: for each picture a row of thumbnails, content first, with the name below."""
    rows = done[:MAX_SHEET_ROWS]
    columns = min(max(len(entry["styles"]) for _, entry in rows), MAX_SHEET_STYLES) + 2
    width = SHEET_GAP + columns * (THUMBNAIL_SIDE + SHEET_GAP)
    row_height = THUMBNAIL_SIDE + TEXT_HEIGHT + 2 * SHEET_GAP
    sheet = Image.new("RGB", (width, SHEET_GAP + row_height * len(rows)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for index, (name, entry) in enumerate(rows):
        top = SHEET_GAP + index * row_height
        inputs = [entry["content"], *entry["styles"]][: columns - 1]
        for column, item in enumerate([*inputs, entry]):
            left = SHEET_GAP + column * (THUMBNAIL_SIDE + SHEET_GAP)
            _paste_thumbnail(sheet, locate_thumbnail(out, item["sha256"]), left, top)
        text = _shorten(quote_name(name)[1:-1], font, width - 2 * SHEET_GAP)
        draw.text((SHEET_GAP, top + THUMBNAIL_SIDE + 2), text, "black", font)
    stream = BytesIO()
    sheet.save(stream, "JPEG", quality=88)
    return stream.getvalue()


def _paste_thumbnail(sheet: Image.Image, path: Path, left: int, top: int) -> None:
    """Paste a thumbnail into the middle of its cell; a missing one leaves the cell gray."""
    side = THUMBNAIL_SIDE
    if not path.is_file():
        sheet.paste("#dddddd", (left, top, left + side, top + side))
        return
    with Image.open(path, formats=("JPEG",)) as image:
        image.thumbnail((side, side))
        sheet.paste(image.convert("RGB"), (left + (side - image.width) // 2, top + (side - image.height) // 2))


def _shorten(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """Return as much of the end of a text as fits into a width in pixels."""
    while font.getlength(text) > width:
        text = "…" + text[2:]
    return text
