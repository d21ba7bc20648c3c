"""Memory estimates, checkpointing, and errors that name what fits."""

import re
from collections.abc import Callable

import pytest
from torch import Tensor

from styler.engine import device, styles, targets
from styler.engine.device import (
    FIXED_BYTES,
    USABLE_SHARE,
    MemoryPlan,
    advise_smaller,
    estimate_memory,
    find_largest_side,
    plan_memory,
)
from styler.errors import OutOfMemory
from styler.objective.candidates import CODE_LENGTH
from styler.options import Options
from styler.vgg.model import Features
from styler.vgg.weights import Weights

Picture = Callable[..., Tensor]
SIZE, STYLES = (1000, 800), [(900, 700)]
LAYERS = Options(content_layers=("relu4_2",), style_layers=("relu5_1",), layer_weights=(1.0,), brushwork=0)


@pytest.fixture
def features(vgg16: Weights) -> Features:
    return Features(vgg16, ["relu4_2", "relu5_1"], "average")


def free(monkeypatch: pytest.MonkeyPatch, amount: float) -> None:
    """Make the device report a number of free bytes."""
    monkeypatch.setattr(device, "measure_free_memory", lambda _device: int(amount))


def estimate(
    features: Features, size: tuple[int, int] = SIZE, *, checkpoint: bool = False, **settings: object
) -> float:
    return estimate_memory(features, size, STYLES, LAYERS.replace(**settings), checkpoint=checkpoint)


def plan(features: Features, size: tuple[int, int] = SIZE, **settings: object) -> MemoryPlan:
    return plan_memory(features, size, STYLES, LAYERS.replace(**settings))


def between(features: Features) -> float:
    """Return an amount that suffices with checkpointing and not without."""
    low, high = (estimate(features, checkpoint=saving) for saving in (True, False))
    assert low < high
    return (low + high) / 2 / USABLE_SHARE


def test_the_estimate_grows_with_the_size_and_shrinks_with_checkpointing_and_half_precision(
    features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = estimate(features)
    assert estimate(features, (2000, 1600)) - FIXED_BYTES == pytest.approx(4 * (plain - FIXED_BYTES))
    assert estimate(features, checkpoint=True) < plain
    monkeypatch.setattr(features, "precision", "half")
    assert estimate(features) < plain


def test_the_estimate_of_the_real_network_is_near_the_measured_peak(features: Features) -> None:
    """2.0 GB for a megapixel, forward and backward; 1.27 GB with checkpointing."""
    for checkpoint, measured in ((False, 2.0e9), (True, 1.27e9)):
        actual = estimate(features, (1000, 1000), checkpoint=checkpoint) - FIXED_BYTES
        assert actual == pytest.approx(measured, rel=0.25)


def test_the_history_of_lbfgs_counts(features: Features) -> None:
    assert estimate(features, optimizer="lbfgs") - estimate(features) == 40 * 12 * 800_000


def test_the_analysis_of_the_style_counts(features: Features) -> None:
    """Strokes of four times the size need sixteen times the pixels."""
    amounts = [estimate(features, (512, 400), stroke_size=stroke_size) for stroke_size in (0.25, 1, 2, 4)]
    assert amounts == sorted(amounts)
    assert amounts[0] == amounts[1]  # an iteration needs more
    assert amounts[3] - FIXED_BYTES > 1248**2 * 512  # two maps of the first block of a tile with its margins
    enlarged = estimate_memory(features, (64, 64), [(64, 64)], LAYERS.replace(stroke_size=4), checkpoint=True)
    never = estimate_memory(features, (64, 64), [(9000, 9000)], LAYERS.replace(stroke_size=4), checkpoint=True)
    assert enlarged == never  # a style is as long as the picture, whatever its own size


def test_an_untiled_pass_would_have_counted(features: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    tiled = estimate(features, stroke_size=4)
    for module in (styles, device):
        monkeypatch.setattr(module, "TILE_SIDE", 10_000)
    assert estimate(features, stroke_size=4) > tiled + 2e9


def test_matched_features_count(features: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conv2_1, conv3_1 and conv4_1 have 56 numbers for each pixel, of which 32 are conv2_1's.

    Maps and principal components are in float32 here, the styles' maps and all columns in float16.
    """
    for module in (styles, targets, device):
        monkeypatch.setattr(module, "compute_style_size", lambda size, *_: size)
    views, plain = 4 * 900 * 700, estimate(features)
    column = 2 * 896 + 4 * CODE_LENGTH
    picture = 4 * 3 * 56 * 800_000 + 2 * 2 * 896 * 800_000 / 16 + (4 + 4 + 2) * 32 * 800_000
    held = 2 * 56 * views + 65_536 * column + picture
    assert estimate(features, brushwork=1) - plain == pytest.approx(held)
    assert estimate(features, brushwork=100) == estimate(features, brushwork=1)
    monkeypatch.setattr(targets, "MAX_CANDIDATES", 10**9)
    more = (views / 16 - 65_536) * column
    assert estimate(features, brushwork=1) - plain == pytest.approx(held + more)
    two = estimate_memory(features, SIZE, [*STYLES, *STYLES], LAYERS.replace(brushwork=1), checkpoint=False)
    assert two - estimate(features, brushwork=1) == pytest.approx(views * (2 * 56 + column / 16))


def test_the_estimate_with_matched_features_is_near_the_measured_peak(features: Features) -> None:
    """538 MB more in float32 for a picture of 512×512 and a style that is analyzed at 512×411 pixels."""
    settings = LAYERS.replace(brushwork=50)
    with_, without = (
        estimate_memory(features, (512, 512), [(700, 562)], options, checkpoint=False) for options in (settings, LAYERS)
    )
    assert with_ - without == pytest.approx(538e6, rel=0.1)


def test_views_of_an_enlarged_style_take_no_more_than_those_of_the_whole(features: Features) -> None:
    square = [(1000, 1000)]
    sizes = (
        estimate_memory(features, SIZE, square, LAYERS.replace(stroke_size=size, brushwork=50), checkpoint=False)
        - estimate_memory(features, SIZE, square, LAYERS.replace(stroke_size=size), checkpoint=False)
        for size in (1, 4)
    )
    usual, large = sizes
    assert 0 < large <= usual


def test_recolored_styles_count(features: Features) -> None:
    assert estimate(features, keep_color=0.5) - estimate(features) == 12 * 900 * 700


@pytest.mark.parametrize("wanted", ["auto", "off"])
def test_auto_does_not_checkpoint_with_enough_memory(
    monkeypatch: pytest.MonkeyPatch, features: Features, wanted: str
) -> None:
    free(monkeypatch, 1e12)
    actual = plan(features, checkpoint=wanted)
    assert (actual.checkpoint, actual.is_ample) == (False, True)
    assert (actual.needed, actual.usable) == (estimate(features), USABLE_SHARE * 1e12)


def test_on_always_checkpoints(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    free(monkeypatch, 1e12)
    actual = plan(features, checkpoint="on")
    assert (actual.checkpoint, actual.is_ample) == (True, False)


def test_auto_checkpoints_when_memory_requires_it(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    free(monkeypatch, between(features))
    actual = plan(features)
    assert actual.checkpoint
    assert actual.needed == estimate(features, checkpoint=True)


def test_freed_memory_is_not_kept_where_there_is_little(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    free(monkeypatch, 1.5 * estimate(features) / USABLE_SHARE)
    actual = plan(features)
    assert (actual.checkpoint, actual.is_ample) == (False, False)


def test_the_option_overrides_what_is_measured(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    free(monkeypatch, 1e6)
    assert not plan(features, memory="100gb").checkpoint
    free(monkeypatch, 1e12)
    assert plan(features, memory=int(between(features) * USABLE_SHARE)).checkpoint
    with pytest.raises(
        OutOfMemory, match=r"needs about \d\.\d GB, but --memory allows 0\.5 GB; use --size \d+"
    ) as caught:
        plan(features, memory="500mb")
    assert "give --memory" not in str(caught.value)


def test_the_message_suggests_checkpointing_if_it_is_off(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    free(monkeypatch, between(features))
    with pytest.raises(OutOfMemory, match="use --checkpoint auto"):
        plan(features, checkpoint="off")


@pytest.mark.parametrize("wanted", ["auto", "on", "off"])
def test_a_picture_that_cannot_fit_is_an_error_that_names_the_largest_size(
    monkeypatch: pytest.MonkeyPatch, features: Features, wanted: str
) -> None:
    free(monkeypatch, (FIXED_BYTES + 300e6) / USABLE_SHARE)
    message = r"1000×800 needs about .* GB, but cpu has .* GB to spare; use --size \d+,.* or give --memory"
    with pytest.raises(OutOfMemory, match=message) as caught:
        plan(features, checkpoint=wanted)
    match = re.search(r"--size (\d+)", str(caught.value))
    assert match
    side = int(match[1])
    assert 64 <= side < 1000
    assert side % 32 == 0
    plan(features, (side, side * 4 // 5), checkpoint=wanted)  # fits
    with pytest.raises(OutOfMemory):
        plan(features, (side + 64, (side + 64) * 4 // 5), checkpoint=wanted)


def test_a_smaller_stroke_size_is_named_where_it_helps(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    usable = 1.01 * estimate(features, stroke_size=2)
    free(monkeypatch, usable / USABLE_SHARE)
    for module in (styles, device):
        monkeypatch.setattr(module, "TILE_SIDE", 10_000)
    free(monkeypatch, 1.01 * estimate(features, stroke_size=2) / USABLE_SHARE)
    with pytest.raises(OutOfMemory, match=r"or --stroke-size 2, or give") as caught:
        plan(features, stroke_size=4)
    assert plan(features, stroke_size=2)
    assert "\n" not in str(caught.value)


def test_no_size_is_named_if_none_fits(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    free(monkeypatch, 1e6)
    assert find_largest_side(features, SIZE, STYLES, LAYERS, 1e6) == 0
    with pytest.raises(OutOfMemory, match="close other programs") as caught:
        plan(features)
    assert "--size" not in str(caught.value)


@pytest.mark.parametrize("amount", [1e9, 1e10, 1e13])
def test_the_advised_size_is_smaller_than_the_failed_one_and_valid(
    monkeypatch: pytest.MonkeyPatch, features: Features, amount: float
) -> None:
    """The free memory may by then exceed the estimate by far."""
    free(monkeypatch, amount)
    match = re.search(r"--size (\d+)", advise_smaller(features, SIZE, STYLES, LAYERS))
    assert match
    assert 64 <= int(match[1]) < max(SIZE)
