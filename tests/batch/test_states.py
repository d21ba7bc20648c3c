"""A batch goes on with a picture in progress."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from batches import group_kinds
from numpy.typing import NDArray

from styler import images, provenance
from styler.batch import worker
from styler.batch.runner import BatchEvent, stylize_folder
from styler.batch.states import StateKeeper
from styler.engine.painter import Painter
from styler.options import Options

OPTIONS = Options(size=64, first_size=64, iterations=6, device="cpu", threads=1, brushwork=60.0)
STATE = Path("out/b.x.png.resume")


@pytest.fixture
def stopped(
    tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, use_tiny: None
) -> list[BatchEvent]:
    """Stop a batch of two pictures in the second, whose state is saved after every iteration."""
    for seed, name in enumerate(("photos/a.png", "photos/b.png", "x.png")):
        images.write_file(tmp_path / name, images.encode_image(pixels(48, 64, seed)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, "StateKeeper", partial(StateKeeper, interval=0.0))
    stop, events = threading.Event(), []
    for event in stylize_folder("photos", "x.png", "out", OPTIONS, stop=stop, index=False):
        events.append(event)
        if [each.kind for each in events].count("progress") == 10:
            stop.set()
    return events


def test_a_batch_goes_on_with_the_picture_in_progress(stopped: list[BatchEvent]) -> None:
    assert group_kinds(stopped)["b.x.png"] == ["started", *["progress"] * 4, "stopped"]
    assert [*Path("out").glob("*.resume")] == [STATE]
    resumed = [*stylize_folder("photos", "x.png", "out", OPTIONS, index=False)]
    assert group_kinds(resumed) == {"b.x.png": ["started", *["progress"] * 2, "done"]}
    assert not STATE.exists()
    [*stylize_folder("photos", "x.png", "whole", OPTIONS, index=False)]
    ours, whole = (images.read_image(Path(name) / "b.x.png").pixels for name in ("out", "whole"))
    assert np.array_equal(ours, whole)
    assert provenance.read_record("out/b.x.png")["losses"] == provenance.read_record("whole/b.x.png")["losses"]


@pytest.mark.parametrize("how", ["damaged", "changed"])
def test_a_state_that_cannot_be_used_is_reported_and_left(how: str, stopped: list[BatchEvent]) -> None:
    if how == "damaged":
        STATE.write_bytes(STATE.read_bytes()[:1000])
    else:
        images.write_file("photos/b.png", Path("photos/a.png").read_bytes(), overwrite=True)
    resumed = [*stylize_folder("photos", "x.png", "out", OPTIONS, index=False)]
    assert group_kinds(resumed)["b.x.png"] == ["started", "note", *["progress"] * 6, "done"]
    (note,) = [event.text for event in resumed if event.kind == "note"]
    reason = "is damaged; remove it" if how == "damaged" else "the photo has changed; "
    assert reason in note
    assert note.endswith(" It begins anew.")
    assert not STATE.exists()


def test_a_file_of_the_user_with_the_name_of_a_state_is_neither_replaced_nor_removed(
    tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, use_tiny: None
) -> None:
    monkeypatch.chdir(tmp_path)
    keeper = StateKeeper(Path("a.png"), interval=0.0)
    keeper.path.write_text("my notes")
    stream = Painter().stream(pixels(48, 64, 1), pixels(48, 64, 2), OPTIONS)
    problems = [problem for progress in stream if (problem := keeper.update(progress))]
    keeper.remove()
    assert keeper.path.read_text() == "my notes"
    assert problems == ["The state of the painting is not saved. 'a.png.resume' is not a state of styler; rename it."]
