"""A lone `-` on the command line: standard input as a picture, standard output as the place for one.

cyclopts takes no `-` for a value, so it is swapped for a name that no file can have before the arguments are parsed.
"""

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

from styler.errors import ImageError, OutputError, UsageError

STREAM_NAME = "\0-"
"""What stands for `-` once the arguments are parsed."""
STDIN_NAME, STDOUT_NAME = "standard input", "standard output"


def open_closed_streams() -> None:
    """Have something at each of the three standard streams, however the program was started.

    Where one is closed, the next file that is opened takes its number, and gets what libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - to the end of the program


def mark_streams(tokens: Iterable[str]) -> list[str]:
    """The arguments, with every lone `-` made a value."""
    swaps = {"-": STREAM_NAME, "-o=-": f"-o={STREAM_NAME}", "--output=-": f"--output={STREAM_NAME}"}
    return [swaps.get(token, token) for token in tokens]


def unmark_streams(text: str) -> str:
    """A text for a person: what was swapped is `-` again."""
    return text.replace(STREAM_NAME, "-").replace(r"\x00-", "-")


def check_streams(inputs: Iterable[str], output: str | None, *, json: bool) -> None:
    """Refuse what the streams cannot do.

    Raises:
        UsageError: two pictures from one stream, two answers into one, or a picture into or out of a terminal.
    """
    wanted = [*inputs].count(STREAM_NAME)
    if wanted > 1:
        raise UsageError("Only one picture can come from standard input; name files for the others.")
    if wanted and sys.stdin is not None and sys.stdin.isatty():
        raise UsageError(
            "Standard input is a terminal; send a picture into it, as in 'styler run - STYLE < photo.jpg'."
        )
    if output == STREAM_NAME and json:
        raise UsageError("-o - and --json both need standard output; give one of them.")
    if output == STREAM_NAME and sys.stdout is None:
        raise UsageError("Standard output is closed; send the picture to a file or a program, or name one with -o.")
    if output == STREAM_NAME and sys.stdout.isatty():
        raise UsageError("Standard output is a terminal; send the picture to a file or a program, or name one with -o.")


def open_stdin() -> BinaryIO:
    """Standard input, for bytes.

    Raises:
        ImageError: it is closed.
    """
    if sys.stdin is None:
        raise ImageError("Cannot read standard input: it is closed; send a picture into it.")
    return sys.stdin.buffer


def write_stdout(data: bytes, what: str = "Standard output", *, needed: bool = False) -> None:
    """Put bytes on stdout.

    Args:
        data: the bytes.
        what: how the sentence begins that says that they cannot be put there.
        needed: whether it is an error, too, if somebody reads no further.

    Raises:
        OutputError: stdout cannot be written.
    """
    if sys.stdout is None:
        raise OutputError(f"{what} is closed; open it, as in 'styler ... > answer'.")
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as problem:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again when it ends
        if needed or not isinstance(problem, BrokenPipeError):
            raise OutputError(f"{what} cannot be written ({problem.strerror}); send it elsewhere.") from problem


ANSWER_SCHEMA = 1
"""Of every document; it grows when a name changes its meaning or goes away."""


def print_document(content: Mapping[str, Any]) -> None:
    """Put one JSON object on stdout. It is plain ASCII; a name that is not UTF-8 is escaped as Python has it."""
    whole = {"schema": ANSWER_SCHEMA, **content}
    write_stdout(json.dumps(_make_json_safe(whole), indent=2, allow_nan=False).encode("ascii") + b"\n")


def print_event(content: Mapping[str, Any]) -> None:
    """Put one JSON object on stdout as one line of a stream of them."""
    whole = {"schema": ANSWER_SCHEMA, **content}
    write_stdout(json.dumps(_make_json_safe(whole), allow_nan=False).encode("ascii") + b"\n")


def print_failure(kind: str, message: str, code: int, *, streamed: bool = False) -> None:
    """Put an error on stdout as a JSON object, the last of a stream if there is one."""
    (print_event if streamed else print_document)({"error": {"kind": kind, "message": message, "exit_code": code}})


def print_lines(text: Iterable[str]) -> None:
    """Put lines on stdout; what its encoding lacks is escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # it may be closed
    write_stdout("".join(f"{line}\n" for line in text).encode(encoding, "backslashreplace"))


def format_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, with every column but the last as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _make_json_safe(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _make_json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_make_json_safe(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
