"""Tests of the scores of the benchmarks."""

import math
from collections.abc import Callable

import pytest
import scores
import torch
import torch.nn.functional as F
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


def make_strokes(angle: float, wavelength: float = 6.0, seed: int = 0) -> Tensor:
    """Make noise that varies across one direction and hardly along it, (1, 3, 256, 256)."""
    noise = torch.randn((256, 256), generator=torch.Generator().manual_seed(seed))
    y, x = torch.meshgrid(torch.fft.fftfreq(256), torch.fft.fftfreq(256), indexing="ij")
    across = x * math.cos(angle) + y * math.sin(angle)
    along = y * math.cos(angle) - x * math.sin(angle)
    keep = torch.exp(-((across.abs() - 1 / wavelength) / 0.04).square() - (along / 0.02).square())
    waves: Tensor = torch.fft.ifft2(torch.fft.fft2(noise) * keep).real
    return (0.5 + 0.1 * waves / waves.std()).clamp(0, 1).expand(1, 3, -1, -1).contiguous()


def test_parallel_strokes_are_coherent_and_long_and_noise_is_neither() -> None:
    noise = make_noise(0.1).repeat(1, 1, 4, 4)
    for angle in (0.3, 1.2):
        strokes = make_strokes(angle)
        assert scores.coherence(strokes) > 0.8 > 0.4 > scores.coherence(noise)
        assert scores.stroke_length(strokes) > 4 * scores.stroke_length(noise)


def test_strokes_of_a_picture_of_twice_the_size_score_the_same() -> None:
    strokes = make_strokes(0.3)
    larger = F.interpolate(strokes, scale_factor=2, mode="bicubic")
    assert scores.coherence(larger) == pytest.approx(scores.coherence(strokes), rel=0.03)
    assert scores.stroke_length(larger) == pytest.approx(scores.stroke_length(strokes), rel=0.05)


def test_outlines_of_the_photo_are_no_strokes() -> None:
    photo = make_noise(0.0).repeat(1, 1, 2, 2)
    photo[..., :128] = make_strokes(0.3)[..., :192, :128]
    picture = (photo + make_noise(0.02).repeat(1, 1, 2, 2) - 0.5).clamp(0, 1)
    flat = scores.measure_flatness(photo)
    assert flat[..., 150:].mean() > 0.9 > 0.1 > flat[..., :120].mean()
    assert scores.coherence(picture) > 1.5 * scores.coherence(picture, flat)


@pytest.mark.parametrize("period", [5, 8])
def test_blocks_are_bars_along_both_axes_and_not_strokes_of_one_or_any_angle(period: int) -> None:
    def weave(angle: float) -> Tensor:
        return make_strokes(angle, period) + make_strokes(angle + math.pi / 2, period, seed=1) - 0.5

    any_angle = torch.stack([make_strokes(0.1 * step, period, seed=step) for step in range(32)]).mean(0)
    assert scores.blocks(weave(0)) > 10
    assert scores.blocks(weave(0.4)) < 0.5
    assert scores.blocks(make_strokes(0, period)) < 0.5
    assert 0.8 < scores.blocks(any_angle) < 1.5


def test_blocks_in_a_part_of_a_picture_are_found_and_those_of_the_photo_do_not_count() -> None:
    photo = torch.full((1, 3, 256, 256), 0.5)
    photo[..., :128] = (make_strokes(0) + make_strokes(math.pi / 2, seed=1) - 0.5)[..., :128]
    picture = (photo + make_strokes(0.4) - 0.5).clamp(0, 1)
    assert scores.blocks(picture) > 2
    assert scores.blocks(picture, scores.measure_flatness(photo)) < 0.5
    assert scores.blocks(picture, torch.zeros_like(photo[:, :1])) == 0


def test_every_feature_of_a_painting_is_in_it_and_opposite_ones_are_far() -> None:
    painting = torch.randn((700, 8), generator=torch.Generator().manual_seed(0))
    assert scores.nearest_distance(painting[:600], painting) == pytest.approx(0, abs=1e-6)
    line = torch.tensor([[1.0, 0], [3.0, 0]])  # centered: to both sides
    assert scores.nearest_distance(torch.tensor([[2.0, 5.0]]), line) == pytest.approx(1)
    assert scores.nearest_distance(torch.tensor([[9.0, 0.0], [2.0, 1.0]]), line) == pytest.approx(0.5)


def test_self_similarity_ignores_what_a_layout_is_painted_with() -> None:
    generator = torch.Generator().manual_seed(0)
    photo, other = torch.randn((2, 100, 16), generator=generator)
    rotation = torch.linalg.qr(torch.randn((16, 16), generator=generator)).Q
    assert scores.compare_self_similarity(3 * photo @ rotation + 1, photo) == pytest.approx(1, abs=1e-5)
    assert abs(scores.compare_self_similarity(other, photo)) < 0.1


def test_sampled_points_fill_the_picture_and_are_always_the_same() -> None:
    points = scores.sample_points(60, 120, 1000)
    assert len(points) == pytest.approx(1000, rel=0.1)
    assert torch.equal(points, scores.sample_points(60, 120, 1000))
    counts = torch.histogramdd(points, bins=[6, 3], range=[0.0, 120.0, 0.0, 60.0]).hist
    assert counts.sum() == len(points)
    assert counts.max() < 1.6 * counts.min()
