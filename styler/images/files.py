"""Names and files of results: checked before any work, written whole or not at all, never over anything unasked.

Does not know what is in the bytes.
"""

import errno
import os
import re
import secrets
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from styler.errors import OutputError, UsageError, quote_name
from styler.images.encode import FORMATS

if sys.platform != "win32":
    import fcntl

_PREFIX, _SUFFIX = ".styler-", ".tmp"
_JUST_MADE = 60.0  # seconds in which an empty temporary file may belong to someone about to lock it
_SURELY_OLD = 86400.0  # seconds after which a temporary file is stale where locks do not work

StrPath = str | os.PathLike[str]


def find_format(path: StrPath) -> str:
    """Return the format that the extension of `path` stands for, a key of `FORMATS`.

    Raises:
        OutputError: no extension or an unknown one; the sentence lists the known ones.
    """
    extension = Path(path).suffix.lower()
    for name, known in FORMATS.items():
        if extension in known.extensions:
            return name
    choices = ", ".join(known.extensions[0] for known in FORMATS.values())
    problem = (
        f"pictures of kind {quote_name(extension)} are not written here" if extension else "its name has no extension"
    )
    raise OutputError(f"Cannot write {quote_name(path)}: {problem}; end the name in one of {choices}.")


def find_free_name(path: StrPath) -> Path:
    """Return `path` if nothing is there, else the first free one of `path-2`, `path-3`, … (before the extension).

    Free at this moment only: `write` still refuses if another program takes the name meanwhile.
    """
    path = Path(path)
    names = (path if n == 1 else path.with_name(f"{path.stem}-{n}{path.suffix}") for n in count(1))
    with _as_output_error(path):
        return next(name for name in names if not os.path.lexists(name))


def is_special(path: StrPath) -> bool:
    """Is there a device, pipe or socket at `path` (or at the end of a link)?"""
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def check_output(path: StrPath, *, overwrite: bool = False) -> None:
    """Find out before any work whether `path` could be written; makes and changes nothing.

    Raises:
        OutputError: it exists and `overwrite` is not set, is a folder, has an unknown extension, or lies where no file
            can be made.
    """
    with _as_output_error(path):
        if is_special(path):
            return
        target = _resolve_target(path, overwrite=overwrite)
        find_format(path)
        folder = next(parent for parent in target.absolute().parents if os.path.lexists(parent))
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "", str(folder))
        # The only true answer to "can a file be made here?" is making one; where the system can, it never has a name.
        with tempfile.TemporaryFile(dir=folder, prefix=_PREFIX, suffix=_SUFFIX):
            pass


def write_file(path: StrPath, data: bytes, *, overwrite: bool = False) -> Path:
    """Write `data` to `path` whole or not at all, and return the path. Missing folders are made.

    A new file appears under its name complete and flushed to the disk; one that is replaced is there, old or new, at
    every moment. Devices and pipes are written to directly.

    Raises:
        OutputError: it exists and `overwrite` is not set, is a folder, or the system would not have it (full disk…).
    """
    with _as_output_error(path):
        if is_special(path):
            with Path(path).open("wb", buffering=0) as stream:
                _write_all(stream.fileno(), data)
            return Path(path)
        target = _resolve_target(path, overwrite=overwrite)
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_beside(target, data, overwrite=overwrite)
    return Path(path)


def remove_stale_files(folder: StrPath) -> None:
    """Remove the temporary files that killed runs left in `folder`; those of runs still alive are locked, and stay."""
    with suppress(OSError):  # a folder that cannot be listed has nothing that can be swept
        for entry in list(os.scandir(folder)):
            if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX):
                with suppress(OSError):  # another run was faster, or it is not ours to remove
                    _remove_if_stale(Path(entry.path))


def _remove_if_stale(path: Path) -> None:
    file = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        status = os.fstat(file)
        age = time.time() - status.st_mtime
        if not stat.S_ISREG(status.st_mode) or (status.st_size == 0 and age < _JUST_MADE):
            return
        if _lock(file) or age > _SURELY_OLD:
            path.unlink()
    finally:
        os.close(file)


def _lock(file: int) -> bool:
    """Lock an open file without waiting. The system lets go when the process ends, however it ends."""
    if sys.platform == "win32":  # where a file that is open cannot be removed anyway
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # someone else has it, or the file system has no locks
        return False
    return True


def _resolve_target(path: StrPath, *, overwrite: bool) -> Path:
    """Return the file to make or replace: where `path` is a link, what it points to, so that the link stays.

    Raises:
        OSError: nothing may be written there.
    """
    target = Path(path).resolve() if Path(path).is_symlink() else Path(path)
    if target.is_dir() or os.fspath(path).endswith(("/", os.sep)):
        raise IsADirectoryError(errno.EISDIR, "")
    if target.exists() and not overwrite:
        raise FileExistsError(errno.EEXIST, "")
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "")
    return target


def _write_beside(target: Path, data: bytes, *, overwrite: bool) -> None:
    temporary = target.with_name(f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        file = os.open(temporary, flags, 0o666)  # less the user's umask, as any new file
        try:
            _lock(file)
            if overwrite and target.exists():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            _write_all(file, data)
            os.fsync(file)
            if sys.platform != "win32":
                _publish(temporary, target, overwrite=overwrite)  # still locked, so that no sweep comes between
        finally:
            os.close(file)
        if sys.platform == "win32":  # which renames no open file
            _publish(temporary, target, overwrite=overwrite)
    finally:
        temporary.unlink(missing_ok=True)
    _flush_folder(target.parent)


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _publish(temporary: Path, target: Path, *, overwrite: bool) -> None:
    """Give a finished file its name, in one step; without `overwrite` never over a file that came meanwhile."""
    if overwrite:
        temporary.replace(target)
        return
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # no hard links here (FAT, some network shares): reserve the name, then replace our own empty file
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        try:
            temporary.replace(target)
        except OSError:
            target.unlink()
            raise


def _flush_folder(folder: Path) -> None:
    """Make the new name durable, where the system can."""
    with suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


@contextmanager
def _as_output_error(path: StrPath) -> Iterator[None]:
    """Turn what the system says about `path` into one sentence."""
    try:
        yield
    except (OSError, ValueError) as problem:
        raise OutputError(f"Cannot write {quote_name(path)}: {_explain_os_error(problem)}.") from problem


def _explain_os_error(problem: OSError | ValueError) -> str:
    if not isinstance(problem, OSError):
        return "no file can have this name; choose another"  # a null byte in it
    reasons = {
        errno.EEXIST: "it exists already; choose another name or ask to overwrite it",
        errno.EACCES: "you have no permission to write there; choose another folder",
        errno.EPERM: "you have no permission to write there; choose another folder",
        errno.EROFS: "the disk is read-only; choose another folder",
        errno.ENOSPC: "the disk is full; make room or choose another folder",
        errno.EDQUOT: "your disk quota is used up; make room or choose another folder",
        errno.ENOTDIR: "a part of its path is a file, not a folder; choose another folder",
        errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
        errno.EISDIR: "it is a folder; name a file in it",
        errno.EPIPE: "nobody reads from it any more; start the reader again",
    }
    said = problem.strerror or str(problem)
    return reasons.get(problem.errno or 0, f"the system says “{said}”; choose another folder")


def fill_template(template: str, values: Mapping[str, str], flag: str) -> str:
    """A template with its fields filled in; `{{` and `}}` are braces.

    Args:
        template: such as `{content}-{seed}.{ext}`.
        values: of every field there is.
        flag: what the template was given by, for the sentence.

    Raises:
        UsageError: there is no such field.
    """

    def value(found: "re.Match[str]") -> str:
        if found[0] in ("{{", "}}"):
            return found[0][0]
        if found[1] not in values:
            known = ", ".join(f"{{{name}}}" for name in values)
            raise UsageError(f"{flag} has no field {found[0]}; it can have {known}, and {{{{ for a brace.")
        return values[found[1]]

    return _FIELD.sub(value, template)


_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
