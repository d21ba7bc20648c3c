"""What a visitor has: the work under way, the pictures made so far, and a folder that is swept when they have left.

Does not know Gradio, nor how a picture is made.
"""

import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from styler.engine.result import Result
from styler.options import Options
from styler.provenance import Record

FOLDER_PREFIX = "styler-ui-"
MAX_AGE = 24 * 3600.0
"""Seconds that a file stays which nobody has touched."""
MAX_TOTAL_BYTES = 2_000_000_000
"""Bytes of all files; beyond them the oldest go."""
MIN_AGE = 600.0
"""Seconds in which a file is never swept: somebody is about to use it."""
MAX_UNUSED_AGE = 3600.0
"""Seconds that an upload stays which no open visit has used."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file as somebody sent it: where it lies, and what they call it. Nobody has looked into it yet."""

    path: Path
    name: str

    @property
    def stem(self) -> str:
        """The name without its ending, fit for the name of another file."""
        return re.sub(r"[^\w.-]+", "-", Path(self.name).stem).strip("-.")[:60] or "picture"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintRequest:
    """What is to be painted."""

    content: Upload
    styles: tuple[Upload, ...]
    options: Options
    start: Path | None = None
    """A picture of this visit to go on from."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FinishedPicture:
    """A picture that was made in this visit."""

    order: PaintRequest
    record: Record
    png: Path
    """Lossless, with the settings inside."""
    jpeg: Path
    before: Path
    """The photo at the same size."""
    curve: tuple[tuple[int, dict[str, float]], ...]
    """Evaluations so far, and the terms of the loss then."""
    notes: tuple[str, ...]
    result: Result
    """As it came, for other formats; its pixels stay on the disk."""


@dataclass(slots=True, eq=False)
class Session:
    """One browser tab, or its batch."""

    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)
    """Of the work under way, or of the last."""
    frame: str = ""
    """The photo that was looked at last, as the page shows it."""
    is_discarded: bool = False
    is_waiting: bool = False
    """For its turn; if that ends without any work, there was no room in the queue."""
    is_painting: bool = False
    painted: list[FinishedPicture] = field(default_factory=list)
    shown: int = -1
    """Which of them is looked at."""
    uploads: set[Path] = field(default_factory=set)
    """What was uploaded for it: removed with it."""

    def begin(self) -> threading.Event:
        """A new piece of work; what stops it."""
        self.is_waiting = False
        self.stop, self.is_discarded, self.is_painting = threading.Event(), False, True
        return self.stop

    def halt(self) -> None:
        """Stop the work under way; the best so far can be kept."""
        self.stop.set()

    def discard(self) -> None:
        """Stop the work and keep nothing of it."""
        self.is_discarded = True
        self.stop.set()

    def uses(self, *uploads: Upload) -> None:
        """Remember files as this visit's own."""
        self.uploads.update(upload.path for upload in uploads)

    def next_folder(self, name: str = "") -> Path:
        """An empty folder for the next picture, or the next batch."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{name or len(self.painted) + 1}-", dir=self.folder))


class Sessions:
    """Everybody's, in one temporary folder of this server's own, of a limited size."""

    def __init__(self, largest: int = MAX_TOTAL_BYTES) -> None:
        remove_stale_folders()
        self.largest = largest
        self.root = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-"))
        self.uploads, self.made = self.root / "uploads", self.root / "visits"
        self.uploads.mkdir()
        self.made.mkdir()
        self._open: dict[str, Session] = {}
        self._lock = threading.Lock()

    def of(self, session: str | None, kind: str = "") -> Session:
        """The visit of a browser tab, or its batch; a new one the first time."""
        key = _session_key(session) + (f"-{kind}" if kind else "")
        with self._lock:
            if key not in self._open:
                self._open[key] = Session(self.made / key)
            return self._open[key]

    def leave(self, session: str | None) -> None:
        """The tab is closed: its work stops; its pictures and its uploads go."""
        key = _session_key(session)
        with self._lock:
            left = [self._open.pop(name) for name in [*self._open] if name == key or name.startswith(f"{key}-")]
            used = set().union(*(visit.uploads for visit in self._open.values()))
        for visit in left:
            visit.discard()
            for path in visit.uploads - used:
                if path.is_relative_to(self.uploads):  # and not a picture that comes with styler
                    _remove_file(path)
        for folder in (self.made / key, *self.made.glob(f"{key}-*")):
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def brief(self, session: str | None, kind: str) -> Iterator[Session]:
        """A visit for one piece of work; its files stay until the session is left, or the janitor finds them old.

        Whoever calls again and again, each time as a new session, is not remembered.
        """
        visit = self.of(session, kind)
        try:
            yield visit
        finally:
            with self._lock:
                self._open.pop(visit.folder.name, None)

    def stop_all(self) -> None:
        """Stop all work."""
        with self._lock:
            for visit in self._open.values():
                visit.discard()

    def close(self) -> None:
        """Stop all work and remove everything."""
        self.stop_all()
        shutil.rmtree(self.root, ignore_errors=True)

    def has_room(self, size: int) -> bool:
        """Whether so many bytes fit in what all files may take, if need be after a sweep."""
        for attempt in range(2):
            if sum(taken for _, taken, _ in _list_files(self.root, 0.0)) + size <= self.largest:
                return True
            if not attempt:
                self.sweep(largest=self.largest - size)
        return False

    def sweep(self, oldest: float = MAX_AGE, largest: int | None = None) -> None:
        """Remove files that are old, uploads that nobody uses, and beyond a total the oldest; none that is young."""
        now, total, most = time.time(), 0, self.largest if largest is None else largest
        with self._lock:
            used = set().union(*(visit.uploads for visit in self._open.values()))
        for age, size, path in sorted(_list_files(self.root, now)):  # youngest first
            total += size
            limit = MAX_UNUSED_AGE if path.is_relative_to(self.uploads) and path not in used else oldest
            if age > MIN_AGE and (age > min(limit, oldest) or total > most):
                _remove_file(path)


def _session_key(session: str | None) -> str:
    return re.sub(r"\W", "", session or "") or "nobody"


def _remove_file(path: Path) -> None:
    """A file, and the folder that it was alone in."""
    path.unlink(missing_ok=True)
    with suppress(OSError):  # it was not alone
        path.parent.rmdir()


def remove_stale_folders() -> None:
    """Remove what servers left that are no more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        number = folder.name.removeprefix(FOLDER_PREFIX).partition("-")[0]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def _list_files(root: Path, now: float) -> list[tuple[float, int, Path]]:
    """Age, size and path of every file."""
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            try:
                facts = path.lstat()
            except FileNotFoundError:  # it went meanwhile
                continue
            found.append((now - facts.st_mtime, facts.st_size, path))
    return found
