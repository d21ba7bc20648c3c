"""State and files of the visitors: one `Session` for each browser tab, all in one temporary folder of limited size.

Knows neither Gradio nor how a picture is painted.
"""

import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from styler import environment, images, provenance
from styler.engine.result import Pixels, Result
from styler.errors import UsageError
from styler.images import Picture
from styler.options import Options
from styler.provenance import Record
from styler.schedule import find_painted_part

FOLDER_PREFIX = "styler-ui-"
MAX_AGE = 24 * 3600.0
"""Seconds after which an untouched file is removed."""
MAX_TOTAL_BYTES = 2_000_000_000
"""Limit on the size of all files together; beyond it the oldest are removed."""
MIN_AGE = 600.0
"""Seconds during which a file is never removed, because it may be about to be used."""
MAX_UNUSED_AGE = 3600.0
"""Seconds after which an upload that no open session uses is removed."""
LISTED_SIDE = 240
"""Long side of a picture in the list of pictures, in pixels."""
STARTING_SECONDS = 60.0
"""Seconds in which a server that has made its folder surely locks it."""


@dataclass(frozen=True, slots=True)
class Upload:
    """An uploaded file, not decoded yet, and the name that its owner gave it."""

    path: Path
    name: str

    @classmethod
    def from_path(cls, path: str | Path) -> "Upload":
        """Return the file under its own name."""
        return cls(Path(path), Path(path).name)

    @property
    def stem(self) -> str:
        """The name without its extension, reduced to characters that are safe in the name of another file."""
        return re.sub(r"[^\w.-]+", "-", Path(self.name).stem).strip("-.")[:60] or "picture"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintRequest:
    """Everything that is needed to paint one picture."""

    content: Upload
    styles: tuple[Upload, ...]
    options: Options
    start: Path | None = None
    """A finished picture of the session to continue from."""
    masks: Mapping[str, Upload] = field(default_factory=dict)
    """The masks that came with it, by the names under which the options mention them."""


@dataclass(slots=True, eq=False)
class WallRound:
    """The previews of one photo with the same settings; another photo or other settings begin a new round."""

    content: Upload
    styles: tuple[Upload, ...]
    """Those that are chosen first."""
    options: Options
    masks: Mapping[str, Upload] = field(default_factory=dict)
    """Those that the options mention."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Interrupts the preview that is being painted."""


LossHistory = tuple[tuple[int, dict[str, float]], ...]
"""Iterations done so far and the terms of the loss at that point, in order."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FinishedPicture:
    """A picture that was painted in a session, and its files."""

    request: PaintRequest
    record: Record
    png: Path
    """Lossless, with the record inside."""
    jpeg: Path
    photo: Path
    """The content at the same size."""
    thumbnail: Path
    """The whole picture in a small file, for the list of pictures."""
    losses: LossHistory
    notes: tuple[str, ...]
    result: Result
    """For encoding other formats; its arrays stay on disk."""

    def make_deep_file(self, suffix: str) -> Path:
        """Return the picture in 16 bits, as `png` or `tiff`; it is encoded when it is first requested."""
        path = self.png.with_name(f"{self.png.stem}.16bit.{suffix}")
        return path if path.exists() else self.result.save(path, overwrite=True, bit_depth=16)


@dataclass(slots=True, eq=False)
class Session:
    """The state of one browser tab, or of the batch in that tab."""

    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)
    """Stops the current or the last piece of work."""
    photo: Upload | None = None
    """The photo that was chosen last and could be read."""
    photo_html: str = ""
    """That photo, as the page shows it."""
    photo_url: str = ""
    """A small copy of it."""
    drawing: tuple[Path, Upload] | None = None
    """The photo that was drawn on last, and what was drawn."""
    protected: tuple[str, ...] = ()
    """What was chosen last to be protected."""
    is_style_refused: bool = False
    """Whether the last painting that was uploaded could not be read."""
    is_mask_shown: bool = False
    """Whether the photo is on the stage with masks over it."""
    is_discarded: bool = False
    is_waiting: bool = False
    """Whether it waits in the queue. An event that fails in this state was refused because the queue was full."""
    is_painting: bool = False
    pictures: list[FinishedPicture] = field(default_factory=list)
    selected: int = -1
    """Index of the picture that is shown."""
    uploads: set[Path] = field(default_factory=set)
    """Files uploaded for this session; they are removed with it."""
    wall: WallRound | None = None
    """The current round of previews."""
    previews: dict[Path, Pixels] = field(default_factory=dict)
    """The previews of that round, by the file of the painting."""
    unfinished: set[Path] = field(default_factory=set)
    """The paintings whose previews have no strokes yet."""
    preview_key: tuple[Path, Options, tuple[Path, ...]] | None = None
    """The photo, the settings and the masks of the previews."""
    thumbnails: dict[Path, tuple[str, str]] = field(default_factory=dict)
    """Address of the thumbnail and name of each uploaded painting, by its file, in order."""
    shown_preview: Path | None = None
    """The painting whose preview is on the stage, or will be as soon as it is there."""

    def begin_work(self) -> threading.Event:
        """Start a new piece of work and return the event that stops it."""
        self.is_waiting, self.shown_preview, self.is_mask_shown = False, None, False
        self.stop, self.is_discarded, self.is_painting = threading.Event(), False, True
        return self.stop

    def stop_work(self) -> None:
        """Stop the current work; the best picture so far can be kept."""
        self.stop.set()

    def discard_work(self) -> None:
        """Stop the current work and keep nothing of it."""
        self.is_discarded = True
        self.stop.set()

    def get_selected_picture(self) -> FinishedPicture:
        """Return the picture that is shown.

        Raises:
            UsageError: there is none yet.
        """
        if not self.pictures:
            raise UsageError("There is no picture yet; paint one first.")
        return self.pictures[self.selected]

    def get_drawing(self, photo: Upload) -> Upload | None:
        """Return what was drawn on a photo; None if nothing was."""
        return self.drawing[1] if self.drawing and self.drawing[0] == photo.path else None

    def list_thumbnails(self) -> list[tuple[str, str, Pixels | None]]:
        """Return address, name and preview, if there is one, of every uploaded painting."""
        return [(source, name, self.previews.get(path)) for path, (source, name) in self.thumbnails.items()]

    def keep_preview(self, painting: Path, pixels: Pixels, *, is_finished: bool) -> None:
        """Keep the preview of a painting, which replaces an earlier one."""
        self.previews[painting] = pixels
        (self.unfinished.discard if is_finished else self.unfinished.add)(painting)

    def forget_previews(self) -> None:
        """Forget all previews, and of what photo they are."""
        self.previews, self.unfinished, self.preview_key = {}, set(), None

    def stop_previews(self) -> None:
        """Stop the current round of previews; no other begins by itself."""
        if self.wall is not None:
            self.wall.stop.set()
        self.wall = None

    def add_uploads(self, *uploads: Upload) -> None:
        """Register files as used by this session."""
        self.uploads.update(upload.path for upload in uploads)

    def make_folder(self, name: str = "") -> Path:
        """Create an empty folder for the next picture, or for the batch of that name."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{name or len(self.pictures) + 1}-", dir=self.folder))

    def save_picture(
        self, request: PaintRequest, result: Result, content: Picture, losses: LossHistory
    ) -> FinishedPicture:
        """Write a result to the folder in the formats that the page offers, and add it to the pictures."""
        height, width = result.pixels.shape[:2]
        folder = self.make_folder()
        name = f"{request.content.stem}.{'+'.join(style.stem for style in request.styles)}"
        part = find_painted_part(result.options, content.width, content.height)
        photo = Image.fromarray(images.to_uint8(content.pixels))
        photo = photo.resize((width, height), Image.Resampling.LANCZOS, box=part)
        photo.save(folder / "photo.jpg", "JPEG", quality=92, subsampling=0)
        thumbnail = Image.fromarray(images.to_uint8(result.pixels))
        thumbnail.thumbnail((LISTED_SIDE, LISTED_SIDE), reducing_gap=2.0)
        thumbnail.save(folder / "thumbnail.jpg", "JPEG", quality=85)
        picture = FinishedPicture(
            request=request,
            record=provenance.make_record(result),
            png=result.save(folder / f"{name}.png"),
            jpeg=result.save(folder / f"{name}.jpg"),
            photo=folder / "photo.jpg",
            thumbnail=folder / "thumbnail.jpg",
            losses=losses,
            notes=(*result.notes, *content.warnings),
            result=replace(
                result,
                pixels=_move_to_disk(result.pixels, folder / "pixels.npy"),
                alpha=None if result.alpha is None else _move_to_disk(result.alpha, folder / "alpha.npy"),
            ),
        )
        self.pictures.append(picture)
        return picture


class Sessions:
    """All sessions of a server, with their files in one temporary folder.

    Args:
        max_bytes: limit on the size of all files together.
    """

    def __init__(self, max_bytes: int = MAX_TOTAL_BYTES) -> None:
        remove_stale_folders()
        self.max_bytes = max_bytes
        self.root = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=environment.find_temporary_folder()))
        self._running = _lock_folder(self.root)
        self.uploads, self.outputs = self.root / "uploads", self.root / "outputs"
        self.uploads.mkdir()
        self.outputs.mkdir()
        self._open: dict[str, Session] = {}
        self._lock = threading.Lock()

    def get(self, session_hash: str | None, kind: str = "") -> Session:
        """Return the session of a browser tab, or its session of another kind; create it on first use."""
        key = name_visitor(session_hash) + (f"-{kind}" if kind else "")
        with self._lock:
            return self._open.setdefault(key, Session(self.outputs / key))

    def remove(self, session_hash: str | None) -> None:
        """Stop the work of a closed tab; remove its pictures, and its uploads unless another session uses them."""
        key = name_visitor(session_hash)
        with self._lock:
            closed = [self._open.pop(name) for name in [*self._open] if name == key or name.startswith(f"{key}-")]
        used = self._list_used_uploads()
        for session in closed:
            session.discard_work()
            session.stop_previews()
            for path in session.uploads - used:
                if path.is_relative_to(self.uploads):  # and not a bundled picture
                    _remove_file(path)
        for folder in (self.outputs / key, *self.outputs.glob(f"{key}-*")):
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def open_temporary(self, session_hash: str | None, kind: str) -> Iterator[Session]:
        """Open a session for one piece of work.

        Its files stay until `remove` or until they are old. The session itself is forgotten, so that a client that
        comes with a new hash every time does not fill the memory.
        """
        session = self.get(session_hash, kind)
        try:
            yield session
        finally:
            with self._lock:
                self._open.pop(session.folder.name, None)

    def close(self) -> None:
        """Stop all work and remove all files."""
        with self._lock:
            for session in self._open.values():
                session.discard_work()
                session.stop_previews()
        _remove_folder(self.root, self._running)

    def has_room(self, size: int) -> bool:
        """Return whether `size` more bytes fit within the limit, if necessary after removing old files."""
        limit = self.max_bytes - size
        if self._count_bytes() > limit:
            self.sweep(limit)
        return self._count_bytes() <= limit

    def sweep(self, max_bytes: int | None = None) -> None:
        """Remove old files, unused uploads and, beyond the limit, the oldest files, but none younger than `MIN_AGE`.

        Args:
            max_bytes: a limit for this time; `self.max_bytes` by default.
        """
        now, total, limit = time.time(), 0, self.max_bytes if max_bytes is None else max_bytes
        used = self._list_used_uploads()
        for age, size, path in sorted(_list_files(self.root, now)):  # youngest first
            total += size
            max_age = MAX_UNUSED_AGE if path.is_relative_to(self.uploads) and path not in used else MAX_AGE
            if age > MIN_AGE and (age > max_age or total > limit):
                _remove_file(path)

    def _count_bytes(self) -> int:
        return sum(size for _, size, _ in _list_files(self.root, 0.0))

    def _list_used_uploads(self) -> set[Path]:
        with self._lock:
            return set().union(*(session.uploads for session in self._open.values()))


def name_visitor(session_hash: str | None) -> str:
    """Return the name of a visitor: the hash of the browser tab, reduced to letters and digits, or `nobody`."""
    return re.sub(r"\W", "", session_hash or "") or "nobody"


def _remove_file(path: Path) -> None:
    """Remove a file, and its folder if that is empty then."""
    path.unlink(missing_ok=True)
    with suppress(OSError):  # the folder holds other files
        path.parent.rmdir()


def remove_stale_folders() -> None:
    """Remove the folders of servers that no longer run.

    A running server has locked its folder. Process ids would not do: every container has its own.
    """
    for folder in environment.find_temporary_folder().glob(f"{FOLDER_PREFIX}*"):
        with suppress(FileNotFoundError):  # another server has just removed it
            is_old = time.time() - folder.stat().st_mtime > STARTING_SECONDS
            if folder.is_dir() and is_old and (lock := _lock_folder(folder)):
                _remove_folder(folder, lock)


def _lock_folder(folder: Path) -> FileLock | None:
    """Lock a folder, by a file beside it, and return the lock; None if that is not possible."""
    lock = FileLock(f"{folder}.lock", blocking=False)
    try:
        lock.acquire()
    except (OSError, NotImplementedError):  # another server or user has it, or the file system has no locks
        return None
    return lock


def _remove_folder(folder: Path, lock: FileLock | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if lock:
        lock.release()
        with suppress(OSError):  # another server is trying to lock it, and removes it
            Path(lock.lock_file).unlink(missing_ok=True)


def _list_files(root: Path, now: float) -> list[tuple[float, int, Path]]:
    """Return age in seconds, size in bytes and path of every file below a folder."""
    files = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            with suppress(FileNotFoundError):  # removed in the meantime
                status = path.lstat()
                files.append((now - status.st_mtime, status.st_size, path))
    return files


def _move_to_disk(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """Save an array and return it memory-mapped."""
    np.save(path, array)
    mapped: NDArray[Any] = np.load(path, mmap_mode="r")
    return mapped
