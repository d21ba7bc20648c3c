"""Values of options: their specification, validation, parsing and formatting.

Knows the kinds of values, and none of the options.
"""

import dataclasses
import datetime
import decimal
import difflib
import math
import numbers
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from styler.errors import OptionError

UNITS: dict[str, dict[str, int]] = {
    "s": {"s": 1, "m": 60, "h": 3600},
    "b": {"b": 1}
    | {f"{prefix}{end}": 1000**power for power, prefix in enumerate("kmgt", start=1) for end in ("", "b")}
    | {f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", start=1)},
}
"""The units in which seconds and bytes may be given; capitals count as small letters."""
ESTIMATE_STEPS = ((9.5, 1), (57.5, 5), (9.5 * 60, 60), (57.5 * 60, 300), (9.5 * 3600, 600), (math.inf, 3600))
"""Expected seconds below each limit are rounded to multiples of the number beside it."""
UNIT_EXAMPLES = {"s": "a time such as 60s, 2m or 1h", "b": "an amount such as 800mb, 4gb or 4gib"}
MAX_VALUE_LENGTH = 100
"""Characters of a wrong value that a message repeats."""


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """What a front end needs to offer an option."""

    help: str
    group: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    unit: str = ""
    """A key of `UNITS` if the number may also be given as text with a unit, such as 60s or 4gb."""
    noun: str = ""
    """What the number is, for an option that may also be a word."""


def option(
    default: Any,
    help: str,  # noqa: A002 - the word every front end uses
    *,
    group: str,
    low: float | None = None,
    high: float | None = None,
    choices: Iterable[str] = (),
    unit: str = "",
    noun: str = "",
) -> Any:
    """Define a field of `Options` that carries its own documentation."""
    spec = OptionSpec(help, group, low, high, tuple(choices), unit, noun)
    return dataclasses.field(default=default, metadata={"spec": spec})


def describe_range(spec: OptionSpec, *, whole: bool = False) -> str:
    """Describe the range of a number: `64 to 8192`, `a whole number from 0 to 10`."""
    low, high = format_value(spec.low), format_value(spec.high)
    return f"a whole number from {low} to {high}" if whole and spec.low == 0 else f"{low} to {high}"


def explain_choice(name: str, value: object, choices: Iterable[str]) -> str:
    """Return the sentence about a value that is not among the choices."""
    names = list(choices)
    matches = difflib.get_close_matches(str(value), names, 1)
    hint = f" (did you mean '{matches[0]}'?)" if matches else ""
    return f"{name} is '{value}'{hint}; it can be {', '.join(names)}."


def validate_field(field: "dataclasses.Field[Any]", value: Any) -> Any:
    """Return the value in the field's type, or raise an error that is derived from the field's `OptionSpec`."""
    spec: OptionSpec = field.metadata["spec"]
    value = _to_plain(value)
    if typing.get_origin(field.type) is tuple:
        if not _is_list(value):
            raise OptionError(f"{field.name} is '{_describe(value)}'; it takes a list.")
        item_type = typing.get_args(field.type)[0]
        return tuple(_validate_scalar(field.name, spec, item_type, _to_plain(item)) for item in value)
    if words := list_words(field.type):
        if isinstance(value, str):
            if value not in words:
                choices = f"{describe_range(spec)} for {spec.noun}, or {' or '.join(map(repr, words))}"
                raise OptionError(f"{field.name} is '{_describe(value)}'; it can be {choices}.")
            return value
        return _validate_scalar(field.name, spec, int, value)
    return _validate_scalar(field.name, spec, field.type, value)


def list_words(field_type: Any) -> tuple[str, ...]:
    """Return the words that an option may be in place of a number, given the type of its field; mostly none."""
    is_union = typing.get_origin(field_type) in (typing.Union, types.UnionType)
    return tuple(typing.get_args(typing.get_args(field_type)[1])) if is_union else ()


def _to_plain(value: Any) -> Any:
    """Convert a scalar of numpy or torch, a path or another kind of number to one of Python's own types."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        is_short = isinstance(value, numbers.Real) and not isinstance(value, float)  # float32, whose digits are few
        value = float(str(value)) if is_short and not isinstance(value, numbers.Integral) else value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return str.__str__(value)  # also of a member of an enumeration
    if type(value).__module__ == "torch" and type(value).__name__ == "device":
        return str(value)
    return value if isinstance(value, bool | int | float) else _to_number(value)


def _to_number(value: Any) -> Any:
    """Convert another kind of number; anything else is returned unchanged, and validation rejects it."""
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real | decimal.Decimal):
        try:
            return float(value)
        except (OverflowError, ValueError):  # larger than any float, or a NaN that signals
            return math.nan
    return value


def _is_list(value: Any) -> bool:
    """Return whether a value has items in an order."""
    is_ordered = not isinstance(value, str | bytes | bytearray | Mapping | Set)
    return is_ordered and isinstance(value, Iterable) and getattr(value, "shape", None) != ()


def _describe(value: Any) -> str:
    """Return a value on one line, cut to a length that a person reads."""
    text = " ".join(str(value).split())
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}…"


def _validate_scalar(name: str, spec: OptionSpec, type_: Any, value: Any) -> Any:
    if type_ is bool:
        if not isinstance(value, bool):
            raise OptionError(f"{name} is '{_describe(value)}'; it can be true or false.")
        return value
    if type_ is str:
        if not isinstance(value, str) or (spec.choices and value not in spec.choices):
            raise OptionError(explain_choice(name, _describe(value), spec.choices or ["text"]))
        return value
    if spec.unit == "s" and isinstance(value, datetime.timedelta):
        value = value.total_seconds()
    if spec.unit and isinstance(value, str):
        value = parse_quantity(value, spec.unit)
    assert spec.low is not None
    assert spec.high is not None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    in_range = is_number and spec.low <= value <= spec.high
    if not in_range or (type_ is int and not float(value).is_integer()):
        units = f", or {UNIT_EXAMPLES[spec.unit]}" if spec.unit else ""
        kind = "the text " if _is_number_as_text(value) else ""
        raise OptionError(
            f"{name} is {kind}{_describe(value)}; it can be {describe_range(spec, whole=type_ is int)}{units}."
        )
    return type_(value)


def _is_number_as_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False


def parse_quantity(text: str, unit: str) -> float | str:
    """Parse `2m` or `4gb` as seconds or bytes; return any other text unchanged, for validation to reject."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+) ?([a-z]+)", text.strip().lower())
    if not match or match[2] not in UNITS[unit]:
        return text
    quantity = float(match[1]) * UNITS[unit][match[2]]
    return round(quantity) if unit == "b" else quantity


def format_duration(seconds: float) -> str:
    """Format a duration for people: `4.2 s`, `45 s`, `3 min 5 s`, `2 h 10 min`."""
    if round(seconds, 1) < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    return f"{minutes} min {whole % 60} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def format_estimate(seconds: float) -> str:
    """Format an expected duration, rounded so that it promises nothing: `about 6 s`, `about 1 h 10 min`."""
    step = next(step for limit, step in ESTIMATE_STEPS if seconds < limit)
    text = format_duration(max(1, step * math.floor(seconds / step + 0.5)))
    return f"about {re.sub(r'[.]0(?= s)| 0 (s|min)$', '', text)}"


def format_value(value: Any) -> str:
    """Format the value of an option as a flag takes it, without loss: `70`, `0.25`, `relu1_1,relu2_1`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ",".join(map(format_value, value))
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
