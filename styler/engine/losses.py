"""The losses, as pure functions of tensors.

Every loss but `content_sum` is a mean, so that it does not depend on the size of the image. Features are (1, C, H, W),
as `styler.vgg` computes them; the statistics of a layer are its mean μ (C,) and its second moment S (C, C), from which
every style distance is computed. Statistics and losses are in float32, whatever the precision of the features, or in
float64 if the features are float64; gradients are in the features' own precision.

Knows tensors only: no network, no options, no files.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

HALF = (torch.float16, torch.bfloat16)

_aten: Any = torch.ops.aten

COVARIANCE_FLOOR = 1e-4
"""Added to the diagonal of covariances: the derivative of the square root is infinite at 0."""

EIGENVALUE_FLOOR = COVARIANCE_FLOOR**2
"""Eigenvalues below it count as this much: it removes negative rounding errors and bounds the derivative of the
root."""

PRECISE_SIDE = 256
"""Matrices of up to this many rows have their eigenvalues computed in float64, which costs little for them. In float32
the loss of the first layers, which have the largest weights, has a noise of about 1%, too much for a line search."""

NEWTON_SCHULZ_STEPS = 18

SHORTEST = 1e-6
"""Floor of the lengths by which columns of features are divided."""
SHORTEST_FEATURES = 0.1
"""Length below which a position has no features, about 1 % of the usual: gradients do not overflow in float16."""

STENCIL = ((1, 0, 2 / 3), (0, 1, 2 / 3), (1, 1, 1 / 6), (1, -1, 1 / 6))
"""The neighbors of a pixel, rows down and columns across, and the weights of their mean squared differences."""

CHROMA_CELL = 16
"""Side of the cells of coarse chroma, in pixels."""


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
    def forward(ctx: FunctionCtx, features: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(features)
        count = features.shape[-2] * features.shape[-1]
        mean = features.mean(dim=(0, 2, 3), dtype=_choose_dtype(features))
        return mean, _sum_products(features) / count  # (C,), (C, C)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        g_mean, g_second = gradients
        (features,) = ctx.saved_tensors  # type: ignore[attr-defined]
        count = features.shape[-2] * features.shape[-1]
        own = features if features.dtype is not torch.float16 else features.float()  # in which small slopes vanish
        shift, slope = ((part / count).to(own) for part in (g_mean, g_second + g_second.T))
        if _has_fast_convolutions(own):
            return F.conv2d(own, slope[:, :, None, None], shift).to(features)  # (1, C, H, W)
        rows = torch.addmm(shift, _flatten_positions(own), slope)  # (N, C)
        return rows.view(1, *features.shape[-2:], -1).permute(0, 3, 1, 2).to(features)


def compute_moments(features: Tensor) -> Moments:
    """Return the mean and second moment of a layer (1, C, H, W) over all positions, at least in float32."""
    return Moments(*_MomentsFunction.apply(features))


def _sum_products(features: Tensor) -> Tensor:
    """Return F Fᵀ (C, C) of a layer (1, C, H, W), summed over all positions at least in float32."""
    rows = _flatten_positions(features)  # (N, C)
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
    rows = _widen(rows)
    return rows.T @ rows


def _has_fast_convolutions(features: Tensor) -> bool:
    """Return whether products of channels are faster as 1×1 convolutions and their gradients."""
    if features.device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    return features.dtype is torch.float32 or (
        features.dtype is torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def _flatten_positions(features: Tensor) -> Tensor:
    """Return the channels of every position, (N, C); a view if the features are channels-last."""
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])


def _choose_dtype(features: Tensor) -> torch.dtype:
    """Return the dtype of the statistics and losses of features."""
    return torch.float64 if features.dtype is torch.float64 else torch.float32


def _widen(features: Tensor) -> Tensor:
    """Convert half precision to float32."""
    return features.to(_choose_dtype(features))


def blend_moments(statistics: list[Moments], weights: list[float]) -> Moments:
    """Return the weighted means of μ and of S: the statistics of all images' positions pooled."""
    total = sum(weights)
    mean = sum((w / total) * s.mean for s, w in zip(statistics, weights, strict=True))
    second = sum((w / total) * s.second for s, w in zip(statistics, weights, strict=True))
    assert isinstance(mean, Tensor)
    assert isinstance(second, Tensor)
    return Moments(mean, second)


class _SquaresFunction(torch.autograd.Function):
    """Σ (F − P)² at least in float32, with a gradient in the features' own dtype and layout, and no copy in float32."""

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, target: Tensor) -> Tensor:
        difference = features - target.to(features)  # (1, C, H, W)
        ctx.save_for_backward(difference)
        norms: Tensor = torch.linalg.vector_norm(difference, dim=1, dtype=_choose_dtype(features))  # (1, H, W)
        return norms.square().sum()

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return difference * (2 * gradients[0]), None


def _sum_squares(features: Tensor, target: Tensor) -> Tensor:
    total: Tensor = _SquaresFunction.apply(features, target)
    return total


def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of features, ().

    Source: L. Gatys, A. Ecker and M. Bethge, "A Neural Algorithm of Artistic Style", 2015, equation 1, with a mean in
    place of half the sum.
    """
    return _sum_squares(features, target) / features.numel()


def content_sum(features: Tensor, target: Tensor) -> Tensor:
    """Return half the sum of the squared differences of features, (): ½ Σ (F − P)².

    Source: L. Gatys, A. Ecker and M. Bethge, "A Neural Algorithm of Artistic Style", 2015, equation 1.
    """
    return _sum_squares(features, target) / 2


class _CosineFunction(torch.autograd.Function):
    """The mean of 1 − F · T / |F| over all positions, with the gradient (F · T / |F|² · F − T) / (N · |F|)."""

    @staticmethod
    def forward(ctx: FunctionCtx, features: Tensor, target: Tensor) -> Tensor:
        dtype = _choose_dtype(features)
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


def find_principal_components(samples: Iterable[Tensor], count: int) -> Tensor:
    """Return the orthogonal directions (C, D) in which samples are longest on average, at most `count`.

    Args:
        samples: each (N, C), in float32; all count equally, however many rows they have.
        count: the largest D.
    """
    moments = torch.stack([rows.T @ rows / len(rows) for rows in samples]).sum(dim=0)  # (C, C)
    _, vectors = torch.linalg.eigh(moments.cpu())  # MPS does not support it
    components: Tensor = vectors[:, -count:].to(moments)
    return components


def normalize_features(features: Tensor) -> Tensor:
    """Divide the features of every position, (1, C, H, W), by their length; those of length 0 remain."""
    length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True, dtype=_choose_dtype(features))
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


def gram_distance(ours: Moments, target: Moments) -> Tensor:
    """Return a quarter of the mean squared difference of the Gram matrices, ().

    Source: L. Gatys, A. Ecker and M. Bethge, "A Neural Algorithm of Artistic Style", 2015, equations 3 and 4: with
    G = M S for M positions and N channels, 1 / (4 N² M²) Σ (G − A)² equals this. Dividing each Gram matrix by its own M
    allows style and image to differ in size.
    """
    return (ours.second - target.second).square().mean() / 4


class WassersteinTarget(NamedTuple):
    """The target statistics and what the Wasserstein distance derives from them, computed once."""

    mean: Tensor
    """(C,)."""
    covariance: Tensor
    """Σ without the floor on its diagonal, (C, C)."""
    root: Tensor
    """Σ^½ with the floor, (C, C); empty, (0, 0), if only `wasserstein_distance_of_few_positions` will be called."""
    trace: Tensor
    """tr Σ with the floor, ()."""


def prepare_wasserstein_target(statistics: Moments, *, few_positions: bool = False) -> WassersteinTarget:
    """Compute what the distance derives from the target statistics.

    Args:
        statistics: of the style.
        few_positions: whether only `wasserstein_distance_of_few_positions` will be called, which takes no root.
    """
    covariance = statistics.compute_covariance()
    plain = statistics.second - torch.outer(statistics.mean, statistics.mean)
    root = covariance.new_empty((0, 0)) if few_positions else compute_root(covariance)
    return WassersteinTarget(statistics.mean, plain, root, torch.trace(covariance))


def compute_root(covariance: Tensor) -> Tensor:
    """Return Σ^½, (C, C), by eigenvalues, in float64 on the CPU, since MPS supports neither."""
    values, vectors = torch.linalg.eigh(covariance.double().cpu())
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root.to(covariance)


def wasserstein_distance(ours: Moments, target: WassersteinTarget, *, newton_schulz: bool = False) -> Tensor:
    """Return the squared 2-Wasserstein distance of two Gaussians divided by the number of channels, ().

    It is mean_c (μ − μ_t)² + (tr Σ + tr Σ_t − 2 tr (Σ_t^½ Σ Σ_t^½)^½) / C.

    Source: I. Olkin and F. Pukelsheim, "The distance between two random vectors with given dispersion matrices", 1982;
    as a style loss, K. Crowson's style-transfer-pytorch.

    Args:
        ours: statistics of the image.
        target: statistics of the style.
        newton_schulz: compute the root by matrix products only, for devices where eigenvalues are slow or missing.
    """
    covariance, root = ours.compute_covariance(), target.root
    trace = (
        _trace_root_newton_schulz(root @ covariance @ root) if newton_schulz else _trace_root(covariance, factor=root)
    )
    return _combine(ours.mean, target, _trace(covariance.to(trace)), target.trace, trace)


def _combine(mean: Tensor, target: WassersteinTarget, spread: Tensor, target_spread: Tensor, trace: Tensor) -> Tensor:
    """Return the distance, (), from the mean (C,), both traces of covariances and the trace of the root, each ()."""
    shift = (mean - target.mean).square().mean()
    return shift + ((spread + target_spread - 2 * trace) / len(target.mean)).to(shift)


def has_few_positions(features: Tensor) -> bool:
    """Return whether a layer (1, C, H, W) has fewer positions than channels."""
    return features.shape[-2] * features.shape[-1] < features.shape[1]


def wasserstein_distance_of_few_positions(
    features: Tensor, target: WassersteinTarget, *, newton_schulz: bool = False
) -> Tensor:
    """Return the same distance for a layer with fewer positions than channels, such as deep layers of small images.

    With X the N positions minus their mean, Σ = Xᵀ X / N, and Σ_t^½ Σ Σ_t^½ and X Σ_t Xᵀ / N have the same eigenvalues
    except for zeros: an (N, N) matrix gives all of them in a fraction of the time. No floor is needed, since there is
    no null space in which the root would have an infinite derivative.

    Args:
        features: (1, C, H, W) of the image, H · W < C.
        target: statistics of the style.
        newton_schulz: as in `wasserstein_distance`.
    """
    rows = _flatten_positions(_widen(features))
    if len(rows) <= PRECISE_SIDE and not newton_schulz:
        rows = rows.double()
    mean = rows.mean(dim=0)
    centered = rows - mean  # (N, C)
    covariance = target.covariance.to(rows)
    inner: Tensor = _InnerProductsFunction.apply(centered, covariance)  # (N, N)
    trace = _trace_root_newton_schulz(inner) if newton_schulz else _trace_root(inner)
    spread = centered.square().sum() / len(rows)
    return _combine(mean, target, spread, torch.trace(covariance), trace).to(target.mean)


class _InnerProductsFunction(torch.autograd.Function):
    """X Σ Xᵀ / N of N positions, (N, N), with one product backward instead of three."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, covariance: Tensor) -> Tensor:
        projected = rows @ covariance  # (N, C)
        ctx.save_for_backward(projected)
        return projected @ rows.T / len(rows)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (projected,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return (gradients[0] + gradients[0].T) @ projected / len(projected), None


class _RootFunction(torch.autograd.Function):
    """tr (F M F)^½, with the gradient computed at once, from the eigenvectors that the trace needs, too.

    With F M F = V D Vᵀ and B = F V, the gradient is ½ B D^−½ Bᵀ: one product less than backward through F M F.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, matrix: Tensor, factor: Tensor | None) -> Tensor:
        precise = matrix.double() if len(matrix) <= PRECISE_SIDE else matrix
        factor = None if factor is None else factor.to(precise)
        inner = precise if factor is None else factor @ precise @ factor  # (C, C)
        values, vectors = torch.linalg.eigh(inner)  # reads the lower triangle only
        basis = vectors if factor is None else factor @ vectors  # (C, C)
        roots = values.clamp(min=EIGENVALUE_FLOOR).sqrt()  # (C,)
        slopes = torch.where(values >= EIGENVALUE_FLOOR, 0.5 / roots, 0)  # (C,)
        ctx.save_for_backward(((basis * slopes) @ basis.T).to(matrix))  # (C, C)
        trace: Tensor = roots.sum()
        return trace

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradients[0].to(gradient) * gradient, None


def _trace_root(matrix: Tensor, factor: Tensor | None = None) -> Tensor:
    """Return tr (F M F)^½, (), by eigenvalues, in float64 for small matrices.

    Args:
        matrix: M, symmetric positive semidefinite, (C, C).
        factor: F, symmetric, (C, C), without a gradient; the identity if None.
    """
    trace: Tensor = _RootFunction.apply(matrix, factor)
    return trace


def _trace_root_newton_schulz(matrix: Tensor) -> Tensor:
    """Return tr M^½ by Newton-Schulz iteration, with matrix products only.

    M is divided by its Frobenius norm, so that the iteration converges.

    Source: N. Higham, "Functions of Matrices", 2008, equation 6.35 (coupled form).
    """
    norm: Tensor = torch.linalg.matrix_norm(matrix)
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    y, z = matrix / norm, identity
    for _ in range(NEWTON_SCHULZ_STEPS):
        t = (3 * identity - z @ y) / 2
        y, z = y @ t, t @ z
    return _trace(y) * norm.sqrt()


def _trace(matrix: Tensor) -> Tensor:
    """Return the trace, (); the gradient of `torch.trace` would read a value, for which a GPU has to be waited for."""
    return matrix.diagonal().sum()


class _VariationFunction(torch.autograd.Function):
    """The total variation, with the gradient computed at once from the same differences."""

    @staticmethod
    def forward(ctx: FunctionCtx, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        parts, gradient = [], torch.zeros_like(image)
        for down, across, share in STENCIL:
            # An image one pixel wide has no differences across.
            rows, columns = height - down, width - abs(across)
            if not rows * columns:
                continue
            left, right = max(0, -across), max(0, across)
            ahead = (..., slice(down, None), slice(right, right + columns))
            behind = (..., slice(0, rows), slice(left, left + columns))
            differences = image[ahead] - image[behind]  # (1, C, rows, columns)
            weight = share / differences.numel()
            parts.append(weight * differences.square().sum())
            gradient[ahead].add_(differences, alpha=2 * weight)
            gradient[behind].sub_(differences, alpha=2 * weight)
        ctx.save_for_backward(gradient)
        total: Tensor = torch.stack(parts).sum() if parts else image.new_zeros(())
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        scaled: Tensor = gradients[0] * ctx.saved_tensors[0]  # type: ignore[attr-defined]
        return scaled


def total_variation(image: Tensor) -> Tensor:
    """Return the mean squared difference of neighboring pixels of an image (1, C, H, W), ().

    The weights are those of the nine-point stencil of the Laplacian.

    Source: the smoothness term of A. Mahendran and A. Vedaldi, "Understanding Deep Image Representations by Inverting
    Them", 2015, β = 2. The diagonals, after K. Crowson's style-transfer-pytorch, make it isotropic.
    """
    total: Tensor = _VariationFunction.apply(image)
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
