"""Many pictures for one visitor: gathered in a folder, painted by `styler.batch`, told row by row, packed in the end.

Does not know Gradio.
"""

import os
import re
import shutil
import time
import zipfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from styler.batch import report
from styler.batch.discover import SelectionRules, natural_key
from styler.batch.runner import BatchContext, BatchEvent, stylize_folder
from styler.errors import UsageError, quote_name
from styler.images import Picture
from styler.options import Options
from ui.session import Session, Upload
from ui.studio import Studio

MAX_BATCH = 200
"""Pictures of one batch."""
VIEW_SIDE = 1024
"""Long side of a picture in the gallery, in pixels; the archive has all of them."""
BATCH_PAUSE = 0.5
"""Seconds between two reports of progress."""


@dataclass(slots=True)
class BatchRow:
    """One picture of the batch, and how it stands."""

    content: str
    style: str
    state: str = "waiting"
    """`waiting`, `painting`, `done`, `failed` or `left`, which is: not painted, since it was stopped."""
    share: float = 0.0
    """Of its work that is done, while it is painted."""
    why: str = ""
    """It failed."""


@dataclass(slots=True, eq=False)
class BatchView:
    """A batch as it stands."""

    folder: Path
    rows: dict[tuple[str, str], BatchRow]
    """By the names of content and style."""
    views: list[tuple[Path, str]] = field(default_factory=list)
    """Finished pictures, to look at, and what they are called."""
    left: float | None = None
    """Seconds, about."""
    archive: Path | None = None
    """All finished pictures with the contact sheet; made in the end."""

    def count(self, state: str) -> int:
        """How many stand so."""
        return sum(row.state == state for row in self.rows.values())


def paint_batch(
    studio: Studio, visit: Session, contents: Sequence[Upload], styles: Sequence[Upload], options: Options
) -> Generator[BatchView, None, None]:
    """Paint every photo in every painting; the pile again and again, in the end with its archive.

    Raises:
        StylerError: nothing can be painted.
    """
    stop, began = visit.begin(), time.monotonic()
    visit.uses(*contents, *styles)
    try:
        pile = _gather(visit, contents, styles)
        yield pile

        def read(path: Path) -> Picture:
            return studio.picture(Upload(path, path.name))

        due = 0.0
        for event in stylize_folder(
            pile.folder / "contents",
            pile.folder / "styles",
            pile.folder / "out",
            options,
            stop=stop,
            context=BatchContext(read=read),
            rules=SelectionRules(include=("*",)),
        ):
            _apply_event(pile, event)
            pile.left = _estimate_left(pile, event, time.monotonic() - began)
            studio.pace.expect(pile.left)
            if event.kind != "progress" or time.monotonic() >= due:
                yield pile
                due = time.monotonic() + BATCH_PAUSE
        for row in pile.rows.values():
            row.state = "left" if row.state in {"waiting", "painting"} else row.state
        pile.archive = _pack_archive(pile)
        studio.pace.took(time.monotonic() - began)
        yield pile
    finally:
        stop.set()  # closed half-way: nothing of it goes on
        visit.is_painting = False
        studio.pace.expect(None)


def _gather(visit: Session, contents: Sequence[Upload], styles: Sequence[Upload]) -> BatchView:
    """The files side by side in folders of their own, under names that are unique.

    Raises:
        UsageError: there are none, or too many.
    """
    if not contents:
        raise UsageError("Choose photos first: drop them on the page.")
    if not styles:
        raise UsageError("Choose a painting, or upload one of your own.")
    if len(contents) * len(styles) > MAX_BATCH:
        raise UsageError(f"That makes {len(contents) * len(styles)} pictures; choose fewer, up to {MAX_BATCH}.")
    shutil.rmtree(visit.folder, ignore_errors=True)  # the batch before
    folder = visit.next_folder("batch")
    names = [_link_uploads(uploads, folder / kind) for kind, uploads in (("contents", contents), ("styles", styles))]
    contents_, styles_ = (sorted(found, key=natural_key) for found in names)  # as they will be painted
    rows = {(content, style): BatchRow(content, style) for style in styles_ for content in contents_}
    return BatchView(folder, rows)


def _link_uploads(uploads: Sequence[Upload], folder: Path) -> list[str]:
    """Put links to files into a folder; returns the names they have there."""
    folder.mkdir()
    names: list[str] = []
    taken: set[str] = set()
    for upload in uploads:
        ending = re.sub(r"[^\w.]", "", Path(upload.name).suffix)[:10]
        name = next(it for it in _candidate_names(upload.stem, ending) if it.lower() not in taken)
        taken.add(name.lower())
        names.append(name)
        if not upload.path.is_file():
            raise UsageError(f"{quote_name(upload.name)} is no longer on the server; choose it once more.")
        try:
            os.link(upload.path, folder / name)
        except OSError:  # another disk, or one without links
            shutil.copyfile(upload.path, folder / name)
    return names


def _candidate_names(stem: str, ending: str) -> Generator[str, None, None]:
    yield f"{stem}{ending}"
    number = 2
    while True:
        yield f"{stem}-{number}{ending}"
        number += 1


def _apply_event(pile: BatchView, event: BatchEvent) -> None:
    """Note in its row what happened to a picture."""
    row = pile.rows[event.pair.content.name, event.pair.styles[0].name]
    if event.kind == "started":
        row.state, row.share = "painting", 0.0
    elif event.kind == "progress" and event.progress:
        row.share = event.progress.units / event.progress.total_units if event.progress.total_units else 0.0
    elif event.kind == "failed":
        row.state, row.why = "failed", event.text
    elif event.kind == "done":
        row.state = "done"
        pile.views.append((_make_view(pile, event), f"{Path(row.content).stem} × {Path(row.style).stem}"))


def _make_view(pile: BatchView, event: BatchEvent) -> Path:
    """A finished picture, small enough for a gallery."""
    path = pile.folder / "views" / f"{len(pile.views) + 1}.jpg"
    path.parent.mkdir(exist_ok=True)
    with Image.open(pile.folder / "out" / event.pair.output, formats=("PNG",)) as picture:
        small = picture.convert("RGB")
        small.thumbnail((VIEW_SIDE, VIEW_SIDE), reducing_gap=2.0)
        small.save(path, "JPEG", quality=88)
    return path


def _estimate_left(pile: BatchView, event: BatchEvent, seconds: float) -> float | None:
    """Seconds that the rest takes, going by what is done."""
    done = pile.count("done") + sum(row.share for row in pile.rows.values() if row.state == "painting")
    rest = pile.count("waiting") + pile.count("painting") + pile.count("done") - done
    if done < 0.02:
        return event.progress.eta if event.progress and len(pile.rows) == 1 else None
    return rest * seconds / done


def _pack_archive(pile: BatchView) -> Path | None:
    """All finished pictures and the contact sheet in one archive; None if there are none."""
    out = pile.folder / "out"
    found = sorted(path for path in out.glob("*.png")) if out.is_dir() else []
    if not found:
        return None
    sheet = out / report.CONTACT_SHEET
    archive = pile.folder / "styler.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as pack:  # pictures are packed already
        for path in (*found, *([sheet] if sheet.exists() else [])):
            pack.write(path, path.name)
    return archive
