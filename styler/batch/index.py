"""`index.html` and `contact-sheet.jpg`: content, styles and result of every picture at a glance, from small copies.

Files of these names that this batch did not make stay as they are.
"""

import hashlib
import html
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image, ImageDraw, ImageFont

from styler import images
from styler.batch import ledger, thumbs
from styler.batch.ledger import Ledger
from styler.batch.prepare import Batch
from styler.errors import quote_name

PAGE, SHEET = "index.html", "contact-sheet.jpg"
MOST_ROWS, MOST_ON_SHEET = 5000, 60
"""Pictures on the page, and on the sheet, at most: the first ones."""
GAP, TEXT = 8, 16
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


def write(batch: Batch, book: Ledger) -> list[str]:
    """Write both; return sentences on what was not replaced.

    Raises:
        OutputError: one cannot be written.
    """
    entries = [
        (pair.output, book.past.entries[pair.output]) for pair in batch.pairs if pair.output in book.past.entries
    ]
    done = [(name, entry) for name, entry in entries if entry["state"] == ledger.DONE]
    failed = [(name, entry) for name, entry in entries if entry["state"] == ledger.FAILED]
    made = {PAGE: page(batch.out, len(batch.pairs), done, failed)}
    if done:
        made[SHEET] = sheet(batch.out, done)
    notes, hashes = [], {}
    for name, data in made.items():
        place = batch.out / name
        if os.path.lexists(place) and not _is_ours(place, book.past.index.get(name)):
            notes.append(f"{quote_name(place)} is not of this batch, or was changed since, and stays as it is.")
            continue
        hashes[name] = hashlib.sha256(data).hexdigest()
        if hashes[name] != book.past.index.get(name) or not place.exists():
            book.add(ledger.INDEX, files={name: hashes[name]})
            images.write_file(place, data, overwrite=True)
    return notes


def _is_ours(place: Path, recorded: str | None) -> bool:
    return recorded is not None and hashlib.sha256(place.read_bytes()).hexdigest() == recorded


def page(
    out: Path,
    total: int,
    done: Sequence[tuple[str, dict[str, Any]]],
    failed: Sequence[tuple[str, dict[str, Any]]],
) -> bytes:
    """The page, with links that hold as long as the folder is moved as a whole."""
    counts = f"{len(done)} of {total} done, {len(failed)} failed."
    if len(done) > MOST_ROWS:
        counts += f" These are the first {MOST_ROWS}."
    parts = [_HEAD.format(title=_text(out.absolute().name), counts=counts)]
    for name, entry in done[:MOST_ROWS]:
        inputs = [entry["content"], *entry["styles"]]
        shown = "".join(_image(out, it["sha256"], os.path.basename(it["path"])) for it in inputs)  # noqa: PTH119
        link = f'<a href="{_link(name)}">{_image(out, entry["sha256"], name)}</a>'
        parts.append(f"<figure>{shown}{link}<figcaption>{_text(name)}</figcaption></figure>\n")
    for name, entry in failed[:MOST_ROWS]:
        parts.append(f'<p class="failed">{_text(name)}: {_text(entry["error"])}</p>\n')
    return "".join([*parts, "</html>\n"]).encode("utf-8", "backslashreplace")


def _image(out: Path, sha256: str, name: str) -> str:
    place = thumbs.path(out, sha256)
    if not place.is_file():
        return f"<span>{_text(name)}</span>"
    link = _link(place.relative_to(out).as_posix())
    return f'<img loading="lazy" src="{link}" alt="{_text(name)}" title="{_text(name)}">'


def _link(name: str) -> str:
    return quote(os.fsencode(name))


def _text(name: str) -> str:
    return html.escape(quote_name(name)[1:-1])


def sheet(out: Path, done: Sequence[tuple[str, dict[str, Any]]]) -> bytes:
    """The sheet: a row of small pictures for each painting, content first, with its name below."""
    rows = done[:MOST_ON_SHEET]
    most = max(len(entry["styles"]) for _, entry in rows)
    columns = min(most, 4) + 2
    cell = thumbs.SIDE
    width, high = GAP + columns * (cell + GAP), cell + TEXT + 2 * GAP
    whole = Image.new("RGB", (width, GAP + high * len(rows)), "white")
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(size=12)
    for index, (name, entry) in enumerate(rows):
        top = GAP + index * high
        inputs = [entry["content"], *entry["styles"]][: columns - 1]
        for column, sha256 in enumerate([*(it["sha256"] for it in inputs), entry["sha256"]]):
            _paste(whole, thumbs.path(out, sha256), GAP + column * (cell + GAP), top, cell)
        draw.text((GAP, top + cell + 2), _fitted(quote_name(name)[1:-1], font, width - 2 * GAP), "black", font)
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


def _fitted(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """As much of the end of a text as fits."""
    while font.getlength(text) > width:
        text = "…" + text[2:]
    return text
