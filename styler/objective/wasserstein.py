"""The Wasserstein distance of the Gaussians that have the statistics of two layers.

Knows statistics and features as tensors only.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from styler.objective.moments import COVARIANCE_FLOOR, Moments, flatten_positions, widen

EIGENVALUE_FLOOR = COVARIANCE_FLOOR**2
"""Eigenvalues below it count as this much: it removes negative rounding errors and bounds the derivative of the
root."""
PRECISE_SIDE = 256
"""Matrices of up to this many rows have their eigenvalues computed in float64, which costs little for them. In float32
the loss of the first layers, which have the largest weights, has a noise of about 1%, too much for a line search."""
NEWTON_SCHULZ_STEPS = 18


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


class RootTangent(NamedTuple):
    """The trace of the root as a linear function of Σ, exact at the Σ where it was computed."""

    offset: Tensor
    """()."""
    slope: Tensor
    """(C, C)."""


def compute_root_tangent(ours: Moments, target: WassersteinTarget, *, newton_schulz: bool = False) -> RootTangent:
    """Return the tangent of tr (Σ_t^½ Σ Σ_t^½)^½ at the covariance Σ of an image's statistics.

    The trace is concave, so the tangent is nowhere below it; its error is quadratic in the change of Σ.
    """
    with torch.enable_grad():
        covariance = ours.compute_covariance().detach().requires_grad_()
        trace = _trace_product_root(covariance, target.root, newton_schulz=newton_schulz)
        (slope,) = torch.autograd.grad(trace, covariance)
    return RootTangent(trace.detach() - (slope * covariance.detach()).sum(), slope)


def wasserstein_distance(
    ours: Moments, target: WassersteinTarget, *, newton_schulz: bool = False, tangent: RootTangent | None = None
) -> Tensor:
    """Return the squared 2-Wasserstein distance of two Gaussians divided by the number of channels, ().

    It is mean_c (μ − μ_t)² + (tr Σ + tr Σ_t − 2 tr (Σ_t^½ Σ Σ_t^½)^½) / C.

    Source: I. Olkin and F. Pukelsheim, "The distance between two random vectors with given dispersion matrices", 1982;
    as a style loss, K. Crowson's style-transfer-pytorch.

    Args:
        ours: statistics of the image.
        target: statistics of the style.
        newton_schulz: compute the root by matrix products only, for devices where eigenvalues are slow or missing.
        tangent: in place of the root, that of statistics that are nearly these.
    """
    covariance = ours.compute_covariance()
    if tangent is None:
        trace = _trace_product_root(covariance, target.root, newton_schulz=newton_schulz)
    else:
        trace = tangent.offset + (tangent.slope * covariance).sum()
    return _combine(ours.mean, target, _trace(covariance.to(trace)), target.trace, trace)


def _trace_product_root(covariance: Tensor, root: Tensor, *, newton_schulz: bool) -> Tensor:
    """Return tr (Σ_t^½ Σ Σ_t^½)^½, (), of a covariance Σ and a root Σ_t^½, each (C, C)."""
    if newton_schulz:
        return _trace_root_newton_schulz(root @ covariance @ root)
    return _trace_root(covariance, factor=root)


def _combine(mean: Tensor, target: WassersteinTarget, spread: Tensor, target_spread: Tensor, trace: Tensor) -> Tensor:
    """Return the distance, (), from the mean (C,), both traces of covariances and the trace of the root, each ()."""
    shift = (mean - target.mean).square().mean()
    return shift + ((spread + target_spread - 2 * trace) / len(target.mean)).to(shift)


def wasserstein_distance_of_few_positions(
    features: Tensor,
    target: WassersteinTarget,
    weights: tuple[Tensor, float] | None = None,
    *,
    newton_schulz: bool = False,
) -> Tensor:
    """Return the same distance for a layer with fewer positions than channels, such as deep layers of small images.

    With X the N positions minus their mean, Σ = Xᵀ X / N, and Σ_t^½ Σ Σ_t^½ and X Σ_t Xᵀ / N have the same eigenvalues
    except for zeros: an (N, N) matrix gives all of them in a fraction of the time. No floor is needed, since there is
    no null space in which the root would have an infinite derivative.

    Args:
        features: (1, C, H, W) of the image, H · W < C.
        target: statistics of the style.
        weights: the square roots of weights of the positions, (N, 1), by which the features have been multiplied, and
            the sum of the weights; None if all are the same. X is then multiplied by the roots.
        newton_schulz: as in `wasserstein_distance`.
    """
    rows = flatten_positions(widen(features))
    if len(rows) <= PRECISE_SIDE and not newton_schulz:
        rows = rows.double()
    if weights is None:
        mean = rows.mean(dim=0)
        centered = rows - mean  # (N, C)
    else:
        roots, total = weights[0].to(rows), weights[1]
        mean = (roots * rows).sum(dim=0) / total
        centered = (rows - roots * mean) * (len(rows) / total) ** 0.5  # (N, C)
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
