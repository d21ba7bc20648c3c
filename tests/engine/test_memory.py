"""Memory estimates, checkpointing, and errors that name a size that fits."""

import re

import pytest
import torch

from styler.engine import device
from styler.engine.device import (
    FIXED_BYTES,
    USABLE_SHARE,
    advise_smaller,
    estimate_memory,
    find_largest_side,
    needs_checkpoint,
)
from styler.errors import OutOfMemory
from styler.vgg.model import Features
from styler.vgg.weights import Weights

CPU = torch.device("cpu")
SIZE = (1000, 800)


@pytest.fixture
def features(tiny: Weights) -> Features:
    return Features(tiny, ["relu4_2", "relu5_1"], "average")


def free(monkeypatch: pytest.MonkeyPatch, amount: float) -> None:
    """Make the device report a number of free bytes."""
    monkeypatch.setattr(device, "measure_free_memory", lambda _device: int(amount))


def between(features: Features) -> float:
    """Return an amount that suffices with checkpointing and not without."""
    low, high = (estimate_memory(features, SIZE, checkpoint=saving) for saving in (True, False))
    assert low < high
    return (low + high) / 2 / USABLE_SHARE


def test_the_estimate_grows_with_the_size_and_shrinks_with_checkpointing_and_half_precision(
    tiny: Weights, features: Features
) -> None:
    plain = estimate_memory(features, SIZE, checkpoint=False)
    assert estimate_memory(features, (2000, 1600), checkpoint=False) - FIXED_BYTES == pytest.approx(
        4 * (plain - FIXED_BYTES)
    )
    assert estimate_memory(features, SIZE, checkpoint=True) < plain
    half = Features(tiny, ["relu4_2", "relu5_1"], "average", torch.bfloat16)
    assert estimate_memory(half, SIZE, checkpoint=False) < plain


def test_the_estimate_of_the_real_network_is_near_the_measured_peak(vgg16: Weights) -> None:
    """2.0 GB for a megapixel, forward and backward; 1.27 GB with checkpointing."""
    features = Features(vgg16, ["relu4_2", "relu5_1"])
    for checkpoint, measured in ((False, 2.0e9), (True, 1.27e9)):
        actual = estimate_memory(features, (1000, 1000), checkpoint=checkpoint) - FIXED_BYTES
        assert actual == pytest.approx(measured, rel=0.25)


@pytest.mark.parametrize("wanted", ["auto", "off"])
def test_auto_does_not_checkpoint_with_enough_memory(
    monkeypatch: pytest.MonkeyPatch, features: Features, wanted: str
) -> None:
    free(monkeypatch, 1e12)
    assert needs_checkpoint(features, SIZE, wanted, CPU) is False


def test_on_always_checkpoints(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    free(monkeypatch, 1e12)
    assert needs_checkpoint(features, SIZE, "on", CPU) is True


def test_auto_checkpoints_when_memory_requires_it(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    free(monkeypatch, between(features))
    assert needs_checkpoint(features, SIZE, "auto", CPU) is True


def test_the_message_suggests_checkpointing_if_it_is_off(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    free(monkeypatch, between(features))
    with pytest.raises(OutOfMemory, match="use --checkpoint auto"):
        needs_checkpoint(features, SIZE, "off", CPU)


@pytest.mark.parametrize("wanted", ["auto", "on", "off"])
def test_a_picture_that_cannot_fit_is_an_error_that_names_the_largest_size(
    monkeypatch: pytest.MonkeyPatch, features: Features, wanted: str
) -> None:
    free(monkeypatch, (FIXED_BYTES + 30e6) / USABLE_SHARE)
    with pytest.raises(OutOfMemory, match=r"1000×800 needs about .* GB, but cpu has .* GB free") as caught:
        needs_checkpoint(features, SIZE, wanted, CPU)
    match = re.search(r"--size (\d+)", str(caught.value))
    assert match
    side = int(match[1])
    assert 64 <= side < 1000
    assert side % 32 == 0
    needs_checkpoint(features, (side, side * 4 // 5), wanted, CPU)  # fits
    with pytest.raises(OutOfMemory):
        needs_checkpoint(features, (side + 64, (side + 64) * 4 // 5), wanted, CPU)


def test_no_size_is_named_if_none_fits(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    free(monkeypatch, 1e6)
    assert find_largest_side(features, SIZE, CPU) == 0
    with pytest.raises(OutOfMemory, match="close other programs") as caught:
        needs_checkpoint(features, SIZE, "auto", CPU)
    assert "--size" not in str(caught.value)


@pytest.mark.parametrize("amount", [1e9, 1e10, 1e13])
def test_the_advised_size_is_smaller_than_the_failed_one_and_valid(
    monkeypatch: pytest.MonkeyPatch, features: Features, amount: float
) -> None:
    """The free memory may by then exceed the estimate by far."""
    free(monkeypatch, amount)
    match = re.search(r"--size (\d+)", advise_smaller(features, SIZE, CPU))
    assert match
    assert 64 <= int(match[1]) < max(SIZE)
