"""Several styles at once: everything that a painting takes from them follows their weights."""

from typing import Any

import numpy as np
import pytest
from made import Pixels
from numpy.typing import NDArray
from torch import Tensor

from styler.engine import sources
from styler.engine.painter import Painter
from styler.engine.sources import SourceImage, load_source
from styler.engine.styles import StyleCache
from styler.options import Options
from styler.vgg.model import Features

Array = NDArray[Any]
FAST = Options(size=64, first_size=32, iterations=6, taper=0.5, device="cpu")
"""Six iterations at 32 pixels by L-BFGS, three at 64 by Adam."""


@pytest.mark.parametrize("init", ["content", "style", "noise"])
def test_everything_of_a_blend_follows_the_weights(painter: Painter, pixels: Pixels, content: Array, init: str) -> None:
    """Statistics, kept colors, the detail added above strength 50, and the first image."""
    first, second = pixels(48, 64, 2), pixels(64, 48, 3) * np.array([1.0, 0.5, 0.2], np.float32)
    options = FAST.replace(strength=80, keep_color=0.4, init=init)

    def paint(*styles: Array, weights: tuple[float, ...] = ()) -> Array:
        result: Array = painter.stylize(content, [*styles], options.replace(style_weights=weights)).pixels
        return result

    assert np.array_equal(paint(first, second, weights=(0, 1)), paint(second))
    assert np.array_equal(paint(first, second, weights=(3, 0)), paint(first))
    assert np.array_equal(paint(first, second), paint(second, first))
    assert np.array_equal(paint(first, second, weights=(1, 3)), paint(second, first, weights=(0.75, 0.25)))
    # twice as many columns have other principal components, by rounding
    assert np.abs(paint(first, first, weights=(1, 1)) - paint(first)).mean() < 1e-3
    options = options.replace(brushwork=0)
    assert np.array_equal(paint(first, first, weights=(1, 1)), paint(first))
    assert np.abs(paint(first, second) - paint(first)).max() > 0.01


def test_a_style_without_weight_is_not_analyzed(
    painter: Painter, pixels: Pixels, content: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    analyzed: list[str] = []
    get_moments = StyleCache.get_moments

    def watched(self: StyleCache, features: Features, source: SourceImage, *rest: Any, **settings: Any) -> Any:
        analyzed.append(source.digest)
        return get_moments(self, features, source, *rest, **settings)

    monkeypatch.setattr(StyleCache, "get_moments", watched)
    first, second = pixels(48, 64, 2), pixels(64, 48, 3)
    painter.stylize(content, [first, second], FAST.replace(style_weights=(0, 1)))
    assert set(analyzed) == {load_source(second).digest}


def test_a_style_is_recolored_and_hashed_once_for_all_scales(
    painter: Painter, pixels: Pixels, content: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[tuple[int, ...]] = []
    compute = sources._compute_digest

    def watched(image: Tensor) -> str:
        hashed.append(tuple(image.shape))
        return compute(image)

    monkeypatch.setattr(sources, "_compute_digest", watched)
    painter.stylize(content, [pixels(48, 70, 2)], FAST.replace(keep_color=0.5))
    assert len(painter.stylize(content, [pixels(48, 70, 2)], FAST).schedule) > 1
    assert hashed.count((1, 3, 48, 70)) == 3  # the style as given, recolored, and as given again
