"""What cannot fit is refused beforehand, with a size that would."""

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
    """Have the device say that so many bytes are free."""
    monkeypatch.setattr(device, "measure_free_memory", lambda _device: int(amount))


def between(features: Features) -> float:
    """An amount that does with checkpointing and not without."""
    low, high = (estimate_memory(features, SIZE, checkpoint=saving) for saving in (True, False))
    assert low < high
    return (low + high) / 2 / USABLE_SHARE


def test_an_estimate_grows_with_the_picture_and_shrinks_with_checkpointing_and_half_precision(
    tiny: Weights, features: Features
) -> None:
    plain = estimate_memory(features, SIZE, checkpoint=False)
    assert estimate_memory(features, (2000, 1600), checkpoint=False) - FIXED_BYTES == pytest.approx(
        4 * (plain - FIXED_BYTES)
    )
    assert estimate_memory(features, SIZE, checkpoint=True) < plain
    half = Features(tiny, ["relu4_2", "relu5_1"], "average", torch.bfloat16)
    assert estimate_memory(half, SIZE, checkpoint=False) < plain


def test_the_estimate_of_the_real_network_is_near_what_was_measured(vgg16: Weights) -> None:
    """2.0 GB for a megapixel, forward and backward; 1.27 GB with checkpointing."""
    features = Features(vgg16, ["relu4_2", "relu5_1"])
    for checkpoint, measured in ((False, 2.0e9), (True, 1.27e9)):
        found = estimate_memory(features, (1000, 1000), checkpoint=checkpoint) - FIXED_BYTES
        assert found == pytest.approx(measured, rel=0.25)


@pytest.mark.parametrize("wanted", ["auto", "off"])
def test_where_there_is_room_nothing_is_computed_twice(
    monkeypatch: pytest.MonkeyPatch, features: Features, wanted: str
) -> None:
    free(monkeypatch, 1e12)
    assert needs_checkpoint(features, SIZE, wanted, CPU) is False


def test_checkpointing_is_taken_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    free(monkeypatch, 1e12)
    assert needs_checkpoint(features, SIZE, "on", CPU) is True


def test_checkpointing_is_taken_where_it_is_needed(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    free(monkeypatch, between(features))
    assert needs_checkpoint(features, SIZE, "auto", CPU) is True


def test_where_checkpointing_would_help_but_is_off_the_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, features: Features
) -> None:
    free(monkeypatch, between(features))
    with pytest.raises(OutOfMemory, match="use --checkpoint auto"):
        needs_checkpoint(features, SIZE, "off", CPU)


@pytest.mark.parametrize("wanted", ["auto", "on", "off"])
def test_what_cannot_fit_is_refused_with_the_largest_size_that_can(
    monkeypatch: pytest.MonkeyPatch, features: Features, wanted: str
) -> None:
    free(monkeypatch, (FIXED_BYTES + 30e6) / USABLE_SHARE)
    with pytest.raises(OutOfMemory, match=r"1000×800 needs about .* GB, but cpu has .* GB free") as caught:
        needs_checkpoint(features, SIZE, wanted, CPU)
    found = re.search(r"--size (\d+)", str(caught.value))
    assert found
    side = int(found[1])
    assert 64 <= side < 1000
    assert side % 32 == 0
    needs_checkpoint(features, (side, side * 4 // 5), wanted, CPU)  # fits
    with pytest.raises(OutOfMemory):
        needs_checkpoint(features, (side + 64, (side + 64) * 4 // 5), wanted, CPU)


def test_where_nothing_fits_no_size_is_named(monkeypatch: pytest.MonkeyPatch, features: Features) -> None:
    free(monkeypatch, 1e6)
    assert find_largest_side(features, SIZE, CPU) == 0
    with pytest.raises(OutOfMemory, match="close other programs") as caught:
        needs_checkpoint(features, SIZE, "auto", CPU)
    assert "--size" not in str(caught.value)


@pytest.mark.parametrize("amount", [1e9, 1e10, 1e13])
def test_after_running_out_no_size_is_advised_that_ran_out_or_cannot_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, features: Features, amount: float
) -> None:
    """The memory that is free by then may be far more than the estimate says is needed."""
    free(monkeypatch, amount)
    found = re.search(r"--size (\d+)", advise_smaller(features, SIZE, CPU))
    assert found
    assert 64 <= int(found[1]) < max(SIZE)
