"""A record of what made a picture: its fields, and the checks that every stored one passes before anybody sees it.

What is read may come from anyone. Does not know pictures, nor torch.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypedDict, cast

from styler.errors import OptionError
from styler.options import STARTS, Options, knobs

SCHEMA = 1
FILE = "file"
"""What `init` is in a record when it was a picture file, whose hash stands beside it."""

LONGEST = 1_000_000  # characters of a record, and
LONGEST_TEXT = 200  # of anything in it
LARGEST = 1e9  # of any count


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
    plan: list[dict[str, Any]]
    """As realised: the fields of `Scale`."""
    stopped: bool
    evaluations: int
    units: float
    losses: dict[str, float]
    seconds: float
    scale_seconds: list[float]


class Damage(Exception):
    """What is wrong with a record, in a few words."""


class Newer(Exception):
    """The record is of a program that knows more."""


def parse(stored: str) -> Record:
    """The record that a text holds; what this version does not know beside it is left out.

    Raises:
        Newer: the record is of a program that knows more.
        Damage: it is no record.
    """
    try:
        return _checked(_parsed(stored))
    except OptionError as problem:
        raise Damage(str(problem)[:LONGEST_TEXT].rstrip(".")) from problem
    except (ValueError, RecursionError) as problem:
        raise Damage("it is no JSON, or too deep") from problem


def _parsed(stored: str) -> dict[str, Any]:
    """The JSON of a record of a schema that is known, with no text in it that a terminal could not take."""
    if len(stored) > LONGEST:
        raise Damage(f"longer than {LONGEST} characters")
    found = json.loads(stored, parse_constant=_constant)
    if not isinstance(found, dict):
        raise Damage("no object")
    schema = found.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise Damage("no schema version")
    if schema > SCHEMA:
        raise Newer(f"are of a newer version (schema {schema if schema <= LARGEST else '?'}; this one reads {SCHEMA})")
    if not all(len(word) <= LONGEST_TEXT and word.isprintable() for word in _words(found)):
        raise Damage("odd or overlong text in it")
    return found


def _constant(name: str) -> None:
    raise Damage(f"{name} in it")


def _words(value: Any) -> Iterator[str]:
    """Every text and key, however deep."""
    if isinstance(value, str):
        yield value
    for part in (*value, *value.values()) if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _words(part)


def _checked(found: Mapping[str, Any]) -> Record:
    """The record that JSON stands for; what this version does not know beside it is left out."""
    checked = {}
    for name, fits in _FIELDS.items():
        if not fits(found.get(name)):
            raise Damage(f"'{name}' is missing or wrong")
        checked[name] = found[name]
    if len(checked["plan"]) != len(checked["scale_seconds"]):
        raise Damage("'scale_seconds' does not fit the plan")
    for scale in checked["plan"]:
        if scale["width"] > checked["width"] or scale["height"] > checked["height"]:
            raise Damage("a scale is larger than the picture")
    options = options_of(checked["options"])
    checked["options"] = {**options.to_dict(), "init": checked["options"].get("init", options.init)}
    return cast("Record", checked)


def options_of(stored: Mapping[str, Any]) -> Options:
    """Stored options, validated; `init` is never a path, for nobody but the user says which files are read."""
    if unknown := [name for name in stored if name not in knobs()]:
        raise Newer(f"have '{unknown[0]}', which this version does not know")
    start = stored.get("init", STARTS[0])
    if start not in (*STARTS, FILE):
        raise Damage("'init' is wrong")
    return Options(**{**stored, "init": STARTS[0] if start == FILE else start})


def _number(low: float, high: float = LARGEST, *, whole: bool = True) -> Callable[[Any], bool]:
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
        and value.keys() | {"sketch", "octaves"} == _SCALE.keys()  # which are younger than the others
        and all(_SCALE[name](part) for name, part in value.items())
    )


_SIDE, _AMOUNT = _number(1), _number(-1e30, 1e30, whole=False)
_SCALE: dict[str, Callable[[Any], bool]] = {
    "width": _SIDE,
    "height": _SIDE,
    "steps": _number(1),
    "optimizer": lambda value: value in ("adam", "lbfgs"),
    "planned": _number(0),
    "sketch": _is(bool),
    "octaves": _number(0, 16),
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
    "plan": _list(_is_scale),
    "stopped": _is(bool),
    "evaluations": _number(0),
    "units": _AMOUNT,
    "losses": _table(_AMOUNT),
    "seconds": _AMOUNT,
    "scale_seconds": _list(_AMOUNT),
}
