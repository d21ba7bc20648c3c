"""Where the picture goes: the name nobody has to think of, the refusals before any work, and the last write."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from styler import images
from styler.errors import OutputError, UsageError


def default_name(content: Path, styles: Iterable[Path], *, bundled: bool) -> Path:
    """`<content>.<style>.png` beside the content, or in the working folder for a picture that comes with styler."""
    name = f"{content.stem}.{'+'.join(style.stem for style in styles)}.png"
    return Path(name) if bundled else content.parent / name


def check(path: str | Path, inputs: Iterable[Path], *, overwrite: bool) -> str:
    """Refuse, before any work, an output that is an input, is there already, or cannot be written.

    Returns:
        The format to write: the one that the name asks for.

    Raises:
        UsageError: it is an input, or is there and may not be replaced.
        OutputError: it cannot be written.
    """
    if any(_same(Path(path), given) for given in inputs):
        raise UsageError(f"The output {images.quoted(path)} is one of the inputs; give it another name with -o.")
    if _is_file(Path(path)) and not overwrite:
        raise UsageError(f"{images.quoted(path)} exists already; give another name with -o, or --overwrite.")
    images.check_output(path, overwrite=overwrite)
    try:
        return images.format_of(path)
    except OutputError:  # a device or a pipe: nothing else passes the check without a known extension
        return "png"


def write_free(path: Path, data: bytes) -> Path:
    """Write under the first free name of `path`, `path-2` …, even if other runs take names meanwhile."""
    while True:
        free = images.free_name(path)
        try:
            return images.write(free, data)
        except OutputError:
            if not os.path.lexists(free):
                raise


def partial_name(path: str | Path) -> Path:
    """The name of what is kept of an interrupted painting."""
    return Path(path).with_name(f"{Path(path).stem}.partial.png")


def announce(path: Path) -> None:
    """Put the path on stdout, byte for byte, whatever the encoding of the terminal."""
    put(os.fsencode(path) + b"\n", f"The picture is saved as {images.quoted(path)}, but")


def put(data: bytes, but: str) -> None:
    """Put bytes on stdout.

    Args:
        data: the bytes.
        but: how the sentence begins that says that they cannot be put there.

    Raises:
        OutputError: stdout cannot be written; somebody who reads no further is no error.
    """
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as problem:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again when it ends
        if not isinstance(problem, BrokenPipeError):
            raise OutputError(
                f"{but} standard output cannot be written ({problem.strerror}); send it elsewhere."
            ) from problem


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # no name to ask for; the check says so
        return False


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # one of them is not there
        return False
