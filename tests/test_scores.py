"""Tests of the scores of the benchmarks."""

from collections.abc import Callable

import pytest
import scores
import torch
from torch import Tensor

SIZE = (96, 128)


def make_noise(amount: float, seed: int = 0) -> Tensor:
    """Make a gray picture with noise, (1, 3, H, W)."""
    noise = torch.randn((1, 3, *SIZE), generator=torch.Generator().manual_seed(seed))
    return (0.5 + amount * noise).clamp(0, 1)


def test_a_picture_is_most_similar_to_itself() -> None:
    picture = make_noise(0.1)
    assert scores.ssim(picture, picture) == pytest.approx(1, abs=1e-4)
    assert scores.structure(picture, picture) == pytest.approx(1, abs=1e-4)
    assert scores.noise(picture, picture) == pytest.approx(1)
    assert scores.palette(picture, picture) == 0


@pytest.mark.parametrize("score", [scores.ssim, scores.structure])
def test_similarity_falls_with_noise(score: Callable[[Tensor, Tensor], float]) -> None:
    picture = make_noise(0.1)
    slightly, much = (
        score((picture + noise - 0.5).clamp(0, 1), picture) for noise in (make_noise(0.02, 1), make_noise(0.2, 1))
    )
    assert 1 > slightly > much + 0.1


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("period", [4, 8, 16])
def test_grid_detects_a_lattice_of_any_axis_and_period(axis: int, period: int) -> None:
    picture = make_noise(0.02)
    line = torch.arange(SIZE[axis]) % period == 0
    lines = picture + 0.1 * (line if axis == -1 else line[:, None])
    assert scores.grid(lines) > 2 * scores.grid(picture)


def test_palettes_without_a_common_color_have_distance_1() -> None:
    red, blue = torch.zeros((1, 3, *SIZE)), torch.zeros((1, 3, *SIZE))
    red[:, 0], blue[:, 2] = 1, 1
    half = torch.cat([red[..., :64], blue[..., :64]], dim=-1)
    assert scores.palette(red, blue) == 1
    assert scores.palette(half, blue) == pytest.approx(0.5)


def test_speckle_measures_chroma_in_the_worst_blocks() -> None:
    gray = make_noise(0.1).mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    speckled = gray.clone()
    speckled[..., :16, :16] = make_noise(0.1)[..., :16, :16]
    assert scores.speckle(gray) < 1e-6
    assert scores.speckle(speckled) > 0.05
