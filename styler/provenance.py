"""A record of what made a picture: its fields, and the checks that every stored one passes before anybody sees it.

What is read may come from anyone. Does not know pictures, nor torch.
"""

import dataclasses
import importlib.metadata
import json
import math
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, cast

from styler import images
from styler.errors import ImageError, OptionError
from styler.images.read import Readable, describe_source
from styler.options import INIT_CHOICES, Options, format_value, list_options, resolve_options
from styler.schedule import Replay, Scale

if TYPE_CHECKING:
    from styler.engine.result import Result
    from styler.images import Picture


RECORD_SCHEMA = 1
INIT_FILE = "file"
"""What `init` is in a record when it was a picture file, whose hash stands beside it."""

MAX_RECORD_LENGTH = 1_000_000  # characters of a record, and
MAX_TEXT_LENGTH = 200  # of anything in it
MAX_COUNT = 1e9  # of any count


class Record(TypedDict):
    """What is stored, in JSON's own types."""

    schema: int
    version: str
    """Of the program."""
    options: dict[str, Any]
    """Every field of `Options`."""
    threads: int
    """As it was, where the option may have left the choice open; so are device and precision."""
    device: str
    precision: str
    weights_sha256: str
    content: str
    """SHA-256 of the file's bytes; empty for pixels that came from no file."""
    styles: list[str]
    init: str
    """Likewise, if `init` was a file."""
    width: int
    height: int
    schedule: list[dict[str, Any]]
    """As executed: the fields of `Scale`."""
    stopped: bool
    iterations: int
    units: float
    losses: dict[str, float]
    seconds: float
    scale_seconds: list[float]


class DamagedRecord(Exception):
    """What is wrong with a record, in a few words."""


class NewerRecord(Exception):
    """The record is of a program that knows more."""


def parse_record(stored: str) -> Record:
    """The record that a text holds; what this version does not know beside it is left out.

    Raises:
        Newer: the record is of a program that knows more.
        Damage: it is no record.
    """
    try:
        return _validate_record(_parse_json(stored))
    except OptionError as problem:
        raise DamagedRecord(str(problem)[:MAX_TEXT_LENGTH].rstrip(".")) from problem
    except (ValueError, RecursionError) as problem:
        raise DamagedRecord("it is no JSON, or too deep") from problem


def _parse_json(stored: str) -> dict[str, Any]:
    """The JSON of a record of a schema that is known, with no text in it that a terminal could not take."""
    if len(stored) > MAX_RECORD_LENGTH:
        raise DamagedRecord(f"longer than {MAX_RECORD_LENGTH} characters")
    found = json.loads(stored, parse_constant=_refuse_constant)
    if not isinstance(found, dict):
        raise DamagedRecord("no object")
    schema = found.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise DamagedRecord("no schema version")
    if schema > RECORD_SCHEMA:
        raise NewerRecord(
            f"are of a newer version (schema {schema if schema <= MAX_COUNT else '?'}; this one reads {RECORD_SCHEMA})"
        )
    if not all(len(word) <= MAX_TEXT_LENGTH and word.isprintable() for word in _iter_texts(found)):
        raise DamagedRecord("odd or overlong text in it")
    return found


def _refuse_constant(name: str) -> None:
    raise DamagedRecord(f"{name} in it")


def _iter_texts(value: Any) -> Iterator[str]:
    """Every text and key, however deep."""
    if isinstance(value, str):
        yield value
    for part in (*value, *value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _iter_texts(part)


def _validate_record(found: Mapping[str, Any]) -> Record:
    """The record that JSON stands for; what this version does not know beside it is left out."""
    checked = {}
    for name, fits in _FIELDS.items():
        if not fits(found.get(name)):
            raise DamagedRecord(f"'{name}' is missing or wrong")
        checked[name] = found[name]
    if len(checked["schedule"]) != len(checked["scale_seconds"]):
        raise DamagedRecord("'scale_seconds' does not fit the plan")
    for scale in checked["schedule"]:
        if scale["width"] > checked["width"] or scale["height"] > checked["height"]:
            raise DamagedRecord("a scale is larger than the picture")
    options = options_from_record(checked["options"])
    checked["options"] = {**options.to_dict(), "init": checked["options"].get("init", options.init)}
    return cast("Record", checked)


def options_from_record(stored: Mapping[str, Any]) -> Options:
    """Stored options, validated; `init` is never a path, for nobody but the user says which files are read."""
    if unknown := [name for name in stored if name not in list_options()]:
        raise NewerRecord(f"have '{unknown[0]}', which this version does not know")
    start = stored.get("init", INIT_CHOICES[0])
    if start not in (*INIT_CHOICES, INIT_FILE):
        raise DamagedRecord("'init' is wrong")
    return Options(**{**stored, "init": INIT_CHOICES[0] if start == INIT_FILE else start})


def _number(low: float, high: float = MAX_COUNT, *, whole: bool = True) -> Callable[[Any], bool]:
    kinds = int if whole else (int, float)
    return lambda value: isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high


def _list(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(fits, value))


def _table(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(fits, value.values()))


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind)


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("([0-9a-f]{64})?", value) is not None


def _is_scale(value: Any) -> bool:
    """A scale's own fields and no others, so that `Scale` takes them."""
    return (
        isinstance(value, dict)
        and value.keys() | {"sketch", "half_size_copies"} == _SCALE.keys()  # which are younger than the others
        and all(_SCALE[name](part) for name, part in value.items())
    )


_SIDE, _AMOUNT = _number(1), _number(-1e30, 1e30, whole=False)
_SCALE: dict[str, Callable[[Any], bool]] = {
    "width": _SIDE,
    "height": _SIDE,
    "iterations": _number(1),
    "optimizer": lambda value: value in ("adam", "lbfgs"),
    "planned": _number(0),
    "sketch": _is(bool),
    "half_size_copies": _number(0, 16),
}
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "schema": _number(1),
    "version": _is(str),
    "options": _is(dict),
    "threads": _number(1, 1024),
    "device": _is(str),
    "precision": _is(str),
    "weights_sha256": _is_hash,
    "content": _is_hash,
    "styles": _list(_is_hash),
    "init": _is_hash,
    "width": _SIDE,
    "height": _SIDE,
    "schedule": _list(_is_scale),
    "stopped": _is(bool),
    "iterations": _number(0),
    "units": _AMOUNT,
    "losses": _table(_AMOUNT),
    "seconds": _AMOUNT,
    "scale_seconds": _list(_AMOUNT),
}


RECORD_KEY = "styler"
"""What the text is called in the picture."""
MACHINE_OPTIONS = ("device", "precision", "checkpoint")
"""Settings of the machine, which are told but not taken over; threads are, since the same pixels need them."""
SCHEDULE_OPTIONS = (
    "size",
    "preset",
    "time",
    "patience",
    "iterations",
    "taper",
    "sketch",
    "multiscale",
    "first_size",
    "optimizer",
)
"""Settings that ask for another plan than the one that was executed."""


def make_record(result: "Result") -> Record:
    """Return the record of how a result was made."""
    options = result.options.to_dict()
    if options["init"] not in INIT_CHOICES:
        options["init"] = INIT_FILE
    height, width = result.pixels.shape[:2]
    return {
        "schema": RECORD_SCHEMA,
        "version": get_version(),
        "options": options,
        "threads": result.threads,
        "device": result.device,
        "precision": result.precision,
        "weights_sha256": result.weights_sha256,
        "content": result.content_sha256,
        "styles": list(result.style_sha256),
        "init": result.start_sha256,
        "width": width,
        "height": height,
        "schedule": [dataclasses.asdict(scale) for scale in result.schedule],
        "stopped": result.stopped,
        "iterations": result.iterations,
        "units": result.units,
        "losses": {name: loss for name, loss in result.losses.items() if math.isfinite(loss)},
        "seconds": round(result.seconds, 3),
        "scale_seconds": [round(seconds, 3) for seconds in result.scale_seconds],
    }


def record_to_text(record: Record) -> dict[str, str]:
    """The record as `images.encode` stores it."""
    return {RECORD_KEY: json.dumps(record, allow_nan=False, separators=(",", ":"))}


def get_version() -> str:
    """Of this program."""
    try:
        return importlib.metadata.version("styler")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def read_record(source: Readable, *, name: str | None = None) -> Record:
    """The record in a picture, every part of it checked.

    Raises:
        ImageError: the picture cannot be read, or carries no record, a damaged one or one of a newer program.
    """
    return find_record(images.read_text(source, name=name), describe_source(source, name))


def find_record(texts: Mapping[str, str], called: str) -> Record:
    """The record among the texts of a picture, which messages call `called`; every part of it checked.

    Raises:
        ImageError: as `read` does.
    """
    if RECORD_KEY not in texts:
        raise ImageError(
            f"There are no settings in {called}; styler did not make it, was told --no-metadata, or another program "
            "saved it since."
        )
    try:
        return parse_record(texts[RECORD_KEY])
    except NewerRecord as problem:
        raise ImageError(f"The settings in {called} {problem}; update styler.") from problem
    except DamagedRecord as problem:
        raise ImageError(f"The settings in {called} are damaged ({problem}); use the original file.") from problem


def settings_from_record(record: Record) -> dict[str, Any]:
    """The settings to take over, a layer for `options.resolve`; `init` is not among them if it was a file."""
    left = {*MACHINE_OPTIONS, *(["init"] if record["options"]["init"] == INIT_FILE else [])}
    kept = {name: value for name, value in record["options"].items() if name not in left}
    return {**kept, "threads": record["threads"]}


def replay_from_record(record: Record) -> Replay | None:
    """What was done, for `Painter.stream`; None if nothing was, as at strength 0."""
    scales = tuple(Scale(**scale) for scale in record["schedule"])
    return Replay(scales, record["width"], record["height"]) if scales else None


def format_command(record: Record) -> str:
    """The command that made the picture, with the flags that differ from what its preset and look give."""
    options = options_from_record(record["options"])
    plain = resolve_options(("record", {"preset": options.preset, "look": options.look})).options.to_dict()
    plain |= {"preset": Options().preset, "look": Options().look}
    words = ["styler", "run", *_input_placeholders(record)]
    for name, value in {**options.to_dict(), "init": record["options"]["init"]}.items():
        if value != plain[name]:
            word = "START" if name == "init" and value == INIT_FILE else format_value(value)
            words += [f"--{name.replace('_', '-')}", word]
    return shlex.join(words)


def format_replay_command(record: Record) -> str:
    """The command that does once more what made the picture, which is called FILE."""
    start = ["--init", "START"] if record["options"]["init"] == INIT_FILE else []
    return shlex.join(["styler", "run", "--from", "FILE", *_input_placeholders(record), *start])


def compare_inputs(
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


def compare_machine(record: Record, result: "Result") -> list[str]:
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


def _input_placeholders(record: Record) -> list[str]:
    """What stands for the inputs in a command."""
    many = len(record["styles"])
    return ["CONTENT", *(["STYLE"] if many == 1 else [f"STYLE{number + 1}" for number in range(many)])]


def _differ(before: str, now: str) -> bool:
    return bool(before and now and before != now)
