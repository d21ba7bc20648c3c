"""Transfer of color statistics between images, for keeping the photo's colors. Pure functions of tensors."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

VARIANCE_FLOOR = 1e-5
"""Added to the variances of colors, in squared units of the image's range: a gray image has no variance in two
directions."""


class ColorStatistics(NamedTuple):
    """The distribution of an image's colors as a Gaussian."""

    mean: Tensor
    """(3, 1)."""
    covariance: Tensor
    """With the floor on its diagonal, (3, 3)."""


def measure_colors(image: Tensor) -> ColorStatistics:
    """Return the statistics of the colors of an image (1, 3, H, W)."""
    colors = image[0].flatten(1)  # (3, N)
    return ColorStatistics(colors.mean(dim=1, keepdim=True), _compute_covariance(colors))


def blend_colors(statistics: Sequence[ColorStatistics], shares: Sequence[float]) -> ColorStatistics:
    """Return the statistics of the colors of several images pooled, each image with its share of 1.

    The covariance is that within the images plus that between their means.
    """
    mean = sum(
        (share * each.mean for share, each in zip(shares, statistics, strict=True)),
        torch.zeros((), dtype=torch.float32),
    )
    covariance = torch.zeros((), dtype=torch.float32)
    for share, each in zip(shares, statistics, strict=True):
        apart = each.mean - mean
        covariance = covariance + share * (each.covariance + apart @ apart.T)
    return ColorStatistics(mean, covariance)


def transfer_colors(image: Tensor, target: ColorStatistics, amount: float) -> Tensor:
    """Return an image (1, 3, H, W) with its color mean and covariance moved by `amount` in [0, 1] to the target's.

    The map is the optimal transport between two Gaussians, x ↦ A (x − μ_s) + μ_c with A = Σ_s^−½ (Σ_s^½ Σ_c Σ_s^½)^½
    Σ_s^−½, which changes colors as little as possible.

    Source: L. Gatys, M. Bethge, A. Hertzmann and E. Shechtman, "Preserving Color in Neural Artistic Style Transfer",
    2016, §3; F. Pitié and A. Kokaram, "The Linear Monge-Kantorovitch Linear Colour Mapping for Example-Based Colour
    Transfer", 2007.
    """
    ours, own = image[0].flatten(1), measure_colors(image)  # (3, N)
    root, inverse = _compute_square_roots(own.covariance)
    middle, _ = _compute_square_roots(root @ target.covariance @ root)
    moved = (inverse @ middle @ inverse @ (ours - own.mean)).add_(target.mean)
    return torch.lerp(ours, moved, amount, out=moved).clamp_(0, 1).reshape(image.shape)


def _compute_covariance(colors: Tensor) -> Tensor:
    return torch.cov(colors) + VARIANCE_FLOOR * torch.eye(3, dtype=colors.dtype, device=colors.device)  # (3, 3)


def _compute_square_roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the square root and its inverse of a symmetric positive definite matrix (3, 3)."""
    values, vectors = torch.linalg.eigh(matrix)
    root = values.clamp(min=VARIANCE_FLOOR**2).sqrt()
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T
