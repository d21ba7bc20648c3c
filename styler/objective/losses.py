"""The losses other than those of style, as pure functions of tensors.

Every loss but `content_sum` is a mean, so that it does not depend on the size of the image. Features are (1, C, H, W),
as `styler.vgg` computes them.

Knows tensors only: no network, no options, no files.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

from styler.objective.moments import choose_dtype

SHORTEST = 1e-6
"""Floor of the lengths by which columns of features are divided."""
SHORTEST_FEATURES = 0.1
"""Length below which a position has no features, about 1 % of the usual: gradients do not overflow in float16."""
STENCIL = ((1, 0, 2 / 3), (0, 1, 2 / 3), (1, 1, 1 / 6), (1, -1, 1 / 6))
"""The neighbors of a pixel, rows down and columns across, and the weights of their mean squared differences."""
CHROMA_CELL = 16
"""Side of the cells of coarse chroma, in pixels."""
STRIP_PIXELS = 1 << 20
"""Pixels of a strip, at most, unless the image is wider."""


class _SquaresFunction(torch.autograd.Function):
    """Σ w (F − P)² at least in float32, with a gradient in the features' dtype and layout, and no copy in float32."""

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, target: Tensor, roots: Tensor | None) -> Tensor:
        difference = features - target.to(features)  # (1, C, H, W)
        if roots is not None:
            difference *= roots.to(features)
        ctx.save_for_backward(difference, *([] if roots is None else [roots]))
        norms: Tensor = torch.linalg.vector_norm(difference, dim=1, dtype=choose_dtype(features))  # (1, H, W)
        return norms.square().sum()

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        difference, *roots = ctx.saved_tensors  # type: ignore[attr-defined]
        gradient = difference * (2 * gradients[0])
        for each in roots:
            gradient *= each.to(gradient)
        return gradient, None, None


def _sum_squares(features: Tensor, target: Tensor, roots: Tensor | None) -> Tensor:
    total: Tensor = _SquaresFunction.apply(features, target, roots)
    return total


def content_loss(features: Tensor, target: Tensor, roots: Tensor | None = None) -> Tensor:
    """Return the mean squared difference of features, (); each position counts by its weight, if they have weights.

    Source: L. Gatys, A. Ecker and M. Bethge, "A Neural Algorithm of Artistic Style", 2015, equation 1, with a mean in
    place of half the sum.

    Args:
        features: (1, C, H, W).
        target: of the same size.
        roots: the square roots of the weights, (1, 1, H, W); None for weights of 1.
    """
    return _sum_squares(features, target, roots) / features.numel()


def content_sum(features: Tensor, target: Tensor, roots: Tensor | None = None) -> Tensor:
    """Return half the sum of the squared differences of features, (): ½ Σ w (F − P)², w as in `content_loss`.

    Source: L. Gatys, A. Ecker and M. Bethge, "A Neural Algorithm of Artistic Style", 2015, equation 1.
    """
    return _sum_squares(features, target, roots) / 2


class _CosineFunction(torch.autograd.Function):
    """The mean of 1 − F · T / |F| over all positions, with the gradient (F · T / |F|² · F − T) / (N · |F|)."""

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, target: Tensor) -> Tensor:
        dtype = choose_dtype(features)
        length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True, dtype=dtype)  # (1, 1, H, W)
        weight = torch.where(length > SHORTEST_FEATURES, 1 / length, 0)
        cosine = (features * target).sum(dim=1, keepdim=True, dtype=dtype) * weight
        ctx.save_for_backward(features, target, cosine * weight, weight)
        distance: Tensor = torch.where(weight > 0, 1 - cosine, 0).mean()
        return distance

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        features, target, share, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        weight = gradients[0] * weight / weight.numel()  # (1, 1, H, W)
        gradient = features * share.to(features)
        return gradient.sub_(target).mul_(weight.to(features)), None


def normalize_features(features: Tensor) -> Tensor:
    """Divide the features of every position, (1, C, H, W), by their length; those of length 0 remain."""
    length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True, dtype=choose_dtype(features))
    return features * (1 / length.clamp(min=SHORTEST_FEATURES)).to(features)


def cosine_distance(features: Tensor, target: Tensor) -> Tensor:
    """Return the mean over all positions of one minus the cosine of the angle between features and target, ().

    Positions without features do not contribute: no gradient passes the rectifier there.

    Source: N. Kolkin et al., "Neural Neighbor Style Transfer", 2022, section 3.3.

    Args:
        features: (1, C, H, W).
        target: of the same size, without a gradient; the features of every position have length 1.
    """
    distance: Tensor = _CosineFunction.apply(features, target)
    return distance


class Strip(NamedTuple):
    """Some rows of an image."""

    top: int
    """The first row, a multiple of `CHROMA_CELL`."""
    bottom: int
    """The row after the last."""
    height: int
    """Of the whole image."""

    @property
    def rows(self) -> int:
        """Their number."""
        return self.bottom - self.top


def split_rows(size: tuple[int, int]) -> Iterator[Strip]:
    """Yield the strips of an image of a size (height, width), from the top down."""
    height, width = size
    rows = CHROMA_CELL * max(1, STRIP_PIXELS // (CHROMA_CELL * width))
    for top in range(0, height, rows):
        yield Strip(top, min(height, top + rows), height)


class _VariationFunction(torch.autograd.Function):
    """The total variation, with the gradient computed at once from the same differences."""

    @staticmethod
    def forward(ctx: FunctionCtx, image: Tensor, counted: int, whole: int) -> Tensor:
        channels, height, width = image.shape[-3:]
        parts, gradient = [], torch.zeros_like(image)
        for down, across, share in STENCIL:
            # An image one pixel wide has no differences across.
            rows, columns = min(counted, height - down), width - abs(across)
            if not rows * columns:
                continue
            left, right = max(0, -across), max(0, across)
            ahead = (..., slice(down, down + rows), slice(right, right + columns))
            behind = (..., slice(0, rows), slice(left, left + columns))
            differences = image[ahead] - image[behind]  # (1, C, rows, columns)
            weight = share / (channels * (whole - down) * columns)
            parts.append(weight * differences.square().sum())
            gradient[ahead].add_(differences, alpha=2 * weight)
            gradient[behind].sub_(differences, alpha=2 * weight)
        ctx.save_for_backward(gradient)
        total: Tensor = torch.stack(parts).sum() if parts else image.new_zeros(())
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] * ctx.saved_tensors[0], None, None  # type: ignore[attr-defined]


def total_variation(image: Tensor, strip: Strip | None = None) -> Tensor:
    """Return the mean squared difference of neighboring pixels of an image (1, C, H, W), ().

    The weights are those of the nine-point stencil of the Laplacian.

    Source: the smoothness term of A. Mahendran and A. Vedaldi, "Understanding Deep Image Representations by Inverting
    Them", 2015, β = 2. The diagonals, after K. Crowson's style-transfer-pytorch, make it isotropic.

    Args:
        image: the whole image, or a strip of it and the row below, if there is one.
        strip: where the image belongs; None for the whole. What all strips return adds up to that of the whole.
    """
    counted, whole = (strip.rows, strip.height) if strip else (image.shape[-2], image.shape[-2])
    total: Tensor = _VariationFunction.apply(image, counted, whole)
    return total


def chroma(image: Tensor) -> Tensor:
    """Return the blue and red differences of ITU-R BT.601, (1, 2, H, W) in [−½, ½], of an RGB image (1, 3, H, W)."""
    red, green, blue = image[:, 0], image[:, 1], image[:, 2]
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return torch.stack([(blue - luma) / 1.772, (red - luma) / 1.402], dim=1)


def coarse_chroma(image: Tensor) -> Tensor:
    """Return chroma averaged over square cells, (1, 2, ⌈H/16⌉, ⌈W/16⌉): the colors of areas, not of strokes.

    Cells at the right and lower edges may be smaller.
    """
    return F.avg_pool2d(chroma(image), CHROMA_CELL, ceil_mode=True)
