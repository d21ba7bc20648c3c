"""What a setting says of itself on its field: help, group, range, choices, unit."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Knob:
    """What a front end needs to offer a setting."""

    help: str
    group: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    unit: str = ""
    """`s`: seconds, which may also be a text such as 60s, 2m or 1h."""


def knob(
    default: Any,
    help: str,  # noqa: A002 - the word every front end uses
    *,
    group: str,
    low: float | None = None,
    high: float | None = None,
    choices: Iterable[str] = (),
    unit: str = "",
) -> Any:
    """A field of `Options` that carries its own documentation."""
    return dataclasses.field(default=default, metadata={"knob": Knob(help, group, low, high, tuple(choices), unit)})


def describe_range(limits: Knob, *, whole: bool = False) -> str:
    """A range as a person reads it: `64 to 8192`, `a whole number from 0 to 10`."""
    low, high = (f"{bound:,.0f}".replace(",", "") if bound == int(bound) else f"{bound:g}" for bound in _bounds(limits))
    return f"a whole number from {low} to {high}" if whole and limits.low == 0 else f"{low} to {high}"


def _bounds(limits: Knob) -> tuple[float, float]:
    assert limits.low is not None
    assert limits.high is not None
    return limits.low, limits.high
