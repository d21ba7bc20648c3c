"""What a verb answers on stdout: lines for a person, or one JSON object for a program.

A document has a schema version, and holds nothing that JSON has not: what is no finite number is null.
"""

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from styler.cli import streams
from styler.cli.flags import OUTPUT

SCHEMA = 1
"""Of every document; it grows when a name changes its meaning or goes away."""

Json = Annotated[
    bool, Parameter(name="--json", group=OUTPUT, negative=(), help="answer with one JSON object, errors too")
]


def document(content: Mapping[str, Any]) -> None:
    """Put one JSON object on stdout. It is plain ASCII; a name that is not UTF-8 is escaped as Python has it."""
    whole = {"schema": SCHEMA, **content}
    streams.put(json.dumps(_plain(whole), indent=2, allow_nan=False).encode("ascii") + b"\n")


def event(content: Mapping[str, Any]) -> None:
    """Put one JSON object on stdout as one line of a stream of them."""
    whole = {"schema": SCHEMA, **content}
    streams.put(json.dumps(_plain(whole), allow_nan=False).encode("ascii") + b"\n")


def failure(kind: str, message: str, code: int, *, streamed: bool = False) -> None:
    """Put an error on stdout as a JSON object, the last of a stream if there is one."""
    (event if streamed else document)({"error": {"kind": kind, "message": message, "exit_code": code}})


def lines(text: Iterable[str]) -> None:
    """Put lines on stdout; what its encoding lacks is escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"  # it may be closed
    streams.put("".join(f"{line}\n" for line in text).encode(encoding, "backslashreplace"))


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines, with every column but the last as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
