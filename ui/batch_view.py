"""A batch of one visitor: its files are linked into a folder, painted by `styler.batch`, and packed into an archive.

Does not know Gradio.
"""

import itertools
import os
import re
import shutil
import time
import zipfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from styler.batch import discover
from styler.batch.discover import SelectionRules, make_natural_key
from styler.batch.runner import BatchContext, BatchEvent, stylize_folder
from styler.errors import UsageError, quote_name
from styler.images import Picture
from styler.options import Options
from ui.session import Session, Upload
from ui.studio import Studio

MAX_BATCH = 200
"""Limit on the pictures of one batch."""
VIEW_SIDE = 1024
"""Long side of a picture in the gallery, in pixels; the archive has the full size."""
BATCH_PAUSE = 0.5
"""Seconds between two reports of progress."""


@dataclass(slots=True)
class BatchRow:
    """One picture of a batch and its state."""

    content: str
    style: str
    state: str = "waiting"
    """`waiting`, `painting`, `done`, `failed`, or `left` if the batch was stopped before it."""
    share: float = 0.0
    """Fraction of its work that is done, 0 to 1."""
    error: str = ""
    """Reason of the failure; empty if it did not fail."""


@dataclass(slots=True, eq=False)
class BatchView:
    """The state of a batch."""

    folder: Path
    rows: dict[tuple[str, str], BatchRow]
    """By the file names of content and style."""
    gallery: list[tuple[Path, str]] = field(default_factory=list)
    """Finished pictures at a reduced size, with their captions."""
    seconds_left: float | None = None
    """Estimate; None if unknown."""
    archive: Path | None = None
    """All finished pictures and the contact sheet; set at the end."""

    def count(self, state: str) -> int:
        """Return the number of pictures in a state."""
        return sum(row.state == state for row in self.rows.values())


def paint_batch(
    studio: Studio, session: Session, contents: Sequence[Upload], styles: Sequence[Upload], options: Options
) -> Generator[BatchView, None, None]:
    """Paint every content in every style; yield the batch after every event, and at the end with its archive.

    Raises:
        StylerError: nothing can be painted.
    """
    stop, began = session.begin_work(), time.monotonic()
    session.add_uploads(*contents, *styles)

    try:
        view = _prepare(session, contents, styles)
        yield view
        due = 0.0
        contents_folder, styles_folder, output = (view.folder / name for name in ("contents", "styles", "out"))

        def read(path: Path) -> Picture:
            picture = studio.read_picture(Upload.from_path(path))
            if path.parent == contents_folder:
                studio.check_time(options, picture.width, picture.height)
            return picture

        context = BatchContext(read=read, painter=studio.load_painter(), stats_store=None)
        rules = SelectionRules(include=("*",))
        machine_options = studio.use_machine(options)
        for event in stylize_folder(
            contents_folder, styles_folder, output, machine_options, stop=stop, context=context, rules=rules
        ):
            _apply_event(view, event)
            view.seconds_left = _estimate_left(view, event, time.monotonic() - began)
            studio.thread.expect_end(view.seconds_left)
            if event.kind != "progress" or time.monotonic() >= due:
                yield view
                due = time.monotonic() + BATCH_PAUSE
        for row in view.rows.values():
            row.state = "left" if row.state in {"waiting", "painting"} else row.state
        view.archive = _pack_archive(view.folder)
        yield view
    finally:
        stop.set()  # if this generator is closed early, the painter also stops
        session.is_painting = False
        studio.thread.expect_end(None)


def _prepare(session: Session, contents: Sequence[Upload], styles: Sequence[Upload]) -> BatchView:
    """Link the files into two folders under unique names.

    Raises:
        UsageError: there are none, or too many.
    """
    if not contents:
        raise UsageError("Choose photos first: drop them on the page.")
    if not styles:
        raise UsageError("Choose a painting, or upload one of your own.")
    if len(contents) * len(styles) > MAX_BATCH:
        raise UsageError(f"That makes {len(contents) * len(styles)} pictures; choose fewer, up to {MAX_BATCH}.")
    shutil.rmtree(session.folder, ignore_errors=True)  # the previous batch
    folder = session.make_folder("batch")
    names = [_link_uploads(uploads, folder / kind) for kind, uploads in (("contents", contents), ("styles", styles))]
    content_names, style_names = (sorted(each, key=make_natural_key) for each in names)  # in the order of painting
    rows = {(content, style): BatchRow(content, style) for style in style_names for content in content_names}
    return BatchView(folder, rows)


def _link_uploads(uploads: Sequence[Upload], folder: Path) -> list[str]:
    """Link files into a folder and return the unique names that they get there."""
    folder.mkdir()
    names: dict[str, str] = {}  # by the lower-case name: not every file system tells cases apart
    for upload in uploads:
        suffix = re.sub(r"[^\w.]", "", Path(upload.name).suffix)[:10]
        marks = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
        name = next(each for mark in marks if (each := f"{upload.stem}{mark}{suffix}").lower() not in names)
        names[name.lower()] = name
        if not upload.path.is_file():
            raise UsageError(f"{quote_name(upload.name)} is no longer on the server; upload it again.")
        try:
            os.link(upload.path, folder / name)
        except OSError:  # another disk, or a file system without hard links
            shutil.copyfile(upload.path, folder / name)
    return [*names.values()]


def _apply_event(view: BatchView, event: BatchEvent) -> None:
    """Update the row of a picture, and the gallery when it is done."""
    row = view.rows[event.pair.content.name, event.pair.styles[0].name]
    if event.kind == "started":
        row.state, row.share = "painting", 0.0
    elif event.kind == "progress" and event.progress:
        row.share = event.progress.units / event.progress.total_units if event.progress.total_units else 0.0
    elif event.kind == "failed":
        row.state, row.error = "failed", event.text
    elif event.kind == "done":
        row.state = "done"
        view.gallery.append((_save_view(view, event), f"{Path(row.content).stem} × {Path(row.style).stem}"))


def _save_view(view: BatchView, event: BatchEvent) -> Path:
    """Save a finished picture at a reduced size for the gallery."""
    path = view.folder / "views" / f"{len(view.gallery) + 1}.jpg"
    path.parent.mkdir(exist_ok=True)
    with Image.open(view.folder / "out" / event.pair.output, formats=("PNG",)) as picture:
        small = picture.convert("RGB")
        small.thumbnail((VIEW_SIDE, VIEW_SIDE), reducing_gap=2.0)
        small.save(path, "JPEG", quality=88)
    return path


def _estimate_left(view: BatchView, event: BatchEvent, seconds: float) -> float | None:
    """Return the seconds that the rest will take at the speed so far."""
    done = view.count("done") + sum(row.share for row in view.rows.values() if row.state == "painting")
    left = view.count("waiting") + view.count("painting") + view.count("done") - done
    if done < 0.02:
        return event.progress.eta if event.progress and len(view.rows) == 1 else None
    return left * seconds / done


def _pack_archive(folder: Path) -> Path | None:
    """Pack all finished pictures and the contact sheet into an archive; return None if there are none."""
    pictures = sorted((folder / "out").glob("*.png"))
    if not pictures:
        return None
    sheet, archive = folder / "out" / discover.CONTACT_SHEET, folder / "styler.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as pack:  # pictures are compressed already
        for path in (*pictures, *([sheet] if sheet.exists() else [])):
            pack.write(path, path.name)
    return archive
