"""Color transfer and coarse chroma."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from styler.engine.color import VARIANCE_FLOOR, blend_colors, measure_colors, transfer_colors
from styler.objective.losses import chroma, coarse_chroma

Picture = Callable[..., Tensor]


def muted(image: Tensor, shift: float = 0.0) -> Tensor:
    """Return colors in the middle of the range, so that nothing is clamped."""
    return 0.4 + 0.2 * image + shift


def flat(red: float, green: float, blue: float, side: int = 8) -> Tensor:
    return torch.tensor([red, green, blue]).reshape(1, 3, 1, 1).expand(1, 3, side, side)


def statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    colors = image[0].flatten(1)
    return colors.mean(dim=1), torch.cov(colors)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_gray_has_no_chroma(value: float) -> None:
    torch.testing.assert_close(chroma(flat(value, value, value)), torch.zeros(1, 2, 8, 8), rtol=0, atol=1e-7)


def test_pure_colors_have_the_chroma_of_bt_601() -> None:
    blue, red, green = (chroma(flat(*color))[0, :, 0, 0] for color in ((0, 0, 1), (1, 0, 0), (0, 1, 0)))
    torch.testing.assert_close(blue, torch.tensor([0.5, -0.114 / 1.402]))
    torch.testing.assert_close(red, torch.tensor([-0.299 / 1.772, 0.5]))
    torch.testing.assert_close(green, torch.tensor([-0.587 / 1.772, -0.587 / 1.402]))


def test_coarse_chroma_is_the_mean_of_each_cell(picture: Picture) -> None:
    image = picture(32, 48)
    actual = coarse_chroma(image)
    assert actual.shape == (1, 2, 2, 3)
    torch.testing.assert_close(actual[0, :, 1, 2], chroma(image)[0, :, 16:32, 32:48].mean(dim=(1, 2)))


def test_coarse_chroma_accepts_sizes_that_are_not_multiples_of_the_cell(picture: Picture) -> None:
    image = picture(20, 35)
    actual = coarse_chroma(image)
    assert actual.shape == (1, 2, 2, 3)
    torch.testing.assert_close(actual[0, :, 1, 2], chroma(image)[0, :, 16:, 32:].mean(dim=(1, 2)))


def test_transfer_gives_the_mean_and_covariance_of_the_content(picture: Picture) -> None:
    style, content = muted(picture(32, 40, 1)), muted(picture(20, 24, 2), 0.1)
    actual = transfer_colors(style, measure_colors(content), 1.0)
    assert actual.shape == style.shape
    mean, covariance = statistics(actual)
    wanted, spread = statistics(content)
    torch.testing.assert_close(mean, wanted, rtol=0, atol=1e-4)
    torch.testing.assert_close(covariance, spread, rtol=0.02, atol=2 * VARIANCE_FLOOR)


def test_amount_interpolates_between_none_and_all(picture: Picture) -> None:
    style, content = muted(picture(16, 16, 1)), muted(picture(16, 16, 2))
    torch.testing.assert_close(transfer_colors(style, measure_colors(content), 0.0), style, rtol=0, atol=0)
    whole, half = (
        transfer_colors(style, measure_colors(content), 1.0),
        transfer_colors(style, measure_colors(content), 0.5),
    )
    torch.testing.assert_close(half, (style + whole) / 2)


def test_transfer_to_itself_changes_nothing(picture: Picture) -> None:
    style = picture(24, 24, 1)
    torch.testing.assert_close(transfer_colors(style, measure_colors(style), 1.0), style, rtol=0, atol=1e-3)


def test_transfer_is_the_optimal_transport(picture: Picture) -> None:
    """Its matrix is symmetric and positive definite, like that of any optimal transport between Gaussians."""
    style, content = muted(picture(32, 32, 1)), muted(picture(32, 32, 2))
    ours = (style - style.mean(dim=(2, 3), keepdim=True))[0].flatten(1)
    moved = transfer_colors(style, measure_colors(content), 1.0)
    theirs = (moved - moved.mean(dim=(2, 3), keepdim=True))[0].flatten(1)
    matrix = torch.linalg.lstsq(ours.T.double(), theirs.T.double()).solution.T
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-3)
    assert torch.linalg.eigvalsh(matrix).min() > 0


@pytest.mark.parametrize(("style", "content"), [("gray", "color"), ("color", "gray"), ("flat", "color")])
def test_transfer_of_flat_images_is_finite(picture: Picture, style: str, content: str) -> None:
    kinds = {
        "color": picture(16, 16, 1),
        "gray": picture(16, 16, 2)[:, :1].expand(1, 3, 16, 16),
        "flat": flat(0.2, 0.5, 0.7, 16),
    }
    actual = transfer_colors(kinds[style], measure_colors(kinds[content]), 1.0)
    assert actual.isfinite().all()
    assert actual.min() >= 0
    assert actual.max() <= 1
    torch.testing.assert_close(statistics(actual)[0], statistics(kinds[content])[0], rtol=0, atol=0.05)


def test_a_gray_content_makes_the_style_gray(picture: Picture) -> None:
    gray = picture(16, 16, 2)[:, :1].expand(1, 3, 16, 16)
    assert chroma(transfer_colors(picture(16, 16, 1), measure_colors(gray), 1.0)).abs().max() < 0.02


def test_blended_colors_are_those_of_all_pixels_together(picture: Picture) -> None:
    one, other = picture(16, 24, 1), muted(picture(16, 24, 2), 0.2)
    actual = blend_colors([measure_colors(one), measure_colors(other)], [0.25, 0.75])
    mean, covariance = statistics(torch.cat([one, other, other, other], dim=3))
    torch.testing.assert_close(actual.mean[:, 0], mean)
    expected = covariance + VARIANCE_FLOOR * torch.eye(3)
    torch.testing.assert_close(actual.covariance, expected, rtol=0.002, atol=0)  # over N and over N − 1
    alone = blend_colors([measure_colors(one)], [1.0])
    torch.testing.assert_close(alone.covariance, measure_colors(one).covariance, rtol=0, atol=0)
