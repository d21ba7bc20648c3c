"""Claims about the batch at work: what goes on beside the device, several devices, URLs, statistics on the disk."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from batches import by_picture
from numpy.typing import NDArray

from styler import images
from styler.batch import discover
from styler.batch.discover import SelectionRules
from styler.batch.runner import BatchEvent, stylize_folder
from styler.batch.stats_store import DiskStatsStore
from styler.batch.worker import BatchContext
from styler.engine import losses
from styler.engine.result import Result
from styler.errors import DeviceError, NothingMatched, StylerError
from styler.images import Picture
from styler.options import Options
from styler.vgg.model import Features

OPTIONS = Options(size=64, first_size=64, iterations=3, device="cpu", threads=1)
PATIENCE = 120.0
"""Seconds after which a test no longer believes that something will come."""


@pytest.fixture
def folder(
    tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, use_tiny: None
) -> Path:
    """The working folder, with four photos and two paintings; the network is tiny."""
    names = ("photos/a.png", "photos/b.png", "photos/c.png", "photos/d.png", "art/x.png", "art/y.png")
    for seed, name in enumerate(names):
        images.write_file(tmp_path / name, images.encode_image(pixels(48, 64, seed)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_next_picture_is_read_and_the_last_encoded_while_the_device_works(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, painted = threading.Event(), threading.Event()
    real = Result.encode

    def reading(path: Path) -> Picture:
        if path.name == "b.png":
            read.set()
        return images.read_image(path)

    def encoded(*given: Any, **named: Any) -> bytes:
        assert painted.wait(PATIENCE), "the first picture is encoded only before the second is painted"
        return real(*given, **named)

    monkeypatch.setattr(Result, "encode", encoded)
    told: list[BatchEvent] = []
    for event in stylize_folder("photos", "art/x.png", "out", OPTIONS, tools=BatchContext(read=reading)):
        told.append(event)
        if event.kind == "progress" and event.pair.output == "a.x.png":
            assert read.wait(PATIENCE), "the second picture is read only after the first is painted"
        if event.kind == "progress" and event.pair.output == "b.x.png":
            painted.set()
    names = ["a.x.png", "b.x.png", "c.x.png", "d.x.png"]
    assert by_picture(told) == {name: ["started", "progress", "progress", "progress", "done"] for name in names}
    assert [event.pair.output for event in told if event.kind == "done"] == names


def test_no_more_than_two_pictures_of_a_worker_are_painted_and_not_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0
    open_ones: set[str] = set()
    for event in stylize_folder("photos", "art", "out", OPTIONS):
        if event.kind == "started":
            open_ones.add(event.pair.output)
        if event.kind == "done":
            open_ones.remove(event.pair.output)
        most = max(most, len(open_ones))
    assert most <= 2


def test_a_worker_for_each_device_makes_the_same_pictures(folder: Path) -> None:
    assert threading.active_count() == (before := threading.active_count())
    one = [*stylize_folder("photos", "art/x.png", "one", OPTIONS)]
    two = [*stylize_folder("photos", "art/x.png", "two", OPTIONS, tools=BatchContext(devices=("cpu", "cpu")))]
    assert by_picture(one) == by_picture(two)
    for path in (folder / "one").glob("*.png"):
        assert (images.read_image(path).pixels == images.read_image(folder / "two" / path.name).pixels).all()
    assert threading.active_count() == before, "no thread is left behind"


def test_two_devices_work_at_the_same_time(folder: Path) -> None:
    begun: set[str] = set()
    most = 0
    for event in stylize_folder("photos", "art/x.png", "out", OPTIONS, tools=BatchContext(devices=("cpu", "cpu"))):
        if event.kind == "progress":
            begun.add(event.pair.output)
        if event.progress and event.progress.iteration == event.progress.iterations:
            begun.discard(event.pair.output)
        most = max(most, len(begun))
    assert most == 2


def test_an_absent_device_is_told_before_any_work(folder: Path) -> None:
    with pytest.raises(DeviceError, match="There is no device 'gpu'"):
        next(stylize_folder("photos", "art/x.png", "out", OPTIONS, tools=BatchContext(devices=("cpu", "gpu"))))


def forwards(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the pictures whose features are computed without a gradient: targets of contents and of styles."""
    seen: list[tuple[int, ...]] = []
    real = Features.forward

    def forward(self: Features, image: torch.Tensor, *more: Any, **named: Any) -> dict[str, torch.Tensor]:
        if not torch.is_grad_enabled():
            seen.append(tuple(image.shape[-2:]))
        return real(self, image, *more, **named)

    monkeypatch.setattr(Features, "forward", forward)
    return seen


def test_a_resumed_run_computes_no_statistics_that_are_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, pixels: Callable[..., NDArray[np.float32]]
) -> None:
    images.write_file(folder / "art" / "x.png", images.encode_image(pixels(60, 60, 5)), overwrite=True)
    options = OPTIONS.replace(size=128, first_size=64)
    tools = BatchContext(shelf=DiskStatsStore(folder / "kept"))
    seen = forwards(monkeypatch)
    assert len(by_picture([*stylize_folder("photos", "art/x.png", "out", options, tools=tools)])) == 4
    assert seen.count((60, 60)) == 1, "of a style that is smaller than either scale, for all photos"
    whole = (folder / "out" / "a.x.png").read_bytes()
    seen.clear()
    (folder / "out" / "a.x.png").unlink()
    [*stylize_folder("photos", "art/x.png", "out", options, tools=tools)]
    assert seen
    assert (60, 60) not in seen
    ours, before = images.read_image(folder / "out" / "a.x.png").pixels, images.read_image(whole).pixels
    assert (ours == before).all()


def test_statistics_of_recoloured_styles_are_not_kept(folder: Path) -> None:
    shelf = DiskStatsStore(folder / "kept")
    [*stylize_folder("photos", "art/x.png", "out", OPTIONS.replace(keep_color=1), tools=BatchContext(shelf=shelf))]
    assert not shelf.folder.exists()


@pytest.fixture
def found() -> dict[str, losses.Moments]:
    return {
        "relu1_1": losses.Moments(torch.rand(4), torch.rand(4, 4)),
        "relu2_1": losses.Moments(torch.rand(2), torch.rand(2, 2)),
    }


def test_a_shelf_gives_what_was_put_there_and_drops_the_longest_unused(
    tmp_path: Path, found: dict[str, losses.Moments]
) -> None:
    cpu = torch.device("cpu")
    shelf = DiskStatsStore(tmp_path / "kept", room=1500)
    assert shelf.get("one", cpu) is None
    shelf.put("one", cpu, found)
    again = shelf.get("one", cpu)
    assert again is not None
    for layer, moments in found.items():
        assert torch.equal(again[layer].mean, moments.mean)
        assert torch.equal(again[layer].second, moments.second)
    for key in ("two", "three"):
        shelf.put(key, cpu, found)
        assert shelf.get("one", cpu) is not None
    shelf.put("four", cpu, found)
    assert shelf.get("two", cpu) is None
    assert shelf.get("one", cpu) is not None


def test_a_damaged_file_on_a_shelf_is_as_if_it_were_not_there(tmp_path: Path, found: dict[str, losses.Moments]) -> None:
    cpu, shelf = torch.device("cpu"), DiskStatsStore(tmp_path)
    shelf.put("one", cpu, found)
    (file,) = tmp_path.iterdir()
    for data in (b"", b"no tensors", file.read_bytes()[:-3]):
        file.write_bytes(data)
        assert shelf.get("one", cpu) is None
    shelf.put("one", cpu, found)
    assert shelf.get("one", cpu) is not None


def test_a_shelf_that_cannot_be_written_costs_nothing_but_time(folder: Path) -> None:
    (folder / "kept").write_text("no folder")
    told = [
        *stylize_folder(
            "photos", "art/x.png", "out", OPTIONS, tools=BatchContext(shelf=DiskStatsStore(folder / "kept"))
        )
    ]
    assert {event.kind for event in told} == {"started", "progress", "done"}


def unknown(name: str) -> Path:
    raise AssertionError(name)


@pytest.fixture
def store(folder: Path) -> str:
    """The photos at memory://, one in a folder, with a hidden and a foreign file."""
    system = fsspec.filesystem("memory")
    for name in ("shop/a.png", "shop/deep/b.png"):
        system.pipe(f"/{name}", (folder / "photos" / name.rpartition("/")[2]).read_bytes())
    system.pipe("/shop/notes.txt", b"no picture")
    system.pipe("/shop/.hidden.png", b"")
    return "memory://shop"


@pytest.mark.parametrize(
    ("given", "rules", "places"),
    [
        ("", SelectionRules(), ["a.png"]),
        ("/", SelectionRules(recursive=True), ["a.png", "deep/b.png"]),
        ("", SelectionRules(recursive=True, exclude=("deep",)), ["a.png"]),
        ("/a.png", SelectionRules(), ["a.png"]),
        ("/**/*.png", SelectionRules(exclude=(".*",)), ["a.png", "deep/b.png"]),
        ("/deep/*.png", SelectionRules(), ["b.png"]),
    ],
)
def test_urls_are_files_folders_and_patterns_too(
    given: str, rules: SelectionRules, places: list[str], store: str
) -> None:
    listing = discover.find_inputs(store + given, rules, unknown, "CONTENTS")
    assert [it.relative for it in listing.inputs] == places
    assert all(it.path.startswith("memory://") for it in listing.inputs)


def test_what_is_at_urls_is_painted_remembered_and_read_again_only_when_changed(folder: Path, store: str) -> None:
    asked = (store, "memory://shop/a.png", "out", OPTIONS)
    told = [*stylize_folder(*asked, rules=SelectionRules(recursive=True))]
    assert {event.pair.output: event.kind for event in told} == {"a.a.png": "done", "deep/b.a.png": "done"}
    assert [*stylize_folder(*asked, rules=SelectionRules(recursive=True))] == []
    fsspec.filesystem("memory").pipe("/shop/deep/b.png", (folder / "photos" / "c.png").read_bytes())
    with pytest.raises(StylerError, match="changed: the content 'memory://"):
        next(stylize_folder(*asked, rules=SelectionRules(recursive=True)))


def test_what_is_not_there_or_cannot_be_opened_is_told(folder: Path) -> None:
    (event,) = (it for it in stylize_folder("memory://gone.png", "art/x.png", "out", OPTIONS) if it.kind == "failed")
    assert event.text == "Cannot read 'memory://gone.png': there is no such file; check the URL."
    with pytest.raises(
        StylerError, match=r"^Cannot open 'nosuch://x' \(Protocol not known: nosuch.*install what fsspec needs"
    ):
        next(stylize_folder("nosuch://x", "art/x.png", "out", OPTIONS))
    with pytest.raises(NothingMatched, match="has no picture to paint"):
        next(stylize_folder("memory://nothing/*.png", "art/x.png", "out", OPTIONS))
