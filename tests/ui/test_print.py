"""The page for print: named papers, a limit on the time of a painting, and the resolution of what is downloaded."""

import time
from collections.abc import Iterator

import pytest
from made import Pixels

from styler import images
from styler.cli import ui as command
from styler.errors import OutputError, UsageError
from styler.options import Options
from styler.schedule import Scale
from ui import api, batch_view, controls, handlers, render, wall
from ui.layout import PageLayout
from ui.session import FinishedPicture, PaintRequest, Session, Upload
from ui.studio import Studio


@pytest.fixture
def studio(use_tiny: None) -> Iterator[Studio]:
    """Create a studio with the tiny network, which paints for at most 100 seconds and takes 1 µs for each pixel."""
    studio = Studio(max_seconds=100, has_previews=False)
    studio.load_painter()
    studio.work_estimate.guess_rate(Scale(1000, 1000, 1, "adam"), 1.0)
    yield studio
    studio.close()


@pytest.fixture
def photo(tmp_path_factory: pytest.TempPathFactory, pixels: Pixels) -> Upload:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    return Upload.from_path(images.write_file(path, images.encode_image(pixels(60, 90))))


def test_the_size_can_be_a_paper() -> None:
    for text, settings in (
        *(("1024", {"size": 1024}), ("original", {"size": "original"})),
        *(("a3", {"paper": "A3"}), ("50 x 70 cm", {"paper": "50x70cm"})),
    ):
        assert controls.parse_size(text) == settings
    for options in (Options(), Options(size=700), Options.of(paper="A3"), Options.of(paper="50x70cm", dpi=72)):
        assert controls.options_from_values(controls.values_from_options(options)) == options
    assert [controls.choose_size(Options.of(paper=name)) for name in ("A4", "A3", "A5")] == ["A4", "A3", "own"]
    choices = [label for label, _ in controls.make_size_choice().choices]
    assert choices[-3:] == ["Print A4\n21 × 29.7 cm", "Print A3\n29.7 × 42 cm", "Own…"]


@pytest.mark.parametrize(
    ("server", "given", "chosen"),
    [
        ({"size": 1024}, {"size": 1024, "paper": "A4"}, ("A4", 512)),
        ({"paper": "A4"}, {"size": 700, "paper": "A4"}, ("", 700)),
        ({"paper": "A4"}, {"size": 512, "paper": "A4"}, ("A4", 512)),
        ({"paper": "A4"}, {"size": 512, "paper": "A5"}, ("A5", 512)),
    ],
)
def test_a_program_sets_a_size_or_a_paper(
    server: dict[str, object], given: dict[str, object], chosen: tuple[str, int]
) -> None:
    options = controls.override_defaults(Options.of(**server), given)
    assert (options.paper, options.size) == chosen


def test_a_program_that_sets_both_is_told_so() -> None:
    with pytest.raises(UsageError, match=r"paper is A4 and size is 700; give only one of them\."):
        controls.override_defaults(Options(), {"size": 700, "paper": "A4"})
    assert {"paper", "dpi", "fit"} <= {*api.API_OPTIONS}


def test_the_time_of_each_size_is_shown(studio: Studio, page: PageLayout) -> None:
    tab = wall.WallHandlers(handlers.PaintHandlers(studio, page))
    changes = tab._show_times(Options(first_size=64, iterations=9), 90, 60)
    for size in ("512", "1024", "2048", "A4", "A3"):
        assert f'#option-sizes label:has([value="{size}"]) {{ --time: "about ' in changes[page.times]
    assert changes[page.limit_note] == ""
    assert changes[page.paint_button]["interactive"]
    changes = tab._show_times(Options.of(paper="A3"), 90, 60)
    assert "and this server paints at most 1 min 40 s; choose a smaller size" in changes[page.limit_note]
    assert (changes[page.paint_button]["interactive"], changes[page.paint_button]["value"]) == (False, wall.TOO_LONG)
    assert render.render_times({}, {"A4": 60}).endswith("<p>Expected time: Print A4 about 1 min</p>")


def test_a_painting_that_would_take_too_long_is_refused(studio: Studio, photo: Upload, session: Session) -> None:
    request = PaintRequest(content=photo, styles=(photo,), options=Options.of(paper="A3"))
    with pytest.raises(UsageError, match=r"would take about .* and this server paints at most 1 min 40 s; choose"):
        [*studio.paint(session, request)]
    assert not session.is_painting
    studio.check_time(Options(size=64, first_size=64, iterations=2), 90, 60)
    studio.check_time(Options.of(paper="A3", time=99), 90, 60)
    with pytest.raises(UsageError, match="would take about 1 min 41 s"):
        studio.check_time(Options.of(paper="A3", time=101), 90, 60)
    studio.max_seconds = 0
    studio.check_time(Options.of(paper="A3"), 90, 60)
    with pytest.raises(OutputError, match=r"70000×20 pixels, and JPEG holds at most 65,500"):
        studio.check_request(Options(size="original"), 70_000, 20)


def test_a_picture_of_a_batch_that_would_take_too_long_is_left_out(
    studio: Studio, photo: Upload, session: Session
) -> None:
    views = [*batch_view.paint_batch(studio, session, [photo], [photo], Options.of(paper="A3"))]
    (row,) = views[-1].rows.values()
    assert row.state == "failed"
    assert "this server paints at most 1 min 40 s" in row.error


def test_a_wrong_estimate_ends_at_the_limit_with_the_best_picture(
    studio: Studio, photo: Upload, session: Session
) -> None:
    studio.max_seconds = 1
    endless = Options(size=64, first_size=64, iterations=100_000, optimizer="adam")
    studio.estimate_seconds = lambda *_: 0.5  # type: ignore[method-assign]
    request, began = PaintRequest(content=photo, styles=(photo,), options=endless), time.monotonic()
    *_, picture = studio.paint(session, request)
    assert time.monotonic() - began < 30
    assert isinstance(picture, FinishedPicture)
    assert picture.record["stopped"]
    assert 0 < picture.record["iterations"] < 100_000
    assert "It was stopped after 1.0 s, the limit of this server." in picture.notes
    assert "the limit of this server" in render.render_summary(picture)


def test_downloads_have_the_resolution_and_the_cropped_photo(studio: Studio, photo: Upload, session: Session) -> None:
    options = Options.of(paper="2x2cm", dpi=100, fit="crop", first_size=64, iterations=2)
    *_, picture = studio.paint(session, PaintRequest(content=photo, styles=(photo,), options=options))
    assert isinstance(picture, FinishedPicture)
    for path in (picture.png, picture.jpeg):
        stored = images.read_size(path)
        assert (stored.width, stored.height, round(stored.dpi)) == (79, 79, 100)
    shown = images.read_image(picture.photo).pixels
    whole = images.read_image(photo.path).pixels
    assert abs(shown[:, :3].mean() - whole[:, 15:18].mean()) < 0.05


@pytest.mark.parametrize("value", ["-1", "ten", "1.5"])
def test_the_limit_is_a_whole_number_of_seconds(value: str) -> None:
    setting = command._Setting(int(value) if value == "-1" else value, "--max-seconds")
    with pytest.raises(UsageError, match="0 or more"):
        command._read_number(setting, 0)
