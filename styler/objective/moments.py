"""The statistics of a layer, its mean μ (C,) and its second moment S (C, C), from which style distances are computed.

Features are (1, C, H, W), as `styler.vgg` computes them. Statistics and losses are in float32, whatever the precision
of the features, or in float64 if the features are float64; gradients are in the features' own precision.

Knows tensors only: no network, no options, no files.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

HALF = (torch.float16, torch.bfloat16)
_aten: Any = torch.ops.aten
COVARIANCE_FLOOR = 1e-4
"""Added to the diagonal of covariances: the derivative of the square root is infinite at 0."""


class Moments(NamedTuple):
    """The statistics of one layer, which describe style."""

    mean: Tensor
    """μ, (C,)."""
    second: Tensor
    """S = F Fᵀ / N, (C, C), over the N positions."""

    def compute_covariance(self) -> Tensor:
        """Return Σ = S − μ μᵀ plus a small multiple of the identity, (C, C)."""
        floor = COVARIANCE_FLOOR * torch.eye(len(self.mean), dtype=self.mean.dtype, device=self.mean.device)
        return self.second - torch.outer(self.mean, self.mean) + floor


class _MomentsFunction(torch.autograd.Function):
    """Mean and second moment with one matrix product forward and one backward.

    Autograd on F Fᵀ would need two products backward. dL/dF = (gS + gSᵀ) F / N + gμ / N, in the features' own dtype.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, total: int, is_measured: bool) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(features)
        ctx.total = total  # type: ignore[attr-defined]
        if not is_measured:
            return _make_zeros(features)
        count = features.shape[-2] * features.shape[-1]
        mean = features.mean(dim=(0, 2, 3), dtype=choose_dtype(features))
        return mean if count == total else mean * (count / total), _sum_products(features) / total  # (C,), (C, C)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        g_mean, g_second = gradients
        (features,), count = ctx.saved_tensors, ctx.total  # type: ignore[attr-defined]
        own = features if features.dtype is not torch.float16 else features.float()  # in which small slopes vanish
        shift, slope = ((part / count).to(own) for part in (g_mean, g_second + g_second.T))
        if _has_fast_convolutions(own):
            return F.conv2d(own, slope[:, :, None, None], shift).to(features), None, None  # (1, C, H, W)
        rows = torch.addmm(shift, flatten_positions(own), slope)  # (N, C)
        return rows.view(1, *features.shape[-2:], -1).permute(0, 3, 1, 2).to(features), None, None


class _WeightedMomentsFunction(torch.autograd.Function):
    """The same for features times the roots of weights; those of the first `full` positions are 1.

    With Y = F √w and W = Σ w, μ = Y √w / W and S = Y Yᵀ / W, so dL/dY = ((gS + gSᵀ) Y + gμ √wᵀ) / W.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, features: Tensor, roots: Tensor, full: int, total: float, is_measured: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(features, roots)
        ctx.full, ctx.total = full, total  # type: ignore[attr-defined]
        if not is_measured:
            return _make_zeros(features)
        rows, dtype = flatten_positions(features), choose_dtype(features)
        rest = (rows[full:].to(dtype) * roots[full:].to(dtype)).sum(dim=0)
        mean = (rows[:full].sum(dim=0, dtype=dtype) + rest) / total
        return mean, _sum_products(features) / total  # (C,), (C, C)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        g_mean, g_second = gradients
        (features, roots), full, total = ctx.saved_tensors, ctx.full, ctx.total  # type: ignore[attr-defined]
        own = features if features.dtype is not torch.float16 else features.float()  # in which small slopes vanish
        shift = g_mean / total
        rows = torch.addmm(shift.to(own), flatten_positions(own), ((g_second + g_second.T) / total).to(own))  # (n, C)
        rows[full:] += ((roots[full:] - 1).to(shift) * shift).to(own)
        rows = rows.to(features)
        return rows.T[None, :, None], None, None, None, None


def _make_zeros(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return zeros in place of a layer's statistics, (C,) and (C, C)."""
    width, dtype = features.shape[1], choose_dtype(features)
    return features.new_zeros(width, dtype=dtype), features.new_zeros((width, width), dtype=dtype)


def compute_moments(features: Tensor, total: int = 0, *, is_measured: bool = True) -> Moments:
    """Return the mean and second moment of a layer over all positions, at least in float32.

    Args:
        features: (1, C, H, W).
        total: the number of positions by which sums are divided: with that of a whole picture, the statistics of its
            tiles add up to those of the picture. 0 for those of the features.
        is_measured: false for zeros in place of the statistics, with the gradient that these would have.
    """
    return Moments(*_MomentsFunction.apply(features, total or features.shape[-2] * features.shape[-1], is_measured))


def compute_weighted_moments(
    features: Tensor, roots: Tensor, full: int, total: float, *, is_measured: bool = True
) -> Moments:
    """Return the weighted mean and second moment of positions, at least in float32.

    Args:
        features: of n positions, times the square roots of their weights, (1, C, 1, n).
        roots: these square roots, (n, 1), in float32.
        full: how many of the first of them are 1.
        total: the sum of the weights, of a whole picture if the positions are those of a tile.
        is_measured: as in `compute_moments`.
    """
    return Moments(*_WeightedMomentsFunction.apply(features, roots, full, total, is_measured))


def _sum_products(features: Tensor) -> Tensor:
    """Return F Fᵀ (C, C) of a layer (1, C, H, W), summed over all positions at least in float32."""
    rows = flatten_positions(features)  # (N, C)
    if features.device.type == "cuda" and features.dtype in HALF and hasattr(_aten.mm, "dtype"):
        return torch.mm(rows.T, rows, out_dtype=torch.float32)
    if _has_fast_convolutions(features) and features.dtype is torch.bfloat16:
        # The sums are in float32, but the result is rounded: what the rounding left is the result of a second product.
        rounded = rows.T @ rows
        return rounded.float() - torch.addmm(rounded, rows.T, rows, alpha=-1).float()
    if _has_fast_convolutions(features):
        kernel = features.new_empty((features.shape[1], features.shape[1], 1, 1))
        only_kernel = [False, True, False]
        products: Tensor = _aten.convolution_backward(
            features, features, kernel, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, only_kernel
        )[1]
        return products[:, :, 0, 0]
    rows = widen(rows)
    return rows.T @ rows


def _has_fast_convolutions(features: Tensor) -> bool:
    """Return whether products of channels are faster as 1×1 convolutions and their gradients."""
    if features.device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    return features.dtype is torch.float32 or (
        features.dtype is torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def flatten_positions(features: Tensor) -> Tensor:
    """Return the channels of every position, (N, C); a view if the features are channels-last."""
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])


def choose_dtype(features: Tensor) -> torch.dtype:
    """Return the dtype of the statistics and losses of features."""
    return torch.float64 if features.dtype is torch.float64 else torch.float32


def widen(features: Tensor) -> Tensor:
    """Convert half precision to float32."""
    return features.to(choose_dtype(features))


def blend_moments(statistics: list[Moments], weights: list[float]) -> Moments:
    """Return the weighted means of μ and of S: the statistics of all images' positions pooled."""
    total = sum(weights)
    mean = sum((w / total) * s.mean for s, w in zip(statistics, weights, strict=True))
    second = sum((w / total) * s.second for s, w in zip(statistics, weights, strict=True))
    assert isinstance(mean, Tensor)
    assert isinstance(second, Tensor)
    return Moments(mean, second)


def gram_distance(ours: Moments, target: Moments) -> Tensor:
    """Return a quarter of the mean squared difference of the Gram matrices, ().

    Source: L. Gatys, A. Ecker and M. Bethge, "A Neural Algorithm of Artistic Style", 2015, equations 3 and 4: with
    G = M S for M positions and N channels, 1 / (4 N² M²) Σ (G − A)² equals this. Dividing each Gram matrix by its own M
    allows style and image to differ in size.
    """
    return (ours.second - target.second).square().mean() / 4
