"""Transfer of color statistics between images, for keeping the photo's colors. Pure functions of tensors."""

import torch
from torch import Tensor

VARIANCE_FLOOR = 1e-5
"""Added to the variances of colors, in squared units of the image's range: a gray image has no variance in two
directions."""


def transfer_colors(style: Tensor, content: Tensor, amount: float) -> Tensor:
    """Return the style (1, 3, H, W) with its color mean and covariance moved by `amount` in [0, 1] to the content's.

    The map is the optimal transport between two Gaussians, x ↦ A (x − μ_s) + μ_c with A = Σ_s^−½ (Σ_s^½ Σ_c Σ_s^½)^½
    Σ_s^−½, which changes colors as little as possible.

    Source: L. Gatys, M. Bethge, A. Hertzmann and E. Shechtman, "Preserving Color in Neural Artistic Style Transfer",
    2016, §3; F. Pitié and A. Kokaram, "The Linear Monge-Kantorovitch Linear Colour Mapping for Example-Based Colour
    Transfer", 2007.
    """
    ours, theirs = style[0].flatten(1), content[0].flatten(1)  # (3, N)
    mean, target = ours.mean(dim=1, keepdim=True), theirs.mean(dim=1, keepdim=True)
    root, inverse = _compute_square_roots(_compute_covariance(ours))
    middle, _ = _compute_square_roots(root @ _compute_covariance(theirs) @ root)
    moved = inverse @ middle @ inverse @ (ours - mean) + target
    return torch.lerp(ours, moved, amount).clamp(0, 1).reshape(style.shape)


def _compute_covariance(colors: Tensor) -> Tensor:
    return torch.cov(colors) + VARIANCE_FLOOR * torch.eye(3, dtype=colors.dtype, device=colors.device)  # (3, 3)


def _compute_square_roots(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the square root and its inverse of a symmetric positive definite matrix (3, 3)."""
    values, vectors = torch.linalg.eigh(matrix)
    root = values.clamp(min=VARIANCE_FLOOR**2).sqrt()
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T
