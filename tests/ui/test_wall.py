"""Tests of the wall without a browser: which previews are painted, in which order, when they stop, what is shown."""

import asyncio
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from coroutines import run_coroutine
from numpy.typing import NDArray

from styler import images, library, schedule
from styler.engine.painter import Painter
from styler.engine.sources import Input
from styler.images import Picture
from styler.images.child import Decoder
from styler.options import Options
from styler.schedule import Scale
from ui import controls, handlers, wall
from ui.handlers import Changes, PaintHandlers
from ui.layout import PageLayout
from ui.session import Session, Upload
from ui.studio import Studio
from ui.wall import WallHandlers

MakePixels = Callable[..., NDArray[np.float32]]
BUNDLED = [*library.list_styles()]
STARRY = f"bundled-{BUNDLED.index('starry-night')}"


@pytest.fixture
def studio(use_tiny: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    """Create a studio with the tiny network and short previews."""
    monkeypatch.setattr(schedule, "OPENING_SIDE", 64)
    monkeypatch.setattr(schedule, "OPENING_ITERATIONS", 2)
    monkeypatch.setattr(schedule, "STROKES_ITERATIONS", 1)
    studio = Studio(Options(threads=1))  # one preview after another
    studio.load_painter()
    studio.work_estimate.guess_rate(Scale(1000, 1000, 1, "adam"), 1.0)
    yield studio
    studio.close()


@pytest.fixture
def walls(studio: Studio, page: PageLayout) -> WallHandlers:
    return WallHandlers(PaintHandlers(studio, page))


@pytest.fixture
def painting(studio: Studio, pixels: MakePixels) -> Upload:
    path = studio.sessions.uploads / "mine.png"
    path.write_bytes(images.encode_image(pixels(50, 60, 3)))
    return Upload(path, "mine.png")


def values(**changed: Any) -> list[Any]:
    """Return the values of the inputs of a new page, with some changed; options by their names."""
    options = {name: changed.pop(name) for name in [*changed] if name in controls.PAGE_OPTIONS}
    inputs: dict[str, Any] = {"content": None, "sample": "cat", "style": "starry-night", "own": None, "mixed": []}
    inputs |= {"protect": [], "amount": 70, "region": "whole", "region_style": None, "own_region": None}
    first = (inputs | changed).values()
    return [*first, *[1.0] * controls.MAX_STYLES, *controls.values_from_options(Options(**options))]


def begin(walls: WallHandlers, session: Session, **changed: Any) -> Changes:
    """Choose the sample photo as the page does, and begin a round."""
    walls.tab.show_content(session, None, "cat")
    return walls.begin(session, *values(**changed))


def get_finished(session: Session) -> set[Path]:
    return session.previews.keys() - session.unfinished


def paint(walls: WallHandlers, session: Session) -> Generator[Changes, None, None]:
    """Yield what is shown when a preview is finished."""
    assert session.wall is not None
    before = len(get_finished(session))
    session.wall.stop = threading.Event()
    with closing(walls.paint(session, session.wall, session.wall.stop)) as work:
        for changes in work:
            if len(get_finished(session)) > before:
                yield changes
            before = len(get_finished(session))


def test_every_tile_turns_the_chosen_one_first(walls: WallHandlers, session: Session) -> None:
    changes = begin(walls, session, style="woodcut")
    page = walls.tab.layout
    assert "draft about" in changes[page.times]
    turned = []
    for number, changes in enumerate(paint(walls, session), start=1):
        (index,) = [index for index, tile in enumerate(page.tiles) if tile in changes]
        turned.append(BUNDLED[index])
        rule = changes[page.tiles[index]]
        assert rule.startswith(f"<style>#style label:nth-of-type({index + 1}) ")
        assert "data:image/jpeg;base64," in rule
        note = "" if number == len(BUNDLED) else f"{number} of {len(BUNDLED)}"
        assert note in changes[page.wall_note]
    assert turned[0] == "woodcut"
    assert sorted(turned) == BUNDLED
    assert len(session.previews) == len(BUNDLED)
    assert session.wall
    assert wall.list_missing(session, session.wall) == []


def test_a_tile_turns_before_its_preview_has_strokes(walls: WallHandlers, session: Session) -> None:
    page = walls.tab.layout
    begin(walls, session, style="woodcut")
    assert session.wall
    walls.choose(session, f"bundled-{BUNDLED.index('woodcut')}")
    path, shown = library.list_styles()["woodcut"], []
    for changes in walls.paint(session, session.wall, session.wall.stop):
        if page.tiles[BUNDLED.index("woodcut")] in changes:
            shown.append(path in session.unfinished)
            assert "A preview in the style of woodcut" in changes[page.stage], "it is shown large, too"
    assert shown == [True, False]
    assert session.unfinished == set()


def test_a_preview_without_strokes_is_missing_after_an_interruption(walls: WallHandlers, session: Session) -> None:
    begin(walls, session)
    assert session.wall
    work = walls.paint(session, session.wall, session.wall.stop)
    next(work)
    assert len(session.unfinished) == 1
    work.close()
    assert len(wall.list_missing(session, session.wall)) == len(BUNDLED)


def test_faces_are_found_while_the_page_asks_for_previews(
    walls: WallHandlers, session: Session, studio: Studio
) -> None:
    studio.load_painter()
    found: list[str] = []
    find = Painter.find_mask

    def note(painter: Painter, photo: Input, name: str) -> NDArray[np.float32] | None:
        found.append(name)
        return find(painter, photo, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Painter, "find_mask", note)
        begin(walls, session)
        studio.mask_thread.submit(lambda: None).result()  # it works in order
        assert found == ["faces"]
        studio.has_previews = False
        begin(walls, session)
        studio.mask_thread.submit(lambda: None).result()
    assert found == ["faces"]


def test_a_photo_is_decoded_once_for_the_stage_its_previews_and_the_picture(
    walls: WallHandlers, session: Session, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio.load_painter()
    names: list[str] = []
    request = Decoder._request

    def note(decoder: Decoder, data: bytes, settings: dict[str, Any]) -> Any:
        names.append(Path(settings["name"]).stem)
        return request(decoder, data, settings)

    monkeypatch.setattr(Decoder, "_request", note)
    begin(walls, session)
    next(work := paint(walls, session))
    work.close()
    studio.read_picture(Upload.from_path(library.list_contents()["cat"]))
    assert names.count("cat") == 1


def test_paintings_with_the_colors_of_the_photo_come_first(studio: Studio) -> None:
    styles = [Upload.from_path(path) for path in library.list_styles().values()]
    photo = studio.read_picture(Upload.from_path(library.list_styles()["wheat-field"]))
    own = Upload(Path("own.jpg"), "own.jpg")
    order = wall.sort_by_colors(photo, [*styles, own])
    assert [order[0], order[1].stem] == [own, "wheat-field"]
    assert sorted(style.stem for style in order[1:]) == BUNDLED
    for value, expected in ((0.02, "mosaic"), (0.98, "ink-hatching")):
        photo = Picture(np.full((20, 30, 3), value, np.float32))
        assert wall.sort_by_colors(photo, styles)[0].stem == expected


@pytest.mark.parametrize(
    ("changed", "is_kept"),
    [
        *(({"size": 1024}, True), ({"preset": "fine"}, True), ({"iterations": 9}, True), ({"style": "woodcut"}, True)),
        *(({"strength": 60.0}, False), ({"brushwork": 0.0}, False), ({"seed": 2}, False), ({"sample": "bee"}, False)),
    ],
)
def test_previews_are_kept_while_they_fit(
    walls: WallHandlers, session: Session, changed: dict[str, Any], is_kept: bool
) -> None:
    begin(walls, session)
    first = session.wall
    next(work := paint(walls, session))
    work.close()
    changes = begin(walls, session, **changed)
    assert session.wall is not first
    assert len(get_finished(session)) == int(is_kept)
    assert is_kept or not session.previews
    assert (walls.tab.layout.tiles[0] in changes) is not is_kept, "the tiles show the paintings again"


def test_an_interrupted_round_goes_on_with_what_is_missing(walls: WallHandlers, session: Session) -> None:
    begin(walls, session)
    work = paint(walls, session)
    next(work)
    next(work)
    assert session.wall
    session.wall.stop.set()
    assert [*work] == []
    assert len(get_finished(session)) == 2
    assert len([*paint(walls, session)]) == len(BUNDLED) - 2


def test_another_round_or_leaving_ends_a_round(walls: WallHandlers, session: Session, studio: Studio) -> None:
    begin(walls, session)
    work = paint(walls, session)
    next(work)
    begin(walls, session, strength=70)
    assert [*work] == []
    work = paint(walls, session)
    next(work)
    studio.sessions.remove("someone")
    assert [*work] == []
    assert session.wall is None


def test_a_painting_of_ones_own_gets_a_tile(walls: WallHandlers, session: Session, painting: Upload) -> None:
    page = walls.tab.layout
    changes = walls.tab.show_styles(session, None, [painting], [])
    thumbnail = changes[page.own_thumbnails]
    begin(walls, session, style=None, own=[painting])
    first = next(work := paint(walls, session))
    work.close()
    assert session.previews.keys() == {painting.path}
    assert first[page.own_thumbnails] != thumbnail
    assert first[page.own_thumbnails].count("<button") == 1
    changes = walls.choose(session, "own-0")
    assert "A preview in the style of mine" in changes[page.stage]
    for choice in ("own-1", "own--1", "own-x", "own", "", "own-²", "other-0", "bundled-11", None):
        assert walls.choose(session, choice) == {page.stage: gr.skip()}
    assert (
        first[page.own_thumbnails] != walls.begin(session, *values(own=[painting], strength=1.0))[page.own_thumbnails]
    )


def test_a_tile_that_the_page_has_missed_is_shown_again(walls: WallHandlers, session: Session) -> None:
    page, wall_note = walls.tab.layout, walls.tab.layout.wall_note
    changes = walls.begin(session, *values())
    assert f"0 of {len(BUNDLED)}" in changes[wall_note]
    assert not any(changes[tile] for tile in page.tiles)
    next(work := paint(walls, session))
    work.close()
    (painted,) = session.previews
    index = [*library.list_styles().values()].index(painted)
    again = walls.begin(session, *values(preset="fine"))  # previews do not depend on it
    assert {tile for tile in page.tiles if again.get(tile)} == {page.tiles[index]}
    assert session.wall
    assert walls.show_tiles(session, session.wall)[page.tiles[index]] == again[page.tiles[index]]
    ended = session.wall
    changes = walls.begin(session, *values(strength=1.0))
    assert not any(changes[tile] for tile in page.tiles)
    assert walls.show_tiles(session, ended) == {}


def test_a_painting_that_cannot_be_read_changes_nothing(
    walls: WallHandlers, session: Session, painting: Upload, tmp_path: Path
) -> None:
    page, broken = walls.tab.layout, tmp_path / "broken.png"
    broken.write_text("no picture")
    changes = walls.tab.show_styles(session, "mosaic", [Upload.from_path(broken)], [])
    assert page.style not in changes
    assert changes[page.own_styles] is None
    assert "mosaic" in changes[page.credit].lower()
    assert "broken.png" in changes[page.status]
    walls.begin(session, *values(style="mosaic", own=[Upload.from_path(broken)]))
    assert session.wall
    assert next(style.stem for style in session.wall.styles) == "mosaic"
    assert broken not in [style.path for style in session.wall.styles]
    changes = walls.tab.show_styles(session, "mosaic", [painting], [])
    assert changes[page.style] is None
    assert "broken.png" not in changes[page.status]
    assert page.status not in walls.tab.show_styles(session, None, [painting], [])


def test_a_click_shows_the_preview_or_shows_it_as_soon_as_it_is_there(walls: WallHandlers, session: Session) -> None:
    page = walls.tab.layout
    begin(walls, session)
    next(work := paint(walls, session))
    changes = walls.choose(session, STARRY)
    assert "A preview in the style of starry-night" in changes[page.stage]
    assert f"--ratio: {451 / 300:.2f}"[:-1] in changes[page.stage], "the frame of the whole picture"
    missing = next(name for name in BUNDLED if library.list_styles()[name] not in session.previews)
    changes = walls.choose(session, f"bundled-{BUNDLED.index(missing)}")
    assert "Your photo" in changes[page.stage]
    assert f"The preview of {missing} comes next" in changes[page.status]
    shown = [changes[page.stage] for changes in work if page.stage in changes]
    assert len(shown) == 1
    assert f"A preview in the style of {missing}" in shown[0]


@pytest.mark.parametrize("state", ["is_painting", "is_waiting"])
def test_a_picture_in_progress_stays_on_the_stage(walls: WallHandlers, session: Session, state: str) -> None:
    begin(walls, session)
    next(work := paint(walls, session))
    work.close()
    setattr(session, state, True)
    assert walls.choose(session, STARRY) == {walls.tab.layout.stage: gr.skip()}
    setattr(session, state, False)
    assert "preview" in walls.choose(session, STARRY)[walls.tab.layout.stage]
    session.begin_work()
    assert session.shown_preview is None


def test_nothing_is_painted_without_a_photo_or_with_a_wrong_value(walls: WallHandlers, session: Session) -> None:
    page = walls.tab.layout
    begin(walls, session)
    next(work := paint(walls, session))
    work.close()
    wrong = values()
    wrong[-1] = None
    for given in (values(sample=None), wrong):
        changes = walls.begin(session, *given)
        assert session.wall is None
        assert session.previews == {}
        assert {changes[tile] for tile in page.tiles} == {""}
        assert "about" not in changes[page.times]


def test_a_server_without_previews_shows_times_alone(walls: WallHandlers, session: Session, studio: Studio) -> None:
    studio.has_previews = False
    changes = begin(walls, session)
    assert session.wall is None
    assert "draft about" in changes[walls.tab.layout.times]


def test_a_photo_that_is_gone_ends_the_round_with_a_reason(
    walls: WallHandlers, session: Session, painting: Upload
) -> None:
    walls.tab.show_content(session, painting, None)
    walls.begin(session, *values(content=painting, sample=None))
    painting.path.unlink()
    current, shown = session.wall, []
    assert current is not None

    async def run() -> None:
        async for changes in wall.run_wall(
            walls.tab.studio, session, current, "someone", partial(walls.paint, session, current)
        ):
            shown.extend([changes] if changes else [])

    run_coroutine(run())
    assert len(shown) == 1
    assert "no longer on the server; upload it again" in shown[0][walls.tab.layout.wall_note]
    assert session.wall is None


def test_previews_stop_when_somebody_paints_and_go_on_afterwards(
    walls: WallHandlers, session: Session, studio: Studio
) -> None:
    begin(walls, session)
    assert session.wall is not None
    order: list[str] = []

    def work() -> Generator[str, None, None]:
        order.append("painting begins")
        yield "painting"
        order.append("painting ends")

    def note(stop: threading.Event) -> Generator[Changes, None, None]:
        assert session.wall is not None
        for changes in walls.paint(session, session.wall, stop):
            order.append("preview")
            yield changes

    async def paint_between() -> None:
        current = session.wall
        assert current is not None
        previews = wall.run_wall(studio, session, current, "someone", note)
        async for _ in previews:
            if order == ["preview"]:
                async for _ in studio.thread.run(work(), threading.Event().set, "other", 1.0):
                    pass

    run_coroutine(paint_between())
    at = order.index("painting begins")
    assert order[at + 1] == "painting ends"
    assert 1 <= order[:at].count("preview") <= 2
    assert len(get_finished(session)) == len(BUNDLED)


def test_a_preview_is_the_opening_of_the_picture_that_is_painted_next(
    walls: WallHandlers, session: Session, studio: Studio
) -> None:
    begin(walls, session)
    next(work := paint(walls, session))
    work.close()
    request = handlers.make_request(session, *values(size=128, first_size=64, iterations=12))
    request = replace(request, options=request.options.replace(taper=0.01))
    (first, *_, last) = studio.paint(session, request)
    record = getattr(last, "record")  # noqa: B009 - the last item is the finished picture
    assert record["schedule"][0]["opening"]
    assert record["scale_seconds"][0] == 0
    assert getattr(first, "iteration") == record["schedule"][0]["iterations"]  # noqa: B009 - the first is progress


def test_a_round_that_is_interrupted_before_its_first_step_paints_nothing(
    walls: WallHandlers, session: Session, studio: Studio
) -> None:
    begin(walls, session)
    current, free = session.wall, threading.Event()
    assert current is not None
    counts: list[int] = []

    def work() -> Generator[str, None, None]:
        counts.append(len(session.previews))
        yield "painting"

    async def paint_at_once() -> None:
        previews = wall.run_wall(studio, session, current, "someone", partial(walls.paint, session, current))
        studio.thread.executor.submit(free.wait)  # as the end of an earlier painting
        waiting = asyncio.ensure_future(anext(previews))
        while not studio.thread.executor._work_queue.qsize():
            await asyncio.sleep(0.001)
        painting = studio.thread.run(work(), threading.Event().set, "other", 1.0)
        step = asyncio.ensure_future(anext(painting))
        await asyncio.sleep(0.01)
        free.set()
        while await step != "painting":
            step = asyncio.ensure_future(anext(painting))
        await painting.aclose()
        await waiting
        await previews.aclose()

    run_coroutine(paint_at_once())
    assert counts == [0]
