"""Names and files of results: checked before any work, written whole or not at all, overwritten only on request.

Does not know what the bytes are.
"""

import errno
import os
import re
import secrets
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from styler.errors import OutputError, UsageError, quote_name
from styler.images.encode import FORMATS

if sys.platform != "win32":
    import fcntl

_PREFIX, _SUFFIX = ".styler-", ".tmp"
_LOCK_GRACE_SECONDS = 60.0  # an empty temporary file younger than this may be about to be locked by its owner
_STALE_SECONDS = 86400.0  # a temporary file older than this is stale where locks do not work
_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What file systems report that lack a function, such as flushing or permissions."""
_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds to wait for virus scanners and indexers on Windows, which open every new file for a moment."""
_WINDOWS_NAME = re.compile(
    r"(?i)(con|prn|aux|nul|con(in|out)\$|(com|lpt)[0-9¹²³]) *(\..*)?|.*([ .]|[<>:\"|?*\x00-\x1f].*)"
)
"""Names that Windows gives to devices, or silently changes: `a:b.png` is a hidden part of the file `a`."""
_ACCESS_LIST = "system.posix_acl_access"
_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")

StrPath = str | os.PathLike[str]


def find_format(path: StrPath) -> str:
    """Return the format of the extension of `path`, a key of `FORMATS`.

    Raises:
        OutputError: there is no extension, or an unknown one; lists the known ones.
    """
    extension = Path(path).suffix.lower()
    for key, known in FORMATS.items():
        if extension in known.extensions:
            return key
    choices = ", ".join(known.extensions[0] for known in FORMATS.values())
    reason = f"the format {quote_name(extension)} is not supported" if extension else "its name has no extension"
    raise OutputError(f"Cannot write {quote_name(path)}: {reason}; end the name in one of {choices}.")


def find_free_name(path: StrPath) -> Path:
    """Return `path` if it does not exist, else the first free one of `path-2`, `path-3`, … (before the extension).

    Another program may take the name in the meantime; `write_file` then fails.
    """
    path = Path(path)
    names = (path if n == 1 else path.with_name(f"{path.stem}-{n}{path.suffix}") for n in count(1))
    with _as_output_error(path):
        return next(name for name in names if not os.path.lexists(name))


def is_special(path: StrPath) -> bool:
    """Return whether there is a device, pipe or socket at `path` or at the end of a link."""
    try:
        mode = Path(path).stat().st_mode
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def check_output(path: StrPath, *, overwrite: bool = False) -> None:
    """Check before any work whether `path` can be written; leaves nothing behind.

    Raises:
        OutputError: it exists and `overwrite` is not set, is a folder, has an unknown extension, or cannot be
            created there.
    """
    with _as_output_error(path):
        if is_special(path):
            return
        target = _resolve_target(path, overwrite=overwrite)
        find_format(path)
        if _is_replaced_in_place(target):
            return
        folder = next(parent for parent in target.absolute().parents if os.path.lexists(parent))
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "", str(folder))
        # Only creating a file shows whether one can be created; where supported, the file never has a name.
        with tempfile.TemporaryFile(dir=folder, prefix=_PREFIX, suffix=_SUFFIX):
            pass


def write_file(path: StrPath, *data: bytes | memoryview, overwrite: bool = False) -> Path:
    """Write `data`, one part after another, to `path` whole or not at all, and return the path.

    Missing folders are created.

    A new file appears complete and flushed to the disk; one that is replaced exists, old or new, at every moment.
    Devices and pipes are written to directly, and so is a file in a folder where nothing can be created, such as a file
    that is mounted into a read-only container.

    Raises:
        OutputError: it exists and `overwrite` is not set, is a folder, or the system refuses (disk full…).
    """
    with _as_output_error(path):
        if is_special(path):
            with Path(path).open("wb", buffering=0) as stream:
                _write_all(stream.fileno(), data)
            return Path(path)
        target = _resolve_target(path, overwrite=overwrite)
        if _is_replaced_in_place(target):
            _write_in_place(target, data)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            _write_beside(target, data, overwrite=overwrite)
    return Path(path)


def remove_stale_files(folder: StrPath) -> None:
    """Remove temporary files that killed runs left in `folder`; those of live runs are locked and stay."""
    with suppress(OSError):  # in a folder that cannot be listed, nothing can be removed
        for entry in list(os.scandir(folder)):
            if entry.name.startswith(_PREFIX) and entry.name.endswith(_SUFFIX):
                with suppress(OSError):  # another run removed it, or permission is missing
                    _remove_if_stale(Path(entry.path))


def _remove_if_stale(path: Path) -> None:
    file = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        status = os.fstat(file)
        age = time.time() - status.st_mtime
        is_new = age < _LOCK_GRACE_SECONDS
        if not stat.S_ISREG(status.st_mode) or (is_new and (status.st_size == 0 or sys.platform == "win32")):
            return
        if sys.platform != "win32":
            if _lock(file) or age > _STALE_SECONDS:
                path.unlink()
    finally:
        os.close(file)
    if sys.platform == "win32":  # it removes no open file: neither one that is being written nor ours
        path.unlink()


def _lock(file: int) -> bool:
    """Lock an open file without waiting, and return whether it worked; the system unlocks it when the process ends."""
    if sys.platform == "win32":  # where files that are being written cannot be removed, and the others are new
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process has it, or the file system has no locks
        return False
    return True


def _resolve_target(path: StrPath, *, overwrite: bool) -> Path:
    """Return the file to create or replace: the target of a link, so that the link stays.

    Raises:
        OSError: it must not be written.
    """
    target = Path(path).resolve() if Path(path).is_symlink() else Path(path)
    if sys.platform == "win32" and any(_WINDOWS_NAME.fullmatch(part) for part in target.parts if part != target.anchor):
        raise ValueError("the name is not possible on Windows")
    if target.is_dir() or os.fspath(path).endswith(("/", os.sep)):
        raise IsADirectoryError(errno.EISDIR, "")
    if target.exists() and not overwrite:
        raise FileExistsError(errno.EEXIST, "")
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "")
    return target


def _write_beside(target: Path, data: Sequence[bytes | memoryview], *, overwrite: bool) -> None:
    temporary = target.with_name(f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        file = os.open(temporary, flags, 0o666)  # minus the user's umask
        try:
            _lock(file)
            if overwrite and target.exists():
                _copy_permissions(target, temporary)
            _write_all(file, data)
            _flush(file)
            if sys.platform != "win32":
                _publish(temporary, target, overwrite=overwrite)  # still locked, so no other run removes it
        finally:
            os.close(file)
        if sys.platform == "win32":  # where an open file cannot be renamed
            _publish(temporary, target, overwrite=overwrite)
    finally:
        temporary.unlink(missing_ok=True)
    _flush_folder(target.parent)


def _write_all(file: int, data: Sequence[bytes | memoryview]) -> None:
    for part in data:
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(file, rest) :]


def _flush(file: int) -> None:
    """Flush a file to the disk, where the file system can."""
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def _copy_permissions(source: Path, path: Path) -> None:
    """Give a file the group, mode and access list of another, as far as the system and the file system have them."""
    status = source.stat()
    if sys.platform != "win32":
        with suppress(OSError):  # a group of which this user is no member
            os.chown(path, -1, status.st_gid)
    with suppress(OSError):  # FAT, some network shares
        path.chmod(stat.S_IMODE(status.st_mode))
    if sys.platform == "linux":
        with suppress(OSError):  # there is none
            os.setxattr(path, _ACCESS_LIST, os.getxattr(source, _ACCESS_LIST))


def _is_replaced_in_place(target: Path) -> bool:
    """Return whether there is a file in a folder where nothing can be created."""
    return target.is_file() and not os.access(target.parent, os.W_OK)


def _write_in_place(target: Path, data: Sequence[bytes | memoryview]) -> None:
    file = os.open(target, os.O_WRONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        _write_all(file, data)
        os.ftruncate(file, sum(map(len, data)))
        _flush(file)
    finally:
        os.close(file)


def _replace(temporary: Path, target: Path) -> None:
    """Rename a file over another; where the file system cannot do that, move the other aside first."""
    for seconds in _WAITS if sys.platform == "win32" else ():
        try:
            temporary.replace(target)
        except PermissionError:
            time.sleep(seconds)
        else:
            return
    try:
        temporary.replace(target)
    except OSError as error:
        if error.errno == errno.EBUSY:  # a file that is mounted into a container
            _write_in_place(target, [temporary.read_bytes()])
            return
        if error.errno not in _UNSUPPORTED | {errno.EEXIST, errno.EPERM} or not target.exists():
            raise
        aside = temporary.with_name(f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}")
        target.rename(aside)
        try:
            temporary.rename(target)
        except OSError:
            aside.rename(target)
            raise
        aside.unlink()


def _publish(temporary: Path, target: Path, *, overwrite: bool) -> None:
    """Rename a finished file atomically; without `overwrite`, never replace a file that has just appeared."""
    if overwrite:
        _replace(temporary, target)
        return
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError:  # no hard links (FAT, some network shares): reserve the name, then replace our own empty file
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        try:
            _replace(temporary, target)
        except OSError:
            target.unlink(missing_ok=True)
            raise


def _flush_folder(folder: Path) -> None:
    with suppress(OSError):  # so that the name survives a crash, where the system supports it
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


@contextmanager
def _as_output_error(path: StrPath) -> Iterator[None]:
    """Convert errors of the system about `path` to `OutputError`."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise OutputError(f"Cannot write {quote_name(path)}: {_explain_os_error(error)}.") from error


def _explain_os_error(error: OSError | ValueError) -> str:
    if not isinstance(error, OSError):
        return "a file cannot have this name; choose another"  # a null byte, or a name that Windows reserves
    if sys.platform == "win32" and error.errno == errno.EACCES:
        return "you have no permission, or another program has it open; close that program or choose another name"
    reasons = {
        errno.EEXIST: "it already exists; choose another name or overwrite it",
        errno.EACCES: "you have no permission to write there; choose another folder",
        errno.EPERM: "you have no permission to write there; choose another folder",
        errno.EROFS: "the disk is read-only; choose another folder",
        errno.ENOSPC: "the disk is full; free up space or choose another folder",
        errno.EDQUOT: "your disk quota is exceeded; free up space or choose another folder",
        errno.EFBIG: "it is larger than 'ulimit -f' or the file system allows; choose another folder",
        errno.EINVAL: "a file there cannot have this name; choose another",
        errno.ENOENT: "its folder no longer exists; choose another folder",
        errno.ENOTDIR: "a part of its path is a file, not a folder; choose another folder",
        errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
        errno.EISDIR: "it is a folder; name a file in it",
        errno.EPIPE: "its reader has ended; start the reader again",
    }
    message = error.strerror or str(error)
    return reasons.get(error.errno or 0, f"the system reports “{message}”; choose another folder")


def fill_template(template: str, values: Mapping[str, str], flag: str) -> str:
    """Fill in the fields of a template.

    Args:
        template: text such as `{content}-{seed}.{ext}`; `{{` and `}}` stand for braces.
        values: the value of every field that may occur.
        flag: the source of the template, for the message.

    Raises:
        UsageError: a field is unknown.
    """

    def substitute(match: "re.Match[str]") -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        if match[1] not in values:
            known = ", ".join(f"{{{name}}}" for name in values)
            raise UsageError(f"{flag} has no field {match[0]}; it can have {known}, and {{{{ for a brace.")
        return values[match[1]]

    return _FIELD.sub(substitute, template)
