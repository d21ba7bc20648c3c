"""Claims about the page without a browser: controls from options, orders, paintings, refusals and what is swept."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from fastapi import FastAPI
from numpy.typing import NDArray

from styler import images, library, provenance
from styler.errors import OptionError, StylerError, UsageError
from styler.options import LOOKS, PRESETS, Options, list_options
from ui import app, controls, handlers, layout, render
from ui.layout import PageLayout
from ui.queue import MAX_GRADIO_SESSIONS
from ui.session import FOLDER_PREFIX, FinishedPicture, PaintRequest, Session, Sessions, Upload
from ui.studio import Studio

SMALL = Options(size=64, first_size=64, iterations=3)
Made = Callable[..., NDArray[np.float32]]


@pytest.fixture
def studio(use_tiny: None) -> Iterator[Studio]:
    """A studio whose painter looks through the tiny network."""
    made = Studio()
    yield made
    made.close()


@pytest.fixture(scope="module")
def page() -> PageLayout:
    """The page, laid out."""
    with gr.Blocks():
        return layout.build_layout()[0]


@pytest.fixture
def visit(studio: Studio) -> Session:
    return studio.visits.of("someone")


def upload(path: Path, pixels: NDArray[np.float32], **more: Any) -> Upload:
    path.write_bytes(images.encode_image(pixels, **more))
    return Upload(path, path.name)


@pytest.fixture
def order(tmp_path: Path, pixels: Made) -> PaintRequest:
    photo, painting = upload(tmp_path / "my photo.png", pixels(48, 64)), upload(tmp_path / "art.png", pixels(50, 50, 1))
    return PaintRequest(content=photo, styles=(painting,), options=SMALL)


def values(**given: Any) -> list[Any]:
    """What the controls hold on a fresh page, but for what is given."""
    first = {"content": None, "sample": None, "style": "starry-night", "own": None, "also": []} | {
        name: value for name, value in given.items() if name in {"content", "sample", "style", "own", "also"}
    }
    held = dict(zip(controls.PAGE_OPTIONS, controls.values_from_options(Options()), strict=True))
    held |= {name: value for name, value in given.items() if name in held}
    return [*first.values(), *given.get("weights", [1.0] * layout.MAX_STYLES), *held.values()]


def text_of(changes: handlers.Changes, page: PageLayout) -> str:
    return str(changes[page.status])


def test_the_controls_of_a_fresh_page_say_the_default_options(page: PageLayout) -> None:
    held = [page.options[name].value for name in controls.PAGE_OPTIONS]
    assert controls.options_from_values(held) == Options()


def test_every_option_has_a_control_or_is_left_out_on_purpose() -> None:
    assert sorted((*controls.PAGE_OPTIONS, *controls.HIDDEN_OPTIONS)) == sorted(list_options())


@pytest.mark.parametrize("name", controls.PAGE_OPTIONS)
def test_a_control_explains_itself_in_the_words_of_the_option(page: PageLayout, name: str) -> None:
    info = str(getattr(page.options[name], "info"))  # noqa: B009 - not every component has one
    assert list_options()[name].help in info
    assert f"--{name.replace('_', '-')}" in info


@pytest.mark.parametrize("options", [Options.of(preset="draft"), Options.of(look="gatys", size="original", seed=7)])
def test_options_go_through_the_controls_and_back(options: Options) -> None:
    assert controls.options_from_values(controls.values_from_options(options)) == options


@pytest.mark.parametrize(("kind", "names"), [("preset", PRESETS), ("look", LOOKS)])
def test_a_preset_or_look_changes_its_own_controls_and_no_others(kind: str, names: dict[str, Any]) -> None:
    held = controls.values_from_options(Options(size=300, seed=5))
    for name in [*names, *names]:
        held = controls.apply_bundle(kind, name, held)
        assert controls.options_from_values(held) == Options.of(**{kind: name}, size=300, seed=5)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("size", "12", "size is 12; it can be 64 to 8192"),
        ("size", "big", "size is 'big'; it can be 64 to 8192"),
        ("seed", None, "seed is None"),
        ("iterations", 0, "iterations is 0"),
        ("init", "/etc/passwd", "it can be content, style, noise"),
        ("layer_weights", "1, 2", "2 numbers for 6 style layers"),
    ],
)
def test_what_a_control_cannot_be_is_refused_in_a_sentence(name: str, value: Any, sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        handlers.make_request(values(sample="cat", **{name: value}))


def test_an_order_is_what_was_chosen(tmp_path: Path) -> None:
    mine = Upload(tmp_path / "x.png", "x.png")
    assert handlers.make_request(values(content=mine, strength=70)).content == mine
    assert handlers.make_request(values(sample="cat", strength=70)).options == Options(strength=70)
    assert handlers.make_request(values(sample="cat")).content.path == library.list_contents()["cat"]
    own = [str(tmp_path / "one.png"), str(tmp_path / "two.png")]
    mixed = handlers.make_request(values(sample="cat", own=own, also=["starry-night"], weights=[1, 2, 0.5, 1]))
    assert [style.name for style in mixed.styles] == ["one.png", "two.png", "starry-night.jpg"]
    assert mixed.options.style_weights == (1, 2, 0.5)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "Choose a photo first"),
        ({"sample": "cat", "style": None}, "Choose a painting"),
        ({"sample": "cat", "own": ["1", "2", "3", "4", "5"]}, "There are 5 paintings; choose 4 at most"),
    ],
)
def test_what_is_missing_is_said(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        handlers.make_request(values(**given))


def test_a_painting_is_shown_as_it_grows_and_then_kept(
    studio: Studio, page: PageLayout, visit: Session, order: PaintRequest
) -> None:
    seen = list(handlers.paint_picture(studio, page, visit, order))
    live = [changes for changes in seen if page.stage in changes and page.slider not in changes]
    assert "data:image/jpeg;base64," in str(seen[1][page.stage])
    assert all("iteration" in text_of(changes, page) for changes in (seen[1], *live))
    (painted,) = visit.painted
    assert painted.png.name == "my-photo.art.png"
    record = provenance.read_record(painted.png)
    assert (record["width"], record["height"], record["iterations"]) == (64, 48, 3)
    assert images.read_image(painted.jpeg).pixels.shape == images.read_image(painted.before).pixels.shape == (48, 64, 3)
    assert seen[-1][page.png] == gr.update(value=str(painted.png))
    assert "<polyline" in seen[-1][page.losses]
    assert "copy the command" in seen[-1][page.used]
    assert not visit.is_painting


def test_the_photos_transparency_comes_back(studio: Studio, visit: Session, order: PaintRequest, pixels: Made) -> None:
    alpha = np.linspace(0, 1, 48 * 64, dtype=np.float32).reshape(48, 64)
    photo = upload(order.content.path, pixels(48, 64), alpha=alpha)
    *_, painted = studio.paint(visit, PaintRequest(content=photo, styles=order.styles, options=SMALL))
    assert isinstance(painted, FinishedPicture)
    found = images.read_image(painted.png).alpha
    assert found is not None
    assert np.abs(found - alpha).max() < 0.01


def test_stop_keeps_the_best_so_far_at_full_size(
    studio: Studio, page: PageLayout, visit: Session, order: PaintRequest
) -> None:
    long = PaintRequest(
        content=order.content, styles=order.styles, options=Options(size=128, first_size=64, iterations=10_000)
    )
    work = handlers.paint_picture(studio, page, visit, long)
    next(changes for changes in work if page.stage in changes)
    threading.Timer(0.1, visit.stop.set).start()
    *_, last = work
    assert "Stopped" in text_of(last, page)
    assert provenance.read_record(visit.painted[0].png)["width"] == 128
    assert provenance.read_record(visit.painted[0].png)["stopped"]


def test_discard_keeps_nothing(studio: Studio, page: PageLayout, visit: Session, order: PaintRequest) -> None:
    long = PaintRequest(
        content=order.content, styles=order.styles, options=Options(size=64, first_size=64, iterations=10_000)
    )
    work = handlers.paint_picture(studio, page, visit, long)
    next(changes for changes in work if page.stage in changes)
    handlers.show_content(studio, page, visit, order.content, None)
    visit.discard()
    *_, last = work
    assert "Your photo, my photo.png" in last[page.stage]["value"]
    assert "Discarded" in text_of(last, page)
    assert not visit.painted


def test_closing_the_event_or_the_tab_ends_the_work(studio: Studio, visit: Session, order: PaintRequest) -> None:
    long = PaintRequest(
        content=order.content, styles=order.styles, options=Options(size=64, first_size=64, iterations=10_000)
    )
    work = studio.paint(visit, long)
    next(work)
    stop = visit.stop
    work.close()
    assert stop.is_set()
    assert not visit.is_painting
    work = studio.paint(visit, long)
    next(work)
    studio.visits.leave("someone")
    assert len(list(work)) <= 1
    assert not visit.folder.exists()


def test_try_again_takes_the_next_seed_and_continue_goes_on(
    studio: Studio, visit: Session, order: PaintRequest
) -> None:
    with pytest.raises(UsageError, match="paint one first"):
        handlers.continue_request(visit)
    options = SMALL.replace(iterations=20)
    *_, first = studio.paint(visit, PaintRequest(content=order.content, styles=order.styles, options=options))
    assert handlers.retry_request(visit).options.seed == SMALL.seed + 1
    *_, second = studio.paint(visit, handlers.continue_request(visit))
    assert isinstance(first, FinishedPicture)
    assert isinstance(second, FinishedPicture)
    assert second.record["losses"]["total"] < first.record["losses"]["total"]
    assert second.record["options"]["init"] == "file"
    assert [scale["width"] for scale in second.record["schedule"]] == [64]
    assert first.png != second.png


@pytest.mark.parametrize(
    "data", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n" + bytes(99), b"\xff\xd8\xff\xe0" + bytes(99)]
)
def test_a_wrong_file_is_one_sentence_that_names_it_and_no_path(
    studio: Studio, page: PageLayout, visit: Session, order: PaintRequest, tmp_path: Path, data: bytes
) -> None:
    wrong = Upload(tmp_path / "secret-place.bin", "holiday <b>.jpg")
    wrong.path.write_bytes(data)
    looked = handlers.show_content(studio, page, visit, wrong, None)
    *_, painted = handlers.paint_picture(
        studio, page, visit, PaintRequest(content=wrong, styles=order.styles, options=SMALL)
    )
    for changes in (looked, painted):
        assert 'role="alert"' in text_of(changes, page)
        assert "holiday &lt;b&gt;.jpg" in text_of(changes, page)
        assert str(tmp_path) not in text_of(changes, page)
        assert "secret-place" not in text_of(changes, page)


def test_too_many_pixels_are_refused_before_they_are_decoded(page: PageLayout, order: PaintRequest) -> None:
    studio = Studio(max_pixels=1000)
    try:
        assert "more than the limit" in text_of(
            handlers.show_content(studio, page, studio.visits.of(None), order.content, None), page
        )
    finally:
        studio.close()


def test_an_upload_that_was_swept_is_asked_for_again(studio: Studio, page: PageLayout, order: PaintRequest) -> None:
    order.content.path.unlink()
    assert "choose it once more" in text_of(
        handlers.show_content(studio, page, studio.visits.of(None), order.content, None), page
    )


def test_a_photo_is_shown_upright_in_its_own_proportions(studio: Studio, page: PageLayout, order: PaintRequest) -> None:
    shown = handlers.show_content(studio, page, studio.visits.of(None), order.content, None)
    assert "--ratio: 1.3333" in shown[page.stage]["value"]
    assert "64×48" in text_of(shown, page)


def test_weights_appear_with_the_second_painting(
    studio: Studio, page: PageLayout, visit: Session, order: PaintRequest
) -> None:
    one = handlers.show_styles(studio, page, visit, None, [str(order.styles[0].path)], None)
    assert [one[weight]["visible"] for weight in page.weights] == [False] * 4
    two = handlers.show_styles(studio, page, visit, None, [str(order.styles[0].path)], ["starry-night"])
    assert [two[weight]["visible"] for weight in page.weights] == [True, True, False, False]
    assert "art.png" in two[page.own_shown]


def test_settings_come_back_from_a_picture(
    studio: Studio, page: PageLayout, visit: Session, order: PaintRequest
) -> None:
    asked = PaintRequest(content=order.content, styles=order.styles, options=SMALL.replace(strength=33, seed=9))
    *_, painted = studio.paint(visit, asked)
    assert isinstance(painted, FinishedPicture)
    changes = handlers.load_settings(studio, page, visit, str(painted.png))
    held = [changes[page.options[name]] for name in controls.PAGE_OPTIONS]
    assert controls.options_from_values(held) == asked.options
    assert "There are no settings in" in text_of(
        handlers.load_settings(studio, page, visit, str(order.content.path)), page
    )


def test_nobody_looks_into_an_upload_but_the_child(page: PageLayout, tmp_path: Path) -> None:
    from gradio.data_classes import ImageData

    path = tmp_path / "x.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n, and then nothing")
    data: Any = page.content.preprocess(ImageData(path=str(path), orig_name="mine.png"))
    assert data == Upload(path, "mine.png")
    assert layout.read_upload(None) is None


def test_the_janitor_removes_what_is_old_then_what_is_too_much() -> None:
    visits = Sessions()
    try:
        for index, age in enumerate((0, 3000, 2000, 200_000)):
            path = visits.uploads / str(index)
            path.write_bytes(bytes(1000))
            os.utime(path, (time.time() - age,) * 2)
        visits.sweep()
        assert sorted(path.name for path in visits.uploads.iterdir()) == ["0", "1", "2"]
        visits.sweep(largest=2500)
        assert sorted(path.name for path in visits.uploads.iterdir()) == ["0", "2"]
        visits.sweep(largest=0)
        assert [path.name for path in visits.uploads.iterdir()] == ["0"]  # somebody is about to use it
    finally:
        visits.close()
    assert not visits.root.exists()


def test_what_a_dead_server_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"{FOLDER_PREFIX}99999999-x").mkdir()
    (tmp_path / f"{FOLDER_PREFIX}{os.getpid()}-x").mkdir()
    Sessions().close()
    assert [path.name for path in tmp_path.iterdir()] == [f"{FOLDER_PREFIX}{os.getpid()}-x"]


def test_names_from_browsers_are_made_safe() -> None:
    assert Upload(Path("x"), "../../etc/pass wd\n.png").stem == "pass-wd"
    assert Upload(Path("x"), "...").stem == "picture"
    visits = Sessions()
    try:
        assert visits.of("../../x").folder.parent == visits.root / "visits"
    finally:
        visits.close()


def test_programs_that_come_as_ever_new_sessions_are_not_remembered(studio: Studio, order: PaintRequest) -> None:
    with studio.visits.brief("first", "api") as visit:
        *_, painted = studio.paint(visit, order)
    assert isinstance(painted, FinishedPicture)
    assert painted.png.exists()  # it is about to be fetched
    assert studio.visits.of("first", "api") is not visit
    studio.visits.leave("first")
    assert not painted.png.exists()
    page = app.build_page(studio)
    held = FastAPI()
    gr.mount_gradio_app(held, page, path="")
    for number in range(3 * MAX_GRADIO_SESSIONS):
        page.state_holder[f"session{number}"]
    assert len(page.state_holder.session_data) <= MAX_GRADIO_SESSIONS


def test_durations_are_a_persons() -> None:
    assert [render.format_duration(seconds) for seconds in (0.4, 59, 61, 3700)] == [
        "0 s",
        "59 s",
        "1 min 1 s",
        "1 h 1 min",
    ]


def test_the_page_is_built_with_one_heavy_event_at_a_time(studio: Studio) -> None:
    page = app.build_page(studio, queue=5)
    heavy = [event for event in page.fns.values() if event.concurrency_id == "painter"]
    assert len(heavy) == 5  # Paint, Continue, Try again, the batch, and programs
    assert {event.concurrency_limit for event in heavy} == {1}
    assert page._queue.max_size == 5
    assert page.analytics_enabled is False
    assert [event.api_name for event in page.fns.values() if event.api_visibility != "private"] == ["stylize"]


def test_the_weights_trouble_is_told_to_who_asks(
    monkeypatch: pytest.MonkeyPatch, page: PageLayout, order: PaintRequest
) -> None:
    def missing(_name: str) -> None:
        raise StylerError("The weights are gone.")

    monkeypatch.setattr("styler.vgg.registry.load_backbone", missing)
    studio = Studio()
    try:
        studio.warm()
        assert not studio.is_ready
        *_, last = handlers.paint_picture(studio, page, studio.visits.of("x"), order)
        assert "The weights are gone." in text_of(last, page)
    finally:
        studio.close()
