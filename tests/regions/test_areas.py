"""Areas as tensors: masks that sum to 1, feathered borders, and what identifies them."""

import pytest
import torch

from styler.regions.areas import Areas, compute_hold, normalize_regions


def test_the_first_region_is_what_the_others_leave() -> None:
    first, second = torch.zeros(1, 1, 4, 6), torch.zeros(1, 1, 4, 6)
    first[..., :3], second[..., 2:4] = 1, 0.5
    actual = normalize_regions([first, second])
    torch.testing.assert_close(actual.sum(dim=1), torch.ones(1, 4, 6))
    torch.testing.assert_close(actual[0, :, 0, 0], torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(actual[0, :, 0, 2], torch.tensor([0.0, 2 / 3, 1 / 3]))
    torch.testing.assert_close(actual[0, :, 0, 3], torch.tensor([0.5, 0.0, 0.5]))
    torch.testing.assert_close(actual[0, :, 0, 5], torch.tensor([1.0, 0.0, 0.0]))


def test_areas_at_a_size_sum_to_1_and_have_soft_borders() -> None:
    mask = torch.zeros(1, 1, 100, 200)
    mask[..., :90] = 1
    areas = Areas.of(normalize_regions([mask]), [(0,), (1,)], mask)
    fitted = areas.fit(400, 200)
    assert fitted.regions.shape == (1, 2, 200, 400)
    torch.testing.assert_close(fitted.regions.sum(dim=1), torch.ones(1, 200, 400))
    row = fitted.regions[0, 1, 100]
    assert row[170] == pytest.approx(1)
    assert row[190] == pytest.approx(0, abs=1e-6)
    assert 4 <= int(((row > 0.02) & (row < 0.98)).sum()) <= 12
    assert fitted.protection is not None
    torch.testing.assert_close(fitted.protection[0, 0], fitted.regions[0, 1])
    assert fitted.digest == areas.digest
    full = Areas.of(torch.ones(1, 1, 30, 40), [(0,)]).fit(400, 300)
    torch.testing.assert_close(full.regions, torch.ones(1, 1, 300, 400))


def test_the_digest_depends_on_all_values() -> None:
    mask, ones = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.ones(1, 1, 4, 4)
    digests = {
        Areas.of(ones, [(0,)]).digest,
        Areas.of(ones, [(0,)], mask).digest,
        Areas.of(ones, [(0,)], 1 - mask).digest,
        Areas.of(ones, [(1,)]).digest,
        Areas.of(normalize_regions([mask]), [(0,), (1,)]).digest,
        Areas.of(torch.ones(1, 1, 2, 8), [(0,)]).digest,
    }
    assert len(digests) == 6
    assert Areas.of(ones, [(0,)], mask).digest == Areas.of(ones, [[0]], mask.clone()).digest


def test_only_strong_protection_holds_pixels() -> None:
    actual = compute_hold(torch.tensor([0.0, 0.5, 0.85, 0.925, 1.0]))
    torch.testing.assert_close(actual, torch.tensor([0.0, 0.0, 0.0, 0.5, 1.0]))
