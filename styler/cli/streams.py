"""A lone `-` on the command line: standard input as a picture, standard output as the place for one.

cyclopts takes no `-` for a value, so it is swapped for a name that no file can have before the arguments are parsed.
"""

import os
import sys
from collections.abc import Iterable
from typing import BinaryIO

from styler.errors import ImageError, OutputError, UsageError

STREAM = "\0-"
"""What stands for `-` once the arguments are parsed."""
INPUT, OUTPUT = "standard input", "standard output"


def opened() -> None:
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


def marked(tokens: Iterable[str]) -> list[str]:
    """The arguments, with every lone `-` made a value."""
    swaps = {"-": STREAM, "-o=-": f"-o={STREAM}", "--output=-": f"--output={STREAM}"}
    return [swaps.get(token, token) for token in tokens]


def unmarked(text: str) -> str:
    """A text for a person: what was swapped is `-` again."""
    return text.replace(STREAM, "-").replace(r"\x00-", "-")


def check(inputs: Iterable[str], output: str | None, *, json: bool) -> None:
    """Refuse what the streams cannot do.

    Raises:
        UsageError: two pictures from one stream, two answers into one, or a picture into or out of a terminal.
    """
    wanted = [*inputs].count(STREAM)
    if wanted > 1:
        raise UsageError("Only one picture can come from standard input; name files for the others.")
    if wanted and sys.stdin is not None and sys.stdin.isatty():
        raise UsageError(
            "Standard input is a terminal; send a picture into it, as in 'styler run - STYLE < photo.jpg'."
        )
    if output == STREAM and json:
        raise UsageError("-o - and --json both need standard output; give one of them.")
    if output == STREAM and sys.stdout is None:
        raise UsageError("Standard output is closed; send the picture to a file or a program, or name one with -o.")
    if output == STREAM and sys.stdout.isatty():
        raise UsageError("Standard output is a terminal; send the picture to a file or a program, or name one with -o.")


def source() -> BinaryIO:
    """Standard input, for bytes.

    Raises:
        ImageError: it is closed.
    """
    if sys.stdin is None:
        raise ImageError("Cannot read standard input: it is closed; send a picture into it.")
    return sys.stdin.buffer


def put(data: bytes, what: str = "Standard output", *, needed: bool = False) -> None:
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
