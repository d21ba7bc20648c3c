"""Conversion of the fields of `Options` to controls of the page and back; no default, range or help is defined here.

Settings of the machine belong to the server; visitors do not see them. They choose among the networks that it has.
"""

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from styler import config
from styler.errors import OptionError
from styler.options import (
    INIT_CHOICES,
    LOOKS,
    PRESETS,
    Options,
    describe_range,
    format_value,
    list_options,
    resolve_options,
)
from styler.provenance import FILE_VALUE
from ui.studio import list_backbones

MAIN_OPTIONS = ("preset", "strength", "stroke_size", "brushwork", "keep_color")
"""Options that are always visible."""
FIRST_ADVANCED = ("size", "look", "seed", "init")
"""Options at the top of the Advanced section."""
_MACHINE_OPTIONS = [name for name, spec in list_options().items() if spec.group == "Machine"]
HIDDEN_OPTIONS = ("style_weights", *_MACHINE_OPTIONS)
"""Options without a control of their own; the weights have one slider for each painting."""
_PLACED_OPTIONS = {*MAIN_OPTIONS, *FIRST_ADVANCED, *HIDDEN_OPTIONS}
ADVANCED_OPTIONS = (*FIRST_ADVANCED, *(name for name in list_options() if name not in _PLACED_OPTIONS))
PAGE_OPTIONS = (*MAIN_OPTIONS, *ADVANCED_OPTIONS)
BATCH_OPTIONS = (*MAIN_OPTIONS, "size", "look", "seed")
"""Options of a batch; all others follow from the preset and the look."""

DEFAULT_OPTIONS = Options()

OFFERED_SIZES = (256, 512, 768, 1024, 2048)
"""Sizes in the menu; any other can be typed."""
SLIDER_OPTIONS = ("strength", "stroke_size", "brushwork", "keep_color", "taper")
LABELS = {"time": "Time budget", "init": "Start from", "patience": "Early stopping", "backbone": "Feature network"}
"""Labels of the controls whose option has a name that says too little on the page."""
OPTION_BUNDLES = {"preset": PRESETS, "look": LOOKS}


def make_hint(name: str) -> str:
    """Return the explanation shown on hover: the help of the option, its range, its flag, and its choices."""
    spec = list_options()[name]
    limits = f"{describe_range(spec)}; " if spec.low is not None else ""
    choices = "".join(f" {choice}: {bundle.help}." for choice, bundle in OPTION_BUNDLES.get(name, {}).items())
    return f"{spec.help} ({limits}--{name.replace('_', '-')}).{choices}"


def make_controls(
    names: Iterable[str], prefix: str = "option", defaults: Options = DEFAULT_OPTIONS
) -> dict[str, Component]:
    """Create the controls of options at their defaults, by name; element ids are `prefix-name`."""
    fields = {field.name: field for field in dataclasses.fields(Options)}
    return {name: _make_control(fields[name], prefix, getattr(defaults, name)) for name in names}


def _make_control(field: "dataclasses.Field[Any]", prefix: str, default: Any) -> Component:
    name, spec = field.name, list_options()[field.name]
    common: dict[str, Any] = {
        "label": LABELS.get(name) or name.replace("_", " ").capitalize(),
        "info": make_hint(name),
        "value": to_control_value(default),
        "elem_id": f"{prefix}-{name}",
        "elem_classes": ["option"],
        "interactive": True,
    }
    if name == "size":
        words = typing.get_args(typing.get_args(field.type)[1])
        common["value"] = str(common["value"])
        return gr.Dropdown([*map(str, OFFERED_SIZES), *words], allow_custom_value=True, **common)
    if name == "backbone":
        common["value"] = name_backbone(default)
        return gr.Dropdown([*dict.fromkeys((common["value"], *list_backbones()))], **common)
    if name == "init" or spec.choices:
        return gr.Radio([*(spec.choices or INIT_CHOICES)], **common)
    if name in SLIDER_OPTIONS:
        assert spec.low is not None
        assert spec.high is not None
        return gr.Slider(spec.low, spec.high, step=1 if spec.high > 10 else 0.01, buttons=[], **common)
    if field.type in (int, float):
        return gr.Number(precision=0 if field.type is int else None, **common)
    return gr.Checkbox(**common) if field.type is bool else gr.Textbox(max_lines=1, **common)


def name_backbone(backbone: str) -> str:
    """Return the name of a network as visitors see it: none of the paths on the server."""
    return backbone if backbone in list_backbones() else FILE_VALUE


def to_control_value(value: Any) -> Any:
    """Return the value of an option as its control holds it: lists as text."""
    return format_value(value) if isinstance(value, tuple) else value


def values_from_options(options: Options) -> list[Any]:
    """Return the values of all controls for some options, in the order of `PAGE_OPTIONS`."""
    values = {name: to_control_value(getattr(options, name)) for name in PAGE_OPTIONS}
    return [*(values | {"size": str(options.size), "backbone": name_backbone(options.backbone)}).values()]


def options_from_values(values: Iterable[Any], style_weights: tuple[float, ...] = ()) -> Options:
    """Return the options that the controls of the Paint tab hold.

    Args:
        values: in the order of `PAGE_OPTIONS`.
        style_weights: one for each style, or none.

    Raises:
        OptionError: a value is missing or out of range.
    """
    settings = _parse_values(PAGE_OPTIONS, values)
    check_names(settings)
    return Options(**settings, style_weights=style_weights)


def options_from_batch_values(values: Iterable[Any], defaults: Options = DEFAULT_OPTIONS) -> Options:
    """Return the options that the controls of the Batch tab hold, in the order of `BATCH_OPTIONS`.

    Raises:
        OptionError: a value is missing or out of range.
    """
    return override_defaults(defaults, _parse_values(BATCH_OPTIONS, values))


def override_defaults(defaults: Options, settings: Mapping[str, Any]) -> Options:
    """Return the defaults of the server with some settings changed.

    A preset or look applies its values only if it is another one than the server's, whose values may differ.

    Raises:
        OptionError: a setting is unknown or invalid.
    """
    values = {field.name: getattr(defaults, field.name) for field in dataclasses.fields(Options)}
    changes = {name: value for name, value in settings.items() if name not in OPTION_BUNDLES or value != values[name]}
    return resolve_options(("server", values), ("visitor", changes)).options


def check_names(settings: Mapping[str, Any]) -> None:
    """Refuse settings that would read or fetch a file: a path as `init`, or a network that is not on the server.

    Raises:
        OptionError: one of them is not among the names that it can be.
    """
    for name, choices in (("init", INIT_CHOICES), ("backbone", (*list_backbones(), FILE_VALUE))):
        if name in settings and settings[name] not in choices:
            raise OptionError(f"{name} is '{settings[name]}'; it can be {', '.join(choices)}.")


def apply_bundle(kind: str, *values: Any, defaults: Options = DEFAULT_OPTIONS) -> list[Any]:
    """Return the values of all controls after a choice of preset or look: the options that these set.

    Args:
        kind: "preset" or "look".
        values: in the order of `PAGE_OPTIONS`, with the new choice.
        defaults: those of the server, whose own preset and look return to them.
    """
    current = dict(zip(PAGE_OPTIONS, values, strict=True))
    options = override_defaults(defaults, {"preset": current["preset"], "look": current["look"]})
    changed = {kind, "iterations", *(option for bundle in OPTION_BUNDLES[kind].values() for option in bundle.values)}
    chosen = dict(zip(PAGE_OPTIONS, values_from_options(options), strict=True))
    return [chosen[option] if option in changed else current[option] for option in PAGE_OPTIONS]


def parse_value(name: str, value: Any) -> Any:
    """Return a value as the option takes it; text is parsed as in a flag."""
    return config.parse_value(name, value.strip()) if isinstance(value, str) else value


def _parse_values(names: Iterable[str], values: Iterable[Any]) -> dict[str, Any]:
    """Return the values of controls as the options take them.

    Raises:
        OptionError: a field for a number is empty.
    """
    values = [*values]
    for name, value in zip(names, values, strict=True):
        if value is None or (value == "" and not isinstance(getattr(DEFAULT_OPTIONS, name), tuple)):
            raise OptionError(
                f"The field '{LABELS.get(name) or name.replace('_', ' ').capitalize()}' is empty; fill it in."
            )
    return {name: parse_value(name, value) for name, value in zip(names, values, strict=True)}
