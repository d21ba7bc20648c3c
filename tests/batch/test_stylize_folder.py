"""Claims about `stylize_folder`, the batch as programs use it."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from batches import group_kinds
from numpy.typing import NDArray

from styler import images
from styler.batch.runner import BatchEvent, stylize_folder
from styler.errors import UsageError
from styler.options import Options

OPTIONS = Options(size=64, first_size=64, iterations=3, device="cpu")


@pytest.fixture
def folder(tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], use_tiny: None) -> Path:
    """Return a folder with two photos and a painting; the network is tiny."""
    for seed, name in enumerate(("photos/a.png", "photos/b.png", "x.png")):
        images.write_file(tmp_path / name, images.encode_image(pixels(48, 64, seed)))
    return tmp_path


def test_everything_is_reported_as_an_event(folder: Path) -> None:
    (folder / "photos" / "bad.png").write_text("no picture")
    events = [*stylize_folder(folder / "photos", folder / "x.png", folder / "out", OPTIONS)]
    assert group_kinds(events) == {
        "a.x.png": ["started", *["progress"] * 3, "done"],
        "b.x.png": ["started", *["progress"] * 3, "done"],
        "bad.x.png": ["started", "failed"],
    }
    for kinds in (("started",), ("done", "failed")):
        assert [event.pair.output for event in events if event.kind in kinds] == ["a.x.png", "b.x.png", "bad.x.png"]
    assert events[-1].text.startswith("Cannot read ")
    assert (folder / "out" / "index.html").is_file()
    assert [*stylize_folder(folder / "photos", folder / "x.png", folder / "out", OPTIONS)] == []
    with pytest.raises(UsageError, match="strength was"):
        next(stylize_folder(folder / "photos", folder / "x.png", folder / "out", OPTIONS.replace(strength=70)))


def test_stop_can_be_set_by_another_thread_and_discards_the_picture_in_progress(folder: Path) -> None:
    stop = threading.Event()
    events: list[BatchEvent] = []
    for event in stylize_folder(folder / "photos", folder / "x.png", folder / "out", OPTIONS, stop=stop):
        events.append(event)
        if [event.kind for event in events].count("progress") == 4:
            threading.Thread(target=stop.set).start()
            stop.wait()
    assert group_kinds(events) == {
        "a.x.png": ["started", *["progress"] * 3, "done"],
        "b.x.png": ["started", "progress", "stopped"],
    }
    assert not (folder / "out" / "b.x.png").exists()
    resumed = [*stylize_folder(folder / "photos", folder / "x.png", folder / "out", OPTIONS)]
    assert group_kinds(resumed) == {"b.x.png": ["started", *["progress"] * 3, "done"]}


def test_closing_the_generator_discards_the_picture_in_progress(folder: Path) -> None:
    running = stylize_folder(folder / "photos", folder / "x.png", folder / "out", OPTIONS)
    assert [next(running).kind, next(running).kind] == ["started", "progress"]
    running.close()  # type: ignore[attr-defined] # a generator
    assert not [*(folder / "out").glob("*.png")]
