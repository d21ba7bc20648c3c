"""Write the index of a batch: pages and a contact sheet that show content, style and result, and their thumbnails."""

import hashlib
import html
import os
import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styler import images
from styler.batch.discover import CONTACT_SHEET, MANIFEST_FOLDER
from styler.batch.manifest import DONE, FAILED, INDEX, Manifest
from styler.batch.plan import BatchPlan
from styler.batch.sheets import Sheet
from styler.errors import OutputError, quote_name

INDEX_PAGE = "index.html"
LATER_PAGES = re.compile(r"index-[0-9]+\.html")
"""Names of the pages after the first."""
PAGE_ROWS, MAX_SHEET_ROWS = 1000, 60
"""Pictures on each page, and on the sheet, which shows only the first."""
MAX_SHEET_STYLES = 4
THUMBNAIL_SIDE = 240
"""Long side of a thumbnail, in pixels."""
SHEET_GAP, TEXT_HEIGHT, SHEET_TEXT = 8, 16, 12
"""Pixels between the thumbnails of the sheet, height of a line of text, and size of the text."""

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
nav a {{ color: inherit; margin-right: .4rem; }}
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
    return out / _name_thumbnail(sha256)


def _name_thumbnail(sha256: str) -> str:
    """Return the path of a thumbnail in the output folder, with slashes."""
    return f"{MANIFEST_FOLDER}/thumbs/{sha256[:2]}/{sha256}.jpg"


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
    """Write the index pages and the contact sheet; return messages about files that were not replaced.

    Raises:
        OutputError: one of them cannot be written.
    """
    history = manifest.history
    entries = [(pair.output, history.entries[pair.output]) for pair in plan.pairs if pair.output in history.entries]
    done = [(name, entry) for name, entry in entries if entry["state"] == DONE]
    failed = [(name, entry) for name, entry in entries if entry["state"] == FAILED]
    messages, names = [], set()
    for name, data in _make_files(plan, done, failed):
        names.add(name)
        path, recorded = plan.out / name, history.index.get(name)
        is_there = os.path.lexists(path)
        if is_there and not _is_ours(path, recorded):
            messages.append(f"{quote_name(path)} was not written by this batch, or has been changed since; it is kept.")
            continue
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != recorded or not is_there:
            manifest.add(INDEX, files={name: sha256})
            images.write_file(path, data, overwrite=True)
    for name in {*filter(LATER_PAGES.fullmatch, history.index)} - names:
        if _is_ours(plan.out / name, history.index[name]):
            _remove_page(plan.out / name)
    return messages


def _remove_page(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise OutputError(
            f"Cannot remove {quote_name(path)}, a page of the index that is no longer needed: {error.strerror}; remove "
            "it yourself."
        ) from error


def _is_ours(path: Path, recorded: str | None) -> bool:
    """Return whether a file has the hash that was recorded when it was written."""
    return recorded is not None and path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == recorded


def _make_files(plan: BatchPlan, done: Sequence[Entry], failed: Sequence[Entry]) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of every file of the index, one at a time."""
    rows = [*done, *failed]
    pages = max(1, -(-len(rows) // PAGE_ROWS))
    counts = f"{len(done)} of {len(plan.pairs)} done, {len(failed)} failed."
    for number in range(1, pages + 1):
        part = rows[(number - 1) * PAGE_ROWS : number * PAGE_ROWS]
        yield _name_page(number), make_index_page(plan.out, counts, part, number, pages)
    if done:
        yield CONTACT_SHEET, make_contact_sheet(plan.out, done)


def _name_page(number: int) -> str:
    return INDEX_PAGE if number == 1 else f"index-{number}.html"


def make_index_page(out: Path, counts: str, rows: Sequence[Entry], number: int, pages: int) -> bytes:
    """Return a page of the index as HTML; its links are relative to the output folder.

    Args:
        out: the output folder.
        counts: a sentence on the whole batch.
        rows: pictures of this page that are painted or failed.
        number: of the page, from 1.
        pages: number of pages.
    """
    parts = [_PAGE_HEAD.format(title=_escape(out.absolute().name), counts=counts)]
    links = (
        f"<b>{page}</b>" if page == number else f'<a href="{_name_page(page)}">{page}</a>'
        for page in range(1, pages + 1)
    )
    navigation = f"<nav>Page {' '.join(links)}</nav>\n" if pages > 1 else ""
    parts.append(navigation)
    for name, entry in rows:
        if entry["state"] == FAILED:
            parts.append(f'<p class="failed">{_escape(name)}: {_escape(entry["error"])}</p>\n')
            continue
        inputs = "".join(
            _format_image(out, item["sha256"], os.path.basename(item["path"]))  # noqa: PTH119 - may be a URL
            for item in (entry["content"], *entry["styles"])
        )
        result = f'<a href="{_quote_link(name)}">{_format_image(out, entry["sha256"], name)}</a>'
        parts.append(f"<figure>{inputs}{result}<figcaption>{_escape(name)}</figcaption></figure>\n")
    return "".join([*parts, navigation, "</html>\n"]).encode("utf-8", "backslashreplace")


def _format_image(out: Path, sha256: str, name: str) -> str:
    label, thumbnail = _escape(name), _name_thumbnail(sha256)
    if not os.path.isfile(f"{out}{os.sep}{thumbnail}"):  # noqa: PTH113 - called three times for every picture
        return f"<span>{label}</span>"
    return f'<img loading="lazy" src="{thumbnail}" alt="{label}" title="{label}">'


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
    sheet = Sheet(width, SHEET_GAP + row_height * len(rows), SHEET_TEXT)
    for index, (name, entry) in enumerate(rows):
        top = SHEET_GAP + index * row_height
        inputs = [entry["content"], *entry["styles"]][: columns - 1]
        for column, item in enumerate([*inputs, entry]):
            left = SHEET_GAP + column * (THUMBNAIL_SIDE + SHEET_GAP)
            sheet.paste_thumbnail(locate_thumbnail(out, item["sha256"]), left, top, THUMBNAIL_SIDE)
        sheet.write_name(name, SHEET_GAP, top + THUMBNAIL_SIDE + 2, width - 2 * SHEET_GAP)
    stream = BytesIO()
    sheet.image.save(stream, "JPEG", quality=88)
    return stream.getvalue()
