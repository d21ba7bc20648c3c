"""Of two runs that write one output the second is told who is writing it.

The locks lie in the user's cache, not beside the picture, and go when their run ends. They only save work and worry:
without them, as where no folder can be written, the last write still replaces a file whole or not at all.
"""

import hashlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from styler.errors import OutputError, quote_name


@contextmanager
def held(path: Path | None) -> Iterator[None]:
    """Have `path` for this run alone until the block ends; nothing is done for None and for devices and pipes.

    Raises:
        OutputError: another run is writing it; the sentence says which.
    """
    from styler import images

    with ExitStack() as stack:
        if path is not None and not images.is_special(path) and (folder := _folder()):
            key = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
            stack.enter_context(_locked(folder / f"{key}.lock", path))
        yield


@contextmanager
def _locked(file: Path, path: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock, note = FileLock(file, blocking=False), file.with_suffix(".txt")
    try:
        lock.acquire()
    except Timeout as problem:  # before OSError, which it is too
        raise OutputError(
            f"Another run of styler{_who(note)} is writing {quote_name(path)}; wait for it, or give another name "
            "with -o."
        ) from problem
    except (OSError, NotImplementedError):  # another user's file, perhaps, or a file system without locks
        yield
        return
    try:
        with suppress(OSError):  # a full disk; then it is not said who
            here = f"process {os.getpid()} on {platform.node()}, since {time.strftime('%H:%M:%S')}"
            note.write_text(here, encoding="utf-8")
        yield
    finally:
        for made in (note, file):  # while it is locked: whoever waits for this very file sees that it is gone
            with suppress(OSError):  # Windows removes no open file
                made.unlink(missing_ok=True)
        lock.release()


def _who(note: Path) -> str:
    """Who holds a lock, in brackets; empty when it cannot be known."""
    try:
        return f" ({note.read_text(encoding='utf-8')})"
    except (OSError, UnicodeError):
        return ""


def _folder() -> Path | None:
    """A folder of this user's for locks; None when there is none that can be written."""
    from platformdirs import user_cache_path

    own = f"styler-{os.getuid()}" if sys.platform != "win32" else "styler"
    for folder in (user_cache_path("styler") / "locks", Path(tempfile.gettempdir()) / own):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:  # a home that is read-only, or none; the next may do
            continue
        if os.access(folder, os.W_OK) and _is_ours(folder):
            return folder
    return None


def _is_ours(folder: Path) -> bool:
    """Does it belong to this user? In another's, notes could be led elsewhere by links and write over our own files."""
    return sys.platform == "win32" or folder.lstat().st_uid == os.getuid()
