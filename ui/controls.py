"""From the fields of `Options` to the controls of the page, and back: no default, range or help is written here.

Machine settings are the server's, and which network looks is too: a visitor does not choose them.
"""

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from styler import config
from styler.errors import OptionError
from styler.options import INIT_CHOICES, LOOKS, PRESETS, Bundle, Options, describe_range, list_options, resolve_options

MAIN_OPTIONS = ("preset", "strength", "stroke_size", "keep_color")
"""What everybody sees."""
FIRST_ADVANCED = ("size", "look", "seed", "init")
"""What comes first of the rest."""
HIDDEN_OPTIONS = (
    "style_weights",
    "backbone",
    *(name for name, knob in list_options().items() if knob.group == "Machine"),
)
ADVANCED_OPTIONS = (
    *FIRST_ADVANCED,
    *(name for name in list_options() if name not in {*MAIN_OPTIONS, *FIRST_ADVANCED, *HIDDEN_OPTIONS}),
)
PAGE_OPTIONS = (*MAIN_OPTIONS, *ADVANCED_OPTIONS)
BATCH_OPTIONS = (*MAIN_OPTIONS, "size", "look", "seed")
"""What is asked for many pictures at once; the rest follows from preset and look."""

OFFERED_SIZES = (256, 512, 768, 1024, 2048)
"""Offered beside what one can type."""
SLIDER_OPTIONS = ("strength", "stroke_size", "keep_color", "taper")
"""Where a hand is better than a number."""
OPTION_BUNDLES: Mapping[str, Mapping[str, Bundle]] = {"preset": PRESETS, "look": LOOKS}
LABELS = {"keep_color": "Keep colours", "init": "Start from"}
"""Where the field's own name is not a person's."""


def make_label(name: str) -> str:
    """`Learning rate` for learning_rate."""
    return LABELS.get(name, name.replace("_", " ").capitalize())


def make_hint(name: str) -> str:
    """What one reads on hover: the field's help, what it can be, and the flag for those who will script it."""
    knob = list_options()[name]
    limits = f"{describe_range(knob)}; " if knob.low is not None else ""
    choices = "".join(f" {choice}: {bundle.help}." for choice, bundle in OPTION_BUNDLES.get(name, {}).items())
    return f"{knob.help} ({limits}--{name.replace('_', '-')}).{choices}"


def make_control(name: str, default: Any, place: str = "option") -> Component:
    """The control of a field; `place` tells those of one field apart."""
    field = next(field for field in dataclasses.fields(Options) if field.name == name)
    knob = list_options()[name]
    common: dict[str, Any] = {
        "label": make_label(name),
        "info": make_hint(name),
        "value": str(default) if name == "size" else to_control_value(default),
        "elem_id": f"{place}-{name}",
        "elem_classes": ["option"],
        "interactive": True,
    }
    if name == "init":
        return gr.Radio([*INIT_CHOICES], **common)
    if name == "size":
        return gr.Dropdown(
            [*map(str, OFFERED_SIZES), *typing.get_args(typing.get_args(field.type)[1])],
            allow_custom_value=True,
            **common,
        )
    if knob.choices:
        return gr.Radio([*knob.choices], **common)
    if name in SLIDER_OPTIONS:
        assert knob.low is not None
        assert knob.high is not None
        return gr.Slider(knob.low, knob.high, step=1 if knob.high > 10 else 0.01, buttons=[], **common)
    if field.type in (int, float):
        return gr.Number(precision=0 if field.type is int else None, **common)
    return gr.Textbox(max_lines=1, **common)


def to_control_value(value: Any) -> Any:
    """A value as its control holds it."""
    if isinstance(value, tuple):
        return ", ".join(f"{item:g}" if isinstance(item, float) else item for item in value)
    return value


def values_from_options(options: Options) -> list[Any]:
    """What all controls hold for some options, in the order of `NAMES`."""
    return [str(options.size) if name == "size" else to_control_value(getattr(options, name)) for name in PAGE_OPTIONS]


def options_from_values(values: Iterable[Any], style_weights: tuple[float, ...] = ()) -> Options:
    """The options that the controls say.

    Args:
        values: in the order of `NAMES`.
        style_weights: one for each style, or none.

    Raises:
        OptionError: one is empty or out of its range.
    """
    given = {name: _parse_control_value(name, value) for name, value in zip(PAGE_OPTIONS, values, strict=True)}
    if given["init"] not in INIT_CHOICES:  # a path would be read on the server
        raise OptionError(f"init is '{given['init']}'; it can be {', '.join(INIT_CHOICES)}.")
    return Options(**given, style_weights=style_weights)


def options_from_batch_values(values: Iterable[Any]) -> Options:
    """The options that the controls of a batch say; `values` are in the order of `BATCH`.

    Raises:
        OptionError: one is empty or out of its range.
    """
    return Options.of(
        **{name: _parse_control_value(name, value) for name, value in zip(BATCH_OPTIONS, values, strict=True)}
    )


def apply_bundle(kind: str, name: str, values: Iterable[Any]) -> list[Any]:
    """What all controls hold once a preset or a look is chosen: its fields change, others stay."""
    held = dict(zip(PAGE_OPTIONS, values, strict=True))
    fields = {kind, *(field for bundle in OPTION_BUNDLES[kind].values() for field in bundle.values)}
    found = dict(zip(PAGE_OPTIONS, values_from_options(resolve_options((kind, {kind: name})).options), strict=True))
    return [found[field] if field in fields else held[field] for field in PAGE_OPTIONS]


def _parse_control_value(name: str, value: Any) -> Any:
    return config.parse_value(name, value.strip()) if isinstance(value, str) else value
