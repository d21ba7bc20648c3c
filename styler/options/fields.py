"""The options, each defined once: type, default, range, choices and help; and the merging of settings.

Flags, sliders, configuration files, the documentation and the record in a picture are all derived from `Options`.
Knows nothing about where settings come from or what they do.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from styler.errors import OptionError
from styler.options.bundles import LOOKS, PRESETS
from styler.options.paper import PAPERS, check_paper, measure_paper, normalize_paper
from styler.options.values import OptionSpec, explain_choice, option, validate_field
from styler.regions import specs

PRECISION_NAMES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""The names of the precisions as options, by those that PyTorch, results and records use."""
MIN_MEMORY = 100_000_000
"""Smallest memory limit, in bytes; a smaller number is one whose unit was forgotten."""


_picture, _print, _regions, _effort, _objective, _machine = (
    partial(option, group=group) for group in ("Picture", "Print", "Regions", "Effort", "Objective", "Machine")
)


DEFAULT_LAYER_WEIGHTS = {"relu1_1": 256, "relu2_1": 64, "relu3_1": 24, "relu4_1": 6, "relu4_3": 0.2, "relu5_1": 1.5}
"""The default style layers and the weight of each; any other layer has the weight of the default layer before it."""

LAYERS = tuple(
    f"relu{block}_{index}" for block, depth in enumerate((2, 2, 4, 4, 4), 1) for index in range(1, depth + 1)
)
"""Every layer of the VGG family."""
VGG16_LAYERS = tuple(layer for layer in LAYERS if not layer.endswith("_4"))

INIT_CHOICES = ("content", "style", "noise")
"""Values of `init` that are not the path of a picture file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All settings of one painting, validated.

    A preset or look given here is only a label: `Options.of` and `resolve_options` apply its values.

    Raises:
        OptionError: a value has the wrong type, is out of its range or is not among the choices.
    """

    size: int | Literal["original"] = _picture(
        512, "long side in pixels, or 'original'", low=64, high=16_384, noun="the long side"
    )
    preset: str = _picture("standard", "effort", choices=PRESETS)
    look: str = _picture("plain", "manner of painting, which sets other options", choices=LOOKS)
    strength: float = _picture(50.0, "how far to go from the photo toward the painting", low=0, high=100)
    stroke_size: float = _picture(1.0, "size of the strokes; 2 doubles it", low=0.25, high=4)
    brushwork: float = _picture(50.0, "how much of the painting's own strokes; 0 for texture alone", low=0, high=100)
    keep_color: float = _picture(0.0, "0 takes the painting's colors, 1 keeps the photo's", low=0, high=1)
    style_weights: tuple[float, ...] = _picture(
        (), "weights of the styles, except those of regions, comma-separated; equal by default", low=0, high=1e6
    )
    init: str = _picture("content", "initial picture: content, style (of several, their mix), noise, or a picture file")
    seed: int = _picture(0, "random seed; each seed gives a variant", low=0, high=2**32 - 1)

    paper: str = _print(
        "",
        f"paper to print on, in place of size: {', '.join(PAPERS)}, or measures such as 50x70cm or 12x18in; turned "
        "like the photo",
    )
    dpi: int = _print(
        300, "dots per inch on paper, stored in the file; with paper, they give its pixels", low=72, high=1200
    )
    fit: str = _print(
        "contain",
        "on paper, contain shows the whole photo and may leave a margin on two sides; crop cuts the photo to fill it",
        choices=("contain", "crop"),
    )

    protect: tuple[str, ...] = _regions(
        (),
        "parts of the photo that are kept: MASK, or MASK=AMOUNT from 0 to 100 (70 by default); a mask is subject, "
        "background, faces, a picture whose white is inside, or a color of the label picture; none for nothing; by "
        "default, faces are kept gently",
    )
    regions: tuple[str, ...] = _regions(
        (), "MASK=STYLE: another painting for a part of the photo; the rest of the photo takes the other styles"
    )
    labels: str = _regions("", "picture whose colors, such as #ff0000, are masks")

    time: float = _effort(0.0, "time budget, such as 60s or 2m; 0 for none", low=0, high=604_800, unit="s")
    patience: int = _effort(0, "early stopping: iterations without improvement; 0 disables it", low=0, high=100_000)
    iterations: int = _effort(64, "iterations at the coarsest scale", low=1, high=100_000)
    taper: float = _effort(0.63, "iterations of each scale relative to the next coarser one", low=0.01, high=2)
    sketch: float = _effort(0.0, "share of the work done by the slim network, which iterates faster", low=0, high=0.99)
    first_size: int = _effort(128, "minimum long side of the coarsest scale, in pixels", low=32, high=16_384)
    optimizer: str = _effort(
        "mixed", "L-BFGS, Adam, or mixed: L-BFGS at the coarsest scale, then Adam", choices=("lbfgs", "adam", "mixed")
    )
    learning_rate: float = _effort(0.03, "learning rate of Adam, for pixel values from 0 to 1", low=1e-4, high=1)

    distance: str = _objective(
        "wasserstein",
        "how styles are compared: Wasserstein distance of mean and covariance, Gram matrices, or gatys: Gram matrices "
        "and the content loss with the sums of the paper",
        choices=("wasserstein", "gram", "gatys"),
    )
    content_layers: tuple[str, ...] = _objective(("relu4_2",), "layers compared with the photo")
    content_weight: float = _objective(0.012, "weight of the content loss at strength 50, brushwork 0", low=0, high=1e9)
    style_layers: tuple[str, ...] = _objective(tuple(DEFAULT_LAYER_WEIGHTS), "layers compared with the painting")
    layer_weights: tuple[float, ...] = _objective(
        (),
        "weight of each style layer, or a single one for all; by default "
        f"{','.join(f'{weight:g}' for weight in DEFAULT_LAYER_WEIGHTS.values())} for the default layers, "
        "and for others that of the one before",
        low=0,
        high=1e9,
    )
    keep_border: bool = _objective(False, "keep the border of a photographed painting, such as a margin or a frame")
    smoothness: float = _objective(
        0.23, "weight of total variation at brushwork 0, relative to the painting's own roughness", low=0, high=1e6
    )
    multiscale: float = _objective(1.0, "weight of the multiscale loss; 0 disables it", low=0, high=100)
    pooling: str = _objective(
        "mixed",
        "pooling of the feature network: average, max as trained, or mixed: average in the first two blocks",
        choices=("average", "max", "mixed"),
    )
    backbone: str = _objective("vgg16", "the feature network (VGG); vgg16 comes with styler")

    device: str = _machine("auto", "auto, cpu, cuda, cuda:N or mps")
    precision: str = _machine(
        "auto",
        "precision of the convolutions; auto measures once which is fastest on this machine, of those that are exact "
        "enough",
        choices=("auto", *PRECISION_NAMES.values()),
    )
    checkpoint: str = _machine(
        "auto", "checkpointing: less memory, more time; auto decides by the free memory", choices=("auto", "on", "off")
    )
    tile: int | Literal["auto", "off"] = _machine(
        "auto",
        "side of tiles, in pixels, that large scales are painted in: less memory, more time; auto decides likewise",
        low=64,
        high=4096,
        noun="the side of a tile",
    )
    memory: int = _machine(
        0, "memory that may be used, such as 4gb; 0 for what is measured as free", low=0, high=10**13, unit="b"
    )
    threads: int = _machine(0, "CPU threads; 0 leaves the choice to PyTorch", low=0, high=1024)

    def __post_init__(self) -> None:
        if type(self.tile) is int and self.tile == 0:
            object.__setattr__(self, "tile", "off")
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, validate_field(field, getattr(self, field.name)))
        if 0 < self.memory < MIN_MEMORY:
            raise OptionError(f"memory is {self.memory} bytes, too little for any picture; give a unit, such as 4gb.")
        self._check_paper()
        specs.check_protections(self.protect, self.labels)
        specs.check_regions(self.regions, self.labels)
        self._check_layers()

    def _check_paper(self) -> None:
        """Bring the paper into its usual notation, and check it."""
        object.__setattr__(self, "paper", normalize_paper(self.paper))
        if not self.paper:
            return
        if self.size != _get_default("size"):
            raise OptionError(f"paper is {self.paper} and size is {self.size}; give only one of them.")
        spec = list_options()["size"]
        check_paper(self.paper, self.dpi, int(spec.low or 0), int(spec.high or 0))

    def _check_layers(self) -> None:
        """Check that the family has the layers, before any network is loaded, and that their weights fit them."""
        if not self.content_layers and not self.style_layers:
            raise OptionError("content_layers and style_layers are both empty; give at least one layer.")
        for name in ("content_layers", "style_layers"):
            for layer in getattr(self, name):
                if normalize_layer(layer) not in LAYERS:
                    network, known = ("vgg16", VGG16_LAYERS) if self.backbone == "vgg16" else ("any VGG", LAYERS)
                    raise OptionError(
                        f"{name} has '{layer}', which is not a layer of {network}; choose from {', '.join(known)}."
                    )
        weights, count = len(self.layer_weights), len(self.style_layers)
        if weights not in (0, 1, count):
            raise OptionError(
                f"layer_weights has {weights} numbers for {count} style {'layer' if count == 1 else 'layers'}; give "
                "one for each, a single one for all, or none for the default weights."
            )
        if self.layer_weights and not any(self.layer_weights):
            raise OptionError("layer_weights are all 0; give at least one layer a positive weight.")

    @property
    def style_layer_weights(self) -> tuple[float, ...]:
        """One weight for each of `style_layers`: those given, or the default ones."""
        if self.layer_weights:
            return self.layer_weights * (len(self.style_layers) if len(self.layer_weights) == 1 else 1)
        return tuple(_find_default_weight(normalize_layer(layer)) for layer in self.style_layers)

    @property
    def paper_size(self) -> tuple[int, int] | None:
        """Width and height of the paper in pixels, as it is named, not turned; None without a paper."""
        return measure_paper(self.paper, self.dpi) if self.paper else None

    @classmethod
    def of(cls, **settings: Any) -> "Options":
        """Create options from settings as flags would give them: `Options.of(preset="draft", strength=70)`."""
        return resolve_options(("call", settings)).options

    def replace(self, **settings: Any) -> "Options":
        """Return the same options with some fields changed; a size takes the place of a paper, and the reverse."""
        _check_names(settings)
        return dataclasses.replace(self, **settings, **_undo_other_size(settings))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class ResolvedOptions:
    """Options and the origin of each field: the name of a layer, or `default`."""

    options: Options
    origins: Mapping[str, str]


def resolve_options(*layers: tuple[str, Mapping[str, Any]]) -> ResolvedOptions:
    """Merge layers of settings, each with its name, weakest first.

    The values of a preset or look rank just below the other settings of the layer that names it: they override what
    weaker layers set, and are overridden by their own layer. A layer that sets a size takes away the paper of weaker
    ones, and the reverse.

    Raises:
        OptionError: a setting is unknown or invalid.
    """
    values: dict[str, Any] = {}
    origins = dict.fromkeys(list_options(), "default")
    for layer, settings in layers:
        _check_names(settings)
        for kind, bundles in (("preset", PRESETS), ("look", LOOKS)):
            if kind in settings:
                name = settings[kind]
                if not isinstance(name, str) or name not in bundles:
                    raise OptionError(explain_choice(kind, name, bundles))
                bundle = _list_bundle_values(kind, name, values)
                values |= {**bundle, kind: name}
                origins |= dict.fromkeys(bundle, f"{layer} ({kind} {name})")
        undone = _undo_other_size(settings)
        values |= {**settings, **undone}
        origins |= {**dict.fromkeys(settings, layer), **dict.fromkeys(undone, "default")}
    return ResolvedOptions(Options(**values), origins)


def _get_default(name: str) -> Any:
    return next(field.default for field in dataclasses.fields(Options) if field.name == name)


def _undo_other_size(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default of `paper` if only `size` is set, or of `size` if only a paper is."""
    if "size" in settings and "paper" not in settings:
        return {"paper": _get_default("paper")}
    return {"size": _get_default("size")} if settings.get("paper") and "size" not in settings else {}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check settings one by one, so that the caller can say where the wrong one is.

    Raises:
        OptionError: a setting is unknown or invalid by itself; only `Options` checks whether they fit together.
    """
    _check_names(settings)
    for field in dataclasses.fields(Options):
        if field.name in settings:
            value = validate_field(field, settings[field.name])
            if field.name == "paper":
                normalize_paper(value)


def list_options() -> dict[str, OptionSpec]:
    """Return the documentation of every option, by name, in order."""
    return {field.name: field.metadata["spec"] for field in dataclasses.fields(Options)}


def _list_bundle_values(kind: str, name: str, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a preset or look sets when it replaces the one in the settings `before`.

    The options of other bundles get their defaults, so that the default bundle undoes the others.
    """
    defaults, bundles = Options(), PRESETS if kind == "preset" else LOOKS
    replaced = before.get(kind, getattr(defaults, kind))
    undone = [bundle for key, bundle in bundles.items() if key == replaced or not bundle.is_recipe]
    values = {option: getattr(defaults, option) for bundle in undone for option in bundle.values}
    values |= bundles[name].values
    chosen = {"preset": defaults.preset, "look": defaults.look, **before, kind: name}
    if own := LOOKS[chosen["look"]].iterations:
        values["iterations"] = own[chosen["preset"]]
    elif kind == "look" and bundles[replaced].iterations:
        values["iterations"] = PRESETS[chosen["preset"]].values.get("iterations", defaults.iterations)
    return values


def normalize_layer(name: str) -> str:
    """Return the name of a layer in styler; `conv4_2`, as in the literature, means its rectified output, `relu4_2`."""
    name = name.strip().lower()
    return "relu" + name.removeprefix("conv") if name.startswith("conv") else name


def _find_default_weight(layer: str) -> float:
    """Return the weight of a default layer, or of the default layer before it in its block."""
    return DEFAULT_LAYER_WEIGHTS[max(name for name in DEFAULT_LAYER_WEIGHTS if name <= layer)]


def _check_names(settings: Iterable[str]) -> None:
    for name in settings:
        if name not in list_options():
            matches = difflib.get_close_matches(name, list_options(), 1)
            hint = f"did you mean '{matches[0]}'?" if matches else f"the settings are {', '.join(list_options())}."
            raise OptionError(f"There is no setting '{name}'; {hint}")
