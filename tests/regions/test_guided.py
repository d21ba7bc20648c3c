"""The guided filter equals its definition, and moves a rough edge to the edge of the photo."""

import numpy as np
import pytest
import torch
from made import Picture
from numpy.typing import NDArray

from styler.regions.guided import apply_guided, blur_box, fit_guided

RADIUS, EPSILON = 2, 1e-3


def filter_by_definition(guide: NDArray[np.float64], mask: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute equations (14) to (16) window by window, in float64; `guide` is (H, W, 3), `mask` (H, W)."""
    height, width = mask.shape
    slopes, offsets = np.zeros((height, width, 3)), np.zeros((height, width))
    result = np.zeros((height, width))

    def window(y: int, x: int) -> tuple[slice, slice]:
        return slice(max(0, y - RADIUS), y + RADIUS + 1), slice(max(0, x - RADIUS), x + RADIUS + 1)

    for y, x in np.ndindex(height, width):
        colors, values = guide[window(y, x)].reshape(-1, 3), mask[window(y, x)].reshape(-1)
        mean, level = colors.mean(axis=0), values.mean()
        covariance = (colors - mean).T @ (colors - mean) / len(colors)
        with_mask = (colors - mean).T @ (values - level) / len(colors)
        slopes[y, x] = np.linalg.solve(covariance + EPSILON * np.eye(3), with_mask)
        offsets[y, x] = level - slopes[y, x] @ mean
    for y, x in np.ndindex(height, width):
        slope, offset = slopes[window(y, x)].reshape(-1, 3).mean(axis=0), offsets[window(y, x)].mean()
        result[y, x] = slope @ guide[y, x] + offset
    return result.clip(0, 1)


def test_the_guided_filter_equals_its_definition(picture: Picture) -> None:
    guide = picture(17, 23, 1)
    mask = (picture(17, 23, 2)[:, :1] > 0.5).float()
    expected = filter_by_definition(guide[0].permute(1, 2, 0).double().numpy(), mask[0, 0].double().numpy())
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-3)):
        coefficients = fit_guided(guide.to(dtype), mask.to(dtype), RADIUS, EPSILON)
        actual = apply_guided(guide.to(dtype), coefficients)[0, 0].double().numpy()
        assert np.abs(actual - expected).max() < tolerance


def test_a_rough_edge_moves_to_the_edge_of_the_photo() -> None:
    guide = torch.full((1, 3, 64, 64), 0.2)
    guide[..., 30:] = 0.8  # the edge of the photo
    mask = (torch.arange(64) / 64).expand(1, 1, 64, 64).clone()
    mask[..., :24], mask[..., 36:] = 0, 1  # a ramp around it
    refined = apply_guided(guide, fit_guided(guide, mask, 8, 1e-4))[0, 0, 32]
    steps = refined.diff().abs()
    assert int(steps.argmax()) == 29
    assert float(steps[29]) > 0.3
    assert float(steps[29]) > 5 * float(torch.cat([steps[:29], steps[30:]]).max())


def test_coefficients_of_a_small_photo_apply_to_the_large_one(picture: Picture) -> None:
    small, large = picture(32, 48), torch.nn.functional.interpolate(picture(32, 48), scale_factor=3)
    mask = (small[:, :1] > 0.5).float()
    coefficients = fit_guided(small, mask, 4, 1e-2)
    enlarged = apply_guided(large, coefficients)
    assert enlarged.shape == (1, 1, 96, 144)
    middle = enlarged[..., 1::3, 1::3]
    assert torch.allclose(middle, apply_guided(small, coefficients), atol=1e-5)


@pytest.mark.parametrize("radius", [1, 5, 40])
def test_the_mean_over_a_window_counts_only_what_is_inside(radius: int) -> None:
    assert torch.allclose(blur_box(torch.ones(1, 2, 9, 33), radius), torch.ones(1, 2, 9, 33))
