"""The losses, as pure functions of tensors.

Every loss but `content_sum` is a mean, so that it does not depend on the size of the image. Features are (1, C, H, W),
as `styler.vgg` computes them; the statistics of a layer are its mean μ (C,) and its second moment S (C, C), from which
every style distance is computed. Everything is computed in float32, whatever the precision of the features, or in
float64 if the features are float64.

Knows tensors only: no network, no options, no files.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

COVARIANCE_FLOOR = 1e-4
"""Added to the diagonal of covariances: the derivative of the square root is infinite at 0."""

PRECISE_CHANNELS = 256
"""Layers of up to this many channels compute eigenvalues in float64, which costs little for them. In float32 the loss
of the first layers, which have the largest weights, has a noise of about 1%, too much for a line search."""

NEWTON_SCHULZ_STEPS = 18

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

    Autograd on F Fᵀ would need two products backward. dL/dF = (gS + gSᵀ) F / N + gμ / N.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(rows)
        return rows.mean(dim=0), (rows.T @ rows) / len(rows)  # (C,), (C, C)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        g_mean, g_second = gradients
        (rows,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return torch.addmm(g_mean / len(rows), rows, (g_second + g_second.T) / len(rows))  # (N, C)


def compute_moments(features: Tensor) -> Moments:
    """Return the mean and second moment of a layer (1, C, H, W) over all positions, at least in float32."""
    return Moments(*_MomentsFunction.apply(_flatten_positions(features)))


def _flatten_positions(features: Tensor) -> Tensor:
    """Return the channels of every position, (N, C), at least float32; a view if the features are channels-last."""
    return _widen(features).permute(0, 2, 3, 1).reshape(-1, features.shape[1])


def _widen(features: Tensor) -> Tensor:
    """Convert half precision to float32."""
    return features if features.dtype is torch.float64 else features.float()


def blend_moments(statistics: list[Moments], weights: list[float]) -> Moments:
    """Return the weighted means of μ and of S: the statistics of all images' positions pooled."""
    total = sum(weights)
    mean = sum((w / total) * s.mean for s, w in zip(statistics, weights, strict=True))
    second = sum((w / total) * s.second for s, w in zip(statistics, weights, strict=True))
    assert isinstance(mean, Tensor)
    assert isinstance(second, Tensor)
    return Moments(mean, second)


def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared difference of features, ().

    Source: L. Gatys, A. Ecker and M. Bethge, "A Neural Algorithm of Artistic Style", 2015, equation 1, with a mean in
    place of half the sum.
    """
    wide = _widen(features)
    return (wide - target.to(wide)).square().mean()  # the gradient of mse_loss is not channels-last


def content_sum(features: Tensor, target: Tensor) -> Tensor:
    """Return half the sum of the squared differences of features, (): ½ Σ (F − P)².

    Source: L. Gatys, A. Ecker and M. Bethge, "A Neural Algorithm of Artistic Style", 2015, equation 1.
    """
    wide = _widen(features)
    return (wide - target.to(wide)).square().sum() / 2


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
    root = target.root
    if len(root) <= PRECISE_CHANNELS and not newton_schulz:
        root = root.double()
    covariance = ours.compute_covariance().to(root)
    inner = root @ covariance @ root  # (C, C)
    trace = _trace_root_newton_schulz(inner) if newton_schulz else _trace_root_eigenvalues(inner)
    spread = _trace(covariance) + target.trace - 2 * trace
    return (ours.mean - target.mean).square().mean() + (spread / len(root)).to(ours.mean)


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
    rows = _flatten_positions(features)
    if len(rows) <= PRECISE_CHANNELS and not newton_schulz:
        rows = rows.double()
    mean = rows.mean(dim=0)
    centered = rows - mean  # (N, C)
    covariance = target.covariance.to(rows)
    inner = centered @ covariance @ centered.T / len(rows)  # (N, N)
    trace = _trace_root_newton_schulz(inner) if newton_schulz else _trace_root_eigenvalues(inner)
    spread = centered.square().sum() / len(rows) + torch.trace(covariance) - 2 * trace
    distance = (mean - target.mean).square().mean() + spread / len(covariance)
    return distance.to(target.mean)


def _trace_root_eigenvalues(matrix: Tensor) -> Tensor:
    """Return tr M^½ of a symmetric positive semidefinite M (C, C), by its eigenvalues.

    The floor removes negative rounding errors and bounds the derivative of the root.
    """
    values: Tensor = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    return values.clamp(min=COVARIANCE_FLOOR**2).sqrt().sum()


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


def total_variation(image: Tensor) -> Tensor:
    """Return the mean squared difference of neighboring pixels of an image (1, C, H, W), ().

    The weights are those of the nine-point stencil of the Laplacian.

    Source: the smoothness term of A. Mahendran and A. Vedaldi, "Understanding Deep Image Representations by Inverting
    Them", 2015, β = 2. The diagonals, after K. Crowson's style-transfer-pytorch, make it isotropic.
    """
    straight = _mean_square(image[..., 1:, :] - image[..., :-1, :]) + _mean_square(image[..., 1:] - image[..., :-1])
    falling = _mean_square(image[..., 1:, 1:] - image[..., :-1, :-1])
    rising = _mean_square(image[..., 1:, :-1] - image[..., :-1, 1:])
    return 2 * (straight / 3 + (falling + rising) / 12)


def _mean_square(differences: Tensor) -> Tensor:
    """Return the mean square, (); 0 if there are no differences, as across an image one pixel wide."""
    return differences.square().mean() if differences.numel() else differences.sum()


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
