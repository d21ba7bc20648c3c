"""Standard output and standard input: answers as text or JSON, and `-` as the name of a picture.

cyclopts does not accept `-` as a value, so a lone `-` is replaced by a name that no file can have before the arguments
are parsed.
"""

import errno
import json
import math
import os
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO, TextIO

from styler.errors import ImageError, OutputError, UsageError

STREAM_NAME = "\0-"
"""Stands for `-` once the arguments are parsed."""
STDIN_NAME, STDOUT_NAME = "standard input", "standard output"


def open_closed_streams() -> None:
    """Open the null device in place of every standard stream that is closed.

    Otherwise the next file that is opened would take the stream's number and receive what libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - open until the program ends


def mark_streams(tokens: Iterable[str]) -> list[str]:
    """Return the arguments with every lone `-` replaced by `STREAM_NAME`."""
    swaps = {"-": STREAM_NAME, "-o=-": f"-o={STREAM_NAME}", "--output=-": f"--output={STREAM_NAME}"}
    return [swaps.get(token, token) for token in tokens]


def unmark_streams(text: str) -> str:
    """Return text for display, with `-` in place of `STREAM_NAME`."""
    return text.replace(STREAM_NAME, "-").replace(r"\x00-", "-")


def check_streams(inputs: Iterable[str], output: str | None, *, json: bool) -> None:
    """Check that the standard streams can be used as requested.

    Raises:
        UsageError: two pictures from one stream, two answers into one, or a picture from or to a terminal.
    """
    from_stdin = [*inputs].count(STREAM_NAME)
    if from_stdin > 1:
        raise UsageError("Only one picture can come from standard input; name files for the others.")
    if from_stdin and sys.stdin is not None and sys.stdin.isatty():
        raise UsageError("Standard input is a terminal; redirect a picture to it: 'styler run - STYLE < photo.jpg'.")
    if output != STREAM_NAME:
        return
    if json:
        raise UsageError("-o - and --json both need standard output; use only one of them.")
    if sys.stdout is None or sys.stdout.isatty():
        state = "closed" if sys.stdout is None else "a terminal"
        raise UsageError(f"Standard output is {state}; redirect it to a file or a program, or name a file with -o.")


def open_stdin() -> BinaryIO:
    """Return standard input as a binary stream.

    Raises:
        ImageError: it is closed.
    """
    if sys.stdin is None:
        raise ImageError("Cannot read standard input: it is closed; redirect a picture to it.")
    return sys.stdin.buffer


def write_stderr(text: str) -> None:
    """Write text to standard error; it is lost if the terminal is gone, which must not change the exit code."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        discard_output(sys.stderr)


def discard_output(stream: TextIO) -> None:
    """Connect a stream that cannot be written to the null device, or Python tries again when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def write_stdout(data: bytes, subject: str = "Standard output", *, is_required: bool = False) -> None:
    """Write bytes to standard output.

    Args:
        subject: beginning of the error message.
        is_required: whether it is also an error if the reader has closed the pipe or the terminal.

    Raises:
        OutputError: standard output cannot be written.
    """
    if sys.stdout is None:
        raise OutputError(f"{subject} is closed; open it, as in 'styler ... > answer'.")
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        is_closed = isinstance(error, BrokenPipeError) or _is_closed_terminal(error, sys.stdout)
        discard_output(sys.stdout)
        if is_required or not is_closed:
            raise OutputError(f"{subject} cannot be written ({error.strerror}); redirect it elsewhere.") from error


def _is_closed_terminal(error: OSError, stream: TextIO) -> bool:
    return error.errno == errno.EIO and stat.S_ISCHR(os.fstat(stream.fileno()).st_mode)  # it is no terminal any more


ANSWER_SCHEMA = 1
"""Version of every JSON document; it increases when a key changes its meaning or is removed."""


def print_document(content: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Print one JSON object in plain ASCII; names that are not UTF-8 are escaped the way Python does."""
    document = _make_json_safe({"schema": ANSWER_SCHEMA, **content})
    write_stdout(json.dumps(document, indent=indent, allow_nan=False).encode("ascii") + b"\n")


def print_event(content: Mapping[str, Any]) -> None:
    """Print one JSON object on a line of its own, as a part of a stream."""
    print_document(content, indent=None)


def print_failure(kind: str, message: str, exit_code: int, *, streamed: bool = False) -> None:
    """Print an error as a JSON object; `streamed` if it ends a stream of events."""
    error = {"kind": kind, "message": message, "exit_code": exit_code}
    print_document({"error": error}, indent=None if streamed else 2)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines on standard output; characters that its encoding lacks are escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # it may be closed
    write_stdout("".join(f"{line}\n" for line in lines).encode(encoding, "backslashreplace"))


def format_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Format rows as lines, padding every column but the last to its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _make_json_safe(value: Any) -> Any:
    """Replace numbers that are not finite, which JSON cannot represent, with None."""
    if isinstance(value, Mapping):
        return {key: _make_json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_make_json_safe(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
