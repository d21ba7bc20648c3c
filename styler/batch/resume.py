"""What of a batch is still to be done: what its manifest says, held against the files that are there.

A file is taken for unchanged by its size and time; only if those differ are its bytes hashed. Paints nothing.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from styler.batch import ledger, places
from styler.batch.ledger import Past
from styler.batch.pairs import Key, Pair
from styler.errors import UsageError, quote_name
from styler.provenance import MACHINE_OPTIONS

MACHINE = (*MACHINE_OPTIONS, "threads")
"""Settings that ask for no other picture."""
SHOWN = 3
"""Names in a sentence on many."""


@dataclass(slots=True)
class Standing:
    """Where every pair stands before a run."""

    todo: list[Pair] = field(default_factory=list)
    done: list[Pair] = field(default_factory=list)
    failed: list[tuple[Pair, str]] = field(default_factory=list)
    """Those that failed before and are not tried again, with their sentences."""
    found: list[Pair] = field(default_factory=list)
    """Of `done`, those that were written whole by a run that was killed before it could say so."""


class Files:
    """Sizes, times and hashes of files, each looked up once."""

    def __init__(self) -> None:
        self._states: dict[str, dict[str, Any]] = {}
        self._hashes: dict[str, str] = {}

    def state(self, path: str) -> dict[str, Any]:
        """Path, size and time of a file, as the manifest has them; without the latter two if it is not there."""
        if path not in self._states:
            self._states[path] = {"path": places.absolute(path), **places.state(path)}
        return self._states[path]

    def digest(self, path: str) -> str:
        """SHA-256 of a file; empty if it cannot be read."""
        if path not in self._hashes:
            self._hashes[path] = places.digest(path)
        return self._hashes[path]

    def is_same(self, path: str, recorded: Mapping[str, Any]) -> bool:
        """Whether a file is what it was."""
        now = self.state(path)
        if "size" in now and (now["size"], now["mtime"]) == (recorded.get("size"), recorded.get("mtime")):
            return True
        if now.get("size") != recorded.get("size"):
            return False
        return self.digest(path) == str(recorded.get("sha256", ""))


def settings_of(options: Mapping[str, Any], files: Files, starts: Iterable[str], **more: Any) -> dict[str, Any]:
    """All settings that the pixels depend on; a picture to start from stands there by its hash.

    Args:
        options: every field of `Options`.
        files: what is known of files.
        starts: what `init` can be besides a file.
        more: settings beside the options.
    """
    kept = {name: value for name, value in options.items() if name not in MACHINE}
    if kept["init"] not in starts:
        kept["init"] = f"file {files.digest(kept['init'])}"
    return kept | more


def digest(settings: Mapping[str, Any]) -> str:
    """The hash of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode("ascii")).hexdigest()


def kept_names(past: Past) -> dict[Key, str]:
    """The names that pairs had in earlier runs."""
    return {
        (entry["content"]["path"], tuple(style["path"] for style in entry["styles"])): name
        for name, entry in past.entries.items()
        if "content" in entry
    }


def standing(
    pairs: Sequence[Pair],
    past: Past,
    out: Path,
    settings: Mapping[str, Any],
    files: Files,
    *,
    overwrite: bool = False,
    retry: bool = False,
) -> Standing:
    """Sort the pairs into what is to be done and what is not.

    Args:
        pairs: all of them.
        past: what the manifest says.
        out: the folder of the results.
        settings: of this run.
        files: what is known of files.
        overwrite: whether pictures that are there and are others than would be made now may be replaced.
        retry: whether what failed is tried again.

    Raises:
        UsageError: something is in the way and may not be replaced.
    """
    found, wanted = Standing(), digest(settings)
    foreign: list[str] = []
    changed: list[tuple[str, str]] = []
    for pair in pairs:
        entry, place = past.entries.get(pair.output), out / pair.output
        state = entry["state"] if entry else None
        is_there = os.path.lexists(place)
        if state == ledger.WRITING and entry and is_there:
            state = ledger.DONE if files.digest(str(place)) == entry["sha256"] else None
        if not entry or state in (None, ledger.WRITING) or (state == ledger.DONE and not is_there):
            foreign += [pair.output] * is_there
            found.todo.append(pair)
            continue
        why = _changed(pair, entry, wanted, settings, past, files)
        if state == ledger.FAILED and not why and not retry:
            found.failed.append((pair, str(entry["error"])))
        elif state == ledger.FAILED or why:
            if is_there:
                changed.append((pair.output, why or "it failed"))
            found.todo.append(pair)
        else:
            found.done.append(pair)
            found.found += [pair] * (entry["state"] == ledger.WRITING)
    if not overwrite:
        _refuse(foreign, changed)
    return found


def _changed(
    pair: Pair, entry: Mapping[str, Any], wanted: str, settings: Mapping[str, Any], past: Past, files: Files
) -> str:
    """What is different from when a picture was made; empty if nothing is."""
    if entry["settings"] != wanted:
        before = past.settings(entry["settings"])
        names = [name for name, value in settings.items() if before.get(name) != value] if before else []
        told = [f"{name} was {_typed(before.get(name))} and is {_typed(settings[name])}" for name in names[:SHOWN]]
        return ", ".join(told) or "the settings"
    if not files.is_same(pair.content.path, entry["content"]):
        return f"the content {quote_name(pair.content.path)}"
    if len(pair.styles) != len(entry["styles"]):
        return "the number of styles"
    for style, recorded in zip(pair.styles, entry["styles"], strict=True):
        if not files.is_same(style.path, recorded):
            return f"the style {quote_name(style.path)}"
    return ""


def _typed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _refuse(foreign: Sequence[str], changed: Sequence[tuple[str, str]]) -> None:
    """Say what may not be replaced.

    Raises:
        UsageError: something may not.
    """
    if changed:
        name, why = changed[0]
        what = "1 picture was" if len(changed) == 1 else f"{len(changed)} pictures were"
        raise UsageError(
            f"{what} made from other inputs or settings than these, such as {quote_name(name)} (changed: {why}); "
            "have them made anew with --overwrite, or give another folder with -o."
        )
    if foreign:
        names = ", ".join(map(quote_name, foreign[:SHOWN])) + (" …" if len(foreign) > SHOWN else "")
        what = "1 file that this batch did not make is" if len(foreign) == 1 else f"{len(foreign)} files are"
        raise UsageError(
            f"{what} where pictures would go ({names}); replace them with --overwrite, or give another folder with -o."
        )
