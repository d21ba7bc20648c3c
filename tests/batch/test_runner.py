"""Claims about a running batch: overlapping stages, several devices, URLs, stored statistics, interruption."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from batches import group_kinds
from numpy.typing import NDArray

from styler import images
from styler.batch import discover, runner
from styler.batch.discover import SelectionRules
from styler.batch.runner import BatchContext, BatchEvent, stylize_folder
from styler.batch.stores import DiskStatsStore
from styler.engine.result import Result
from styler.errors import DeviceError, NothingMatched, StylerError
from styler.images import Picture
from styler.options import Options
from styler.vgg.model import Features

OPTIONS = Options(size=64, first_size=64, iterations=3, device="cpu", threads=1)
TIMEOUT = 120.0
"""Seconds after which a test gives up waiting."""


@pytest.fixture
def folder(
    tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, use_tiny: None
) -> Path:
    """Enter a folder with four photos and two paintings; the network is tiny."""
    names = ("photos/a.png", "photos/b.png", "photos/c.png", "photos/d.png", "art/x.png", "art/y.png")
    for seed, name in enumerate(names):
        images.write_file(tmp_path / name, images.encode_image(pixels(48, 64, seed)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_reading_and_encoding_overlap_with_painting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second_is_read, second_is_painted = threading.Event(), threading.Event()
    real = Result.encode

    def read(path: Path) -> Picture:
        if path.name == "b.png":
            second_is_read.set()
        return images.read_image(path)

    def encode(*args: Any, **kwargs: Any) -> bytes:
        assert second_is_painted.wait(TIMEOUT), "the first picture has to be encoded before the second is painted"
        return real(*args, **kwargs)

    monkeypatch.setattr(Result, "encode", encode)
    events: list[BatchEvent] = []
    for event in stylize_folder("photos", "art/x.png", "out", OPTIONS, context=BatchContext(read=read)):
        events.append(event)
        if event.kind == "progress" and event.pair.output == "a.x.png":
            assert second_is_read.wait(TIMEOUT), "the first picture has to be painted before the second is read"
        if event.kind == "progress" and event.pair.output == "b.x.png":
            second_is_painted.set()
    names = ["a.x.png", "b.x.png", "c.x.png", "d.x.png"]
    assert group_kinds(events) == {name: ["started", "progress", "progress", "progress", "done"] for name in names}
    assert [event.pair.output for event in events if event.kind == "done"] == names


def test_at_most_two_pictures_of_a_worker_are_started_and_not_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0
    open_pictures: set[str] = set()
    for event in stylize_folder("photos", "art", "out", OPTIONS):
        if event.kind == "started":
            open_pictures.add(event.pair.output)
        if event.kind == "done":
            open_pictures.remove(event.pair.output)
        most = max(most, len(open_pictures))
    assert most <= 2


def test_several_devices_paint_the_same_pictures(folder: Path) -> None:
    assert threading.active_count() == (before := threading.active_count())
    one = [*stylize_folder("photos", "art/x.png", "one", OPTIONS)]
    two = [*stylize_folder("photos", "art/x.png", "two", OPTIONS, context=BatchContext(devices=("cpu", "cpu")))]
    assert group_kinds(one) == group_kinds(two)
    for path in (folder / "one").glob("*.png"):
        assert (images.read_image(path).pixels == images.read_image(folder / "two" / path.name).pixels).all()
    assert threading.active_count() == before, "a thread is left"


def test_two_devices_paint_at_the_same_time(folder: Path) -> None:
    in_progress: set[str] = set()
    most = 0
    for event in stylize_folder("photos", "art/x.png", "out", OPTIONS, context=BatchContext(devices=("cpu", "cpu"))):
        if event.kind == "progress":
            in_progress.add(event.pair.output)
        if event.progress and event.progress.iteration == event.progress.iterations:
            in_progress.discard(event.pair.output)
        most = max(most, len(in_progress))
    assert most == 2


def test_an_absent_device_is_an_error_before_painting_starts(folder: Path) -> None:
    with pytest.raises(DeviceError, match="There is no device 'gpu'"):
        next(stylize_folder("photos", "art/x.png", "out", OPTIONS, context=BatchContext(devices=("cpu", "gpu"))))


def record_targets(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Return a list that gets the size of every image whose features are computed for a target, without gradient."""
    seen: list[tuple[int, ...]] = []
    real = Features.forward

    def forward(self: Features, image: torch.Tensor, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        if not torch.is_grad_enabled():
            seen.append(tuple(image.shape[-2:]))
        return real(self, image, *args, **kwargs)

    monkeypatch.setattr(Features, "forward", forward)
    return seen


def test_a_resumed_run_uses_the_stored_statistics(
    folder: Path, monkeypatch: pytest.MonkeyPatch, pixels: Callable[..., NDArray[np.float32]]
) -> None:
    images.write_file(folder / "art" / "x.png", images.encode_image(pixels(60, 60, 5)), overwrite=True)
    options = OPTIONS.replace(size=128, first_size=64, brushwork=0)  # matched features are not stored
    context = BatchContext(stats_store=DiskStatsStore(folder / "kept"))
    seen = record_targets(monkeypatch)
    assert len(group_kinds([*stylize_folder("photos", "art/x.png", "out", options, context=context)])) == 4
    assert seen.count((60, 60)) == 1, "the style is smaller than both scales, and shared by all photos"
    whole = (folder / "out" / "a.x.png").read_bytes()
    seen.clear()
    (folder / "out" / "a.x.png").unlink()
    [*stylize_folder("photos", "art/x.png", "out", options, context=context)]
    assert seen
    assert (60, 60) not in seen
    now, before = images.read_image(folder / "out" / "a.x.png").pixels, images.read_image(whole).pixels
    assert (now == before).all()


def test_statistics_of_recolored_styles_are_not_stored(folder: Path) -> None:
    stats = DiskStatsStore(folder / "kept")
    [
        *stylize_folder(
            "photos", "art/x.png", "out", OPTIONS.replace(keep_color=1), context=BatchContext(stats_store=stats)
        )
    ]
    assert not (folder / "kept").exists()


def test_a_store_that_cannot_be_written_is_not_used(folder: Path) -> None:
    (folder / "kept").write_text("no folder")
    events = [
        *stylize_folder(
            "photos", "art/x.png", "out", OPTIONS, context=BatchContext(stats_store=DiskStatsStore(folder / "kept"))
        )
    ]
    assert {event.kind for event in events} == {"started", "progress", "done"}


def refuse(name: str) -> Path:
    raise AssertionError(name)


@pytest.fixture
def store(folder: Path) -> str:
    """Return a URL with two photos, one of them in a subfolder, a hidden file, and a text file."""
    system = fsspec.filesystem("memory")
    for name in ("shop/a.png", "shop/deep/b.png"):
        system.pipe(f"/{name}", (folder / "photos" / name.rpartition("/")[2]).read_bytes())
    system.pipe("/shop/notes.txt", b"no picture")
    system.pipe("/shop/.hidden.png", b"")
    return "memory://shop"


@pytest.mark.parametrize(
    ("suffix", "rules", "paths"),
    [
        ("", SelectionRules(), ["a.png"]),
        ("/", SelectionRules(recursive=True), ["a.png", "deep/b.png"]),
        ("", SelectionRules(recursive=True, exclude=("deep",)), ["a.png"]),
        ("/a.png", SelectionRules(), ["a.png"]),
        ("/**/*.png", SelectionRules(exclude=(".*",)), ["a.png", "deep/b.png"]),
        ("/deep/*.png", SelectionRules(), ["b.png"]),
    ],
)
def test_a_url_stands_for_a_file_a_folder_or_a_pattern(
    suffix: str, rules: SelectionRules, paths: list[str], store: str
) -> None:
    listing = discover.find_inputs([store + suffix], rules, refuse, "CONTENTS")
    assert [item.relative for item in listing.inputs] == paths
    assert all(item.path.startswith("memory://") for item in listing.inputs)


def test_pictures_at_urls_are_painted_once_unless_they_change(folder: Path, store: str) -> None:
    arguments = (store, "memory://shop/a.png", "out", OPTIONS)
    events = [*stylize_folder(*arguments, rules=SelectionRules(recursive=True))]
    assert {event.pair.output: event.kind for event in events} == {"a.a.png": "done", "deep/b.a.png": "done"}
    assert [*stylize_folder(*arguments, rules=SelectionRules(recursive=True))] == []
    fsspec.filesystem("memory").pipe("/shop/deep/b.png", (folder / "photos" / "c.png").read_bytes())
    with pytest.raises(StylerError, match="changed: the content 'memory://"):
        next(stylize_folder(*arguments, rules=SelectionRules(recursive=True)))


def test_missing_urls_and_unknown_schemes_are_reported(folder: Path) -> None:
    (event,) = (
        item for item in stylize_folder("memory://gone.png", "art/x.png", "out", OPTIONS) if item.kind == "failed"
    )
    assert event.text == "Cannot read 'memory://gone.png': there is no such file; check the URL."
    with pytest.raises(
        StylerError,
        match=r"^Cannot open 'nosuch://x' \(Protocol not known: nosuch.*install the package that fsspec needs",
    ):
        next(stylize_folder("nosuch://x", "art/x.png", "out", OPTIONS))
    with pytest.raises(NothingMatched, match="contains no picture to paint"):
        next(stylize_folder("memory://nothing/*.png", "art/x.png", "out", OPTIONS))


def test_a_write_that_hangs_does_not_keep_an_interrupted_batch_from_ending(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a network drive that is gone: the second Ctrl-C, an exception in the caller, ends the batch."""
    monkeypatch.setattr(runner, "CLOSE_SECONDS", 0.1)
    is_writing, is_back = threading.Event(), threading.Event()
    writers: list[threading.Thread] = []

    def hang(*_args: object) -> None:
        writers.append(threading.current_thread())
        is_writing.set()
        is_back.wait(TIMEOUT)

    events = stylize_folder("photos", "art/x.png", "out", OPTIONS, context=BatchContext(write=hang))
    assert isinstance(events, Generator)
    next(event for event in events if event.kind == "progress" and is_writing.is_set())
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt)
    (writer,) = writers
    assert writer.is_alive()
    assert writer.daemon, "the program would not end"
    is_back.set()
    writer.join(TIMEOUT)
    assert len(writers) == 1, "nothing is written after the interruption"


HANGING = """
import os, signal, sys, threading, time
from styler.batch import worker
from styler.cli import main
from styler.engine.painter import Painter
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests with SIGINT ignored
worker.CLOSE_SECONDS = 0.2
def stream(*args):
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
    threading.Event().wait()
    yield
Painter.stream = stream
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_a_second_interrupt_ends_the_program_even_if_an_iteration_never_ends(folder: Path) -> None:
    command = [sys.executable, "-c", HANGING, "batch", "photos", "art/x.png", "-o", "out", "--size", "64", "-q"]
    done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT)
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "styler: Interrupted.\n")
