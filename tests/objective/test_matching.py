"""Matched features: what matches what, where targets come from, and when matches are found again."""

import dataclasses
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from made import Picture, Pixels
from numpy.typing import NDArray
from torch import Tensor

from styler import library, schedule
from styler.engine import targets
from styler.engine.painter import Painter
from styler.engine.result import Progress
from styler.engine.sources import SourceImage, load_content, load_styles
from styler.engine.styles import StyleCache, prepare_blend
from styler.objective import matching
from styler.objective.candidates import Candidates, compute_columns, gather_features, prepare_candidates
from styler.objective.losses import cosine_distance, normalize_features
from styler.objective.matching import (
    COHERENCE,
    LEAST_DETAIL,
    MUCH_DETAIL,
    NEIGHBORS,
    Matching,
    MatchingPlan,
    choose_styles,
    continue_matches,
    find_matches,
    gather_targets,
    link_matches,
    measure_detail,
)
from styler.objective.terms import STROKES, Objective
from styler.objective.tiled_matching import TiledMatching
from styler.options import Options
from styler.resample import cut_view, resize
from styler.vgg import registry
from styler.vgg.model import Features
from styler.vgg.weights import Weights

Array = NDArray[Any]
Maps = Mapping[str, Tensor]
Analyze = Callable[[Tensor], dict[str, Tensor]]
LAYERS = targets.MATCHED_LAYERS
FINE, BASE, COARSE = LAYERS
"""At strides 2, 4 and 8."""
PLAN = MatchingPlan(weights=dict.fromkeys(LAYERS, 1.0), content_share=0.5, style_mix=1.0, held=0.0, interval=5)
PAINT = Options(size=64, first_size=64, iterations=6, optimizer="adam", device="cpu", brushwork=50)
"""Six iterations of one scale with strokes."""


@pytest.fixture
def analyze(tiny: Weights) -> Analyze:
    """Return a function that computes the matched layers of an image."""
    return Features(tiny, LAYERS, "average")


@pytest.fixture
def real(vgg16: Weights) -> tuple[Maps, Candidates]:
    """Return a bundled photo at 192 pixels and the candidates of a bundled painting, by the real network."""
    features = Features(vgg16, LAYERS, "average")
    photo = load_content(library.list_contents()["astronaut"]).image
    (style,) = load_styles(library.list_styles()["starry-night"])
    image = resize(style.image, 192, 152)
    views = [features(torch.rot90(image, turn, (-2, -1))) for turn in range(4)]
    content = features(resize(photo, 192, 192))
    return content, prepare_candidates([views], compute_columns(content, BASE), BASE, 10**6)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the number of queries whenever matches are found."""
    counts: list[int] = []
    find = find_matches

    def counted(queries: Tensor, *given: Any) -> Tensor:
        counts.append(len(queries))
        return find(queries, *given)

    monkeypatch.setattr(matching, "find_matches", counted)
    return counts


@pytest.fixture
def objectives(monkeypatch: pytest.MonkeyPatch) -> list[Objective]:
    """Record the objective of every evaluation."""
    seen: list[Objective] = []
    gradient = Objective.gradient

    def noted(self: Objective, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        seen.append(self)
        return gradient(self, image)

    monkeypatch.setattr(Objective, "gradient", noted)
    return seen


def turn(image: Tensor, turns: int) -> Tensor:
    return torch.rot90(image, turns, (-2, -1)).contiguous()


def compare(queries: Tensor, candidates: Candidates) -> Tensor:
    """Return the cosine of every query with every candidate, (N, K)."""
    queries = torch.nn.functional.normalize(queries.float(), dim=1)
    return queries @ candidates.columns.float().T


def prepare(styles: Iterable[Sequence[Maps]]) -> Candidates:
    views = [*styles]
    return prepare_candidates(views, compute_columns(views[0][0], BASE), BASE, 10**6)


def match(
    content: Maps, styles: Sequence[Sequence[Maps]], plan: MatchingPlan = PLAN, shares: Tensor | None = None
) -> Matching:
    return Matching(plan, prepare(styles), shares, content)


def link(columns: Tensor, candidates: Candidates, height: int, width: int) -> Tensor:
    """Return the linked matches on the grid of the base layer."""
    matches = find_matches(columns, candidates).view(height, width)
    return link_matches(columns, matches, candidates)


def read_sizes(maps: Maps) -> dict[str, tuple[int, int]]:
    return {layer: (each.shape[-2], each.shape[-1]) for layer, each in maps.items()}


# Finding matches


def test_a_picture_matches_itself(analyze: Analyze, picture: Picture) -> None:
    maps = analyze(picture(64, 88))
    columns, own = compute_columns(maps, BASE), match(maps, [[maps]])
    assert columns.shape == (16 * 22, 6 + 6 + 8)
    matches = find_matches(columns, own.candidates)
    assert float((matches == torch.arange(len(columns))).float().mean()) > 0.95, "but for places that look alike"
    torch.testing.assert_close(columns[matches], columns, rtol=0, atol=0.15)
    distances = own.compute_distances(maps)
    assert set(distances) == set(LAYERS)
    for distance in distances.values():
        assert abs(float(distance)) < 1e-5
    other = match(maps, [[analyze(picture(64, 88, 1))]]).compute_distances(maps)
    assert min(map(float, other.values())) > 1e-3


def test_columns_are_centered_and_all_layers_count_equally(analyze: Analyze, picture: Picture) -> None:
    maps = analyze(picture(64, 88))
    parts = torch.split(compute_columns(maps, BASE).float(), [6, 6, 8], dim=1)
    for part in parts:
        torch.testing.assert_close(part.mean(dim=0), torch.zeros(part.shape[1]), rtol=0, atol=1e-4)
        assert float(part.square().sum(dim=1).mean()) == pytest.approx(1, abs=1e-3)
    louder = compute_columns({**maps, FINE: 100 * maps[FINE]}, BASE).float()
    torch.testing.assert_close(louder, torch.cat(parts, dim=1), rtol=0, atol=2e-3)


def test_the_match_is_that_of_brute_force(analyze: Analyze, picture: Picture) -> None:
    """All principal components of a small network are used, so that only rounding is left."""
    content, styles = analyze(picture(64, 88, 1)), [[analyze(turn(picture(72, 64, 2), turns)) for turns in range(4)]]
    queries, candidates = compute_columns(content, BASE), prepare(styles)
    cosines = compare(queries, candidates)
    actual = find_matches(queries, candidates)
    best, chosen = cosines.max(dim=1).values, cosines.gather(1, actual[:, None])[:, 0]
    torch.testing.assert_close(chosen, best, rtol=0, atol=1e-6)
    assert len({*actual.tolist()}) > 50


def test_most_matches_of_a_real_picture_are_those_of_brute_force(real: tuple[Maps, Candidates]) -> None:
    content, candidates = real
    queries = compute_columns(content, BASE)
    cosines = compare(queries, candidates)
    actual, best = find_matches(queries, candidates), cosines.max(dim=1)
    lost = best.values - cosines.gather(1, actual[:, None])[:, 0]
    assert float((actual == best.indices).float().mean()) >= 0.95
    assert float(lost.max()) < 0.05
    assert float(lost.mean()) < 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_matches_as_well(analyze: Analyze, picture: Picture, dtype: torch.dtype) -> None:
    content, style = analyze(picture(64, 88, 1)), analyze(picture(72, 64, 2))
    half = {layer: maps.to(dtype) for layer, maps in style.items()}
    queries, candidates = compute_columns(content, BASE), prepare([[style]])
    cosines = compare(queries, candidates)
    rounded = prepare([[half]])
    assert rounded.codes[0].dtype == dtype
    actual = find_matches(queries, rounded)
    lost = cosines.max(dim=1).values - cosines.gather(1, actual[:, None])[:, 0]
    assert float(lost.max()) < 0.02
    rows = gather_features(FINE, (32, 44), actual.view(16, 22), rounded)
    whole = gather_features(FINE, (32, 44), actual.view(16, 22), prepare([[style]]))
    torch.testing.assert_close(rows, whole, rtol=0.01, atol=1e-3)
    targets_of_half = match({layer: maps.to(dtype) for layer, maps in content.items()}, [[half]])
    targets_of_half.compute_distances(content)
    assert {target.dtype for target in targets_of_half._targets.values()} == {dtype}


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, real: tuple[Maps, Candidates]) -> None:
    content, candidates = real
    queries = compute_columns(content, BASE)
    whole = find_matches(queries, candidates)
    monkeypatch.setattr(matching, "MAX_SCORES", 100 * len(candidates.columns))
    assert torch.equal(find_matches(queries, candidates), whole)


@pytest.mark.parametrize("turns", range(4))
def test_a_turned_painting_finds_its_strokes(analyze: Analyze, picture: Picture, turns: int) -> None:
    style = picture(64, 88, 2)
    turned = analyze(turn(style, turns))
    views = [analyze(turn(style, each)) for each in range(4)]
    for distance in match(turned, [views]).compute_distances(turned).values():
        assert abs(float(distance)) < 1e-5
    if turns:
        alone = match(turned, [views[:1]]).compute_distances(turned)
        assert min(map(float, alone.values())) > 1e-2


def test_matching_stops_between_chunks(monkeypatch: pytest.MonkeyPatch, analyze: Analyze, picture: Picture) -> None:
    class Stopped(Exception):
        pass

    calls: list[None] = []

    def check() -> None:
        calls.append(None)
        if len(calls) == 3:
            raise Stopped

    maps = analyze(picture(64, 64))
    monkeypatch.setattr(matching, "MAX_SCORES", 16 * 256)
    columns, candidates = compute_columns(maps, BASE), prepare([[maps]])
    with pytest.raises(Stopped):
        find_matches(columns, candidates, None, check)
    assert len(calls) == 3
    calls.clear()
    with pytest.raises(Stopped):
        link_matches(columns, torch.arange(256).view(16, 16), candidates, check)
    assert len(calls) == 3


def test_candidates_are_limited_for_each_style_alike(analyze: Analyze, picture: Picture) -> None:
    large, small = analyze(picture(64, 128, 1)), analyze(picture(64, 64, 2))
    few = prepare_candidates([[large, large], [small]], compute_columns(small, BASE), BASE, 300)
    assert sum(few.counts) <= 300
    assert few.counts[0] == pytest.approx(4 * few.counts[1], abs=4)
    assert len(few.columns) == len(few.places) == sum(few.counts)
    assert {*few.places[:, 0].tolist()} == {0, 1, 2}
    every = prepare([[large, large], [small]])
    assert every.counts == (2 * 16 * 32, 16 * 16)
    places = {tuple(place): column for place, column in zip(every.places.tolist(), every.columns, strict=True)}
    for place, column in zip(few.places.tolist(), few.columns, strict=True):
        torch.testing.assert_close(places[tuple(place)], column, rtol=0, atol=0)


# Linking matches


@pytest.mark.parametrize("limit", [10**6, 200])
def test_a_match_is_continued_within_its_view(analyze: Analyze, picture: Picture, limit: int) -> None:
    views = [analyze(turn(picture(64, 88, 2), turns)) for turns in range(2)]
    candidates = prepare_candidates([views], compute_columns(views[0], BASE), BASE, limit)
    found = find_matches(compute_columns(analyze(picture(72, 64, 1)), BASE), candidates).view(18, 16)
    by_place = {tuple(place): index for index, place in enumerate(candidates.places.tolist())}
    known = 0
    for down, across in NEIGHBORS:
        continued = continue_matches(found, candidates, down, across)
        for row, column in itertools.product(range(18), range(16)):
            above, left, expected = row - down, column - across, -1
            if 0 <= above < 18 and 0 <= left < 16:
                view, y, x = candidates.places[found[above, left]].tolist()
                expected = by_place.get((view, y + down, x + across), -1)
            assert int(continued[row, column]) == expected
            known += expected >= 0
    assert 0 < known < 4 * 18 * 16


def count_links(matches: Tensor, candidates: Candidates) -> int:
    """Count the pairs of neighbors of which one continues the other's match."""
    pairs = (continue_matches(matches, candidates, *step) == matches for step in NEIGHBORS)
    return sum(int(each.sum()) for each in pairs) // 2


def test_linking_gives_more_neighbors_one_piece_at_little_cost(real: tuple[Maps, Candidates]) -> None:
    content, candidates = real
    queries = compute_columns(content, BASE)
    before = find_matches(queries, candidates).view(48, 48)
    after = link_matches(queries, before, candidates)
    cosines = compare(queries, candidates)
    similar = [float(cosines.gather(1, each.view(-1, 1)).sum()) for each in (before, after)]
    links = [count_links(each, candidates) for each in (before, after)]
    assert links[1] > 1.5 * links[0]
    assert similar[1] + COHERENCE * links[1] > similar[0] + COHERENCE * links[0]
    assert similar[1] > 0.97 * similar[0]


def test_a_piece_of_the_style_is_found_whole_despite_noise(real: tuple[Maps, Candidates]) -> None:
    _, candidates = real
    _, height, width = candidates.grids[BASE][0].tolist()
    itself = torch.arange(height * width).view(height, width)
    columns = candidates.columns[: height * width].float()
    queries = columns + 0.2 * torch.randn(columns.shape, generator=torch.Generator().manual_seed(1))
    alone = find_matches(queries, candidates).view(height, width)
    linked = link_matches(queries, alone, candidates)
    assert int((linked != itself).sum()) < 0.5 * int((alone != itself).sum())


def test_linked_matches_keep_their_style(analyze: Analyze, picture: Picture) -> None:
    content, one, two = (analyze(picture(64, 88, seed)) for seed in (1, 2, 3))
    queries, candidates = compute_columns(content, BASE), prepare([[one], [two]])
    before = find_matches(queries, candidates, torch.tensor([0.2, 0.8])).view(16, 22)
    after = link_matches(queries, before, candidates)
    first = candidates.counts[0]
    assert not torch.equal(before, after)
    assert torch.equal(before < first, after < first)


def test_targets_are_means_of_overlapping_pieces(analyze: Analyze, picture: Picture) -> None:
    content, style = analyze(picture(64, 88, 1)), analyze(picture(64, 64, 2))
    candidates = prepare([[style]])
    matches = link(compute_columns(content, BASE), candidates, 16, 22)
    target = gather_targets({BASE: (16, 22)}, matches, candidates)[BASE]
    for row, column in itertools.product(range(16), range(22)):
        own = candidates.places[matches[row, column]].tolist()
        places = [own]
        for down, across in NEIGHBORS:
            above, left = row - down, column - across
            place = own
            if 0 <= above < 16 and 0 <= left < 22:
                view, y, x = candidates.places[matches[above, left]].tolist()
                place = [view, y + down, x + across] if 0 <= y + down < 16 and 0 <= x + across < 16 else own
            places.append(place)
        expected = torch.stack([style[BASE][0, :, y, x] for _, y, x in places]).mean(dim=0)
        torch.testing.assert_close(target[0, :, row, column], expected, rtol=1e-3, atol=1e-3)


# Several styles


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.25, 0.75), (0.2, 0.3, 0.5)])
@pytest.mark.parametrize("advantage", [0.0, 0.2])
def test_every_style_gets_its_share_where_it_fits_best(shares: tuple[float, ...], advantage: float) -> None:
    generator = torch.Generator().manual_seed(1)
    cosines = 0.5 + 0.3 * torch.rand((2000, len(shares)), generator=generator)
    cosines[:, 0] += advantage
    chosen = choose_styles(cosines, torch.tensor(shares))
    for style, share in enumerate(shares):
        assert float((chosen == style).float().mean()) == pytest.approx(share, abs=0.02)
    lead = cosines[:, 0] - cosines[:, 1]
    assert float(lead[chosen == 0].min()) >= float(lead[chosen == 1].max()) - 1e-6


def test_a_style_blended_with_itself_changes_no_target(analyze: Analyze, picture: Picture) -> None:
    content, style = analyze(picture(64, 88, 1)), analyze(picture(64, 64, 2))
    one = match(content, [[style]]).compute_distances(content)
    two = match(content, [[style], [style]], shares=torch.tensor([0.3, 0.7])).compute_distances(content)
    for layer in LAYERS:
        assert float(one[layer]) == pytest.approx(float(two[layer]), abs=1e-6)


def test_weights_of_styles_are_shares_of_the_matches(
    monkeypatch: pytest.MonkeyPatch, painter: Painter, pixels: Pixels
) -> None:
    kept: list[tuple[Tensor, tuple[int, ...]]] = []
    find = find_matches

    def noted(queries: Tensor, candidates: Candidates, *given: Any) -> Tensor:
        matches = find(queries, candidates, *given)
        kept.append((matches, candidates.counts))
        return matches

    monkeypatch.setattr(matching, "find_matches", noted)
    styles = (pixels(64, 64, 2), pixels(48, 64, 3), pixels(64, 64, 4))
    painter.stylize(pixels(64, 64, 1), styles, PAINT.replace(style_weights=(1.0, 0.0, 3.0)))
    for matches, counts in kept:
        assert len(counts) == 2, "a style without weight has no candidates"
        assert float((matches < counts[0]).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert kept


# Targets


@pytest.mark.parametrize(("height", "width"), [(281, 375), (64, 88), (50, 71)])
def test_targets_refer_to_the_matched_places(analyze: Analyze, picture: Picture, height: int, width: int) -> None:
    """Every place is matched with the one below it: the targets are the features, moved up by one base position."""
    maps = analyze(picture(height, width))
    rows, columns = maps[BASE].shape[-2:]
    below = (torch.arange(rows) + 1).clamp(max=rows - 1)[:, None] * columns + torch.arange(columns)
    candidates = prepare([[maps]])
    for layer in LAYERS:
        size = (maps[layer].shape[-2], maps[layer].shape[-1])
        assert gather_features(layer, size, below, candidates).shape == maps[layer].shape
    inside = (slice(None), slice(None), slice(0, 2 * (rows - 1)), slice(0, 2 * columns))
    fine = gather_features(FINE, (maps[FINE].shape[-2], maps[FINE].shape[-1]), below, candidates)
    assert torch.equal(fine[inside], maps[FINE][:, :, 2 : 2 * rows, : 2 * columns].half())
    base = gather_features(BASE, (rows, columns), below, candidates)
    assert torch.equal(base[:, :, :-1], maps[BASE][:, :, 1:].half())
    coarse = gather_features(COARSE, (maps[COARSE].shape[-2], maps[COARSE].shape[-1]), below, candidates)
    means = (maps[COARSE][:, :, :-1] + maps[COARSE][:, :, 1:]) / 2  # one of two matched rows is in the next cell
    torch.testing.assert_close(coarse[:, :, : means.shape[2] - 1].float(), means[:, :, :-1], rtol=2e-3, atol=1e-3)


def test_the_border_of_an_odd_size_has_features_of_the_nearest_place(analyze: Analyze, picture: Picture) -> None:
    """The finer layer has a row and a column more than twice those of the base."""
    maps = analyze(picture(54, 70))
    assert maps[FINE].shape[-2:] == (27, 35)
    assert maps[BASE].shape[-2:] == (13, 17)
    matches = torch.arange(13 * 17).view(13, 17)
    target = gather_features(FINE, (27, 35), matches, prepare([[maps]]))
    assert torch.equal(target, maps[FINE].half())


def make_maps(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return seeded features, (1, 64, 20, 30)."""
    return torch.rand((1, 64, 20, 30), generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_the_distance_is_that_of_its_definition_and_ignores_lengths() -> None:
    features, target = make_maps(1), make_maps(2)
    expected = 1 - torch.nn.functional.cosine_similarity(features, target, dim=1).mean()
    for factor in (1, 50, 0.1):
        torch.testing.assert_close(cosine_distance(factor * features, normalize_features(target)), expected)
        torch.testing.assert_close(normalize_features(factor * target), normalize_features(target))


def test_the_gradient_of_the_distance_is_that_of_finite_differences() -> None:
    features, target = make_maps(1, torch.float64)[..., :3, :4], make_maps(2, torch.float64)[..., :3, :4]
    features[..., 0, 0] *= 1e-3  # shorter than the floor
    unit = normalize_features(target)
    assert torch.autograd.gradcheck(lambda maps: cosine_distance(maps, unit), features.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_distance_of_half_precision_is_that_of_float32(dtype: torch.dtype) -> None:
    """Large values do not overflow, and where the features are 0 the gradient is finite."""
    features, target = 100 * make_maps(1, dtype), 100 * make_maps(2, dtype)
    features[..., 3, 4], target[..., 5, 6] = 0, 0
    gradients, distances = [], []
    for kind in (dtype, torch.float32):
        maps = features.to(kind).requires_grad_()
        distances.append(cosine_distance(maps, normalize_features(target.to(kind))))
        gradients.append(torch.autograd.grad(1e4 * distances[-1], maps)[0])
    assert distances[0].dtype is torch.float32
    assert gradients[0].dtype == dtype
    assert bool(gradients[0].isfinite().all())
    torch.testing.assert_close(distances[0], distances[1], rtol=0, atol=1e-3)
    error = (gradients[0].float() - gradients[1]).norm()
    assert float(error) < 0.02 * float(gradients[1].norm())


@pytest.mark.parametrize("mix", [0.0, 0.4])
def test_below_full_strength_targets_lie_between_content_and_style(
    analyze: Analyze, picture: Picture, mix: float
) -> None:
    content, style = analyze(picture(64, 88, 1)), analyze(picture(64, 64, 2))
    full = prepare([[style]])
    matches = link(compute_columns(content, BASE), full, 16, 22)
    style_maps = gather_targets(read_sizes(content), matches, full)
    mixed = match(content, [[style]], dataclasses.replace(PLAN, style_mix=mix))
    distances = mixed.compute_distances(content)
    for layer in LAYERS:
        expected = normalize_features(torch.lerp(content[layer], style_maps[layer], mix))
        assert float(distances[layer]) == pytest.approx(float(cosine_distance(content[layer], expected)), abs=1e-6)
        assert mix > 0 or abs(float(distances[layer])) < 1e-6


def test_detail_is_the_length_in_terms_of_the_usual_one() -> None:
    columns = torch.nn.functional.normalize(torch.randn((400, 20), generator=torch.Generator().manual_seed(1)))
    lengths = torch.tensor([0.1, 0.5, 1.0, 2.0]).repeat(100)[:, None]
    usual = ((0.1**2 + 0.5**2 + 1 + 4) / 4) ** 0.5
    torch.testing.assert_close(measure_detail((columns * lengths).half()), lengths / usual, rtol=2e-3, atol=0)
    assert not measure_detail(torch.zeros((4, 20))).any()


@pytest.mark.parametrize("held", [0.5, 1.0])
def test_the_query_and_the_target_hold_to_the_content_where_it_has_detail(
    monkeypatch: pytest.MonkeyPatch, analyze: Analyze, picture: Picture, held: float
) -> None:
    content, image, style = (analyze(picture(64, 88, seed)) for seed in (1, 2, 3))
    queries: list[Tensor] = []
    find = find_matches

    def noted(query: Tensor, *given: Any) -> Tensor:
        queries.append(query.float())
        return find(query, *given)

    monkeypatch.setattr(matching, "find_matches", noted)
    own = match(content, [[style]], dataclasses.replace(PLAN, held=held))
    own.compute_distances(image)
    ours, theirs = (compute_columns(maps, BASE).float() for maps in (content, image))
    detail = measure_detail(ours)[:, 0]
    shares = ((queries[0] - theirs) * (ours - theirs)).sum(dim=1) / (ours - theirs).square().sum(dim=1)
    torch.testing.assert_close(shares, 0.5 ** (1 / detail.clamp(min=LEAST_DETAIL).square()), rtol=0, atol=5e-3)
    matches = link(queries[0].half(), own.candidates, 16, 22)
    full = gather_targets({BASE: (16, 22)}, matches, own.candidates)[BASE]
    assert float(detail.max()) > 1.5
    mix = (MUCH_DETAIL / detail).clamp(max=1).view(1, 1, 16, 22) ** held
    torch.testing.assert_close(own._targets[BASE], normalize_features(torch.lerp(content[BASE], full, mix)))


def test_the_query_mixes_the_content_with_the_image(analyze: Analyze, picture: Picture) -> None:
    content, image, style = (analyze(picture(64, 88, seed)) for seed in (1, 2, 3))
    by_share = {}
    for share in (0.0, 0.5, 1.0):
        own = match(content, [[style]], dataclasses.replace(PLAN, content_share=share))
        own.compute_distances(image)
        by_share[share] = own._targets[BASE]
    for share, maps in ((0.0, image), (1.0, content)):
        matches = link(compute_columns(maps, BASE), prepare([[style]]), 16, 22)
        expected = gather_targets({BASE: (16, 22)}, matches, prepare([[style]]))[BASE]
        torch.testing.assert_close(by_share[share], normalize_features(expected))
    assert len({float(each.sum()) for each in by_share.values()}) == 3


@pytest.mark.parametrize(
    ("strength", "brushwork", "held"),
    [
        (20, 50, 1),
        (50, 25, 1.5),
        (50, 50, 1),
        (75, 50, 0.25),
        (100, 50, 0),
        (50, 75, 0.5),
        (50, 100, 0),
        (75, 75, 0.125),
    ],
)
def test_the_content_is_released_by_strength_and_brushwork(strength: float, brushwork: float, held: float) -> None:
    options = Options(size=256, strength=strength, brushwork=brushwork)
    plan = targets.plan_matching(options, "vgg16", (256, 256), schedule.build_schedule(options, 256, 256, 32)[-1])
    assert plan is not None
    assert plan.held == held
    share = targets.CONTENT_SHARE ** (brushwork / 50) * min(1, 2 - strength / 50) ** 2
    assert plan.content_share == pytest.approx(share)


# In a painting


def paint(painter: Painter, pixels: Pixels, options: Options, **given: Any) -> Progress:
    *_, last = painter.stream(pixels(64, 64, 1), pixels(64, 64, 2), options, **given)
    return last


def test_without_brushwork_nothing_is_matched(
    monkeypatch: pytest.MonkeyPatch, painter: Painter, pixels: Pixels, objectives: list[Objective]
) -> None:
    def refuse(*_given: Any) -> None:
        raise AssertionError("matched")

    monkeypatch.setattr(targets, "prepare_matching", refuse)
    options = PAINT.replace(brushwork=0)
    last = paint(painter, pixels, options)
    assert {(objective.matching, *objective.targets.matched) for objective in objectives} == {(None,)}
    assert (
        objectives[0].features.layers
        == painter.features(options).layers
        == (*("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2", "relu4_3", "relu5_1"),)
    )
    assert not [term for term in last.terms if term.startswith(STROKES)]


def test_strokes_are_a_term_of_every_matched_layer(painter: Painter, pixels: Pixels, found: list[int]) -> None:
    options = PAINT.replace(iterations=11)
    last = paint(painter, pixels, options)
    assert {f"{STROKES} {layer}" for layer in LAYERS} < {*last.terms}
    assert found == [256] * 3, "in the first, sixth and eleventh evaluation"
    again, without = paint(painter, pixels, options), paint(painter, pixels, options.replace(brushwork=0))
    assert last.result
    assert again.result
    assert without.result
    assert np.array_equal(last.result.pixels, again.result.pixels)
    assert np.abs(last.result.pixels - without.result.pixels).max() > 0.01
    assert not np.array_equal(
        last.result.pixels,
        paint(painter, pixels, options.replace(seed=1)).result.pixels,  # type: ignore[union-attr]
    )


def test_lbfgs_has_one_objective(painter: Painter, pixels: Pixels, found: list[int]) -> None:
    last = paint(painter, pixels, PAINT.replace(optimizer="lbfgs", iterations=12))
    assert found == [256]
    assert f"{STROKES} {BASE}" in last.terms


@pytest.mark.parametrize(
    ("brushwork", "min_side", "expected"),
    [(10, 32, [256, 1024]), (100, 32, [256, 1024]), (100, 65, [1024]), (100, 256, [1024])],
)
def test_finer_scales_have_strokes(
    monkeypatch: pytest.MonkeyPatch,
    painter: Painter,
    pixels: Pixels,
    found: list[int],
    brushwork: int,
    min_side: int,
    expected: list[int],
) -> None:
    """A scale of a quarter of the size or of few pixels has none; the finest one always has."""
    monkeypatch.setattr(targets, "MIN_STROKES_SIDE", min_side)
    paint(painter, pixels, PAINT.replace(size=128, first_size=32, iterations=1, brushwork=brushwork))
    assert found == expected


def test_a_large_picture_has_the_strokes_of_a_small_one() -> None:
    small = {side: targets.weigh_strokes(50, 512, side) for side in (128, 256, 512)}
    assert small == {128: 0.0, 256: 0.5, 512: 1.0}
    for size in (1024, 4096, 16_384):
        assert {side: targets.weigh_strokes(50, size, side) for side in small} == small
        assert targets.weigh_strokes(50, size, 1024) == targets.weigh_strokes(50, size, size) == 1.0
    weights = [targets.weigh_strokes(50, 598, side) for side in (149, 299, 598)]  # no scale has just that side
    assert weights == pytest.approx([0.0, 1 - 0.5 * math.log2(512 / 299), 1.0])


def test_stopping_while_matching_keeps_the_picture(
    monkeypatch: pytest.MonkeyPatch, painter: Painter, pixels: Pixels
) -> None:
    stop, find = threading.Event(), find_matches
    calls: list[None] = []

    def stopping(*given: Any) -> Tensor:
        calls.append(None)
        if len(calls) == 2:
            stop.set()
        return find(*given)

    monkeypatch.setattr(matching, "find_matches", stopping)
    last = paint(painter, pixels, PAINT.replace(iterations=9), stop=stop)
    assert last.result
    assert last.result.stopped
    assert last.result.iterations == 5, "the sixth began by matching"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_strokes_in_half_precision(use_tiny: None, pixels: Pixels, precision: str) -> None:
    """The terms of the first image are compared: later, paintings in different precisions are different pictures."""
    options = [PAINT.replace(precision=each, iterations=1) for each in (precision, "fp32")]
    half, single = (paint(Painter.of(each), pixels, each).result for each in options)
    assert half
    assert single
    assert half.notes == ()
    for layer in LAYERS:
        term = f"{STROKES} {layer}"
        assert half.losses[term] == pytest.approx(single.losses[term], rel=0.1)


def test_kept_colors_are_those_of_the_candidates(
    monkeypatch: pytest.MonkeyPatch, tiny: Weights, painter: Painter, pixels: Pixels
) -> None:
    seen: list[Sequence[Sequence[Maps]]] = []

    def noted(styles: Iterable[Iterable[Maps]], *given: Any) -> Candidates:
        seen.append([[*style] for style in styles])
        return prepare_candidates(seen[-1], *given)

    monkeypatch.setattr(targets, "prepare_candidates", noted)
    options = PAINT.replace(keep_color=1.0, iterations=1)
    paint(painter, pixels, options)
    content, styles = load_content(pixels(64, 64, 1)), load_styles(pixels(64, 64, 2))
    (recolored,) = prepare_blend(content, styles, options).recolored
    network = painter.features(options).select(LAYERS)
    assert len(seen) == 1
    assert len(seen[0][0]) == 4
    assert torch.equal(seen[0][0][0][BASE], network(recolored.image)[BASE])
    assert not torch.equal(seen[0][0][0][BASE], network(styles[0].image)[BASE])


@pytest.mark.parametrize(("iterations", "expected"), [(10, ["1", "1", "0"]), (4, ["1", "1"])])
def test_a_sketch_matches_by_the_slim_network(
    monkeypatch: pytest.MonkeyPatch, tiny: Weights, pixels: Pixels, iterations: int, expected: list[str]
) -> None:
    """Few iterations of the full network finish it without matching."""
    slim = dataclasses.replace(tiny, sha256="1" * 64, kernels={name: 1.5 * part for name, part in tiny.kernels.items()})
    monkeypatch.setattr(registry, "load_backbone", {"vgg16": tiny, "vgg16-slim": slim}.__getitem__)
    monkeypatch.setattr(targets, "MIN_STROKES_SIDE", 64)
    networks = []
    prepare_matching = targets.prepare_matching

    def noted(plan: MatchingPlan, features: Features, *given: Any) -> Matching | TiledMatching:
        networks.append(features.sha256[0])
        return prepare_matching(plan, features, *given)

    monkeypatch.setattr(targets, "prepare_matching", noted)
    options = PAINT.replace(sketch=0.5, size=128, brushwork=100, iterations=iterations)
    last = paint(Painter(device="cpu"), pixels, options)
    assert [scale.sketch for scale in last.schedule] == [True, True, False]
    assert networks == expected


def test_half_size_copies_have_no_strokes(
    monkeypatch: pytest.MonkeyPatch, painter: Painter, pixels: Pixels, objectives: list[Objective]
) -> None:
    monkeypatch.setattr(schedule, "COARSEST_COPY", 32)
    paint(painter, pixels, PAINT.replace(iterations=1))
    large, copied = objectives
    assert large.half_size
    assert large.half_size.objective is copied
    assert large.matching is not None
    assert copied.matching is None


def test_after_running_out_of_memory_matches_are_found_again(
    monkeypatch: pytest.MonkeyPatch, painter: Painter, pixels: Pixels, objectives: list[Objective], found: list[int]
) -> None:
    gradient = Objective.gradient

    def fail(self: Objective, image: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        if len(objectives) == 3 and not self.checkpoint:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return gradient(self, image)

    monkeypatch.setattr(Objective, "gradient", fail)
    last = paint(painter, pixels, PAINT)
    assert last.result
    assert last.result.iterations == 6
    assert "checkpointing" in last.result.notes[0]
    assert found == [256, 256]
    assert objectives[0].matching is not objectives[-1].matching


@pytest.mark.parametrize(
    ("side", "parts"),
    [
        (8, [(0, 0), (0, 0), (0, 0), (0, 0)]),
        (12, [(0, 0), (0, 4), (4, 0), (4, 4)]),
        (16, [(0, 0), (0, 8), (8, 0), (8, 8)]),
        (32, [(4, 4), (4, 20), (20, 4), (20, 20)]),
    ],
)
def test_each_view_of_an_enlarged_style_shows_another_part(side: int, parts: list[tuple[int, int]]) -> None:
    """Together they show everything, up to twice the size."""
    places = torch.arange(side * side).view(1, 1, side, side)
    for view, (top, left) in enumerate(parts):
        torch.testing.assert_close(cut_view(places, view, 8), places[..., top : top + 8, left : left + 8])


def test_the_candidates_have_the_stroke_size(tiny: Weights, picture: Picture) -> None:
    options = PAINT.replace(stroke_size=0.5)
    network = Features(tiny, targets.resolve_layers(options, "tiny"), "average")
    content, styles = SourceImage.of(picture(64, 64, 1)), [SourceImage.of(picture(64, 64, 2))]
    blend = prepare_blend(content, styles, options)
    actual = targets.compute_targets(network, content, blend, (64, 64), options, StyleCache())
    for stroke_size, count in ((0.5, 4 * 8 * 8), (1.0, 4 * 16 * 16), (2.0, 4 * 16 * 16)):
        own = options.replace(stroke_size=stroke_size)
        prepared = targets.prepare_matching(PLAN, network, actual, blend, 64, own)
        assert prepared.candidates.counts == (count,)
        assert {*actual.matched} == {*LAYERS}
