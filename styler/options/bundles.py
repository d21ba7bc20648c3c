"""Presets and looks: named sets of settings."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

Value = int | float | str | tuple[str, ...] | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A named set of settings: a preset or a look."""

    help: str
    values: Mapping[str, Value]
    iterations: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Of a look that paints at one scale: its iterations by preset, in place of the preset's own."""
    is_recipe: bool = False
    """Whether it sets more than the manner. Such a look is undone when another replaces it; others do not mention its
    options."""


PRESETS = {
    "draft": Bundle("a quick trial, in seconds", {"iterations": 15, "taper": 0.33, "sketch": 0.6}),
    "standard": Bundle("the default: a finished picture in minutes on a CPU", {}),
    "fine": Bundle("the best quality, for a picture to keep or print", {"iterations": 140, "taper": 0.9}),
}
"""Effort: how many iterations are made."""

_GRAM_VALUES: dict[str, Value] = {"brushwork": 0.0, "content_layers": ("relu4_2",), "layer_weights": (1.0,)}
LOOKS = {
    "plain": Bundle("the default: balanced between photo and painting", {}),
    "faithful": Bundle(
        "close to the photo: portraits, buildings", {"strength": 30.0, "stroke_size": 0.8, "keep_color": 0.5}
    ),
    "bold": Bundle("far from the photo, in large shapes: posters, landscapes", {"strength": 75.0, "stroke_size": 1.6}),
    "oil": Bundle(
        "thick, smooth strokes: oil paintings",
        {"strength": 55.0, "stroke_size": 1.4, "brushwork": 60.0, "smoothness": 0.3},
    ),
    "ink": Bundle(
        "crisp lines and clear areas: drawings, prints, woodcuts",
        {"strength": 60.0, "stroke_size": 0.8, "smoothness": 0.05, "pooling": "max"},
    ),
    "strokes": Bundle("the painting's own strokes throughout: impasto, visible brushwork", {"brushwork": 100.0}),
    "texture": Bundle("the painting's colors and texture, without its strokes", {"brushwork": 0.0}),
    "gram": Bundle(
        "Gram matrices of conv1_1 to conv5_1 and conv4_3, in the default's schedule",
        {
            **_GRAM_VALUES,
            "distance": "gram",
            "style_layers": ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_3", "relu5_1"),
        },
        is_recipe=True,
    ),
    "gatys": Bundle(
        "the method of Gatys et al. (2015): one scale, from noise; 100, 400 or 1000 iterations by preset",
        {
            **_GRAM_VALUES,
            "distance": "gatys",
            "content_weight": 1e-3,
            "style_layers": ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"),
            "smoothness": 0.0,
            "multiscale": 0.0,
            "pooling": "average",
            "init": "noise",
            "optimizer": "lbfgs",
            "first_size": 16_384,
        },
        iterations={"draft": 100, "standard": 400, "fine": 1000},
        is_recipe=True,
    ),
}
"""Manner: settings of the objective."""
