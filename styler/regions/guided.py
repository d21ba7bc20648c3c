"""The guided filter: moves the edges of a rough mask to those of the photo.

Source: K. He, J. Sun, X. Tang, "Guided Image Filtering", 2013; computed on a reduced photo and applied to the full one
as in K. He, J. Sun, "Fast Guided Filter", 2015.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def fit_guided(guide: Tensor, mask: Tensor, radius: int, epsilon: float) -> Tensor:
    """Return the coefficients (1, 4, H, W) of the mask as a linear function of the color around each pixel.

    In each window the mask is approximated by a·I + b, equations (14) and (15); the coefficients of a pixel are the
    means over all windows that contain it, the first three of them a, the last one b.

    Args:
        guide: sRGB in [0, 1], (1, 3, H, W).
        mask: (1, 1, H, W) in [0, 1].
        radius: of the windows, in pixels; their sides are 2 · radius + 1.
        epsilon: variance of the color, in [0, 1]², below which an edge is smoothed rather than followed.
    """
    mean, level = blur_box(guide, radius), blur_box(mask, radius)  # (1, 3, H, W), (1, 1, H, W)
    covariance = blur_box(guide * mask, radius) - mean * level  # (1, 3, H, W), of the color and the mask
    rows = [blur_box(guide * guide[:, i : i + 1], radius) - mean * mean[:, i : i + 1] for i in range(3)]
    for i, row in enumerate(rows):
        row[:, i] += epsilon
    cofactors = [torch.linalg.cross(rows[(i + 1) % 3], rows[(i + 2) % 3], dim=1) for i in range(3)]  # of the inverse
    determinant = (rows[0] * cofactors[0]).sum(dim=1, keepdim=True)  # (1, 1, H, W), at least epsilon³
    products = [cofactors[i] * covariance[:, i : i + 1] for i in range(3)]  # each (1, 3, H, W)
    slope = (products[0] + products[1] + products[2]) / determinant  # (1, 3, H, W)
    offset = level - (slope * mean).sum(dim=1, keepdim=True)  # (1, 1, H, W)
    return blur_box(torch.cat([slope, offset], dim=1), radius)


def apply_guided(guide: Tensor, coefficients: Tensor) -> Tensor:
    """Return the mask (1, 1, H, W) in [0, 1] that coefficients give on a photo, equation (16).

    Args:
        guide: sRGB in [0, 1], (1, 3, H, W); the photo of the coefficients, or the same at another size.
        coefficients: of `fit_guided`.
    """
    if coefficients.shape[-2:] != guide.shape[-2:]:
        coefficients = F.interpolate(coefficients, guide.shape[-2:], mode="bilinear", align_corners=False)
    slope, offset = coefficients[:, :3], coefficients[:, 3:]
    return ((slope * guide).sum(dim=1, keepdim=True) + offset).clamp(0, 1)


def blur_box(maps: Tensor, radius: int) -> Tensor:
    """Return the mean of maps (1, C, H, W) over a window around each pixel, of what is inside the picture."""
    for kernel in ((2 * radius + 1, 1), (1, 2 * radius + 1)):
        padding = (kernel[0] // 2, kernel[1] // 2)
        maps = F.avg_pool2d(maps, kernel, stride=1, padding=padding, count_include_pad=False)
    return maps
