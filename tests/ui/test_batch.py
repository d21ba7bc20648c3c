"""Tests of the Batch tab without a browser, and of the limits on the files of all sessions."""

import os
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from numpy.typing import NDArray

from styler import images, library
from styler.errors import UsageError
from styler.options import Options
from styler.vgg import registry
from styler.vgg.weights import Weights
from ui import batch_view, controls, handlers, render
from ui.handlers import BatchHandlers
from ui.layout import BatchLayout
from ui.session import MIN_AGE, PaintRequest, Session, Sessions, Upload
from ui.studio import Studio

SMALL = Options(size=64, first_size=64, iterations=2)
MakePixels = Callable[..., NDArray[np.float32]]


@pytest.fixture
def studio(use_tiny: None) -> Iterator[Studio]:
    studio = Studio()
    yield studio
    studio.close()


@pytest.fixture
def session(studio: Studio) -> Session:
    return studio.sessions.get("someone", "batch")


@pytest.fixture
def layout() -> BatchLayout:
    with gr.Blocks():
        return BatchLayout()


@pytest.fixture
def photos(tmp_path: Path, pixels: MakePixels) -> list[Upload]:
    """Two photos of the same name, and a damaged one."""
    uploads = []
    for seed, name in enumerate(("a/holiday.png", "b/holiday.png", "bad.jpg")):
        path = images.write_file(tmp_path / Path(name).with_suffix(".png"), images.encode_image(pixels(48, 64, seed)))
        uploads.append(Upload(path, Path(name).name))
    uploads[2].path.write_bytes(b"not an image")
    return uploads


def list_style_uploads(*names: str) -> list[Upload]:
    return [Upload(library.list_styles()[name], f"{name}.jpg") for name in names]


def test_every_photo_is_painted_in_every_style_and_archived(
    studio: Studio, session: Session, photos: list[Upload]
) -> None:
    *_, view = batch_view.paint_batch(studio, session, photos, list_style_uploads("woodcut", "mosaic"), SMALL)
    rows = {key: (row.state, row.error) for key, row in view.rows.items()}
    assert len(rows) == 6
    for style in ("woodcut.jpg", "mosaic.jpg"):
        assert rows["holiday.png", style][0] == rows["holiday-2.png", style][0] == "done"
        state, error = rows["bad.jpg", style]
        assert (state, error[:22]) == ("failed", "Cannot read 'bad.jpg':")
        assert str(studio.sessions.root) not in error
    assert view.archive
    with zipfile.ZipFile(view.archive) as pack:
        names = sorted(pack.namelist())
    assert names == [
        "contact-sheet.jpg",
        *(f"holiday{n}.{style}.png" for n in ("-2", "") for style in ("mosaic", "woodcut")),
    ]
    assert [name for _, name in view.gallery] == [
        f"holiday{n} × {s}" for s in ("mosaic", "woodcut") for n in ("-2", "")
    ]
    assert not session.is_painting


def test_a_batch_does_not_load_the_network_again(
    studio: Studio, session: Session, photos: list[Upload], tiny: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []

    def load(name: str) -> Weights:
        loads.append(name)
        return tiny

    monkeypatch.setattr(registry, "load_backbone", load)
    content, styles = photos[0], tuple(list_style_uploads("woodcut"))
    for _ in studio.paint(studio.sessions.get("someone"), PaintRequest(content=content, styles=styles, options=SMALL)):
        pass
    *_, view = batch_view.paint_batch(studio, session, photos[:2], styles, SMALL)
    assert view.count("done") == 2
    assert loads == ["vgg16", "vgg16-slim"]


def test_stop_keeps_finished_pictures(studio: Studio, session: Session, photos: list[Upload]) -> None:
    slow = SMALL.replace(iterations=300)  # so that the second is far from done when the first is reported
    work = batch_view.paint_batch(studio, session, photos[:2], list_style_uploads("woodcut"), slow)
    for view in work:
        if view.count("done"):
            session.discard_work()
    assert [row.state for row in view.rows.values()] == ["done", "left"]
    assert view.archive
    assert "1 of 2 done, 1 not painted" in render.render_batch_status(view, is_finished=True)


def test_files_of_the_previous_batch_are_removed(studio: Studio, session: Session, photos: list[Upload]) -> None:
    *_, first = batch_view.paint_batch(studio, session, photos[:1], list_style_uploads("woodcut"), SMALL)
    *_, second = batch_view.paint_batch(studio, session, photos[:1], list_style_uploads("woodcut"), SMALL)
    assert not first.folder.exists()
    assert second.folder.exists()
    assert photos[0].path.exists()


@pytest.mark.parametrize(
    ("photo_count", "style_count", "message"),
    [(0, 1, "Choose photos first"), (1, 0, "Choose a painting"), (201, 1, "That makes 201 pictures; choose fewer")],
)
def test_missing_inputs_and_too_many_pictures_are_reported(
    studio: Studio, session: Session, tmp_path: Path, photo_count: int, style_count: int, message: str
) -> None:
    uploads = [Upload(tmp_path / "x.png", "x.png")]
    with pytest.raises(UsageError, match=message):
        list(batch_view.paint_batch(studio, session, uploads * photo_count, uploads * style_count, SMALL))


def test_a_removed_upload_is_reported(studio: Studio, session: Session, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'x\.png' is no longer on the server; upload it again"):
        list(
            batch_view.paint_batch(
                studio, session, [Upload(tmp_path / "x.png", "x.png")], list_style_uploads("woodcut"), SMALL
            )
        )


def test_the_handler_reports_every_row(
    studio: Studio, layout: BatchLayout, session: Session, photos: list[Upload]
) -> None:
    options = [layout.options[name].value for name in controls.BATCH_OPTIONS]
    options[controls.BATCH_OPTIONS.index("size")] = "64"
    values: list[Any] = [photos, ["woodcut"], None, *options]
    batch_handlers = BatchHandlers(studio, layout)
    first, *_, rows, last = batch_handlers.paint(session, *values)
    assert first[layout.rows] == ""
    assert rows[layout.rows].count("<li ") == 3
    assert last[layout.archive]["visible"]
    assert "1 failed" in last[layout.status]
    session.is_discarded = True  # while it waited
    (changes,) = batch_handlers.paint(session, *values)
    assert handlers.STOPPED_WAITING in changes[layout.status]


def test_initial_controls_give_the_default_options(layout: BatchLayout) -> None:
    assert (
        controls.options_from_batch_values(layout.options[name].value for name in controls.BATCH_OPTIONS) == Options()
    )
    values = ["draft", *(layout.options[name].value for name in controls.BATCH_OPTIONS[1:])]
    assert controls.options_from_batch_values(values) == Options.of(preset="draft")


def test_too_many_uploaded_paintings_are_refused() -> None:
    with pytest.raises(UsageError, match="There are 5 paintings of your own; choose 4 at most"):
        handlers.select_batch_inputs(None, None, [Upload(Path("x"), "x")] * 5)


def test_names_are_escaped() -> None:
    html = render.render_batch_rows([batch_view.BatchRow("<b>.png", "x.jpg", "failed", error="<i>")])
    assert "&lt;b&gt;.png" in html
    assert "&lt;i&gt;" in html


def add_upload(sessions: Sessions, name: str, size: int = 1000, age: float = 0) -> Upload:
    path = sessions.uploads / name / f"{name}.png"
    path.parent.mkdir()
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return Upload(path, path.name)


def test_uploads_are_removed_with_their_tab_unless_another_uses_them() -> None:
    sessions = Sessions()
    try:
        mine, ours, bundled = (
            add_upload(sessions, "mine"),
            add_upload(sessions, "ours"),
            list_style_uploads("woodcut")[0],
        )
        sessions.get("me").add_uploads(mine, ours, bundled)
        sessions.get("me", "batch").add_uploads(mine)
        sessions.get("you").add_uploads(ours)
        sessions.remove("me")
        assert not mine.path.parent.exists()
        assert ours.path.exists()
        assert bundled.path.exists()
    finally:
        sessions.close()


def test_all_files_stay_below_the_size_limit() -> None:
    sessions = Sessions(max_bytes=2500)
    try:
        assert sessions.has_room(2500)
        old, young = add_upload(sessions, "old", age=2 * MIN_AGE), add_upload(sessions, "young")
        assert sessions.has_room(500)
        assert old.path.exists()
        assert sessions.has_room(1500)  # after the old one is removed
        assert not old.path.exists()
        assert not sessions.has_room(1501)
        assert young.path.exists()
    finally:
        sessions.close()


def test_an_unused_upload_is_removed_after_an_hour() -> None:
    sessions = Sessions()
    try:
        used, unused = add_upload(sessions, "used", age=4000), add_upload(sessions, "unused", age=4000)
        sessions.get("me").add_uploads(used)
        sessions.sweep()
        assert used.path.exists()
        assert not unused.path.exists()
    finally:
        sessions.close()
