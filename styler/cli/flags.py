"""One flag for every field of `Options`, made from the field: nothing is declared twice.

A flag that was not given is None, so that a verb can tell what was asked for from what is a default. Values stay text
here; `Options` says what is wrong with them.
"""

import dataclasses
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from styler import config
from styler.options import LOOKS, PRESETS, Options, OptionSpec, describe_range

GROUPS = {
    name: Group(name, sort_key=order)
    for order, name in enumerate(("Picture", "Effort", "Objective", "Machine", "Output"), start=1)
}
PICTURE, OUTPUT = GROUPS["Picture"], GROUPS["Output"]

_BUNDLES = {"preset": PRESETS, "look": LOOKS}


def name_of(field: str) -> str:
    """The flag of a field."""
    return "--" + field.replace("_", "-")


def given(flags: Any) -> dict[str, Any]:
    """The settings that were given as flags, in the types of their fields where the text allows."""
    found = {field.name: getattr(flags, field.name) for field in dataclasses.fields(Options)}
    return {name: config.parse_value(name, text) for name, text in found.items() if text is not None}


def _flag(field: "dataclasses.Field[Any]") -> tuple[str, Any, Any]:
    knob: OptionSpec = field.metadata["knob"]
    parameter = Parameter(
        name=name_of(field.name),
        help=_help(field, knob),
        group=GROUPS[knob.group],
        metavar=_metavar(field.type, knob),
        choices=knob.choices or None,
    )
    return field.name, Annotated[str | None, parameter], None


def _help(field: "dataclasses.Field[Any]", knob: OptionSpec) -> str:
    """The field's help, what it can be, and its default."""
    several = typing.get_origin(field.type) is tuple
    bundles = _BUNDLES.get(field.name, {})
    facts = []
    if knob.low is not None:
        facts.append(("each " if several else "") + describe_range(knob))
    if knob.choices and not bundles:
        facts.append(", ".join(knob.choices))
    if (default := shown(field.default)) != "":
        facts.append(f"default {default}")
    wide = max(map(len, bundles), default=0)
    lines = [f"  {name:{wide}}  {bundle.help}" for name, bundle in bundles.items()]
    return "\n".join([f"{knob.help} ({'; '.join(facts)})" if facts else knob.help, *lines])


def shown(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, tuple):
        return ",".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _metavar(kind: Any, knob: OptionSpec) -> str:
    if typing.get_origin(kind) is tuple:
        return "NAME,..." if typing.get_args(kind)[0] is str else "N,..."
    if kind is str or knob.choices:
        return "NAME"
    if knob.unit:
        return "TIME"
    return "N" if kind in (int, float) else "N|original"


if TYPE_CHECKING:
    Flags = Any
    FileName = str
else:
    FileName = str | Path  # comes as the text that was typed; shells complete it as a file
    Flags = dataclasses.make_dataclass(
        "Flags",
        [_flag(field) for field in dataclasses.fields(Options)],
        namespace={"__module__": __name__},  # its own would be `types`, and cyclopts looks into no built-in class
        frozen=True,
        kw_only=True,
    )

NOT_GIVEN = Flags()
"""No flag at all."""

Settings = Annotated[Flags, Parameter(name="*")]
"""What a verb takes that has a flag for every field."""
