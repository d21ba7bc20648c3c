"""Claims about the batch as programs use it."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from styler import images
from styler.batch.folder import stylize_folder
from styler.errors import UsageError
from styler.options import Options

OPTIONS = Options(size=64, first_size=64, steps=3, device="cpu")


@pytest.fixture
def folder(tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], use_tiny: None) -> Path:
    for seed, name in enumerate(("photos/a.png", "photos/b.png", "x.png")):
        images.write(tmp_path / name, images.encode(pixels(48, 64, seed)))
    return tmp_path


def test_everything_that_happens_is_an_event(folder: Path) -> None:
    (folder / "photos" / "bad.png").write_text("no picture")
    told = [*stylize_folder(folder / "photos", folder / "x.png", folder / "out", OPTIONS)]
    assert [(event.kind, event.pair.output) for event in told] == [
        *([("started", "a.x.png")] + [("progress", "a.x.png")] * 3 + [("done", "a.x.png")]),
        *([("started", "b.x.png")] + [("progress", "b.x.png")] * 3 + [("done", "b.x.png")]),
        *(("started", "bad.x.png"), ("failed", "bad.x.png")),
    ]
    assert told[-1].text.startswith("Cannot read ")
    assert (folder / "out" / "index.html").is_file()
    assert [*stylize_folder(folder / "photos", folder / "x.png", folder / "out", OPTIONS)] == []
    with pytest.raises(UsageError, match="strength was"):
        next(stylize_folder(folder / "photos", folder / "x.png", folder / "out", OPTIONS.replace(strength=70)))


def test_stop_drops_the_picture_in_work_from_another_thread(folder: Path) -> None:
    stop = threading.Event()
    told = []
    for event in stylize_folder(folder / "photos", folder / "x.png", folder / "out", OPTIONS, stop=stop):
        told.append(event.kind)
        if told.count("progress") == 4:
            threading.Thread(target=stop.set).start()
            stop.wait()
    assert told == ["started", *["progress"] * 3, "done", "started", "progress", "stopped"]
    assert not (folder / "out" / "b.x.png").exists()
    assert [event.kind for event in stylize_folder(folder / "photos", folder / "x.png", folder / "out", OPTIONS)][
        -1
    ] == ("done")


def test_closing_the_generator_drops_the_picture_in_work(folder: Path) -> None:
    running = stylize_folder(folder / "photos", folder / "x.png", folder / "out", OPTIONS)
    assert [next(running).kind, next(running).kind] == ["started", "progress"]
    running.close()  # type: ignore[attr-defined] # a generator
    assert not [*(folder / "out").glob("*.png")]
