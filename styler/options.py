"""What a setting says of itself on its field: help, group, range, choices, unit."""

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from styler.errors import OptionError


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """What a front end needs to offer a setting."""

    help: str
    group: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    unit: str = ""
    """`s`: seconds, which may also be a text such as 60s, 2m or 1h."""


def option(
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
    return dataclasses.field(
        default=default, metadata={"spec": OptionSpec(help, group, low, high, tuple(choices), unit)}
    )


def describe_range(limits: OptionSpec, *, whole: bool = False) -> str:
    """A range as a person reads it: `64 to 8192`, `a whole number from 0 to 10`."""
    low, high = (
        f"{bound:,.0f}".replace(",", "") if bound == int(bound) else f"{bound:g}" for bound in _get_bounds(limits)
    )
    return f"a whole number from {low} to {high}" if whole and limits.low == 0 else f"{low} to {high}"


def _get_bounds(limits: OptionSpec) -> tuple[float, float]:
    assert limits.low is not None
    assert limits.high is not None
    return limits.low, limits.high


Value = int | float | str | tuple[str, ...] | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A named set of settings."""

    help: str
    values: Mapping[str, Value]


PRESETS = {
    "draft": Bundle("seconds: do these two go together?", {"iterations": 20, "taper": 0.33, "sketch": 0.6}),
    "standard": Bundle("the default: a finished picture in minutes on a CPU", {}),
    "fine": Bundle("the best known quality, for a picture to keep or print", {"iterations": 160, "taper": 1.1}),
}
"""Effort: how many evaluations."""

LOOKS = {
    "plain": Bundle("the default: the manner of the painting, as this program does it best", {}),
    "faithful": Bundle(
        "the photo stays what it is, in the painting's touch: portraits, buildings",
        {"strength": 30.0, "stroke_size": 0.8, "keep_color": 0.5},
    ),
    "bold": Bundle(
        "far from the photo, in large shapes: posters, landscapes",
        {"strength": 75.0, "stroke_size": 1.6},
    ),
    "oil": Bundle(
        "thick, calm strokes: oil paintings",
        {"strength": 55.0, "stroke_size": 1.4, "smoothness": 0.6},
    ),
    "ink": Bundle(
        "crisp lines and clear areas: drawings, prints, woodcuts",
        {"strength": 60.0, "stroke_size": 0.8, "smoothness": 0.05, "pooling": "max"},
    ),
    "gatys": Bundle(
        "the recipe of Gatys et al. 2015: Gram matrices, conv4_2, equal layers, no smoothing",
        {
            "distance": "gram",
            "content_layers": ("relu4_2",),
            "style_layers": ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_3", "relu5_1"),
            "layer_weights": (1.0,),
            "smoothness": 0.0,
            "multiscale": 0.0,
            "pooling": "average",
        },
    ),
}
"""Manner: what the objective asks for."""


INIT_CHOICES = ("content", "style", "noise")
"""What `init` can be besides a picture file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All settings of one painting, validated.

    Fields are the single source of flags, sliders and saved settings. A preset or look named here is a label:
    `Options.of` and `resolve` put its values in.

    Raises:
        OptionError: a value is of the wrong type, out of its range or not among the choices.
    """

    size: int | Literal["original"] = option(
        512, "long side of the result, in pixels, or 'original'", group="Picture", low=64, high=8192
    )
    preset: str = option("standard", "effort", group="Picture", choices=PRESETS)
    look: str = option("plain", "manner", group="Picture", choices=LOOKS)
    strength: float = option(50.0, "how far to go from the photo to the painting", group="Picture", low=0, high=100)
    stroke_size: float = option(1.0, "size of the strokes: 2 is twice as large", group="Picture", low=0.25, high=4)
    keep_color: float = option(
        0.0, "0 takes the painting's colours, 1 keeps the photo's", group="Picture", low=0, high=1
    )
    style_weights: tuple[float, ...] = option(
        (), "how much each style counts, comma-separated; equal when not given", group="Picture", low=0, high=1e6
    )
    init: str = option("content", "what to start from: content, style, noise, or a picture file", group="Picture")
    seed: int = option(0, "another seed, another variant of the picture", group="Picture", low=0, high=2**32 - 1)

    time: float = option(
        0.0,
        "painting time, such as 60s or 2m: as many evaluations as fit into it, and 0 for as many as the preset says",
        group="Effort",
        low=0,
        high=604_800,
        unit="s",
    )
    patience: int = option(
        0,
        "end a scale after so many evaluations that gained nothing; 0 never does",
        group="Effort",
        low=0,
        high=100_000,
    )
    iterations: int = option(72, "evaluations at the first, smallest scale", group="Effort", low=1, high=100_000)
    taper: float = option(1.05, "share of the evaluations that each next scale gets", group="Effort", low=0.01, high=2)
    sketch: float = option(
        0.0,
        "share of the work that a slim network does, with more evaluations in the same time",
        group="Effort",
        low=0,
        high=0.99,
    )
    first_size: int = option(128, "long side of the first scale, at least", group="Effort", low=32, high=8192)
    optimizer: str = option(
        "mixed",
        "L-BFGS, Adam, or mixed: L-BFGS at the first scale, then Adam",
        group="Effort",
        choices=("lbfgs", "adam", "mixed"),
    )
    learning_rate: float = option(
        0.03, "Adam's step, in units of the picture's range", group="Effort", low=1e-4, high=1
    )

    distance: str = option(
        "wasserstein",
        "how styles are compared: Gram matrices, or mean and covariance (Wasserstein)",
        group="Objective",
        choices=("wasserstein", "gram"),
    )
    content_layers: tuple[str, ...] = option(("relu4_2",), "layers that keep the photo", group="Objective")
    content_weight: float = option(0.0128, "weight of the photo at strength 50", group="Objective", low=0, high=1e9)
    style_layers: tuple[str, ...] = option(
        ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_3", "relu5_1"),
        "layers that carry the painting",
        group="Objective",
    )
    layer_weights: tuple[float, ...] = option(
        (256.0, 64.0, 24.0, 6.0, 0.2, 1.5),
        "weight of each style layer; one number means all alike",
        group="Objective",
        low=0,
        high=1e9,
    )
    smoothness: float = option(
        0.23, "weight of the total variation, over the root of the painting's own", group="Objective", low=0, high=1e6
    )
    multiscale: float = option(
        1.0,
        "weight of how the picture looks half as large, and again half, down to 256 pixels; 0 looks at one size alone",
        group="Objective",
        low=0,
        high=100,
    )
    pooling: str = option(
        "mixed",
        "pooling of the network: smooth, as trained, or smooth in its first two blocks",
        group="Objective",
        choices=("average", "max", "mixed"),
    )
    backbone: str = option("vgg16", "the network that looks: vgg16 comes with styler", group="Objective")

    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps", group="Machine")
    precision: str = option(
        "auto",
        "of the convolutions; auto is float32 on CPUs",
        group="Machine",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    checkpoint: str = option(
        "auto",
        "less memory for more time; auto decides by the memory there is",
        group="Machine",
        choices=("auto", "on", "off"),
    )
    threads: int = option(0, "threads of the CPU; 0 leaves the choice to PyTorch", group="Machine", low=0, high=1024)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _validate(field, getattr(self, field.name)))
        if not self.content_layers and not self.style_layers:
            raise OptionError("content_layers and style_layers are both empty; name at least one layer to go by.")
        if len(self.layer_weights) not in (1, len(self.style_layers)):
            raise OptionError(
                f"layer_weights has {len(self.layer_weights)} numbers for {len(self.style_layers)} style layers; "
                "give one for each, or a single one for all."
            )

    @classmethod
    def of(cls, **settings: Any) -> "Options":
        """Options from settings as one would write flags: `Options.of(preset="draft", strength=70)`."""
        return resolve_options(("call", settings)).options

    @property
    def sketched(self) -> float:
        """`sketch`, where the slim network can stand in: for the network it was made of, and without a given `time`."""
        return self.sketch if self.backbone == "vgg16" and self.pooling == "mixed" and not self.time else 0.0

    def replace(self, **settings: Any) -> "Options":
        """The same options with some fields changed."""
        _check_names(settings)
        return dataclasses.replace(self, **settings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in _list_values(self)}


@dataclass(frozen=True, slots=True)
class ResolvedOptions:
    """Options and, for every field, the name of the layer it came from."""

    options: Options
    origins: Mapping[str, str]


def resolve_options(*layers: tuple[str, Mapping[str, Any]]) -> ResolvedOptions:
    """Merge layers of settings, weakest first.

    Each layer is a name and its settings. A preset or a look ranks just below the single fields of the layer that
    names it: it overrides what weaker layers said, and is overridden by its own layer's fields.

    Raises:
        OptionError: an unknown setting or an invalid value.
    """
    values: dict[str, Any] = {}
    origins = dict.fromkeys(list_options(), "default")
    for name, settings in layers:
        _check_names(settings)
        for kind, bundles in (("preset", PRESETS), ("look", LOOKS)):
            if kind in settings:
                chosen = settings[kind]
                if not isinstance(chosen, str) or chosen not in bundles:
                    raise OptionError(_explain_choice(kind, chosen, bundles))
                bundle = {**_default_values(bundles), **bundles[chosen].values}
                values |= bundle
                origins |= dict.fromkeys(bundle, f"{name} ({kind} {chosen})")
        values |= settings
        origins |= dict.fromkeys(settings, name)
    return ResolvedOptions(Options(**values), origins)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Look at settings one by one, so that whoever read them can say where the wrong one stands.

    Raises:
        OptionError: one is unknown or invalid by itself; whether they fit together `Options` finds out.
    """
    _check_names(settings)
    for field in dataclasses.fields(Options):
        if field.name in settings:
            _validate(field, settings[field.name])


def list_options() -> dict[str, OptionSpec]:
    """Every setting's documentation, by name, in order."""
    return {field.name: field.metadata["spec"] for field in dataclasses.fields(Options)}


def _default_values(bundles: Mapping[str, Bundle]) -> dict[str, Any]:
    """Defaults of every field that any of the bundles sets, so that the default bundle undoes the others."""
    names = {name for bundle in bundles.values() for name in bundle.values}
    return {name: value for name, value in _list_values(Options()) if name in names}


def _list_values(options: Options) -> list[tuple[str, Any]]:
    return [(field.name, getattr(options, field.name)) for field in dataclasses.fields(options)]


def _check_names(settings: Iterable[str]) -> None:
    for name in settings:
        if name not in list_options():
            close = difflib.get_close_matches(name, list_options(), 1)
            hint = f"did you mean '{close[0]}'?" if close else f"the settings are {', '.join(list_options())}."
            raise OptionError(f"There is no setting '{name}'; {hint}")


def _explain_choice(name: str, value: object, choices: Iterable[str]) -> str:
    names = list(choices)
    close = difflib.get_close_matches(str(value), names, 1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    return f"{name} is '{value}'{hint}; it can be {', '.join(names)}."


def _validate(field: "dataclasses.Field[Any]", value: Any) -> Any:
    """The value in the field's type, or an error made from the field's own table."""
    limits: OptionSpec = field.metadata["spec"]
    if typing.get_origin(field.type) is tuple:
        kind = typing.get_args(field.type)[0]
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise OptionError(f"{field.name} is '{value}'; it takes a list.")
        return tuple(_validate_scalar(field.name, limits, kind, item) for item in value)
    if typing.get_origin(field.type) in (typing.Union, types.UnionType):  # size: a number or a word
        if isinstance(value, str) and value != "original":
            raise OptionError(f"{field.name} is '{value}'; it can be {describe_range(limits)}, or 'original'.")
        return value if value == "original" else _validate_scalar(field.name, limits, int, value)
    return _validate_scalar(field.name, limits, field.type, value)


def _validate_scalar(name: str, limits: OptionSpec, kind: Any, value: Any) -> Any:
    if kind is str:
        if not isinstance(value, str) or (limits.choices and value not in limits.choices):
            raise OptionError(_explain_choice(name, value, limits.choices or ["text"]))
        return value
    if limits.unit and isinstance(value, str):
        value = _parse_seconds(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    in_range = number and _is_within(value, limits) and math.isfinite(value)  # a huge integer is no float
    whole = in_range and float(value).is_integer()
    if not in_range or (kind is int and not whole):
        also = ", or a time such as 60s, 2m or 1h" if limits.unit else ""
        raise OptionError(f"{name} is {value}; it can be {describe_range(limits, whole=kind is int)}{also}.")
    return kind(value)


def _parse_seconds(text: str) -> float | str:
    """Seconds of `60s`, `2m` or `1h`; another text as it is, to be refused by name."""
    found = re.fullmatch(r"([0-9]*\.?[0-9]+) ?([smh])", text.strip())
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]] if found else text


def format_duration(seconds: float) -> str:
    """Format a duration for people: `4.2 s`, `45 s`, `3 min 5 s`, `2 h 10 min`."""
    if round(seconds, 1) < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    return f"{minutes} min {whole % 60} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def format_value(value: Any) -> str:
    """Format the value of an option as a flag takes it, without loss: `70`, `0.25`, `relu1_1,relu2_1`."""
    if isinstance(value, tuple | list):
        return ",".join(map(format_value, value))
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _is_within(value: float, limits: OptionSpec) -> bool:
    return (limits.low is None or value >= limits.low) and (limits.high is None or value <= limits.high)
