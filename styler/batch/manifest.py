"""The manifest of a batch: a log of what was painted and what failed, one line of JSON for every change.

Lines are only appended, never changed; an incomplete last line, left by a crash, is ignored. Every line has `schema`,
`time` and `state`. By state, it also has

    run      version, options, settings (their SHA-256), pairs, todo
    writing  output, settings, content, styles, sha256 of the file
    done     output, seconds
    failed   output, settings, content, styles, error, seconds
    index    files (SHA-256 by name)
    precision  settings, precision (of all pictures with these settings, where `auto` has chosen it)

`content` and each of `styles` have path, size, mtime and sha256; so has each of `masks`, if there are mask pictures.
README.md beside this file explains all fields. Does not know how inputs are paired, nor what is in a picture.
"""

import errno
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from styler.batch import discover
from styler.errors import OutputError, StylerError, quote_name

MANIFEST_SCHEMA = 1

WRITING, DONE, FAILED = "writing", "done", "failed"
"""States of a picture: encoded and about to be written; written; failed."""
RUN, INDEX, PRECISION = "run", "index", "precision"
"""States of lines that are not about a picture: a run started, a file of the index was written, and the precision that
was chosen."""


class ManifestError(OutputError):
    """The manifest cannot be written, which ends the batch."""


@dataclass(slots=True)
class ManifestHistory:
    """The contents of a manifest."""

    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The state of every picture and all fields of its lines, by its path in the output folder."""
    runs: list[dict[str, Any]] = field(default_factory=list)
    index: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the files of the index, by name."""
    precisions: dict[str, str] = field(default_factory=dict)
    """The precision that `auto` has chosen, by the hash of the settings."""
    size: int = 0
    """Bytes up to the end of the last complete line."""
    _styles: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    """Every distinct style, so that the entries of its pictures share one dictionary."""

    def find_settings(self, digest: str) -> Mapping[str, Any]:
        """Return the settings that have this hash; empty if no run had them."""
        return next((run["options"] for run in reversed(self.runs) if run.get("settings") == digest), {})

    def measure_pictures(self, digest: str) -> float | None:
        """Return the median seconds of the pictures painted with the settings that have this hash; None without any."""
        done = (entry for entry in self.entries.values() if entry["state"] == DONE and entry.get("settings") == digest)
        seconds = [entry["seconds"] for entry in done if entry["seconds"]]  # 0 if the run was killed
        return statistics.median(seconds) if seconds else None

    def add(self, line: Mapping[str, Any]) -> None:
        """Add the contents of one more line."""
        state = line["state"]
        if state == RUN:
            self.runs.append(dict(line))
        elif state == INDEX:
            self.index.update(line["files"])
        elif state == PRECISION:
            self.precisions[line["settings"]] = line["precision"]
        else:
            entry = self.entries.setdefault(line["output"], {})
            facts = {name: value for name, value in line.items() if name not in ("schema", "time", "output")}
            entry.update(_share_names(facts))
            if "styles" in line:
                entry["content"], entry["settings"] = _share_names(line["content"]), sys.intern(line["settings"])
                entry["styles"] = [self._styles.setdefault(tuple(style.values()), style) for style in line["styles"]]


def _share_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with their names as shared objects: parsed from JSON, each line has its own copies."""
    return {sys.intern(name): value for name, value in fields.items()}


def locate_manifest(out: Path) -> Path:
    """Return the path of the manifest of an output folder."""
    return out / discover.MANIFEST_FOLDER / discover.MANIFEST_FILE


def read_manifest(out: Path) -> ManifestHistory:
    """Read the manifest of an output folder; empty if there is none.

    Raises:
        StylerError: it cannot be read, is damaged, or was written by a newer version.
    """
    history, file = ManifestHistory(), locate_manifest(out)
    try:
        with file.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.endswith(b"\n"):  # left by a crash
                    break
                history.add(_parse_line(line, number, file))
                history.size += len(line)
    except (FileNotFoundError, NotADirectoryError):
        return history
    except OSError as problem:
        raise StylerError(
            f"Cannot read the manifest {quote_name(file)}: {problem.strerror}; make it readable, or use another folder."
        ) from problem
    return history


def _parse_line(line: bytes, number: int, file: Path) -> dict[str, Any]:
    try:
        fields = json.loads(line)
        if fields["schema"] <= MANIFEST_SCHEMA:
            _ = fields["state"] in (RUN, INDEX, PRECISION) or fields["output"]
            return dict(fields)
    except (ValueError, TypeError, KeyError, RecursionError) as problem:
        raise StylerError(
            f"Line {number} of the manifest {quote_name(file)} is damaged; restore it, or use another folder with -o."
        ) from problem
    raise StylerError(f"The manifest {quote_name(file)} was written by a newer version of styler; update styler.")


class Manifest:
    """A manifest that is open for appending; the caller has locked the folder.

    Args:
        out: the output folder.
        history: its contents, just read.

    Raises:
        StylerError: it cannot be written.
    """

    def __init__(self, out: Path, history: ManifestHistory) -> None:
        self.history = history
        self._file = locate_manifest(out)
        self._lock = threading.Lock()
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._stream: IO[bytes] = self._file.open("ab", buffering=0)
            if os.fstat(self._stream.fileno()).st_size != self.history.size:  # an incomplete last line
                self._stream.truncate(self.history.size)
        except OSError as problem:
            raise self._make_error(problem) from problem

    def __enter__(self) -> "Manifest":
        return self

    def __exit__(self, *_error: object) -> None:
        self._stream.close()

    def add(self, state: str, **facts: Any) -> None:
        """Append a line and flush it to the disk; can be called from any thread.

        Raises:
            ManifestError: it cannot be written; the manifest is as before.
        """
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = {"schema": MANIFEST_SCHEMA, "time": now, "state": state, **facts}
        data = json.dumps(line, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"
        with self._lock:
            try:
                if self._stream.write(data) != len(data):  # a full disk takes a part of it
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: TRY301
                os.fsync(self._stream.fileno())
            except OSError as problem:
                with suppress(OSError):  # or the next reader ignores the incomplete line
                    self._stream.truncate(self.history.size)
                raise self._make_error(problem) from problem
            self.history.size += len(data)
            self.history.add(line)

    def _make_error(self, problem: OSError) -> ManifestError:
        return ManifestError(
            f"Cannot write the manifest {quote_name(self._file)} ({problem.strerror}); free up space or use another "
            "folder, then run the same command again."
        )


class FileFacts:
    """Sizes, times and hashes of files, each looked up once."""

    def __init__(self) -> None:
        self._states: dict[str, dict[str, Any]] = {}
        self._hashes: dict[str, str] = {}

    def describe(self, path: str) -> dict[str, Any]:
        """Return path, size and time of a file as the manifest stores them; the path alone if the file is missing."""
        if path not in self._states:
            self._states[path] = {"path": discover.make_absolute(path), **discover.stat_file(path)}
        return self._states[path]

    def hash(self, path: str) -> str:
        """Return the SHA-256 of a file; empty if it cannot be read."""
        if path not in self._hashes:
            self._hashes[path] = discover.hash_file(path)
        return self._hashes[path]

    def is_same(self, path: str, recorded: Mapping[str, Any]) -> bool:
        """Return whether a file has its recorded contents, comparing size and time first, then the hash."""
        now = self.describe(path)
        if now.get("size") != recorded.get("size"):
            return False
        if "size" in now and now["mtime"] == recorded.get("mtime"):
            return True
        return self.hash(path) == str(recorded.get("sha256", ""))
