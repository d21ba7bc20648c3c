"""The manifest of a batch: what was done, what failed and why; a line of JSON for every change, and none ever changed.

A line that a crash tore off at the end is as if it had never been written. Does not know what a pair is, nor pictures.
"""

import json
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from styler.batch import discover
from styler.errors import OutputError, StylerError, quote_name

MANIFEST_SCHEMA = 1
MANIFEST_FOLDER, MANIFEST_FILE = ".styler", "manifest.jsonl"

WRITING, DONE, FAILED = "writing", "done", "failed"
"""States of a picture: its bytes are known and about to be there, they are there, it could not be made."""
RUN, INDEX = "run", "index"
"""What else a line can tell: a run began, the index was written."""


class ManifestError(OutputError):
    """The manifest cannot be written, so that nothing more can be done."""


@dataclass(slots=True)
class ManifestHistory:
    """What a manifest says."""

    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The state of every picture by its name below the folder, with all that its lines say."""
    runs: list[dict[str, Any]] = field(default_factory=list)
    index: dict[str, str] = field(default_factory=dict)
    """Hashes of the files of the index, by name."""
    whole: int = 0
    """Bytes up to the end of the last whole line."""
    _shared: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    """What is said of styles, once for all pictures."""

    def settings(self, digest: str) -> Mapping[str, Any]:
        """The settings of the run that had this hash."""
        return next((run["options"] for run in reversed(self.runs) if run.get("settings") == digest), {})

    def add(self, line: Mapping[str, Any]) -> None:
        """Take in one more line."""
        state = line["state"]
        if state == RUN:
            self.runs.append(dict(line))
        elif state == INDEX:
            self.index.update(line["files"])
        else:
            entry = self.entries.setdefault(line["output"], {})
            entry.update((name, value) for name, value in line.items() if name not in ("schema", "time", "output"))
            if "styles" in line:
                entry["styles"] = [self._shared.setdefault(tuple(style.values()), style) for style in line["styles"]]


def manifest_path(out: Path) -> Path:
    """Where the manifest of a folder is."""
    return out / MANIFEST_FOLDER / MANIFEST_FILE


def read_manifest(out: Path) -> ManifestHistory:
    """What the manifest of a folder says; nothing if there is none.

    Raises:
        StylerError: it cannot be read, is damaged, or is of a newer program.
    """
    past, file = ManifestHistory(), manifest_path(out)
    try:
        with file.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.endswith(b"\n"):  # torn off by a crash
                    break
                past.add(_parse_line(line, number, file))
                past.whole += len(line)
    except (FileNotFoundError, NotADirectoryError):
        return past
    except OSError as problem:
        raise StylerError(
            f"Cannot read the manifest {quote_name(file)}: {problem.strerror}; make it readable, or give another folder."
        ) from problem
    return past


def _parse_line(line: bytes, number: int, file: Path) -> dict[str, Any]:
    try:
        found = json.loads(line)
        if found["schema"] <= MANIFEST_SCHEMA:
            _ = found["state"] in (RUN, INDEX) or found["output"]
            return dict(found)
    except (ValueError, TypeError, KeyError, RecursionError) as problem:
        raise StylerError(
            f"Line {number} of the manifest {quote_name(file)} is damaged; restore it, or give another folder with -o."
        ) from problem
    raise StylerError(f"The manifest {quote_name(file)} is of a newer version of styler; update styler.")


class Manifest:
    """A manifest that is open to be continued; whoever opens it has the folder for itself.

    Args:
        out: the folder of the results.
        past: what it says so far, just read.

    Raises:
        StylerError: it cannot be written.
    """

    def __init__(self, out: Path, past: ManifestHistory) -> None:
        self.past = past
        self._file = manifest_path(out)
        self._turn = threading.Lock()
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._stream: IO[bytes] = self._file.open("ab", buffering=0)
            if os.fstat(self._stream.fileno()).st_size != self.past.whole:  # a line that was torn off
                self._stream.truncate(self.past.whole)
        except OSError as problem:
            raise self._unwritable(problem) from problem

    def __enter__(self) -> "Manifest":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def add(self, state: str, **facts: Any) -> None:
        """Write a line, to the disk itself; threads take turns.

        Raises:
            ManifestError: it cannot be written; the manifest ends with the line before.
        """
        with self._turn:
            self._add(state, facts)

    def _add(self, state: str, facts: Mapping[str, Any]) -> None:
        line = {
            "schema": MANIFEST_SCHEMA,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "state": state,
            **facts,
        }
        data = json.dumps(line, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"
        try:
            if self._stream.write(data) != len(data):
                raise OSError(28, os.strerror(28))  # noqa: TRY301 - a disk that is full takes a part
            os.fsync(self._stream.fileno())
        except OSError as problem:
            with suppress(OSError):  # else whoever reads it next leaves the torn line out
                self._stream.truncate(self.past.whole)
            raise self._unwritable(problem) from problem
        self.past.whole += len(data)
        self.past.add(line)

    def _unwritable(self, problem: OSError) -> ManifestError:
        return ManifestError(
            f"Cannot write the manifest {quote_name(self._file)} ({problem.strerror}); make room or give another folder, "
            "then give the same command again."
        )


class FileFacts:
    """Sizes, times and hashes of files, each looked up once."""

    def __init__(self) -> None:
        self._states: dict[str, dict[str, Any]] = {}
        self._hashes: dict[str, str] = {}

    def state(self, path: str) -> dict[str, Any]:
        """Path, size and time of a file, as the manifest has them; without the latter two if it is not there."""
        if path not in self._states:
            self._states[path] = {"path": discover.absolute_path(path), **discover.stat_file(path)}
        return self._states[path]

    def digest(self, path: str) -> str:
        """SHA-256 of a file; empty if it cannot be read."""
        if path not in self._hashes:
            self._hashes[path] = discover.hash_file(path)
        return self._hashes[path]

    def is_same(self, path: str, recorded: Mapping[str, Any]) -> bool:
        """Whether a file is what it was."""
        now = self.state(path)
        if "size" in now and (now["size"], now["mtime"]) == (recorded.get("size"), recorded.get("mtime")):
            return True
        if now.get("size") != recorded.get("size"):
            return False
        return self.digest(path) == str(recorded.get("sha256", ""))
