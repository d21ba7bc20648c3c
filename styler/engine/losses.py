"""The losses, as pure functions on tensors.

Every loss is a mean, so that a picture of twice the size has the same loss. Features are (1, C, H, W), as
`styler.vgg` gives them; the statistics of a layer are its mean μ (C,) and its second moment S (C, C), from which
every style distance here is made. Everything is float32, whatever the precision of the features, or float64 if they
are.

Knows tensors only: no network, no options, no pictures.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx

COVARIANCE_FLOOR = 1e-4
"""Added to the diagonal of covariances: the square root's derivative is infinite at 0."""

PRECISE_CHANNELS = 256
"""Layers of up to so many channels take their eigenvalues in float64, which costs little there. In float32 the loss of
the first layers, which weigh most, is noisy by about a hundredth, and no line search can see through that."""

NEWTON_SCHULZ_STEPS = 18


class Moments(NamedTuple):
    """The statistics of one layer that style is made of."""

    mean: Tensor
    """μ, (C,)."""
    second: Tensor
    """S = F Fᵀ / N, (C, C), over the N positions."""

    def covariance(self) -> Tensor:
        """Σ = S − μ μᵀ + a small multiple of the identity, (C, C)."""
        floor = COVARIANCE_FLOOR * torch.eye(len(self.mean), dtype=self.mean.dtype, device=self.mean.device)
        return self.second - torch.outer(self.mean, self.mean) + floor


class _MomentsFunction(torch.autograd.Function):
    """Mean and second moment with one product forward and one backward.

    Autograd on F Fᵀ would multiply twice in the backward pass. dL/dF = (gS + gSᵀ) F / N + gμ / N.
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
    """Mean and second moment of a layer over all positions.

    Args:
        features: (1, C, H, W); of half precision, they are widened before the product.
    """
    return Moments(*_MomentsFunction.apply(_flatten_positions(features)))


def _flatten_positions(features: Tensor) -> Tensor:
    """Every position's channels, (N, C), at least float32; a view if the features lie channels-last."""
    return _widen(features).permute(0, 2, 3, 1).reshape(-1, features.shape[1])


def _widen(features: Tensor) -> Tensor:
    """The features in float32, or in float64 if they are."""
    return features if features.dtype is torch.float64 else features.float()


def blend_moments(statistics: list[Moments], weights: list[float]) -> Moments:
    """Statistics of a mixture: the weighted mean of μ and of S, as if the pictures' positions had been pooled."""
    total = sum(weights)
    mean = sum((w / total) * s.mean for s, w in zip(statistics, weights, strict=True))
    second = sum((w / total) * s.second for s, w in zip(statistics, weights, strict=True))
    assert isinstance(mean, Tensor)
    assert isinstance(second, Tensor)
    return Moments(mean, second)


def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of features, ().

    Source: Gatys, Ecker and Bethge, "A Neural Algorithm of Artistic Style", 2015, equation 1, with a mean in place of
        half the sum.
    """
    wide = _widen(features)
    return (wide - target.to(wide)).square().mean()  # mse_loss would write a gradient that is not channels-last


def gram_distance(ours: Moments, target: Moments) -> Tensor:
    """A quarter of the mean squared difference of Gram matrices, ().

    Source: Gatys et al. 2015, equations 3 and 4: with G = M S for M positions and N channels, 1 / (4 N² M²) Σ (G −
        A)² is just this. Taking each Gram
    matrix over its own M lets style and picture differ in size.
    """
    return (ours.second - target.second).square().mean() / 4


class WassersteinTarget(NamedTuple):
    """What the Wasserstein distance needs of its target, computed once."""

    mean: Tensor
    """(C,)."""
    covariance: Tensor
    """Σ without the floor on its diagonal, (C, C)."""
    root: Tensor
    """Σ^½ with it, (C, C)."""
    trace: Tensor
    """tr Σ with it, ()."""


def prepare_wasserstein_target(statistics: Moments) -> WassersteinTarget:
    """Prepare a target: the square root of its covariance by eigenvalues, in float64 on the CPU (MPS has neither)."""
    covariance = statistics.covariance()
    values, vectors = torch.linalg.eigh(covariance.double().cpu())
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    plain = statistics.second - torch.outer(statistics.mean, statistics.mean)
    return WassersteinTarget(statistics.mean, plain, root.to(covariance), torch.trace(covariance))


def wasserstein_distance(ours: Moments, target: WassersteinTarget, *, newton_schulz: bool = False) -> Tensor:
    """Squared 2-Wasserstein distance of two Gaussians over the number of channels, ().

    mean_c (μ − μ_t)² + (tr Σ + tr Σ_t − 2 tr (Σ_t^½ Σ Σ_t^½)^½) / C.

    Source: Olkin and Pukelsheim, "The distance between two random vectors with given dispersion matrices", 1982; as a
        style loss, K. Crowson's
    style-transfer-pytorch.

    Args:
        ours: statistics of the picture.
        target: a prepared target.
        newton_schulz: take the root by products alone, for devices where eigenvalues are slow or absent.
    """
    root = target.root
    if len(root) <= PRECISE_CHANNELS and not newton_schulz:
        root = root.double()
    covariance = ours.covariance().to(root)
    inner = root @ covariance @ root  # (C, C)
    trace = _trace_root_newton_schulz(inner) if newton_schulz else _trace_root_eigenvalues(inner)
    spread = torch.trace(covariance) + target.trace - 2 * trace
    return (ours.mean - target.mean).square().mean() + (spread / len(root)).to(ours.mean)


def wasserstein_distance_of_few_positions(
    features: Tensor, target: WassersteinTarget, *, newton_schulz: bool = False
) -> Tensor:
    """The same distance for a layer of fewer positions than channels, as all deep layers of small pictures are, ().

    With X the N positions less their mean, Σ = Xᵀ X / N, and Σ_t^½ Σ Σ_t^½ and X Σ_t Xᵀ / N have the same
    eigenvalues but for zeros: those of a matrix (N, N) are enough, in a fraction of the time. No floor is needed
    here, since there is no null space whose root would have to be derived.

    Args:
        features: (1, C, H, W) of the picture, H · W < C.
        target: a prepared target.
        newton_schulz: as in `wasserstein_distance`.
    """
    rows = _flatten_positions(features)
    if len(rows) <= PRECISE_CHANNELS and not newton_schulz:
        rows = rows.double()
    mean = rows.mean(dim=0)
    apart = rows - mean  # (N, C)
    covariance = target.covariance.to(rows)
    inner = apart @ covariance @ apart.T / len(rows)  # (N, N)
    trace = _trace_root_newton_schulz(inner) if newton_schulz else _trace_root_eigenvalues(inner)
    spread = apart.square().sum() / len(rows) + torch.trace(covariance) - 2 * trace
    distance = (mean - target.mean).square().mean() + spread / len(covariance)
    return distance.to(target.mean)


def _trace_root_eigenvalues(matrix: Tensor) -> Tensor:
    """Tr M^½ of a symmetric positive semi-definite M (C, C), by its eigenvalues.

    The floor keeps rounding below 0 out of the root, whose derivative it also bounds.
    """
    values: Tensor = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
    return values.clamp(min=COVARIANCE_FLOOR**2).sqrt().sum()


def _trace_root_newton_schulz(matrix: Tensor) -> Tensor:
    """Tr M^½ by Newton–Schulz iteration: products only, no decomposition.

    Source: N. Higham, "Functions of Matrices", 2008, equation 6.35 (coupled form). M is divided by its Frobenius
        norm, so that the iteration converges.
    """
    norm: Tensor = torch.linalg.matrix_norm(matrix)
    identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    y, z = matrix / norm, identity
    for _ in range(NEWTON_SCHULZ_STEPS):
        t = (3 * identity - z @ y) / 2
        y, z = y @ t, t @ z
    return torch.trace(y) * norm.sqrt()


def total_variation(image: Tensor) -> Tensor:
    """Mean squared difference of neighbours, with the weights of the nine-point stencil of the Laplacian, ().

    Source: the smoothness term of Mahendran and Vedaldi, "Understanding Deep Image Representations by Inverting
        Them", 2015, β = 2; the diagonals
    are ours after K. Crowson, and make it the same in every direction.

    Args:
        image: (1, 3, H, W).
    """
    straight = (image[..., 1:, :] - image[..., :-1, :]).square().mean() + (
        image[..., 1:] - image[..., :-1]
    ).square().mean()
    falling = (image[..., 1:, 1:] - image[..., :-1, :-1]).square().mean()
    rising = (image[..., 1:, :-1] - image[..., :-1, 1:]).square().mean()
    return 2 * (straight / 3 + (falling + rising) / 12)


def chroma(image: Tensor) -> Tensor:
    """Blue and red differences of ITU-R BT.601, (1, 2, H, W) in [−½, ½], of an RGB image (1, 3, H, W)."""
    red, green, blue = image[:, 0], image[:, 1], image[:, 2]
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return torch.stack([(blue - luma) / 1.772, (red - luma) / 1.402], dim=1)


def coarse_chroma(image: Tensor) -> Tensor:
    """Chroma averaged over square cells, (1, 2, ⌈H/16⌉, ⌈W/16⌉): colours of areas, not of strokes.

    Cells at the right and the lower edge may be smaller.
    """
    return F.avg_pool2d(chroma(image), CHROMA_CELL, ceil_mode=True)


CHROMA_CELL = 16
"""Pixels on a side of the cells of coarse chroma."""
