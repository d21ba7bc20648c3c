"""Presets, which are effort, and looks, which are manner: settings with a name, and a line that says when to take it.

Knows names and values; `styler.options` knows what they mean.
"""

from collections.abc import Mapping
from dataclasses import dataclass

Value = int | float | str | tuple[str, ...] | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A named set of settings."""

    help: str
    values: Mapping[str, Value]


PRESETS = {
    "draft": Bundle("seconds: do these two go together?", {"steps": 20, "taper": 0.33, "sketch": 0.6}),
    "standard": Bundle("the default: a finished picture in minutes on a CPU", {}),
    "fine": Bundle("the best known quality, for a picture to keep or print", {"steps": 160, "taper": 1.1}),
}
"""Effort: how many evaluations."""

LOOKS = {
    "plain": Bundle("the default: the manner of the painting, as this program does it best", {}),
    "faithful": Bundle(
        "the photo stays what it is, in the painting's touch: portraits, buildings",
        {"strength": 30.0, "brush": 0.8, "keep_color": 0.5},
    ),
    "bold": Bundle(
        "far from the photo, in large shapes: posters, landscapes",
        {"strength": 75.0, "brush": 1.6},
    ),
    "oil": Bundle(
        "thick, calm strokes: oil paintings",
        {"strength": 55.0, "brush": 1.4, "smoothness": 0.6},
    ),
    "ink": Bundle(
        "crisp lines and clear areas: drawings, prints, woodcuts",
        {"strength": 60.0, "brush": 0.8, "smoothness": 0.05, "pooling": "max"},
    ),
    "gatys": Bundle(
        "the recipe of Gatys et al. 2015: Gram matrices, conv4_2, equal layers, no smoothing",
        {
            "distance": "gram",
            "content_layers": ("relu4_2",),
            "style_layers": ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_3", "relu5_1"),
            "layer_weights": (1.0,),
            "smoothness": 0.0,
            "octaves": 0.0,
            "pooling": "average",
        },
    ),
}
"""Manner: what the objective asks for."""
