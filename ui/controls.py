"""Conversion of the fields of `Options` to controls of the page and back; no default, range or help is defined here.

Settings of the machine belong to the server; visitors do not see them. They choose among the networks that it has.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from styler import config, provenance
from styler.errors import OptionError
from styler.options import (
    INIT_CHOICES,
    LOOKS,
    PRESETS,
    Options,
    OptionSpec,
    describe_range,
    format_value,
    list_options,
    list_words,
    resolve_options,
)
from styler.options.paper import PAPERS, normalize_paper
from styler.provenance import FILE_VALUE
from ui.areas.choice import adopt_areas
from ui.studio import list_backbones

MAIN_OPTIONS = ("preset", "size", "strength", "stroke_size", "brushwork", "keep_color")
"""Options that are always visible."""
_MACHINE_OPTIONS = [name for name, spec in list_options().items() if spec.group == "Machine"]
_REGION_OPTIONS = [name for name, spec in list_options().items() if spec.group == "Regions"]
HIDDEN_OPTIONS = ("paper", "style_weights", *_REGION_OPTIONS, *_MACHINE_OPTIONS)
"""Options without a control of their own: the size can be a paper, and the weights have a slider for each painting."""
ADVANCED_OPTIONS = tuple(name for name in list_options() if name not in {*MAIN_OPTIONS, *HIDDEN_OPTIONS})
"""Options of the Advanced section, in the order and the groups of `styler run --help`."""
PAGE_OPTIONS = (*MAIN_OPTIONS, *ADVANCED_OPTIONS)
BATCH_OPTIONS = (*MAIN_OPTIONS, "look", "seed")
"""Options of a batch; all others follow from the preset and the look."""

DEFAULT_OPTIONS = Options()

MAX_STYLES = 4
MAX_WEIGHT = 4.0
"""The largest weight of a painting among others."""

SIZES: dict[str, int | str] = {"Small": 512, "Screen": 1024, "Large": 2048, "Print A4": "A4", "Print A3": "A3"}
"""Sizes with a name, in pixels or as a paper; any other can be typed."""
PAPER_EXAMPLES = "A2 or 50x70cm"
"""What else the field of the size can hold, as hints and errors name it."""
OWN_SIZE = "own"
"""The choice among the sizes that shows the field for any other."""
SLIDER_OPTIONS = ("strength", "stroke_size", "brushwork", "keep_color", "taper")
LABELS = {
    "time": "Time budget",
    "init": "Start from",
    "patience": "Early stopping",
    "backbone": "Feature network",
    "dpi": "DPI",
}
"""Labels of the controls whose option has a name that says too little on the page."""
OPTION_BUNDLES = {"preset": PRESETS, "look": LOOKS}


def make_hint(name: str) -> str:
    """Return the explanation shown on hover, in Markdown: the help of the option, its range, its flag, its choices."""
    return f"{list_options()[name].help} ({_describe_flag(name)}).{_describe_choices(name)}"


def make_explanation(name: str) -> str:
    """Return the explanation that is always visible, in Markdown, and emphasized what is added to it on hover."""
    text = list_options()[name].help
    return f"{text[0].upper()}{text[1:]}. *{_describe_flag(name)}.{_describe_choices(name)}*"


def _describe_flag(name: str) -> str:
    spec = list_options()[name]
    limits = f"{describe_range(spec)}; " if spec.low is not None else ""
    return f"{limits}`--{name.replace('_', '-')}`"


def _describe_choices(name: str) -> str:
    return "".join(f" {choice}: {bundle.help}." for choice, bundle in OPTION_BUNDLES.get(name, {}).items())


def group_options(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of options by group, both in the order of `styler run --help`."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(list_options()[name].group, []).append(name)
    return groups


def make_controls(
    names: Iterable[str], prefix: str = "option", defaults: Options = DEFAULT_OPTIONS, *, is_explained: bool = False
) -> dict[str, Component]:
    """Create the controls of options at their defaults, by name; element ids are `prefix-name`.

    Args:
        names: of the options, in order.
        prefix: begins the element ids.
        defaults: the values of the controls.
        is_explained: whether each shows a line of explanation, which otherwise appears on hover.
    """
    fields, values = {field.name: field for field in dataclasses.fields(Options)}, _list_values(defaults)
    return {name: _make_control(fields[name], prefix, values[name], is_explained) for name in names}


def _list_values(options: Options) -> dict[str, Any]:
    """Return what the controls show of some options, by name: a paper is shown as the size."""
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(Options)}
    return values | {"size": options.paper or options.size}


def make_size_choice(prefix: str = "option", defaults: Options = DEFAULT_OPTIONS) -> gr.Radio:
    """Create the row of named sizes; the control of `size` below it holds the size itself, and shows any other."""
    choices = [(f"{word}\n{_describe_size(size)}", str(size)) for word, size in SIZES.items()]
    return gr.Radio(
        [*choices, ("Own…", OWN_SIZE)],
        value=choose_size(defaults),
        label="Size",
        info=f"{make_hint('size')[:-2]}), or a paper such as {PAPER_EXAMPLES} (`--paper`).",
        elem_id=f"{prefix}-sizes",
        elem_classes=["option", "tall", "sizes"],
        interactive=True,
    )


def _describe_size(size: int | str) -> str:
    if isinstance(size, int):
        return f"{size} px"
    width, height = (side / 10 for side in PAPERS[size])
    return f"{width:g} × {height:g} cm"


def choose_size(options: Options) -> str:
    """Return the choice among the sizes that stands for the size or the paper of some options."""
    size = options.paper or options.size
    return str(size) if size in SIZES.values() else OWN_SIZE


def parse_size(text: str) -> dict[str, Any]:
    """Return what the field of the size holds as settings: `size`, or a paper, which takes its place.

    Raises:
        OptionError: it is neither.
    """
    try:
        paper = normalize_paper(text) if text.strip() != "original" else ""
    except OptionError:  # a number, or nothing that makes sense
        paper = ""
    if paper:
        return {"paper": paper}
    try:
        return {"size": DEFAULT_OPTIONS.replace(size=parse_value("size", text)).size}
    except OptionError as problem:
        raise OptionError(f"{str(problem).removesuffix('.')}, or a paper such as {PAPER_EXAMPLES}.") from None


def _make_control(field: "dataclasses.Field[Any]", prefix: str, default: Any, is_explained: bool) -> Component:
    name, spec = field.name, list_options()[field.name]
    common: dict[str, Any] = {
        "label": LABELS.get(name) or name.replace("_", " ").capitalize(),
        "info": make_explanation(name) if is_explained else make_hint(name),
        "value": to_control_value(default),
        "elem_id": f"{prefix}-{name}",
        "elem_classes": ["option", *(["explained"] if is_explained else []), *(["tall"] if name == "preset" else [])],
        "interactive": True,
    }
    if name == "size":
        return _make_size_field(field, spec, common)
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


def _make_size_field(field: "dataclasses.Field[Any]", spec: OptionSpec, common: dict[str, Any]) -> gr.Textbox:
    """Create the field that holds the size; the style sheet shows it if the size has no name."""
    (word,) = list_words(field.type)
    label = f"Long side in pixels, {describe_range(spec)}, '{word}', or a paper such as {PAPER_EXAMPLES}"
    classes = [*common["elem_classes"], "own-size"]
    return gr.Textbox(max_lines=1, **common | {"label": label, "value": str(common["value"]), "elem_classes": classes})


def name_backbone(backbone: str) -> str:
    """Return the name of a network as visitors see it: none of the paths on the server."""
    return backbone if backbone in list_backbones() else FILE_VALUE


def to_control_value(value: Any) -> Any:
    """Return the value of an option as its control holds it: lists as text."""
    return format_value(value) if isinstance(value, tuple) else value


def values_from_options(options: Options) -> list[Any]:
    """Return the values of all controls for some options, in the order of `PAGE_OPTIONS`."""
    shown = _list_values(options)
    values = {name: to_control_value(shown[name]) for name in PAGE_OPTIONS}
    return [*(values | {"size": str(shown["size"]), "backbone": name_backbone(options.backbone)}).values()]


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
    if changes.get("paper") and "size" in changes:  # as a program says which of its parameters it does not set
        unchanged = [name for name in ("paper", "size") if changes[name] == values[name]]
        if len(unchanged) == 1:
            del changes[unchanged[0]]
    return resolve_options(("server", values), ("visitor", changes)).options


def check_names(settings: Mapping[str, Any]) -> None:
    """Refuse settings that would read or fetch a file: a path as `init`, or a network that is not on the server.

    Raises:
        OptionError: one of them is not among the names that it can be.
    """
    for name, choices in (("init", INIT_CHOICES), ("backbone", (*list_backbones(), FILE_VALUE))):
        if name in settings and settings[name] not in choices:
            raise OptionError(f"{name} is '{settings[name]}'; it can be {', '.join(choices)}.")


def list_bundle_options(kind: str) -> list[str]:
    """Return the options that a choice of preset or look sets, in the order of `PAGE_OPTIONS`."""
    names = {"iterations", *(option for bundle in OPTION_BUNDLES[kind].values() for option in bundle.values)}
    return [name for name in PAGE_OPTIONS if name in names]


def apply_bundle(kind: str, *values: Any, defaults: Options = DEFAULT_OPTIONS) -> list[Any]:
    """Return the values of the options in `list_bundle_options` after a choice of preset or look.

    No others: a visitor may be changing them at the same time.

    Args:
        kind: "preset" or "look".
        values: in the order of `PAGE_OPTIONS`, with the new choice.
        defaults: those of the server, whose own preset and look return to them.
    """
    current = dict(zip(PAGE_OPTIONS, values, strict=True))
    options = override_defaults(defaults, {"preset": current["preset"], "look": current["look"]})
    chosen = dict(zip(PAGE_OPTIONS, values_from_options(options), strict=True))
    return [chosen[option] for option in list_bundle_options(kind)]


def adopt_settings(record: provenance.Record, server: Options) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of a picture that can be set on the page, and a sentence on each that cannot."""
    settings, notes = provenance.settings_from_record(record), []
    if settings.get("backbone") not in list_backbones():
        recorded = record["options"]["backbone"]
        name = "a network file" if recorded == FILE_VALUE else f"the network {recorded}"
        settings["backbone"] = name_backbone(server.backbone)
        notes.append(f"It was made with {name}, which is not on this server; {settings['backbone']} is set.")
    if server.precision not in ("auto", settings["precision"]):
        notes.append(
            f"It was made with precision {settings['precision']}; this server paints with {server.precision}, so its "
            "pixels differ."
        )
    if "init" not in settings:
        notes.append("It was started from a picture, which is not stored; this one starts from the photo.")
    areas, area_notes = adopt_areas(record["options"])
    settings, notes = settings | areas, notes + area_notes
    weights = areas["style_weights"]
    if max(weights, default=0) > MAX_WEIGHT:
        weights = [MAX_WEIGHT * weight / max(weights) for weight in weights]
    if len(weights) > MAX_STYLES:
        notes.append(f"The weights of its {len(weights)} paintings cannot be set; {MAX_STYLES} paintings are the most.")
        weights = ()
    elif weights:
        notes.append("Its weights apply to the paintings in the order in which you choose them.")
    return {**settings, "style_weights": tuple(weights)}, notes


def parse_value(name: str, value: Any) -> Any:
    """Return a value as the option takes it; text is parsed as in a flag."""
    return config.parse_value(name, value.strip()) if isinstance(value, str) else value


def _parse_values(names: Sequence[str], values: Iterable[Any]) -> dict[str, Any]:
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
    settings = {name: parse_value(name, value) for name, value in zip(names, values, strict=True) if name != "size"}
    return settings | parse_size(str(dict(zip(names, values, strict=True))["size"]))
