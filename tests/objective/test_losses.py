"""The losses against their formulas, closed forms and numerical derivatives."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from styler.objective.losses import content_loss, content_sum, total_variation
from styler.objective.moments import COVARIANCE_FLOOR, Moments, blend_moments, compute_moments, gram_distance
from styler.objective.wasserstein import (
    prepare_wasserstein_target,
    wasserstein_distance,
    wasserstein_distance_of_few_positions,
)

ROUNDING = 1e-5
"""Of distances that are 0 in exact arithmetic; the loss of different images is about 1."""


def maps(channels: int, height: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return rectified features, (1, C, H, W), of mean about 1."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn((channels, channels), generator=generator, dtype=dtype) / channels**0.5
    raw = torch.randn((1, channels, height, width), generator=generator, dtype=dtype)
    return 2 * torch.einsum("ij,bjhw->bihw", mix, raw).relu()


def gaussian(mean: Tensor, covariance: Tensor) -> Moments:
    """Return moments of which `compute_covariance()` is just the given one."""
    floor = COVARIANCE_FLOOR * torch.eye(len(mean), dtype=mean.dtype)
    return Moments(mean, covariance - floor + torch.outer(mean, mean))


def positive(size: int, seed: int) -> Tensor:
    """Return a symmetric positive definite matrix, (C, C), float64."""
    root = torch.randn((size, 2 * size), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T / (2 * size) + 0.05 * torch.eye(size, dtype=torch.float64)


def square_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.sqrt()) @ vectors.T
    return root


def test_the_distance_of_a_layer_to_itself_is_0() -> None:
    features = maps(12, 20, 24)
    ours = compute_moments(features)
    assert content_loss(features, features) == 0
    assert gram_distance(ours, ours) == 0
    target = prepare_wasserstein_target(ours)
    assert abs(float(wasserstein_distance(ours, target))) < ROUNDING
    assert abs(float(wasserstein_distance(ours, target, newton_schulz=True))) < ROUNDING


def test_the_distance_to_itself_is_0_with_more_channels_than_positions() -> None:
    """Its covariance is singular but for the floor.

    In float32 the root of what rounding leaves of the smallest eigenvalues remains, and Newton–Schulz has not quite
    reached them after its steps: tolerances are shares of the distance of two unlike layers.
    """
    ours, theirs = (compute_moments(maps(64, 5, 5, seed=seed, dtype=torch.float64)) for seed in (1, 2))
    target = prepare_wasserstein_target(ours)
    apart = float(wasserstein_distance(theirs, target))
    assert abs(float(wasserstein_distance(ours, target))) < 1e-6 * apart
    single = Moments(ours.mean.float(), ours.second.float())
    goal = prepare_wasserstein_target(single)
    assert abs(float(wasserstein_distance(single, goal))) < 0.01 * apart
    assert abs(float(wasserstein_distance(single, goal, newton_schulz=True))) < 0.05 * apart


def test_different_layers_have_a_distance() -> None:
    ours, theirs = maps(12, 20, 24, seed=1), maps(12, 20, 24, seed=2)
    a, b = compute_moments(ours), compute_moments(theirs)
    assert content_loss(ours, theirs) > 0.05
    assert gram_distance(a, b) > 0.05
    assert wasserstein_distance(a, prepare_wasserstein_target(b)) > 0.05


def test_moments_are_mean_and_second_moment() -> None:
    features = maps(5, 6, 7, dtype=torch.float64)
    rows = features[0].flatten(1)  # (C, N)
    actual = compute_moments(features)
    torch.testing.assert_close(actual.mean, rows.mean(dim=1))
    torch.testing.assert_close(actual.second, rows @ rows.T / 42)
    floor = COVARIANCE_FLOOR * torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(actual.compute_covariance(), torch.cov(rows, correction=0) + floor)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_statistics_do_not_depend_on_the_memory_layout(layout: torch.memory_format) -> None:
    features = maps(6, 9, 11)
    actual, expected = (compute_moments(features.contiguous(memory_format=layout)), compute_moments(features))
    torch.testing.assert_close(actual.second, expected.second)
    torch.testing.assert_close(actual.mean, expected.mean)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_over_half_precision_do_not_overflow(dtype: torch.dtype) -> None:
    """300² does not fit in float16."""
    features = torch.full((1, 3, 4, 4), 300.0, dtype=dtype)
    actual = compute_moments(features)
    assert actual.second.dtype is torch.float32
    assert (actual.second == features[0, 0, 0, 0].double() ** 2).all()
    distance = content_loss(features, torch.zeros_like(features))
    assert distance.dtype is torch.float32
    assert float(distance) == pytest.approx(float(features[0, 0, 0, 0]) ** 2)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 1e-5), (torch.float16, 1e-6)])
def test_statistics_of_half_precision_are_not_rounded_to_it(dtype: torch.dtype, tolerance: float) -> None:
    """Rounded second moments lose the small eigenvalues of the covariance; the gradient has the features' precision."""
    half = maps(24, 40, 44).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    wide = half.detach().double().requires_grad_()
    actual, expected = compute_moments(half), compute_moments(wide)
    assert {actual.mean.dtype, actual.second.dtype} == {torch.float32}
    torch.testing.assert_close(actual.mean.double(), expected.mean, rtol=1e-6, atol=0)
    largest = float(expected.second.detach().max())
    torch.testing.assert_close(actual.second.double(), expected.second, rtol=0, atol=tolerance * largest)
    rounded = Moments(expected.mean, expected.second.to(dtype).double())
    kinds = (Moments(*(part.double() for part in actual)), rounded, expected)
    smallest = [float(torch.linalg.eigvalsh(kind.compute_covariance().detach())[0]) for kind in kinds]
    errors = [abs(value / smallest[-1] - 1) for value in smallest]
    assert errors[0] < 1e-4
    assert errors[1] > 10 * errors[0]
    target = compute_moments(maps(24, 40, 44, seed=1, dtype=torch.float64))
    goals = (Moments(*(part.float() for part in target)), target)
    slopes = [
        torch.autograd.grad(gram_distance(ours, goal), maps)[0]
        for ours, goal, maps in zip((actual, expected), goals, (half, wide), strict=True)
    ]
    assert slopes[0].dtype is dtype
    assert torch.cosine_similarity(slopes[0].double().flatten(), slopes[1].flatten(), dim=0) > 0.99999


@pytest.mark.parametrize("loss", [content_loss, content_sum])
def test_the_content_loss_of_bfloat16_has_its_gradient_in_bfloat16(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    half, target = (maps(8, 20, 24, seed=seed).bfloat16().requires_grad_() for seed in (1, 2))
    wide = half.detach().float().requires_grad_()
    actual, expected = loss(half, target.detach()), loss(wide, target.detach().float())
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=0)
    gradients = [torch.autograd.grad(value, maps)[0] for value, maps in ((actual, half), (expected, wide))]
    assert gradients[0].dtype is torch.bfloat16
    assert torch.cosine_similarity(gradients[0].float().flatten(), gradients[1].flatten(), dim=0) > 0.9999


def test_total_variation_is_the_weighted_mean_of_squared_differences() -> None:
    x = torch.rand((1, 3, 5, 7), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    down, across = x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]
    falling, rising = x[..., 1:, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, 1:]
    squares = [part.square().mean() for part in (down, across, falling, rising)]
    expected = 2 / 3 * (squares[0] + squares[1]) + (squares[2] + squares[3]) / 6
    torch.testing.assert_close(total_variation(x), expected)


def test_gram_distance_matches_the_formula_of_gatys() -> None:
    ours, theirs = maps(4, 5, 6, seed=1, dtype=torch.float64), maps(4, 5, 6, seed=2, dtype=torch.float64)
    channels, positions = 4, 30
    total = 0.0
    for i in range(channels):
        for j in range(channels):
            gram = sum(float(ours[0, i].flatten()[k] * ours[0, j].flatten()[k]) for k in range(positions))
            goal = sum(float(theirs[0, i].flatten()[k] * theirs[0, j].flatten()[k]) for k in range(positions))
            total += (gram - goal) ** 2
    expected = total / (4 * channels**2 * positions**2)
    assert float(gram_distance(compute_moments(ours), compute_moments(theirs))) == pytest.approx(expected)


def test_wasserstein_distance_of_diagonal_gaussians_matches_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(3)
    means = torch.rand((2, 9), generator=generator, dtype=torch.float64)
    spreads = 0.1 + torch.rand((2, 9), generator=generator, dtype=torch.float64)
    expected = ((means[0] - means[1]).square() + (spreads[0] - spreads[1]).square()).mean()
    ours = gaussian(means[0], torch.diag(spreads[0].square()))
    target = prepare_wasserstein_target(gaussian(means[1], torch.diag(spreads[1].square())))
    torch.testing.assert_close(wasserstein_distance(ours, target), expected)
    by_products = wasserstein_distance(ours, target, newton_schulz=True)
    torch.testing.assert_close(by_products, expected, rtol=1e-4, atol=0)


def test_wasserstein_distance_matches_olkin_and_pukelsheim() -> None:
    a, b = positive(7, 1), positive(7, 2)
    zero, one = torch.zeros(7, dtype=torch.float64), torch.ones(7, dtype=torch.float64)
    root = square_root(b)
    expected = 1 + torch.trace(a + b - 2 * square_root(root @ a @ root)) / 7
    actual = wasserstein_distance(gaussian(zero, a), prepare_wasserstein_target(gaussian(one, b)))
    torch.testing.assert_close(actual, expected)


def test_wasserstein_distance_is_symmetric() -> None:
    ours, theirs = compute_moments(maps(8, 20, 20, seed=1)), compute_moments(maps(8, 20, 20, seed=2))
    there = wasserstein_distance(ours, prepare_wasserstein_target(theirs))
    torch.testing.assert_close(there, wasserstein_distance(theirs, prepare_wasserstein_target(ours)))


@pytest.mark.parametrize("channels", [4, 32, 128])
def test_eigenvalues_and_newton_schulz_agree(channels: int) -> None:
    ours = maps(channels, 24, 24, seed=1).requires_grad_()
    target = prepare_wasserstein_target(compute_moments(maps(channels, 24, 24, seed=2)))
    slow = wasserstein_distance(compute_moments(ours), target)
    fast = wasserstein_distance(compute_moments(ours), target, newton_schulz=True)
    torch.testing.assert_close(fast, slow, rtol=1e-2, atol=1e-4)
    one, other = (torch.autograd.grad(distance, ours)[0].flatten() for distance in (slow, fast))
    assert torch.cosine_similarity(one, other, dim=0) > 0.999


@pytest.mark.parametrize("newton_schulz", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_few_positions_give_the_same_distance_from_a_smaller_matrix(dtype: torch.dtype, newton_schulz: bool) -> None:
    ours = maps(40, 4, 5, seed=1, dtype=dtype).requires_grad_()
    target = prepare_wasserstein_target(compute_moments(maps(40, 24, 24, seed=2, dtype=dtype)))
    small = wasserstein_distance_of_few_positions(ours, target, newton_schulz=newton_schulz)
    whole = wasserstein_distance(compute_moments(ours.double()), target)
    assert small.dtype is dtype
    torch.testing.assert_close(small.double(), whole.double(), rtol=1e-2, atol=1e-4)
    one, other = (torch.autograd.grad(distance, ours)[0].flatten() for distance in (small, whole))
    assert torch.cosine_similarity(one, other, dim=0) > 0.999
    assert float(one.norm() / other.norm()) == pytest.approx(1, abs=0.01)


def test_few_positions_have_distance_0_to_themselves_and_a_finite_gradient() -> None:
    ours, theirs = (maps(64, 5, 5, seed=seed).requires_grad_() for seed in (1, 2))
    target = prepare_wasserstein_target(compute_moments(ours.detach()))
    apart = wasserstein_distance_of_few_positions(theirs, target).item()
    for newton_schulz, close in ((False, 1e-5), (True, 0.05)):
        distance = wasserstein_distance_of_few_positions(ours, target, newton_schulz=newton_schulz)
        assert abs(distance.item()) < close * apart
        (gradient,) = torch.autograd.grad(distance, ours)
        assert gradient.isfinite().all()


def test_a_target_holds_the_root_and_the_trace() -> None:
    covariance = positive(6, 4)
    target = prepare_wasserstein_target(gaussian(torch.zeros(6, dtype=torch.float64), covariance))
    torch.testing.assert_close(target.root @ target.root, covariance)
    torch.testing.assert_close(target.trace, torch.trace(covariance))


def gram(features: Tensor) -> Tensor:
    return gram_distance(compute_moments(features), compute_moments(maps(4, 3, 4, seed=9, dtype=torch.float64)))


def wasserstein(features: Tensor) -> Tensor:
    target = prepare_wasserstein_target(compute_moments(maps(4, 6, 7, seed=9, dtype=torch.float64)))
    return wasserstein_distance(compute_moments(features), target)


def wasserstein_by_products(features: Tensor) -> Tensor:
    target = prepare_wasserstein_target(compute_moments(maps(4, 6, 7, seed=9, dtype=torch.float64)))
    return wasserstein_distance(compute_moments(features), target, newton_schulz=True)


def wasserstein_of_few(features: Tensor) -> Tensor:
    target = prepare_wasserstein_target(compute_moments(maps(4, 6, 7, seed=9, dtype=torch.float64)))
    return wasserstein_distance_of_few_positions(features[:, :, :1, :3], target)


def content(features: Tensor) -> Tensor:
    return content_loss(features, torch.ones_like(features))


def content_in_sum(features: Tensor) -> Tensor:
    return content_sum(features, torch.ones_like(features))


def both_moments(features: Tensor) -> Tensor:
    actual = compute_moments(features)
    return torch.cat([actual.mean, actual.second.flatten()])


@pytest.mark.parametrize(
    "function",
    [
        *(both_moments, content, content_in_sum, gram, total_variation),
        *(wasserstein, wasserstein_by_products, wasserstein_of_few),
    ],
)
def test_gradients_match_finite_differences(function: Callable[[Tensor], Tensor]) -> None:
    channels = 3 if function is total_variation else 4
    generator = torch.Generator().manual_seed(5)
    features = torch.rand((1, channels, 3, 4), generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(function, (features,))


def test_gradients_of_eigenvalues_are_finite_at_the_target() -> None:
    """A singular covariance at the minimum, where the derivative of a plain square root would be infinite."""
    features = maps(16, 2, 3).requires_grad_()
    ours = compute_moments(features)
    target = prepare_wasserstein_target(Moments(*(part.detach() for part in ours)))
    (gradient,) = torch.autograd.grad(wasserstein_distance(ours, target), features)
    assert gradient.isfinite().all()


def test_losses_do_not_depend_on_the_image_size() -> None:
    ours, theirs = maps(6, 8, 10, seed=1), maps(6, 8, 10, seed=2)
    twice, both = ours.tile(1, 1, 2, 2), theirs.tile(1, 1, 2, 2)
    target = compute_moments(theirs)
    torch.testing.assert_close(content_loss(twice, both), content_loss(ours, theirs))
    a, b = compute_moments(twice), compute_moments(ours)
    torch.testing.assert_close(gram_distance(a, target), gram_distance(b, target))
    goal = prepare_wasserstein_target(target)
    torch.testing.assert_close(wasserstein_distance(a, goal), wasserstein_distance(b, goal))


@pytest.mark.parametrize("shape", [(1, 3, 5, 1), (1, 3, 1, 5), (1, 3, 1, 1)])
def test_total_variation_of_a_line_is_finite(shape: tuple[int, ...]) -> None:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    variation = total_variation(image)
    (gradient,) = torch.autograd.grad(variation, image)
    assert variation.isfinite()
    assert gradient.isfinite().all()
    assert bool(variation > 0) == (image.shape[-1] != image.shape[-2])


def test_total_variation_of_a_wave_does_not_depend_on_the_image_size() -> None:
    wave = torch.sin(torch.arange(512.0) * 2 * torch.pi / 16)
    image = (wave[:, None] + wave[None, :]).expand(1, 3, 512, 512)
    small = total_variation(image[..., :128, :128])
    torch.testing.assert_close(total_variation(image), small, rtol=0.03, atol=0)


def test_total_variation_is_0_on_a_flat_image_and_isotropic() -> None:
    assert total_variation(torch.full((1, 3, 8, 9), 0.3)) == 0
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    slopes = [
        float(total_variation((x * torch.tensor(turn).cos() + y * torch.tensor(turn).sin()).expand(1, 3, 64, 64)))
        for turn in (0.0, 0.4, torch.pi / 4, 1.1, torch.pi / 2, 2.5)
    ]
    assert max(slopes) == pytest.approx(min(slopes), rel=1e-5)
    assert slopes[0] == pytest.approx(1.0)


def test_blended_moments_are_those_of_the_pooled_positions() -> None:
    ours, theirs = maps(5, 4, 6, seed=1), maps(5, 4, 12, seed=2)
    pooled = compute_moments(torch.cat([ours, theirs], dim=-1))
    blended = blend_moments([compute_moments(ours), compute_moments(theirs)], [2.0, 4.0])
    torch.testing.assert_close(blended.mean, pooled.mean)
    torch.testing.assert_close(blended.second, pooled.second)


def test_a_blend_with_a_single_weight_is_that_style() -> None:
    ours, theirs = compute_moments(maps(5, 4, 6, seed=1)), compute_moments(maps(5, 4, 6, seed=2))
    blended = blend_moments([ours, theirs], [0.0, 3.0])
    torch.testing.assert_close(blended.second, theirs.second)
    torch.testing.assert_close(blended.mean, theirs.mean)
