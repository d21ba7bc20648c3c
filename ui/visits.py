"""What a visitor has: the work under way, the pictures made so far, and a folder that is swept when they have left.

Does not know Gradio, nor how a picture is made.
"""

import os
import re
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from styler.options import Options
from styler.records import Record

PREFIX = "styler-ui-"
OLDEST = 24 * 3600.0
"""Seconds that a file stays which nobody has touched."""
LARGEST = 2_000_000_000
"""Bytes of all files; beyond them the oldest go."""
YOUNG = 600.0
"""Seconds in which a file is never swept: somebody is about to use it."""


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
class Order:
    """What is to be painted."""

    content: Upload
    styles: tuple[Upload, ...]
    options: Options
    start: Path | None = None
    """A picture of this visit to go on from."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Painted:
    """A picture that was made in this visit."""

    order: Order
    record: Record
    png: Path
    """Lossless, with the settings inside."""
    jpeg: Path
    before: Path
    """The photo at the same size."""
    curve: tuple[tuple[int, dict[str, float]], ...]
    """Evaluations so far, and the terms of the loss then."""
    notes: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Visit:
    """One browser tab."""

    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)
    """Of the work under way, or of the last."""
    frame: str = ""
    """The photo that was looked at last, as the page shows it."""
    is_discarded: bool = False
    is_painting: bool = False
    painted: list[Painted] = field(default_factory=list)

    def begin(self) -> threading.Event:
        """A new piece of work; what stops it."""
        self.stop, self.is_discarded, self.is_painting = threading.Event(), False, True
        return self.stop

    def discard(self) -> None:
        """Stop the work and keep nothing of it."""
        self.is_discarded = True
        self.stop.set()

    def next_folder(self) -> Path:
        """An empty folder for the next picture."""
        folder = self.folder / str(len(self.painted) + 1)
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class Visits:
    """Everybody's, in one temporary folder of this server's own."""

    def __init__(self) -> None:
        sweep_others()
        self.root = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self.uploads = self.root / "uploads"
        self.uploads.mkdir()
        self._open: dict[str, Visit] = {}
        self._lock = threading.Lock()

    def of(self, session: str | None) -> Visit:
        """The visit of a browser tab; a new one the first time."""
        key = re.sub(r"\W", "", session or "") or "nobody"
        with self._lock:
            if key not in self._open:
                self._open[key] = Visit(self.root / "visits" / key)
            return self._open[key]

    def leave(self, session: str | None) -> None:
        """The tab is closed: its work stops, its pictures go."""
        key = re.sub(r"\W", "", session or "") or "nobody"
        with self._lock:
            visit = self._open.pop(key, None)
        if visit:
            visit.discard()
            shutil.rmtree(visit.folder, ignore_errors=True)

    def stop_all(self) -> None:
        """Stop all work."""
        with self._lock:
            for visit in self._open.values():
                visit.discard()

    def close(self) -> None:
        """Stop all work and remove everything."""
        self.stop_all()
        shutil.rmtree(self.root, ignore_errors=True)

    def sweep(self, oldest: float = OLDEST, largest: int = LARGEST) -> None:
        """Remove files that are old, and beyond a total the oldest; none that is young."""
        now, total = time.time(), 0
        for age, size, path in sorted(_files(self.root, now)):  # youngest first
            total += size
            if age > YOUNG and (age > oldest or total > largest):
                path.unlink(missing_ok=True)


def sweep_others() -> None:
    """Remove what servers left that are no more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        number = folder.name.removeprefix(PREFIX).partition("-")[0]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def _files(root: Path, now: float) -> list[tuple[float, int, Path]]:
    """Age, size and path of every file."""
    found = []
    for path in root.rglob("*"):
        try:
            facts = path.lstat()
        except FileNotFoundError:  # it went meanwhile
            continue
        if path.is_file():
            found.append((now - facts.st_mtime, facts.st_size, path))
    return found
