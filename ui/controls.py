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

MAIN = ("preset", "strength", "brush", "keep_color")
"""What everybody sees."""
FIRST = ("size", "look", "seed", "init")
"""What comes first of the rest."""
LEFT_OUT = ("style_weights", "backbone", *(name for name, knob in list_options().items() if knob.group == "Machine"))
ADVANCED = (*FIRST, *(name for name in list_options() if name not in {*MAIN, *FIRST, *LEFT_OUT}))
NAMES = (*MAIN, *ADVANCED)
BATCH = (*MAIN, "size", "look", "seed")
"""What is asked for many pictures at once; the rest follows from preset and look."""

SIZES = (256, 512, 768, 1024, 2048)
"""Offered beside what one can type."""
SLIDERS = ("strength", "brush", "keep_color", "taper")
"""Where a hand is better than a number."""
BUNDLES: Mapping[str, Mapping[str, Bundle]] = {"preset": PRESETS, "look": LOOKS}
WORDS = {"keep_color": "Keep colours", "init": "Start from"}
"""Where the field's own name is not a person's."""


def label(name: str) -> str:
    """`Learning rate` for learning_rate."""
    return WORDS.get(name, name.replace("_", " ").capitalize())


def explanation(name: str) -> str:
    """What one reads on hover: the field's help, what it can be, and the flag for those who will script it."""
    knob = list_options()[name]
    limits = f"{describe_range(knob)}; " if knob.low is not None else ""
    choices = "".join(f" {choice}: {bundle.help}." for choice, bundle in BUNDLES.get(name, {}).items())
    return f"{knob.help} ({limits}--{name.replace('_', '-')}).{choices}"


def control(name: str, default: Any, place: str = "option") -> Component:
    """The control of a field; `place` tells those of one field apart."""
    field = next(field for field in dataclasses.fields(Options) if field.name == name)
    knob = list_options()[name]
    common: dict[str, Any] = {
        "label": label(name),
        "info": explanation(name),
        "value": str(default) if name == "size" else shown(default),
        "elem_id": f"{place}-{name}",
        "elem_classes": ["option"],
        "interactive": True,
    }
    if name == "init":
        return gr.Radio([*INIT_CHOICES], **common)
    if name == "size":
        return gr.Dropdown(
            [*map(str, SIZES), *typing.get_args(typing.get_args(field.type)[1])], allow_custom_value=True, **common
        )
    if knob.choices:
        return gr.Radio([*knob.choices], **common)
    if name in SLIDERS:
        assert knob.low is not None
        assert knob.high is not None
        return gr.Slider(knob.low, knob.high, step=1 if knob.high > 10 else 0.01, buttons=[], **common)
    if field.type in (int, float):
        return gr.Number(precision=0 if field.type is int else None, **common)
    return gr.Textbox(max_lines=1, **common)


def shown(value: Any) -> Any:
    """A value as its control holds it."""
    if isinstance(value, tuple):
        return ", ".join(f"{item:g}" if isinstance(item, float) else item for item in value)
    return value


def of_options(options: Options) -> list[Any]:
    """What all controls hold for some options, in the order of `NAMES`."""
    return [str(options.size) if name == "size" else shown(getattr(options, name)) for name in NAMES]


def options_of(values: Iterable[Any], style_weights: tuple[float, ...] = ()) -> Options:
    """The options that the controls say.

    Args:
        values: in the order of `NAMES`.
        style_weights: one for each style, or none.

    Raises:
        OptionError: one is empty or out of its range.
    """
    given = {name: _typed(name, value) for name, value in zip(NAMES, values, strict=True)}
    if given["init"] not in INIT_CHOICES:  # a path would be read on the server
        raise OptionError(f"init is '{given['init']}'; it can be {', '.join(INIT_CHOICES)}.")
    return Options(**given, style_weights=style_weights)


def options_of_batch(values: Iterable[Any]) -> Options:
    """The options that the controls of a batch say; `values` are in the order of `BATCH`.

    Raises:
        OptionError: one is empty or out of its range.
    """
    return Options.of(**{name: _typed(name, value) for name, value in zip(BATCH, values, strict=True)})


def bundled(kind: str, name: str, values: Iterable[Any]) -> list[Any]:
    """What all controls hold once a preset or a look is chosen: its fields change, others stay."""
    held = dict(zip(NAMES, values, strict=True))
    fields = {kind, *(field for bundle in BUNDLES[kind].values() for field in bundle.values)}
    found = dict(zip(NAMES, of_options(resolve_options((kind, {kind: name})).options), strict=True))
    return [found[field] if field in fields else held[field] for field in NAMES]


def _typed(name: str, value: Any) -> Any:
    return config.parse_value(name, value.strip()) if isinstance(value, str) else value
