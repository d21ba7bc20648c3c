"""Stores on disk: they return what was put, stay within their size, and mistrust what was changed."""

import stat
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from styler import environment, provenance
from styler.batch import stores
from styler.batch.stores import DiskScaleStore, DiskStatsStore
from styler.engine.resume.scales import PaintedScale
from styler.objective.moments import Moments

CPU = torch.device("cpu")


@pytest.fixture
def statistics() -> dict[str, Moments]:
    return {"relu1_1": Moments(torch.rand(4), torch.rand(4, 4)), "relu2_1": Moments(torch.rand(2), torch.rand(2, 2))}


@pytest.fixture
def scale() -> PaintedScale:
    """Return a scale whose last image is its best, as its terms show, not in the order of their names."""
    terms = {"total": torch.tensor(0.5), "content relu4_2": torch.tensor(0.25), "a/b": torch.tensor(1e-9)}
    return PaintedScale(torch.rand(1, 3, 6, 8), terms, terms)


def is_same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return [*ours] == [*theirs] and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_store_returns_what_was_put_and_deletes_the_least_recently_used(
    tmp_path: Path, statistics: dict[str, Moments]
) -> None:
    stats = DiskStatsStore(tmp_path / "kept", max_bytes=1700)
    assert stats.get("one", CPU) is None
    stats.put("one", CPU, statistics)
    again = stats.get("one", CPU)
    assert again is not None
    for layer, moments in statistics.items():
        assert torch.equal(again[layer].mean, moments.mean)
        assert torch.equal(again[layer].second, moments.second)
    for key in ("two", "three"):
        stats.put(key, CPU, statistics)
        assert stats.get("one", CPU) is not None
    stats.put("four", CPU, statistics)
    assert stats.get("two", CPU) is None
    assert stats.get("one", CPU) is not None


def test_a_scale_comes_back_with_its_terms_in_order(tmp_path: Path, scale: PaintedScale) -> None:
    DiskScaleStore(tmp_path).put("one", CPU, scale)
    again = DiskScaleStore(tmp_path).get("one", CPU)
    assert again is not None
    assert torch.equal(again.image, scale.image)
    assert is_same(again.losses, scale.losses)
    assert is_same(again.best_losses, scale.best_losses)
    assert DiskScaleStore(tmp_path).get("two", CPU) is None


def test_scales_stay_within_their_size(tmp_path: Path, scale: PaintedScale) -> None:
    DiskScaleStore(tmp_path).put("0", CPU, scale)
    (first,) = tmp_path.iterdir()
    one = first.stat().st_size
    kept = DiskScaleStore(tmp_path, max_bytes=3 * one)
    for number in range(1, 6):
        kept.put(str(number), CPU, scale)
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3 * one
    assert [number for number in range(6) if kept.get(str(number), CPU)] == [3, 4, 5]
    assert stores.MAX_PREVIEWS_BYTES == 200_000_000


def test_a_damaged_file_counts_as_missing(tmp_path: Path, statistics: dict[str, Moments], scale: PaintedScale) -> None:
    stats, scales = DiskStatsStore(tmp_path / "statistics"), DiskScaleStore(tmp_path / "previews")
    stats.put("one", CPU, statistics)
    scales.put("one", CPU, scale)
    for store in (stats, scales):
        assert store.folder is not None
        (file,) = store.folder.iterdir()
        whole = file.read_bytes()
        changed = whole[:-1] + bytes([whole[-1] ^ 1])  # a valid file of tensors
        for data in (b"", b"no tensors", whole[:-3], whole + b"more", changed, whole[:20] + b"\xff" + whole[21:]):
            file.write_bytes(data)
            assert store.get("one", CPU) is None
        file.write_bytes(whole)
        assert store.get("one", CPU) is not None
    stats.put("one", CPU, statistics)
    assert stats.get("one", CPU) is not None


def test_another_version_does_not_find_the_scales(
    tmp_path: Path, scale: PaintedScale, monkeypatch: pytest.MonkeyPatch
) -> None:
    DiskScaleStore(tmp_path).put("one", CPU, scale)
    monkeypatch.setattr(provenance, "get_version", lambda: "99.0.0")
    assert DiskScaleStore(tmp_path).get("one", CPU) is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_only_this_user_can_list_the_store(tmp_path: Path, scale: PaintedScale) -> None:
    DiskScaleStore(tmp_path / "kept").put("one", CPU, scale)
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o700


def test_a_store_that_cannot_be_written_keeps_nothing(
    tmp_path: Path, scale: PaintedScale, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept").write_text("no folder")
    store = DiskScaleStore(tmp_path / "kept")
    store.put("one", CPU, scale)
    assert store.get("one", CPU) is None
    monkeypatch.setattr(environment, "find_cache_folder", lambda: None)
    homeless = DiskScaleStore()
    homeless.put("one", CPU, scale)
    assert homeless.folder is None
    assert homeless.get("one", CPU) is None
