"""Tests of the page without a browser: controls, requests, painting, errors, and the removal of files."""

import errno
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from fastapi import FastAPI
from filelock import FileLock
from numpy.typing import NDArray

from styler import images, library, provenance
from styler.engine.painter import Painter
from styler.errors import OptionError, StylerError, UsageError
from styler.options import LOOKS, PRESETS, Options, list_options
from ui import app, controls, handlers, layout, render
from ui.handlers import Changes, PaintHandlers
from ui.layout import PageLayout
from ui.queue import MAX_GRADIO_SESSIONS
from ui.session import FOLDER_PREFIX, FinishedPicture, PaintRequest, Session, Sessions, Upload
from ui.studio import Studio

SMALL = Options(size=64, first_size=64, iterations=3)
MakePixels = Callable[..., NDArray[np.float32]]


@pytest.fixture
def studio(use_tiny: None) -> Iterator[Studio]:
    """Create a studio with the tiny network."""
    studio = Studio()
    yield studio
    studio.close()


@pytest.fixture
def paint_tab(studio: Studio, page: PageLayout) -> PaintHandlers:
    return PaintHandlers(studio, page)


def make_upload(path: Path, pixels: NDArray[np.float32], **settings: Any) -> Upload:
    path.write_bytes(images.encode_image(pixels, **settings))
    return Upload(path, path.name)


@pytest.fixture
def request_(tmp_path: Path, pixels: MakePixels) -> PaintRequest:
    photo = make_upload(tmp_path / "my photo.png", pixels(48, 64))
    painting = make_upload(tmp_path / "art.png", pixels(50, 50, 1))
    return PaintRequest(content=photo, styles=(painting,), options=SMALL)


def request_from(**changed: Any) -> PaintRequest:
    """Make the request of a new page with some inputs changed."""
    inputs: dict[str, Any] = {"content": None, "sample": None, "style": "starry-night", "own": None, "mixed": []}
    inputs |= {"protect": [], "amount": 70, "region": "whole", "region_style": None, "own_region": None}
    inputs |= {"weights": [1.0] * controls.MAX_STYLES}
    inputs |= dict(zip(controls.PAGE_OPTIONS, controls.values_from_options(Options()), strict=True))
    names = [name for name in inputs if name not in controls.PAGE_OPTIONS and name != "weights"]
    chosen = inputs | changed
    options = [chosen[name] for name in controls.PAGE_OPTIONS]
    first = [chosen[name] for name in names]
    return handlers.make_request(Session(Path()), *first, *chosen["weights"], *options)


def paint(paint_tab: PaintHandlers, session: Session, request: PaintRequest) -> Generator[Changes, None, None]:
    return paint_tab.paint(lambda _session: request, session)


def get_status(changes: Changes, paint_tab: PaintHandlers) -> str:
    return str(changes[paint_tab.layout.status])


def test_initial_controls_give_the_default_options(page: PageLayout) -> None:
    values = [page.options[name].value for name in controls.PAGE_OPTIONS]
    assert controls.options_from_values(values) == Options()


def test_every_option_has_a_control_or_is_hidden() -> None:
    assert sorted((*controls.PAGE_OPTIONS, *controls.HIDDEN_OPTIONS)) == sorted(list_options())


@pytest.mark.parametrize("name", controls.PAGE_OPTIONS)
def test_a_control_has_the_help_and_the_flag_of_its_option(page: PageLayout, name: str) -> None:
    info = str(getattr(page.options[name], "info"))  # noqa: B009 - not declared by Component
    assert list_options()[name].help.casefold() in info.casefold()
    assert f"--{name.replace('_', '-')}" in info


@pytest.mark.parametrize(
    "options", [Options.of(preset="draft"), Options.of(look="gatys", size="original", seed=7, keep_border=True)]
)
def test_options_survive_the_controls(options: Options) -> None:
    assert controls.options_from_values(controls.values_from_options(options)) == options


def choose_bundle(kind: str, name: str, values: list[Any]) -> list[Any]:
    """Return the values of all controls after a choice of preset or look."""
    chosen = {**dict(zip(controls.PAGE_OPTIONS, values, strict=True)), kind: name}
    changed = controls.apply_bundle(kind, *chosen.values())
    return [*(chosen | dict(zip(controls.list_bundle_options(kind), changed, strict=True))).values()]


@pytest.mark.parametrize(("kind", "names"), [("preset", PRESETS), ("look", LOOKS)])
def test_a_preset_or_look_changes_only_its_own_controls(kind: str, names: dict[str, Any]) -> None:
    values = controls.values_from_options(Options(size=300, seed=5))
    for name in [*names, *names]:
        values = choose_bundle(kind, name, values)
        assert controls.options_from_values(values) == Options.of(**{kind: name}, size=300, seed=5)


def test_presets_and_looks_go_together() -> None:
    values = controls.values_from_options(Options())
    for kind, name in (("look", "gatys"), ("preset", "fine"), ("look", "oil"), ("preset", "draft"), ("look", "gatys")):
        values = choose_bundle(kind, name, values)
    assert controls.options_from_values(values) == Options.of(preset="draft", look="gatys")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("size", "12", "size is 12; it can be 64 to 16384"),
        ("size", "big", "size is 'big'; it can be 64 to 16384"),
        ("seed", None, "The field 'Seed' is empty; fill it in."),
        ("time", None, "The field 'Time budget' is empty; fill it in."),
        ("size", "", "The field 'Size' is empty; fill it in."),
        ("iterations", 0, "iterations is 0"),
        ("init", "/etc/passwd", "it can be content, style, noise"),
        ("layer_weights", "1, 2", "2 numbers for 6 style layers"),
    ],
)
def test_an_invalid_value_is_reported(name: str, value: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        request_from(sample="cat", **{name: value})


def test_a_request_holds_what_was_chosen(tmp_path: Path) -> None:
    mine = Upload(tmp_path / "x.png", "x.png")
    assert request_from(content=mine, strength=70).content == mine
    assert request_from(sample="cat", strength=70).options == Options(strength=70)
    assert request_from(sample="cat").content.path == library.list_contents()["cat"]
    own = [Upload(tmp_path / name, name) for name in ("one.png", "two.png")]
    few = request_from(sample="cat", style_layers="relu1_1").options
    assert (few.style_layers, few.style_layer_weights) == (("relu1_1",), (256,)), "weights follow the layers"
    mixed = request_from(sample="cat", own=own, mixed=["starry-night"], weights=[1, 2, 0.5, 1])
    assert [style.name for style in mixed.styles] == ["one.png", "two.png", "starry-night.jpg"]
    assert mixed.options.style_weights == (1, 2, 0.5)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "Choose a photo first"),
        ({"sample": "cat", "style": None}, "Choose a painting"),
        ({"sample": "cat", "own": [Upload(Path("x"), "x")] * 5}, "There are 5 paintings; choose 4 at most"),
    ],
)
def test_a_missing_input_is_reported(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        request_from(**inputs)


def test_paint_shows_live_views_and_keeps_the_picture(
    paint_tab: PaintHandlers, session: Session, request_: PaintRequest
) -> None:
    page = paint_tab.layout
    seen = list(paint(paint_tab, session, request_))
    live = [changes for changes in seen if "working" in str(changes.get(page.stage))]
    assert "data:image/jpeg;base64," in str(seen[1][page.stage])
    assert all("iteration" in get_status(changes, paint_tab) for changes in (seen[1], *live))
    (picture,) = session.pictures
    assert picture.png.name == "my-photo.art.png"
    record = provenance.read_record(picture.png)
    assert (record["width"], record["height"], record["iterations"]) == (64, 48, 3)
    assert images.read_image(picture.jpeg).pixels.shape == images.read_image(picture.photo).pixels.shape == (48, 64, 3)
    assert seen[-1][page.png] == gr.update(value=str(picture.png))
    assert {"total", "content relu4_2"} <= {term for _, _, term, _ in seen[-1][page.losses_plot]["value"]["data"]}
    assert "content relu4_2" in seen[-1][page.losses_legend]
    assert "copy the command" in seen[-1][page.summary]
    assert not session.is_painting


def test_the_transparency_of_the_photo_is_kept(
    studio: Studio, session: Session, request_: PaintRequest, pixels: MakePixels
) -> None:
    alpha = np.linspace(0, 1, 48 * 64, dtype=np.float32).reshape(48, 64)
    photo = make_upload(request_.content.path, pixels(48, 64), alpha=alpha)
    *_, picture = studio.paint(session, PaintRequest(content=photo, styles=request_.styles, options=SMALL))
    assert isinstance(picture, FinishedPicture)
    restored = images.read_image(picture.png).alpha
    assert restored is not None
    assert np.abs(restored - alpha).max() < 0.01


def test_stop_keeps_the_best_picture_at_full_size(
    paint_tab: PaintHandlers, session: Session, request_: PaintRequest
) -> None:
    long = PaintRequest(
        content=request_.content, styles=request_.styles, options=Options(size=128, first_size=64, iterations=10_000)
    )
    work = paint(paint_tab, session, long)
    next(changes for changes in work if paint_tab.layout.stage in changes)
    threading.Timer(0.1, session.stop.set).start()
    *_, last = work
    assert "Stopped" in get_status(last, paint_tab)
    assert provenance.read_record(session.pictures[0].png)["width"] == 128
    assert provenance.read_record(session.pictures[0].png)["stopped"]


def test_discard_keeps_nothing(paint_tab: PaintHandlers, session: Session, request_: PaintRequest) -> None:
    long = PaintRequest(
        content=request_.content, styles=request_.styles, options=Options(size=64, first_size=64, iterations=10_000)
    )
    work = paint(paint_tab, session, long)
    next(changes for changes in work if paint_tab.layout.stage in changes)
    paint_tab.show_content(session, request_.content, None)
    session.discard_work()
    *_, last = work
    assert "Your photo, my photo.png" in last[paint_tab.layout.stage]
    assert "Discarded" in get_status(last, paint_tab)
    assert not session.pictures


def test_closing_the_event_or_the_tab_stops_the_work(studio: Studio, session: Session, request_: PaintRequest) -> None:
    long = PaintRequest(
        content=request_.content, styles=request_.styles, options=Options(size=64, first_size=64, iterations=10_000)
    )
    work = studio.paint(session, long)
    next(work)
    stop = session.stop
    work.close()
    assert stop.is_set()
    assert not session.is_painting
    work = studio.paint(session, long)
    next(work)
    studio.sessions.remove("someone")
    assert len(list(work)) <= 1
    assert not session.folder.exists()


def test_repainting_changes_the_strength_alone(studio: Studio, session: Session, request_: PaintRequest) -> None:
    with pytest.raises(UsageError, match="paint one first"):
        handlers.repaint_request(session, 30)
    list(studio.paint(session, request_))
    assert handlers.repaint_request(session, 30) == replace(request_, options=SMALL.replace(strength=30))
    wrong: Any
    for wrong in (-1, 101, None, "30"):
        with pytest.raises(OptionError, match="it can be 0 to 100"):
            handlers.repaint_request(session, wrong)


def test_retry_takes_the_next_seed_and_continue_lowers_the_loss(
    studio: Studio, session: Session, request_: PaintRequest
) -> None:
    with pytest.raises(UsageError, match="paint one first"):
        handlers.continue_request(session)
    options = SMALL.replace(iterations=20, brushwork=0)  # matched features have other targets in each run
    *_, first = studio.paint(session, PaintRequest(content=request_.content, styles=request_.styles, options=options))
    assert handlers.retry_request(session).options.seed == SMALL.seed + 1
    *_, second = studio.paint(session, handlers.continue_request(session))
    assert isinstance(first, FinishedPicture)
    assert isinstance(second, FinishedPicture)
    assert second.record["losses"]["total"] < first.record["losses"]["total"]
    assert second.record["options"]["init"] == "file"
    assert [scale["width"] for scale in second.record["schedule"]] == [64]
    assert first.png != second.png


@pytest.mark.parametrize(
    "data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(99), b"\xff\xd8\xff\xe0" + bytes(99)]
)
def test_an_unreadable_file_is_reported_by_its_name_without_its_path(
    paint_tab: PaintHandlers, session: Session, request_: PaintRequest, tmp_path: Path, data: bytes
) -> None:
    wrong = Upload(tmp_path / "secret-place.bin", "holiday <b>.jpg")
    wrong.path.write_bytes(data)
    shown = paint_tab.show_content(session, wrong, None)
    assert shown[paint_tab.layout.content] is None  # nor is the photo before it painted
    *_, last = paint(paint_tab, session, PaintRequest(content=wrong, styles=request_.styles, options=SMALL))
    for text in (shown[paint_tab.layout.stage], get_status(last, paint_tab)):
        assert 'role="alert"' in text
        assert "holiday &lt;b&gt;.jpg" in text
        assert str(tmp_path) not in text
        assert "secret-place" not in text


def test_too_many_pixels_are_refused_before_decoding(page: PageLayout, request_: PaintRequest) -> None:
    studio = Studio(max_pixels=1000)
    try:
        paint_tab = PaintHandlers(studio, page)
        changes = paint_tab.show_content(studio.sessions.get(None), request_.content, None)
        assert "more than the limit" in changes[page.stage]
    finally:
        studio.close()


def test_a_removed_upload_is_reported(paint_tab: PaintHandlers, session: Session, request_: PaintRequest) -> None:
    request_.content.path.unlink()
    changes = paint_tab.show_content(session, request_.content, None)
    assert "upload it again" in changes[paint_tab.layout.stage]


def test_a_photo_is_shown_in_its_own_proportions(
    paint_tab: PaintHandlers, session: Session, request_: PaintRequest
) -> None:
    shown = paint_tab.show_content(session, request_.content, None)
    assert "--ratio: 1.3333" in shown[paint_tab.layout.stage]
    assert "64×48" in get_status(shown, paint_tab)


def test_weights_appear_for_two_paintings(paint_tab: PaintHandlers, session: Session, request_: PaintRequest) -> None:
    page = paint_tab.layout
    one = paint_tab.show_styles(session, None, [request_.styles[0]], None)
    assert [one[weight]["visible"] for weight in page.style_weights] == [False] * 4
    two = paint_tab.show_styles(session, None, [request_.styles[0]], ["starry-night"])
    assert [two[weight]["visible"] for weight in page.style_weights] == [True, True, False, False]
    assert "art.png" in two[page.own_thumbnails]


def test_settings_are_loaded_from_a_picture(
    studio: Studio, paint_tab: PaintHandlers, session: Session, request_: PaintRequest
) -> None:
    request = PaintRequest(content=request_.content, styles=request_.styles, options=SMALL.replace(strength=33, seed=9))
    *_, picture = studio.paint(session, request)
    assert isinstance(picture, FinishedPicture)
    changes = paint_tab.load_settings(session, [Upload.from_path(picture.png)])
    values = [changes[paint_tab.layout.options[name]] for name in controls.PAGE_OPTIONS]
    assert controls.options_from_values(values) == request.options
    assert "It was" not in get_status(changes, paint_tab), "nothing is left out"
    refused = paint_tab.load_settings(session, [request_.content])
    assert "There are no settings in" in get_status(refused, paint_tab)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "vgg19"}, "It was made with the network vgg19, which is not on this server; vgg16 is set."),
        (
            {"backbone": "/home/ada/net.pth"},
            "It was made with a network file, which is not on this server; vgg16 is set.",
        ),
        ({"init": "/home/ada/start.png"}, "It was started from a picture, which is not stored;"),
    ],
)
def test_settings_that_the_page_cannot_use_are_named(
    changes: dict[str, Any], message: str, paint_tab: PaintHandlers, session: Session, painter: Painter, tmp_path: Path
) -> None:
    grain = np.random.default_rng(1).random((64, 64, 3), np.float32)
    result = replace(painter.stylize(grain, grain, SMALL), options=SMALL.replace(**changes))
    shown = paint_tab.load_settings(session, [Upload.from_path(result.save(tmp_path / "a.png"))])
    assert message in get_status(shown, paint_tab)


def test_another_precision_than_the_servers_is_named(
    studio: Studio, paint_tab: PaintHandlers, session: Session, tmp_path: Path
) -> None:
    grain = np.random.default_rng(1).random((64, 64, 3), np.float32)
    result = studio.load_painter().stylize(grain, grain, SMALL)
    for precision, is_named in (("bfloat16", True), (result.precision, False)):
        path = replace(result, precision=precision).save(tmp_path / f"{precision}.png")
        status = get_status(paint_tab.load_settings(session, [Upload.from_path(path)]), paint_tab)
        assert ("It was made with precision bf16; this server paints with fp32" in status) == is_named


def test_a_recorded_network_that_the_server_has_is_kept(
    paint_tab: PaintHandlers, session: Session, request_: PaintRequest, tmp_path: Path
) -> None:
    *_, picture = paint_tab.studio.paint(session, replace(request_, options=SMALL.replace(backbone="vgg16-slim")))
    assert isinstance(picture, FinishedPicture)
    shown = paint_tab.load_settings(session, [Upload.from_path(picture.png)])
    assert shown[paint_tab.layout.options["backbone"]] == "vgg16-slim"
    assert "It was" not in get_status(shown, paint_tab), "nothing is left out"
    values = [shown[paint_tab.layout.options[name]] for name in controls.PAGE_OPTIONS]
    again = replace(request_, options=controls.options_from_values(values))
    *_, second = paint_tab.studio.paint(session, again)
    assert isinstance(second, FinishedPicture)
    assert second.record["options"]["backbone"] == "vgg16-slim"


def test_the_path_of_the_network_of_the_server_is_not_shown() -> None:
    options = Options(backbone="/srv/secret/net.safetensors")
    values = dict(zip(controls.PAGE_OPTIONS, controls.values_from_options(options), strict=True))
    assert values["backbone"] == "file"
    studio = Studio(options)
    try:
        assert studio.use_machine(Options(backbone="file")).backbone == options.backbone
        assert studio.use_machine(Options(backbone="vgg16")).backbone == "vgg16"
    finally:
        studio.close()
    with pytest.raises(OptionError, match=r"backbone is '/etc/passwd'; it can be vgg16"):
        request_from(sample="cat", backbone="/etc/passwd")


def test_recorded_weights_of_paintings_are_set(
    paint_tab: PaintHandlers, session: Session, request_: PaintRequest
) -> None:
    request = replace(request_, styles=request_.styles * 2, options=SMALL.replace(style_weights=(1.0, 8.0)))
    *_, picture = paint_tab.studio.paint(session, request)
    assert isinstance(picture, FinishedPicture)
    shown = paint_tab.load_settings(session, [Upload.from_path(picture.png)])
    assert [shown[slider]["value"] for slider in paint_tab.layout.style_weights] == [0.5, 4, 1, 1]
    assert "Its weights apply to the paintings in the order" in get_status(shown, paint_tab)


def test_a_trimmed_painting_is_named_under_the_picture_and_a_checkbox_keeps_it(
    page: PageLayout, paint_tab: PaintHandlers, session: Session, request_: PaintRequest
) -> None:
    assert isinstance(page.options["keep_border"], gr.Checkbox)
    *_, picture = paint_tab.studio.paint(session, request_)
    assert isinstance(picture, FinishedPicture)
    assert "trimmed" not in render.render_summary(picture)
    trimmed = replace(picture, record={**picture.record, "trims": [[1, 1, 40, 40]]})
    assert " · trimmed · " in render.render_summary(trimmed)


def test_an_upload_is_not_decoded_in_the_server_process(page: PageLayout, tmp_path: Path) -> None:
    from gradio.data_classes import ImageData

    path = tmp_path / "x.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    data: Any = page.content.preprocess(ImageData(path=str(path), orig_name="mine.png"))
    assert data == Upload(path, "mine.png")
    assert layout.read_upload(None) is None


def test_old_files_are_removed_then_the_oldest_beyond_the_limit() -> None:
    sessions = Sessions()
    try:
        for index, age in enumerate((0, 3000, 2000, 200_000)):
            path = sessions.uploads / str(index)
            path.write_bytes(bytes(1000))
            os.utime(path, (time.time() - age,) * 2)
        sessions.sweep()
        assert sorted(path.name for path in sessions.uploads.iterdir()) == ["0", "1", "2"]
        sessions.sweep(max_bytes=2500)
        assert sorted(path.name for path in sessions.uploads.iterdir()) == ["0", "2"]
        sessions.sweep(max_bytes=0)
        assert [path.name for path in sessions.uploads.iterdir()] == ["0"]  # too young to be removed
    finally:
        sessions.close()
    assert not sessions.root.exists()


def test_folders_of_dead_servers_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    running = Sessions()
    dead, new = tmp_path / f"{FOLDER_PREFIX}dead", tmp_path / f"{FOLDER_PREFIX}new"
    for folder, age in ((dead, 100), (new, 0), (running.root, 100)):
        folder.mkdir(exist_ok=True)
        os.utime(folder, (time.time() - age,) * 2)
    Sessions().close()
    lock = Path(f"{running.root}.lock")
    assert {*tmp_path.iterdir()} == {new, running.root, lock}, "one that has just been made may not be locked yet"
    running.close()
    assert {*tmp_path.iterdir()} == {new}


def test_folders_stay_where_locks_do_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(FileLock, "acquire", refuse)
    unknown = tmp_path / f"{FOLDER_PREFIX}unknown"
    unknown.mkdir()
    os.utime(unknown, (time.time() - 100,) * 2)
    Sessions().close()
    assert {*tmp_path.iterdir()} == {unknown}


def test_a_server_without_a_folder_for_temporary_files_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp', '/']")

    monkeypatch.setattr("tempfile.gettempdir", find_none)
    with pytest.raises(StylerError, match=r"^There is no folder for temporary files: .*; set TMPDIR to .*\.$"):
        Sessions()


def test_names_from_browsers_are_sanitized() -> None:
    assert Upload(Path("x"), "../../etc/pass wd\n.png").stem == "pass-wd"
    assert Upload(Path("x"), "...").stem == "picture"
    sessions = Sessions()
    try:
        assert sessions.get("../../x").folder.parent == sessions.root / "outputs"
    finally:
        sessions.close()


def test_clients_with_ever_new_sessions_do_not_fill_the_memory(studio: Studio, request_: PaintRequest) -> None:
    with studio.sessions.open_temporary("first", "api") as session:
        *_, picture = studio.paint(session, request_)
    assert isinstance(picture, FinishedPicture)
    assert picture.png.exists()  # the client is about to download it
    assert studio.sessions.get("first", "api") is not session
    studio.sessions.remove("first")
    assert not picture.png.exists()
    page = app.build_page(studio)
    server = FastAPI()
    gr.mount_gradio_app(server, page, path="")
    for number in range(3 * MAX_GRADIO_SESSIONS):
        page.state_holder[f"session{number}"]
    assert len(page.state_holder.session_data) <= MAX_GRADIO_SESSIONS


def test_all_that_paint_run_at_once_in_gradio_and_wait_in_our_queue(studio: Studio) -> None:
    page = app.build_page(studio, queue=5)
    painting = [event for event in page.fns.values() if event.concurrency_id == "painter"]
    assert len(painting) == 8  # Paint, Paint this, Continue, Try again, Repaint, Paint all, and those for programs
    assert {event.concurrency_limit for event in painting} == {None}
    assert studio.thread.max_waiting == 5
    assert page._queue.max_size == page._queue.max_thread_count > 5
    assert page.analytics_enabled is False
    assert [event.api_name for event in page.fns.values() if event.api_visibility != "private"] == [
        "stylize",
        "preview",
    ]


def test_missing_weights_are_reported(
    monkeypatch: pytest.MonkeyPatch, page: PageLayout, request_: PaintRequest
) -> None:
    def fail(_name: str) -> None:
        raise StylerError("The weights are gone.")

    monkeypatch.setattr("styler.vgg.registry.load_backbone", fail)
    studio = Studio()
    try:
        studio.warm_up()
        assert not studio.is_ready
        paint_tab = PaintHandlers(studio, page)
        *_, last = paint(paint_tab, studio.sessions.get("x"), request_)
        assert "The weights are gone." in get_status(last, paint_tab)
    finally:
        studio.close()
