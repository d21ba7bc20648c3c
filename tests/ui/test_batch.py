"""Claims about batches of the page without a browser, and about the folder that everybody's files are in."""

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
from ui import batch_view, controls, handlers, layout, render
from ui.layout import BatchLayout
from ui.session import MIN_AGE, Session, Sessions, Upload
from ui.studio import Studio

SMALL = Options(size=64, first_size=64, iterations=2)
Made = Callable[..., NDArray[np.float32]]


@pytest.fixture
def studio(use_tiny: None) -> Iterator[Studio]:
    made = Studio()
    yield made
    made.close()


@pytest.fixture
def visit(studio: Studio) -> Session:
    return studio.visits.of("someone", "batch")


@pytest.fixture
def page() -> BatchLayout:
    with gr.Blocks():
        return layout.build_batch_layout(4, "woodcut")


@pytest.fixture
def photos(tmp_path: Path, pixels: Made) -> list[Upload]:
    """Two of one name, and one that is damaged."""
    found = []
    for seed, name in enumerate(("a/holiday.png", "b/holiday.png", "bad.jpg")):
        path = images.write_file(tmp_path / Path(name).with_suffix(".png"), images.encode_image(pixels(48, 64, seed)))
        found.append(Upload(path, Path(name).name))
    found[2].path.write_bytes(b"no picture")
    return found


def styles(*names: str) -> list[Upload]:
    return [Upload(library.list_styles()[name], f"{name}.jpg") for name in names]


def test_every_photo_in_every_painting_with_an_archive(studio: Studio, visit: Session, photos: list[Upload]) -> None:
    *_, done = batch_view.paint_batch(studio, visit, photos, styles("woodcut", "mosaic"), SMALL)
    rows = {key: (row.state, row.why) for key, row in done.rows.items()}
    assert len(rows) == 6
    for style in ("woodcut.jpg", "mosaic.jpg"):
        assert rows["holiday.png", style][0] == rows["holiday-2.png", style][0] == "done"
        state, why = rows["bad.jpg", style]
        assert (state, why[:22]) == ("failed", "Cannot read 'bad.jpg':")
        assert str(studio.visits.root) not in why
    assert done.archive
    with zipfile.ZipFile(done.archive) as pack:
        names = sorted(pack.namelist())
    assert names == [
        "contact-sheet.jpg",
        *(f"holiday{n}.{style}.png" for n in ("-2", "") for style in ("mosaic", "woodcut")),
    ]
    assert [name for _, name in done.views] == [f"holiday{n} × {s}" for s in ("mosaic", "woodcut") for n in ("-2", "")]
    assert not visit.is_painting
    assert studio.pace.mean is not None


def test_stopping_keeps_what_is_done(studio: Studio, visit: Session, photos: list[Upload]) -> None:
    slow = SMALL.replace(iterations=300)  # so that the second is far from done when the first is told of
    work = batch_view.paint_batch(studio, visit, photos[:2], styles("woodcut"), slow)
    for now in work:
        if now.count("done"):
            visit.discard()
    assert [row.state for row in now.rows.values()] == ["done", "left"]
    assert now.archive
    assert "1 of 2 done, 1 not painted" in render.render_batch_status(now, ended=True)


def test_the_batch_before_makes_room(studio: Studio, visit: Session, photos: list[Upload]) -> None:
    *_, first = batch_view.paint_batch(studio, visit, photos[:1], styles("woodcut"), SMALL)
    *_, second = batch_view.paint_batch(studio, visit, photos[:1], styles("woodcut"), SMALL)
    assert not first.folder.exists()
    assert second.folder.exists()
    assert photos[0].path.exists()


@pytest.mark.parametrize(
    ("photos_", "styles_", "sentence"),
    [(0, 1, "Choose photos first"), (1, 0, "Choose a painting"), (201, 1, "That makes 201 pictures; choose fewer")],
)
def test_what_is_missing_or_too_much_is_said(
    studio: Studio, visit: Session, tmp_path: Path, photos_: int, styles_: int, sentence: str
) -> None:
    some = [Upload(tmp_path / "x.png", "x.png")]
    with pytest.raises(UsageError, match=sentence):
        list(batch_view.paint_batch(studio, visit, some * photos_, some * styles_, SMALL))


def test_a_photo_that_was_swept_is_asked_for_again(studio: Studio, visit: Session, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'x\.png' is no longer on the server; choose it once more"):
        list(batch_view.paint_batch(studio, visit, [Upload(tmp_path / "x.png", "x.png")], styles("woodcut"), SMALL))


def test_the_page_is_told_row_by_row(studio: Studio, page: BatchLayout, visit: Session, photos: list[Upload]) -> None:
    held = [page.options[name].value for name in controls.BATCH_OPTIONS]
    held[controls.BATCH_OPTIONS.index("size")] = "64"
    values: list[Any] = [[str(photo.path) for photo in photos], ["woodcut"], None, *held]
    first, *_, last = handlers.run_batch_request(studio, page, visit, values)
    assert first[page.rows] == ""
    assert last[page.archive]["visible"]
    assert last[page.rows].count("<li ") == 3
    assert "1 failed" in last[page.status]
    visit.is_discarded = True  # while it waited
    (only,) = handlers.run_batch_request(studio, page, visit, values)
    assert "Stopped before its turn" in only[page.status]


def test_a_fresh_tab_asks_for_the_default_options(page: BatchLayout) -> None:
    assert controls.options_from_batch_values(page.options[name].value for name in controls.BATCH_OPTIONS) == Options()
    held = ["draft", *(page.options[name].value for name in controls.BATCH_OPTIONS[1:])]
    assert controls.options_from_batch_values(held) == Options.of(preset="draft")


def test_too_many_paintings_of_ones_own_are_refused() -> None:
    with pytest.raises(UsageError, match="There are 5 paintings of your own; choose 4 at most"):
        handlers.choose_batch_inputs(None, None, ["x"] * 5)


def test_names_are_escaped() -> None:
    said = render.render_batch_rows([batch_view.BatchRow("<b>.png", "x.jpg", "failed", why="<i>")])
    assert "&lt;b&gt;.png" in said
    assert "&lt;i&gt;" in said


def uploaded(visits: Sessions, name: str, size: int = 1000, age: float = 0) -> Upload:
    path = visits.uploads / name / f"{name}.png"
    path.parent.mkdir()
    path.write_bytes(bytes(size))
    os.utime(path, (time.time() - age,) * 2)
    return Upload(path, path.name)


def test_a_tabs_uploads_go_with_it_unless_somebody_else_has_them() -> None:
    visits = Sessions()
    try:
        mine, ours, bundled = uploaded(visits, "mine"), uploaded(visits, "ours"), styles("woodcut")[0]
        visits.of("me").uses(mine, ours, bundled)
        visits.of("me", "batch").uses(mine)
        visits.of("you").uses(ours)
        visits.leave("me")
        assert not mine.path.parent.exists()
        assert ours.path.exists()
        assert bundled.path.exists()
    finally:
        visits.close()


def test_all_files_together_stay_below_the_limit() -> None:
    visits = Sessions(largest=2500)
    try:
        assert visits.has_room(2500)
        old, young = uploaded(visits, "old", age=2 * MIN_AGE), uploaded(visits, "young")
        assert visits.has_room(500)
        assert old.path.exists()
        assert visits.has_room(1500)  # once the old one is gone
        assert not old.path.exists()
        assert not visits.has_room(1501)
        assert young.path.exists()
    finally:
        visits.close()


def test_an_upload_that_nobody_has_used_goes_within_the_hour() -> None:
    visits = Sessions()
    try:
        used, unused = uploaded(visits, "used", age=4000), uploaded(visits, "unused", age=4000)
        visits.of("me").uses(used)
        visits.sweep()
        assert used.path.exists()
        assert not unused.path.exists()
    finally:
        visits.close()
