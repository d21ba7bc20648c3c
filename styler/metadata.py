"""The settings inside a picture: what made it, written into it, read back, and turned into settings again.

A record holds hashes of the inputs and never a path or a name. Does not know torch, nor where pictures come from and
go.
"""

import dataclasses
import importlib.metadata
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from styler import images, records
from styler.errors import ImageError
from styler.images.read import Readable, describe_source
from styler.options import STARTS, Options, resolve
from styler.plan import Repeat, Scale
from styler.records import FILE, SCHEMA, Record

if TYPE_CHECKING:
    from styler.images import Picture
    from styler.progress import Result

KEY = "styler"
"""What the text is called in the picture."""
LOCAL = ("device", "precision", "checkpoint")
"""Settings of the machine, which are told but not taken over; threads are, since the same pixels need them."""
PLANNING = ("size", "preset", "time", "patience", "steps", "taper", "sketch", "octaves", "first_size", "optimizer")
"""Settings that ask for another plan than the one that was realised."""


def record(result: "Result", content: "Picture", styles: "Sequence[Picture]", start: "Picture | None" = None) -> Record:
    """What made a result.

    Args:
        result: the painting.
        content: the photo.
        styles: the paintings.
        start: the picture that `init` names, if it names a file.
    """
    options = result.options.to_dict()
    if options["init"] not in STARTS:
        options["init"] = FILE
    height, width = result.pixels.shape[:2]
    return {
        "schema": SCHEMA,
        "version": version(),
        "options": options,
        "threads": result.threads,
        "device": result.device,
        "precision": result.precision,
        "weights_sha256": result.weights_sha256,
        "content": content.sha256,
        "styles": [style.sha256 for style in styles],
        "init": start.sha256 if start else "",
        "width": width,
        "height": height,
        "plan": [dataclasses.asdict(scale) for scale in result.plan],
        "stopped": result.stopped,
        "evaluations": result.evaluations,
        "units": result.units,
        "losses": {name: loss for name, loss in result.losses.items() if math.isfinite(loss)},
        "seconds": round(result.seconds, 3),
        "scale_seconds": [round(seconds, 3) for seconds in result.scale_seconds],
    }


def text(record: Record) -> dict[str, str]:
    """The record as `images.encode` stores it."""
    return {KEY: json.dumps(record, allow_nan=False, separators=(",", ":"))}


def version() -> str:
    """Of this program."""
    try:
        return importlib.metadata.version("styler")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def read(source: Readable, *, name: str | None = None) -> Record:
    """The record in a picture, every part of it checked.

    Raises:
        ImageError: the picture cannot be read, or carries no record, a damaged one or one of a newer program.
    """
    return of(images.read_text(source, name=name), describe_source(source, name))


def of(texts: Mapping[str, str], called: str) -> Record:
    """The record among the texts of a picture, which messages call `called`; every part of it checked.

    Raises:
        ImageError: as `read` does.
    """
    if KEY not in texts:
        raise ImageError(
            f"There are no settings in {called}; styler did not make it, was told --no-metadata, or another program "
            "saved it since."
        )
    try:
        return records.parse(texts[KEY])
    except records.Newer as problem:
        raise ImageError(f"The settings in {called} {problem}; update styler.") from problem
    except records.Damage as problem:
        raise ImageError(f"The settings in {called} are damaged ({problem}); use the original file.") from problem


def settings(record: Record) -> dict[str, Any]:
    """The settings to take over, a layer for `options.resolve`; `init` is not among them if it was a file."""
    left = {*LOCAL, *(["init"] if record["options"]["init"] == FILE else [])}
    kept = {name: value for name, value in record["options"].items() if name not in left}
    return {**kept, "threads": record["threads"]}


def repeat(record: Record) -> Repeat | None:
    """What was done, for `Painter.stream`; None if nothing was, as at strength 0."""
    scales = tuple(Scale(**scale) for scale in record["plan"])
    return Repeat(scales, record["width"], record["height"]) if scales else None


def command(record: Record) -> str:
    """The command that made the picture, with the flags that differ from what its preset and look give."""
    options = records.options_of(record["options"])
    plain = resolve(("record", {"preset": options.preset, "look": options.look})).options.to_dict()
    plain |= {"preset": Options().preset, "look": Options().look}
    words = ["styler", "run", *_inputs(record)]
    for name, value in {**options.to_dict(), "init": record["options"]["init"]}.items():
        if value != plain[name]:
            word = "START" if name == "init" and value == FILE else _typed(value)
            words += [f"--{name.replace('_', '-')}", word]
    return shlex.join(words)


def command_again(record: Record) -> str:
    """The command that does once more what made the picture, which is called FILE."""
    start = ["--init", "START"] if record["options"]["init"] == FILE else []
    return shlex.join(["styler", "run", "--from", "FILE", *_inputs(record), *start])


def differences(
    record: Record, content: "Picture", styles: "Sequence[Picture]", start: "Picture | None" = None
) -> list[str]:
    """In sentences, which inputs are others than they were."""
    found = []
    if _differ(record["content"], content.sha256):
        found.append("The content is another file than it was then.")
    if len(styles) != len(record["styles"]):
        found.append(f"The number of styles was {len(record['styles'])} then, and is {len(styles)} now.")
    else:
        for index, (before, style) in enumerate(zip(record["styles"], styles, strict=True), start=1):
            if _differ(before, style.sha256):
                which = f"Style {index}" if len(styles) > 1 else "The style"
                found.append(f"{which} is another file than it was then.")
    if start and _differ(record["init"], start.sha256):
        found.append("The picture to start from is another file than it was then.")
    return found


def changes(record: Record, result: "Result") -> list[str]:
    """In sentences, what was different on this machine, so that the pixels may be."""
    found = []
    if record["weights_sha256"] != result.weights_sha256:
        found.append("The network's weights are others than they were then.")
    names = {"device": "device", "precision": "precision", "threads": "number of threads"}
    for name, called in names.items():
        before, now = record[name], getattr(result, name)  # type: ignore[literal-required]
        if before != now:
            found.append(f"The {called} was {before} then, and is {now} now.")
    return found


def _inputs(record: Record) -> list[str]:
    """What stands for the inputs in a command."""
    many = len(record["styles"])
    return ["CONTENT", *(["STYLE"] if many == 1 else [f"STYLE{number + 1}" for number in range(many)])]


def _differ(before: str, now: str) -> bool:
    return bool(before and now and before != now)


def _typed(value: Any) -> str:
    """A value as a flag takes it, to its last digit."""
    if isinstance(value, list):
        return ",".join(map(_typed, value))
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
