"""Weighted statistics of parts: against their definitions, finite differences, and statistics without weights."""

from typing import Any

import pytest
import torch
from torch import Tensor

from styler.objective import parts, wasserstein
from styler.objective.losses import content_loss, content_sum
from styler.objective.moments import Moments, compute_moments
from styler.objective.parts import Layout, gather_parts, make_layouts, reduce_masks
from styler.objective.terms import Objective, RegionRoots, RegionTargets, StyleTarget, Targets, TermWeights
from styler.objective.tiles import Tile
from styler.objective.wasserstein import (
    RootTangent,
    compute_root_tangent,
    prepare_wasserstein_target,
    wasserstein_distance,
    wasserstein_distance_of_few_positions,
)
from styler.vgg.model import Features
from styler.vgg.weights import Weights

CPU = torch.device("cpu")


def make_layout(weights: Tensor, device: torch.device) -> Layout:
    """Return the parts of a layer of one tile."""
    (layout,) = make_layouts(weights, [Tile(0, weights.shape[-2], 0, weights.shape[-1])], device)
    return layout


def maps(channels: int, height: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((1, channels, height, width), generator=generator, dtype=dtype)


def masks(height: int, width: int) -> Tensor:
    """Return masks of two regions that overlap, (2, H, W), with weights of 0, 1 and between, and a place in neither."""
    across = torch.linspace(-0.5, 1.5, width).clamp(0, 1).expand(height, width)
    first, second = across.clone(), (1.2 - across).clamp(0, 1)
    first[0, 0] = second[0, 0] = 0
    return torch.stack([first, second])


def weigh(mask: Tensor) -> Tensor:
    """Return the weights that a part gives to all positions, (N,), in float64."""
    relative = (mask / mask.max()).double().flatten()
    relative[relative > parts.FULL_WEIGHT] = 1
    relative[relative < parts.LEAST_WEIGHT] = 0
    return relative


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_weighted_statistics_match_their_definition(dtype: torch.dtype) -> None:
    features, both = maps(5, 8, 9).to(dtype), masks(8, 9)
    layout = make_layout(both, CPU)
    rows = features[0].flatten(1).double()  # (C, N)
    tolerance = {torch.bfloat16: 5e-3, torch.float16: 1e-3}.get(dtype, 1e-6)
    for mask, part, own in zip(both, layout.parts, gather_parts(features, layout), strict=True):
        weights, actual = weigh(mask), part.compute_moments(own)
        assert actual.mean.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
        expected = (rows * weights).sum(dim=1) / weights.sum(), (rows * weights) @ rows.T / weights.sum()
        torch.testing.assert_close(actual.mean.double(), expected[0], rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(actual.second.double(), expected[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layout_of_memory", [torch.contiguous_format, torch.channels_last])
def test_gradients_match_finite_differences(layout_of_memory: torch.memory_format) -> None:
    layout, factor = make_layout(masks(4, 5), CPU), maps(1, 3, 3)[0, 0]

    def combine(features: Tensor) -> Tensor:
        found = [
            part.compute_moments(own) for own, part in zip(gather_parts(features, layout), layout.parts, strict=True)
        ]
        return torch.stack([(each.mean**2).sum() + (factor * each.second).sum() for each in found])

    features = maps(3, 4, 5).contiguous(memory_format=layout_of_memory)
    assert torch.autograd.gradcheck(combine, features.requires_grad_())


def test_the_gradient_of_few_weighted_positions_matches_finite_differences() -> None:
    layout = make_layout(masks(3, 4), CPU)
    target = prepare_wasserstein_target(compute_moments(maps(16, 6, 6, 1)))

    def compare(features: Tensor) -> Tensor:
        found = zip(gather_parts(features, layout), layout.parts, strict=True)
        return torch.stack(
            [wasserstein_distance_of_few_positions(own, target, (part.roots, part.total)) for own, part in found]
        )

    assert torch.autograd.gradcheck(compare, maps(16, 3, 4).requires_grad_())


@pytest.mark.parametrize("newton_schulz", [False, True])
def test_few_weighted_positions_give_the_same_distance(newton_schulz: bool) -> None:
    layout = make_layout(masks(5, 6), CPU)
    target = prepare_wasserstein_target(compute_moments(8 * maps(64, 12, 12, 1)))
    for own, part in zip(gather_parts(8 * maps(64, 5, 6), layout), layout.parts, strict=True):
        assert len(part.positions) < 64
        few = wasserstein_distance_of_few_positions(own, target, (part.roots, part.total), newton_schulz=newton_schulz)
        torch.testing.assert_close(few, wasserstein_distance(part.compute_moments(own), target), rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("value", [1.0, 0.3])
def test_a_constant_mask_equals_none(value: float) -> None:
    features = maps(6, 7, 9, dtype=torch.float32).requires_grad_()
    layout = make_layout(torch.full((1, 7, 9), value), CPU)
    (own,), expected = gather_parts(features, layout), compute_moments(features)
    actual = layout.parts[0].compute_moments(own)
    torch.testing.assert_close(actual, expected)
    slopes = [
        torch.autograd.grad(each.second.square().sum() + each.mean.sum(), features)[0] for each in (actual, expected)
    ]
    torch.testing.assert_close(*slopes)


def test_regions_of_hard_masks_pool_to_the_whole() -> None:
    features, left = maps(4, 6, 8), torch.zeros(6, 8)
    left[:, :3] = 1
    layout = make_layout(torch.stack([left, 1 - left]), CPU)
    means = [
        part.compute_moments(own).mean for own, part in zip(gather_parts(features, layout), layout.parts, strict=True)
    ]
    torch.testing.assert_close(3 / 8 * means[0] + 5 / 8 * means[1], features.mean(dim=(0, 2, 3)))
    assert sum(len(part.positions) for part in layout.parts) == 48
    assert layout.more == ()


def test_a_part_without_positions_is_an_error() -> None:
    with pytest.raises(ValueError, match="no positions"):
        make_layout(torch.stack([torch.ones(2, 2), torch.zeros(2, 2)]), CPU)


def test_the_parts_of_tiles_add_up_to_those_of_the_whole() -> None:
    """A tile may have no positions of a region."""
    features, both = maps(5, 8, 9), masks(8, 9)
    both[0, :, :5] = 0
    tiles = [Tile(0, 8, 0, 4), Tile(0, 3, 4, 9), Tile(3, 8, 4, 9)]
    whole, layouts = make_layout(both, CPU), make_layouts(both, tiles, CPU)
    assert not len(layouts[0].parts[0].positions)
    for region, own in enumerate(gather_parts(features, whole)):
        expected, found = whole.parts[region].compute_moments(own), []
        for tile, layout in zip(tiles, layouts, strict=True):
            part = gather_parts(tile.cut(features), layout)[region]
            if part.shape[-1]:
                found.append(layout.parts[region].compute_moments(part))
        torch.testing.assert_close(torch.stack([each.mean for each in found]).sum(dim=0), expected.mean)
        torch.testing.assert_close(torch.stack([each.second for each in found]).sum(dim=0), expected.second)


def test_masks_are_averaged_and_eroded_as_far_as_enough_is_left() -> None:
    mask = torch.zeros(1, 2, 32, 33)
    mask[:, 0, :, :17] = 1
    mask[:, 1, 8:12, 8:12] = 1
    small = reduce_masks(mask, 4, (8, 8))
    assert small.shape == (1, 2, 8, 8)
    torch.testing.assert_close(small[0, 0, 0], torch.tensor([1, 1, 1, 1, 0.25, 0, 0, 0]))
    eroded = reduce_masks(mask, 4, (8, 8), radius=1.2)
    torch.testing.assert_close(eroded[0, 0, 0], torch.tensor([1, 1, 1, 0.25, 0, 0, 0, 0]))
    torch.testing.assert_close(eroded[0, 1], small[0, 1])  # one position is left as it is
    assert (reduce_masks(torch.ones(1, 1, 32, 32), 4, (8, 8), radius=3) == 1).all()


def test_the_distances_of_regions_count_by_their_shares(tiny: Weights) -> None:
    """Two regions with one target cost as much as the whole, where their statistics are those of the whole."""
    image = maps(3, 32, 16, dtype=torch.float32)
    image = torch.cat([image, image], dim=-1)  # both halves have nearly the same statistics
    features = Features(tiny, ["relu1_1"], "average")
    target = prepare_wasserstein_target(compute_moments(features(maps(3, 32, 32, 1, torch.float32))["relu1_1"]))
    left = torch.zeros(32, 32)
    left[:, :16] = 1
    layout = make_layout(torch.stack([left, 1 - left]), CPU)
    weights = TermWeights(content={}, style={"relu1_1": 2.0})
    whole = Objective(features, Targets({}, {"relu1_1": target}), weights)
    divided = Objective(
        features, Targets({}, {"relu1_1": RegionTargets((layout,), (target, target), (0.5, 0.5))}), weights
    )
    actual, expected = (float(each.gradient(image)[0]["total"]) for each in (divided, whole))
    assert actual == pytest.approx(expected, rel=0.1)


def test_the_content_loss_weighs_positions() -> None:
    ours, theirs, weights = maps(3, 4, 5), maps(3, 4, 5, 1), maps(1, 4, 5, 2)
    expected = (weights * (ours - theirs) ** 2).mean()
    torch.testing.assert_close(content_loss(ours, theirs, weights.sqrt()), expected)
    torch.testing.assert_close(content_sum(ours, theirs, weights.sqrt()), expected * ours.numel() / 2)
    assert torch.autograd.gradcheck(lambda own: content_loss(own, theirs, weights.sqrt()), ours.requires_grad_())


def test_the_tangent_of_a_root_is_exact_where_it_was_computed_and_never_below() -> None:
    ours, near, theirs = (compute_moments(maps(6, 9, 9, seed)) for seed in (1, 2, 3))
    target = prepare_wasserstein_target(theirs)
    for newton_schulz in (False, True):
        tangent = compute_root_tangent(ours, target, newton_schulz=newton_schulz)
        same = wasserstein_distance(ours, target, tangent=tangent)
        torch.testing.assert_close(same, wasserstein_distance(ours, target), rtol=1e-6, atol=1e-9)
        assert wasserstein_distance(near, target, tangent=tangent) <= wasserstein_distance(near, target)


def test_each_evaluation_computes_the_roots_of_one_region(monkeypatch: pytest.MonkeyPatch, tiny: Weights) -> None:
    """The gradient of the first evaluation is exact; then the regions take turns."""
    counts: list[Tensor] = []
    compute = wasserstein.compute_root_tangent

    def counted(ours: Moments, *given: Any, **settings: Any) -> RootTangent:
        counts.append(ours.mean.detach())
        return compute(ours, *given, **settings)

    monkeypatch.setattr(wasserstein, "compute_root_tangent", counted)
    image, features = maps(3, 32, 32, dtype=torch.float32), Features(tiny, ["relu1_1", "relu2_1"], "average")
    style = features(maps(3, 32, 32, 1, torch.float32))
    across = torch.linspace(0, 1, 32).expand(32, 32)
    goals: dict[str, StyleTarget | RegionTargets] = {}
    for layer, each in style.items():
        layout = make_layout(
            reduce_masks(torch.stack([across, 1 - across])[None], 32 // each.shape[-1], (each.shape[-1],) * 2)[0], CPU
        )
        target = prepare_wasserstein_target(compute_moments(each))
        goals[layer] = RegionTargets((layout,), (target, target), (0.5, 0.5))
    weights = TermWeights(content={}, style=dict.fromkeys(goals, 1.0))
    exact, taking_turns = (
        Objective(features, Targets({}, goals), weights, roots=roots) for roots in (None, RegionRoots())
    )
    expected = exact.gradient(image)[1]
    torch.testing.assert_close(
        taking_turns.gradient(image)[1], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
    )
    assert len(counts) == 4
    before = [*counts]
    for region in (1, 0, 1):
        counts.clear()
        taking_turns.gradient(image)
        assert [bool(torch.equal(mean, before[k])) for mean, k in zip(counts, (region, 2 + region), strict=True)] == [
            True,
            True,
        ]
