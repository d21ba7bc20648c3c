"""`styler inspect`: what made a picture, for a person or as JSON. Loads no network."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from styler.cli import flags, report, streams
from styler.cli.flags import FileName

if TYPE_CHECKING:
    from styler.provenance import Record

File = Annotated[FileName, Parameter(help="a picture that styler made, or - for standard input")]
AsJson = Annotated[bool, Parameter(name="--json", group=flags.OUTPUT, negative=(), help="as one JSON object")]

LABELS = 18
"""Columns of the names."""


def inspect(file: File, /, *, as_json: AsJson = False) -> int:
    """Print the settings inside a picture and the command that made it."""
    from styler import provenance

    record = (
        provenance.read_record(streams.source(), name=streams.INPUT)
        if file == streams.STREAM
        else provenance.read_record(file)
    )
    printed = json.dumps(record) if as_json else "\n".join(_lines(record))
    streams.put(printed.encode("utf-8") + b"\n", "The settings were read, but standard output")
    return 0


def _lines(record: "Record") -> Iterator[str]:
    """Everything a person may want to know, the commands last."""
    from styler import provenance

    yield f"{record['width']}×{record['height']}, made by styler {record['version']}" + (
        ", stopped before it was done" if record["stopped"] else ""
    )
    for title, rows in (("Settings", _settings(record)), ("Work", _work(record)), ("Inputs", _inputs(record))):
        yield f"\n{title}:"
        yield from (f"  {name:{LABELS}}{value}" for name, value in rows)
    yield "\nMade by:"
    yield f"  {provenance.format_command(record)}"
    yield "\nTo do it again:"
    yield f"  {provenance.format_replay_command(record)}"


def _settings(record: "Record") -> Iterator[tuple[str, str]]:
    for name, value in record["options"].items():
        yield name, flags.shown(tuple(value) if isinstance(value, list) else value) or "–"


def _work(record: "Record") -> Iterator[tuple[str, str]]:
    for scale, seconds in zip(record["plan"], record["scale_seconds"], strict=False):
        planned = f" of {scale['planned']}" if scale["planned"] else ""
        manner = report.manner(scale.get("sketch", False), scale.get("octaves", 0))
        made = f"{scale['steps']}{planned} steps of {scale['optimizer']}{manner} in {seconds:.1f} s"
        yield f"{scale['width']}×{scale['height']}", made
    total = f"{record['evaluations']}, the work of {record['units']:.1f} at the final size"
    yield "evaluations", total
    yield "time", report.clock(record["seconds"])
    yield "losses", ", ".join(f"{name} {value:.4g}" for name, value in record["losses"].items()) or "–"
    yield "machine", f"{record['device']}, {record['precision']}, threads: {record['threads']}"


def _inputs(record: "Record") -> Iterator[tuple[str, str]]:
    """Hashes of the files."""
    yield "content", record["content"] or "no file"
    for number, found in enumerate(record["styles"], start=1):
        yield f"style {number}" if len(record["styles"]) > 1 else "style", found or "no file"
    if record["init"]:
        yield "init", record["init"]
    yield "weights", record["weights_sha256"]
