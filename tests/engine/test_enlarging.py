"""The detail of an enlarged picture, copied from the paintings."""

import math

import numpy as np
import pytest
import torch
from made import Picture
from torch import Tensor

from styler import detail
from styler.detail import fill_detail, match_detail
from styler.engine.painter import Painter
from styler.options import Options
from styler.resample import extract_detail, resize


def paint_strokes(height: int, width: int, seed: int = 0) -> Tensor:
    """Return a painting of random strokes that have no detail in common, (1, 3, height, width)."""
    noise = torch.randn((1, 3, height, width), generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)
    return (0.5 + 0.5 * smooth).clamp(0, 1)


def stripes(height: int, width: int, slope: float) -> Tensor:
    """Return stripes with a period of 6 pixels across, (1, 3, height, width); `slope` columns to the right per row."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    wave = 0.5 + 0.3 * torch.sin(2 * math.pi * (columns + slope * rows) / 6)
    return wave.expand(1, 3, height, width).contiguous()


def lose_detail(image: Tensor, ratio: float = 2) -> Tensor:
    height, width = image.shape[-2:]
    return resize(resize(image, round(width / ratio), round(height / ratio)), width, height)


def cosine(one: Tensor, other: Tensor, border: int = 16) -> float:
    """Compare two details inside a border, where patches are whole."""
    inside = (slice(None), slice(None), slice(border, -border), slice(border, -border))
    return float(torch.cosine_similarity(one[inside].flatten(), other[inside].flatten(), dim=0))


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_painting_gets_its_own_detail_back_however_it_is_turned(turns: int) -> None:
    painting = paint_strokes(80, 80)
    lost = painting - lose_detail(painting)
    found = match_detail(lose_detail(painting).rot90(turns, (2, 3)), 2, [(painting, 1.0)])
    assert cosine(found, lost.rot90(turns, (2, 3))) > 0.98
    assert float(found.std() / lost.std()) == pytest.approx(1, rel=0.05)
    assert abs(cosine(lost, lost.flip(3))) < 0.1  # another place has another detail


def test_colors_need_not_agree() -> None:
    painting = paint_strokes(80, 80)
    pale = 0.3 + 0.4 * lose_detail(painting)
    assert cosine(match_detail(pale, 2, [(painting, 1.0)]), painting - lose_detail(painting)) > 0.98


def test_each_style_gives_the_detail_of_what_looks_like_it() -> None:
    one, other = paint_strokes(80, 80, seed=1), paint_strokes(80, 80, seed=2)
    for painting in (one, other):
        found = match_detail(lose_detail(painting), 2, [(one, 0.5), (other, 0.5)])
        assert cosine(found, painting - lose_detail(painting)) > 0.9


def test_few_candidates_are_spread_over_the_painting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detail, "CANDIDATES", 30)
    cores, patches = detail._cut_patches(paint_strokes(200, 120), 2, 2, 30)
    assert 4 * 15 <= len(cores) == len(patches) <= 4 * 45
    found = match_detail(lose_detail(paint_strokes(90, 70, seed=5)), 2, [(paint_strokes(200, 120), 1.0)])
    assert float(found.std()) > 0.05


def test_the_nearest_patches_are_found_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    queries, cores = torch.randn((50, 48), generator=generator), torch.randn((70, 48), generator=generator)
    expected = torch.cdist(queries, cores).argmin(dim=1)
    for chunk in (7, 50, 1000):
        monkeypatch.setattr(detail, "CHUNK", chunk)
        assert torch.equal(torch.cat([*detail._find_nearest(queries, cores, None)]), expected)


@pytest.mark.parametrize(("height", "width", "ratio"), [(33, 47, 2.05), (64, 20, 1.3), (61, 80, 4), (16, 16, 2)])
@pytest.mark.parametrize("style", [(80, 60), (16, 16), (17, 150)])
def test_sizes_and_ratios_need_not_fit(height: int, width: int, ratio: float, style: tuple[int, int]) -> None:
    image = lose_detail(paint_strokes(height, width), ratio)
    found = match_detail(image, ratio, [(paint_strokes(*style, seed=1), 1.0)])
    assert found.shape == image.shape
    assert found.isfinite().all()
    assert torch.equal(found, match_detail(image, ratio, [(paint_strokes(*style, seed=1), 1.0)]))


def test_flat_pictures_and_flat_paintings_give_finite_detail() -> None:
    flat, painting = torch.full((1, 3, 40, 40), 0.5), paint_strokes(40, 40)
    assert match_detail(flat, 2, [(painting, 1.0)]).isfinite().all()
    assert match_detail(painting, 2, [(flat, 1.0)]).abs().max() < 1e-3
    assert match_detail(flat, 2, [(flat, 1.0)]).abs().max() < 1e-3


def test_detail_is_filled_in_only_where_it_is_missing() -> None:
    present, other = torch.zeros(1, 3, 64, 96), paint_strokes(64, 96) - 0.5
    present[..., :48] = 2 * other[..., :48].flip(2)
    filled = fill_detail(present, other)
    assert torch.equal(filled[..., :32], present[..., :32])
    torch.testing.assert_close(filled[..., 64:], other[..., 64:])


def test_the_work_can_be_stopped() -> None:
    calls = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        match_detail(paint_strokes(64, 64), 2, [(paint_strokes(64, 64), 1.0)], stop)
    assert len(calls) == 3


def measure_axis_share(pixels: np.ndarray) -> float:
    """Return the mean of cos 4θ over gradients, by their energy: 1 for rows and columns, -1 for diagonals."""
    down, across = np.gradient(pixels.mean(axis=2))
    energy = (down**2 + across**2)[8:-8, 8:-8]
    return float((energy * np.cos(4 * np.arctan2(down, across)[8:-8, 8:-8])).sum() / energy.sum())


def test_a_flat_photo_gets_the_strokes_of_the_painting_and_no_grid(painter: Painter) -> None:
    options = Options(size=128, first_size=32, iterations=6, taper=0.4, sketch=0.5, pooling="average", device="cpu")
    flat = np.full((96, 96, 3), 0.5, dtype=np.float32)
    diagonal = stripes(160, 160, 1.0)[0].permute(1, 2, 0).numpy()
    assert measure_axis_share(diagonal) < -0.95
    share = measure_axis_share(painter.stylize(flat, diagonal, options).pixels)
    assert share < -0.5
    assert share < measure_axis_share(painter.stylize(flat, diagonal, options.replace(sketch=0)).pixels) - 0.1


def test_the_photo_has_the_detail_that_it_has(painter: Painter) -> None:
    options = Options(size=96, first_size=48, iterations=1, strength=30, sketch=0.5, learning_rate=1e-4, device="cpu")
    photo, painting = stripes(96, 96, 0.0), stripes(96, 96, 1.0)
    first, second = (image[0].permute(1, 2, 0).numpy() for image in (photo, painting))
    pixels = painter.stylize(first, second, options).pixels
    detail_left = extract_detail(torch.from_numpy(pixels).permute(2, 0, 1)[None], (48, 48), (96, 96))
    assert cosine(detail_left, extract_detail(photo, (48, 48), (96, 96))) > 0.5


def test_detail_is_the_same_strip_by_strip(picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    image, styles = picture(96, 128), [(picture(80, 100, 1), 1.0)]
    whole = detail.match_detail(image, 2.0, styles)
    monkeypatch.setattr(detail, "STRIP_VALUES", 1)
    torch.testing.assert_close(detail.match_detail(image, 2.0, styles), whole)


def test_extracting_detail_leaves_the_image_as_it_is(picture: Picture) -> None:
    image = picture(64, 48)
    before = image.clone()
    found = extract_detail(image, (24, 32), (48, 64))
    assert torch.equal(found, before - resize(resize(before, 24, 32), 48, 64))
    assert not extract_detail(image, (48, 64), (48, 64)).any()
    assert torch.equal(image, before)
