"""Every setting, once: type, default, range, choices and help stand on the field.

Flags, sliders, documentation and saved settings follow from it. `Options` is frozen and validated; `resolve` merges
layers of settings (defaults, a file, the environment, flags …) and remembers where each value came from. This module
knows no pictures, networks or devices.
"""

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
from styler.knob import Knob, describe_range, knob
from styler.presets import LOOKS, PRESETS, Bundle

STARTS = ("content", "style", "noise")
"""What `init` can be besides a picture file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All settings of one painting, validated.

    Fields are the single source of flags, sliders and saved settings. A preset or look named here is a label:
    `Options.of` and `resolve` put its values in.

    Raises:
        OptionError: a value is of the wrong type, out of its range or not among the choices.
    """

    size: int | Literal["original"] = knob(
        512, "long side of the result, in pixels, or 'original'", group="Picture", low=64, high=8192
    )
    preset: str = knob("standard", "effort", group="Picture", choices=PRESETS)
    look: str = knob("plain", "manner", group="Picture", choices=LOOKS)
    strength: float = knob(50.0, "how far to go from the photo to the painting", group="Picture", low=0, high=100)
    brush: float = knob(1.0, "size of the strokes: 2 is twice as large", group="Picture", low=0.25, high=4)
    keep_color: float = knob(0.0, "0 takes the painting's colours, 1 keeps the photo's", group="Picture", low=0, high=1)
    style_weights: tuple[float, ...] = knob(
        (), "how much each style counts, comma-separated; equal when not given", group="Picture", low=0, high=1e6
    )
    init: str = knob("content", "what to start from: content, style, noise, or a picture file", group="Picture")
    seed: int = knob(0, "another seed, another variant of the picture", group="Picture", low=0, high=2**32 - 1)

    time: float = knob(
        0.0,
        "painting time, such as 60s or 2m: as many evaluations as fit into it, and 0 for as many as the preset says",
        group="Effort",
        low=0,
        high=604_800,
        unit="s",
    )
    patience: int = knob(
        0,
        "end a scale after so many evaluations that gained nothing; 0 never does",
        group="Effort",
        low=0,
        high=100_000,
    )
    steps: int = knob(72, "evaluations at the first, smallest scale", group="Effort", low=1, high=100_000)
    taper: float = knob(1.05, "share of the evaluations that each next scale gets", group="Effort", low=0.01, high=2)
    sketch: float = knob(
        0.0,
        "share of the work that a slim network does, with more evaluations in the same time",
        group="Effort",
        low=0,
        high=0.99,
    )
    first_size: int = knob(128, "long side of the first scale, at least", group="Effort", low=32, high=8192)
    optimizer: str = knob(
        "mixed",
        "L-BFGS, Adam, or mixed: L-BFGS at the first scale, then Adam",
        group="Effort",
        choices=("lbfgs", "adam", "mixed"),
    )
    learning_rate: float = knob(0.03, "Adam's step, in units of the picture's range", group="Effort", low=1e-4, high=1)

    distance: str = knob(
        "moments",
        "how styles are compared: Gram matrices, or mean and covariance (Wasserstein)",
        group="Objective",
        choices=("moments", "gram"),
    )
    content_layers: tuple[str, ...] = knob(("relu4_2",), "layers that keep the photo", group="Objective")
    content_weight: float = knob(0.0128, "weight of the photo at strength 50", group="Objective", low=0, high=1e9)
    style_layers: tuple[str, ...] = knob(
        ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_3", "relu5_1"),
        "layers that carry the painting",
        group="Objective",
    )
    layer_weights: tuple[float, ...] = knob(
        (256.0, 64.0, 24.0, 6.0, 0.2, 1.5),
        "weight of each style layer; one number means all alike",
        group="Objective",
        low=0,
        high=1e9,
    )
    smoothness: float = knob(
        0.23, "weight of the total variation, over the root of the painting's own", group="Objective", low=0, high=1e6
    )
    octaves: float = knob(
        1.0,
        "weight of how the picture looks half as large, and again half, down to 256 pixels; 0 looks at one size alone",
        group="Objective",
        low=0,
        high=100,
    )
    pooling: str = knob(
        "mixed",
        "pooling of the network: smooth, as trained, or smooth in its first two blocks",
        group="Objective",
        choices=("average", "max", "mixed"),
    )
    backbone: str = knob("vgg16", "the network that looks: vgg16 comes with styler", group="Objective")

    device: str = knob("auto", "auto, cpu, cuda, cuda:N or mps", group="Machine")
    precision: str = knob(
        "auto",
        "of the convolutions; auto is float32 on CPUs",
        group="Machine",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    checkpoint: str = knob(
        "auto",
        "less memory for more time; auto decides by the memory there is",
        group="Machine",
        choices=("auto", "on", "off"),
    )
    threads: int = knob(0, "threads of the CPU; 0 leaves the choice to PyTorch", group="Machine", low=0, high=1024)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _valid(field, getattr(self, field.name)))
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
        return resolve(("call", settings)).options

    @property
    def sketched(self) -> float:
        """`sketch`, where the slim network can stand in: for the network it was made of, and without a given `time`."""
        return self.sketch if self.backbone == "vgg16" and self.pooling == "mixed" and not self.time else 0.0

    def replace(self, **settings: Any) -> "Options":
        """The same options with some fields changed."""
        _known(settings)
        return dataclasses.replace(self, **settings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in _items(self)}


@dataclass(frozen=True, slots=True)
class Resolved:
    """Options and, for every field, the name of the layer it came from."""

    options: Options
    origins: Mapping[str, str]


def resolve(*layers: tuple[str, Mapping[str, Any]]) -> Resolved:
    """Merge layers of settings, weakest first.

    Each layer is a name and its settings. A preset or a look ranks just below the single fields of the layer that
    names it: it overrides what weaker layers said, and is overridden by its own layer's fields.

    Raises:
        OptionError: an unknown setting or an invalid value.
    """
    values: dict[str, Any] = {}
    origins = dict.fromkeys(knobs(), "default")
    for name, settings in layers:
        _known(settings)
        for kind, bundles in (("preset", PRESETS), ("look", LOOKS)):
            if kind in settings:
                chosen = settings[kind]
                if not isinstance(chosen, str) or chosen not in bundles:
                    raise OptionError(_choice_message(kind, chosen, bundles))
                bundle = {**_defaults(bundles), **bundles[chosen].values}
                values |= bundle
                origins |= dict.fromkeys(bundle, f"{name} ({kind} {chosen})")
        values |= settings
        origins |= dict.fromkeys(settings, name)
    return Resolved(Options(**values), origins)


def check(settings: Mapping[str, Any]) -> None:
    """Look at settings one by one, so that whoever read them can say where the wrong one stands.

    Raises:
        OptionError: one is unknown or invalid by itself; whether they fit together `Options` finds out.
    """
    _known(settings)
    for field in dataclasses.fields(Options):
        if field.name in settings:
            _valid(field, settings[field.name])


def knobs() -> dict[str, Knob]:
    """Every setting's documentation, by name, in order."""
    return {field.name: field.metadata["knob"] for field in dataclasses.fields(Options)}


def _defaults(bundles: Mapping[str, Bundle]) -> dict[str, Any]:
    """Defaults of every field that any of the bundles sets, so that the default bundle undoes the others."""
    names = {name for bundle in bundles.values() for name in bundle.values}
    return {name: value for name, value in _items(Options()) if name in names}


def _items(options: Options) -> list[tuple[str, Any]]:
    return [(field.name, getattr(options, field.name)) for field in dataclasses.fields(options)]


def _known(settings: Iterable[str]) -> None:
    for name in settings:
        if name not in knobs():
            close = difflib.get_close_matches(name, knobs(), 1)
            hint = f"did you mean '{close[0]}'?" if close else f"the settings are {', '.join(knobs())}."
            raise OptionError(f"There is no setting '{name}'; {hint}")


def _choice_message(name: str, value: object, choices: Iterable[str]) -> str:
    names = list(choices)
    close = difflib.get_close_matches(str(value), names, 1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    return f"{name} is '{value}'{hint}; it can be {', '.join(names)}."


def _valid(field: "dataclasses.Field[Any]", value: Any) -> Any:
    """The value in the field's type, or an error made from the field's own table."""
    limits: Knob = field.metadata["knob"]
    if typing.get_origin(field.type) is tuple:
        kind = typing.get_args(field.type)[0]
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise OptionError(f"{field.name} is '{value}'; it takes a list.")
        return tuple(_scalar(field.name, limits, kind, item) for item in value)
    if typing.get_origin(field.type) in (typing.Union, types.UnionType):  # size: a number or a word
        if isinstance(value, str) and value != "original":
            raise OptionError(f"{field.name} is '{value}'; it can be {describe_range(limits)}, or 'original'.")
        return value if value == "original" else _scalar(field.name, limits, int, value)
    return _scalar(field.name, limits, field.type, value)


def _scalar(name: str, limits: Knob, kind: Any, value: Any) -> Any:
    if kind is str:
        if not isinstance(value, str) or (limits.choices and value not in limits.choices):
            raise OptionError(_choice_message(name, value, limits.choices or ["text"]))
        return value
    if limits.unit and isinstance(value, str):
        value = _seconds(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    in_range = number and _within(value, limits) and math.isfinite(value)  # a huge integer is no float
    whole = in_range and float(value).is_integer()
    if not in_range or (kind is int and not whole):
        also = ", or a time such as 60s, 2m or 1h" if limits.unit else ""
        raise OptionError(f"{name} is {value}; it can be {describe_range(limits, whole=kind is int)}{also}.")
    return kind(value)


def _seconds(text: str) -> float | str:
    """Seconds of `60s`, `2m` or `1h`; another text as it is, to be refused by name."""
    found = re.fullmatch(r"([0-9]*\.?[0-9]+) ?([smh])", text.strip())
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]] if found else text


def _within(value: float, limits: Knob) -> bool:
    return (limits.low is None or value >= limits.low) and (limits.high is None or value <= limits.high)
