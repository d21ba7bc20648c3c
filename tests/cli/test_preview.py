"""`styler preview`: the sheet, the order of its paintings, what is skipped, and how it stops."""

import io
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from styler import environment, images, library, schedule
from styler.batch import sheets
from styler.cli import main
from styler.engine.painter import Painter, Preview
from styler.objective.terms import Objective
from styler.options import Options

Capture = pytest.CaptureFixture[str]
INPUTS = {"photo.png", "one.png", "art", "empty"}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the previews."""
    monkeypatch.setattr(schedule, "OPENING_ITERATIONS", 2)
    monkeypatch.setattr(schedule, "STROKES_ITERATIONS", 1)


@pytest.fixture
def folder(
    tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, use_tiny: None
) -> Path:
    """Create a working folder with a photo, a painting, a folder of two, and an empty one; the cache is empty."""
    for seed, name in enumerate(("photo", "one", "art/p10", "art/p2")):
        images.write_file(tmp_path / f"{name}.png", images.encode_image(pixels(48, 64, seed)))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path.with_name(f"{tmp_path.name}-cache")))
    return tmp_path


def preview(*tokens: str) -> int:
    return main(["preview", *tokens, "--device", "cpu"])


def list_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_sheet_shows_the_photo_and_then_each_painting_in_the_order_given(
    folder: Path, capsys: Capture, painter: Painter
) -> None:
    assert preview("photo.png", "one.png", "art", "mosaic", "art/p2.png") == 0
    out, err = capsys.readouterr()
    assert out == "photo.preview.jpg\n"
    assert err.splitlines() == ["1 of 4 · one", "2 of 4 · p2", "3 of 4 · p10", "4 of 4 · mosaic"]
    sheet = images.read_image("photo.preview.jpg")
    assert sheet.pixels[:20].min() > 0.95, "the ground is light"
    cells = find_cells(sheet.pixels)
    assert len(cells) == 5
    expected = [images.read_image("photo.png").pixels]
    for path in ("one.png", "art/p2.png", "art/p10.png", str(library.list_styles()["mosaic"])):
        (each,) = painter.previews("photo.png", path, Options(device="cpu"))
        expected.append(each.result.pixels)
    distances = [[np.abs(cell - enlarge(picture, cell.shape)).mean() for picture in expected] for cell in cells]
    assert [int(np.argmin(row)) for row in distances] == [0, 1, 2, 3, 4]
    assert max(distances[index][index] for index in range(5)) < 0.02


def find_cells(pixels: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Return the pictures of a sheet of 64×48 pixels, row by row."""
    size = sheets.choose_cell_size(64, 48)
    step_x, step_y = size[0] + sheets.GRID_GAP, size[1] + 2 * sheets.GRID_TEXT + sheets.GRID_GAP
    cells = [
        pixels[top : top + size[1], left : left + size[0]]
        for top in range(sheets.GRID_MARGIN, pixels.shape[0] - size[1], step_y)
        for left in range(sheets.GRID_MARGIN, pixels.shape[1] - size[0], step_x)
    ]
    return [cell for cell in cells if cell.std() > 0.02]


def enlarge(pixels: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    image = Image.fromarray(images.to_uint8(pixels)).resize((shape[1], shape[0]), Image.Resampling.LANCZOS)
    return np.asarray(image, np.float32) / np.float32(255)


def test_without_paintings_all_bundled_ones_are_shown(folder: Path, capsys: Capture) -> None:
    assert preview("photo.png", "-q", "--json", "--brushwork", "0") == 0
    answer = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in answer["styles"]] == [*library.list_styles()]
    assert answer["output"] == "photo.preview.jpg"


def test_the_second_time_nothing_is_painted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert preview("photo.png", "one.png", "art", "-q", "-o", "first.png") == 0

    def paint(_objective: Objective, _image: object) -> None:
        raise AssertionError("an iteration")

    monkeypatch.setattr(Objective, "gradient", paint)
    assert preview("photo.png", "one.png", "art", "-q", "-o", "second.png", "--size", "300", "--preset", "draft") == 0
    assert Path("first.png").read_bytes() == Path("second.png").read_bytes()
    cache = environment.find_cache_folder()
    assert cache is not None
    for file in (cache / "previews").iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    assert preview("photo.png", "one.png", "-q", "-o", "third.png") == 1, "they count as missing"


def test_the_settings_that_show_are_read_from_flags_and_variables(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert preview("photo.png", "one.png", "-q", "-o", "plain.png") == 0
    assert preview("photo.png", "one.png", "-q", "-o", "flag.png", "--strength", "90") == 0
    monkeypatch.setenv("STYLER_STRENGTH", "90")
    assert preview("photo.png", "one.png", "-v", "-o", "variable.png") == 0
    assert "Settings: strength 90 (environment)" in capsys.readouterr().err
    plain, flag, variable = (Path(f"{name}.png").read_bytes() for name in ("plain", "flag", "variable"))
    assert plain != flag == variable


def test_the_answer_in_json_names_each_painting_with_its_losses(folder: Path, capsys: Capture) -> None:
    (folder / "art" / "notes.jpg").write_text("no picture")
    assert preview("photo.png", "art", "--json", "-o", "wall.webp", "--no-progress") == 0
    out, err = capsys.readouterr()
    answer = json.loads(out)
    assert (answer["schema"], answer["output"], answer["content"]) == (1, "wall.webp", "photo.png")
    assert answer["stopped"] is False
    assert answer["seconds"] > 0
    assert [(each["name"], each["path"]) for each in answer["styles"]] == [
        ("p2", os.path.join("art", "p2.png")),  # noqa: PTH118 - text
        ("p10", os.path.join("art", "p10.png")),  # noqa: PTH118 - text
    ]
    for each in answer["styles"]:
        assert (each["width"], each["height"]) == (128, 96)
        assert each["losses"]["total"] > 0
    assert answer["warnings"] == [err.removeprefix("styler: warning: ").removesuffix("\n")]
    assert Path("wall.webp").read_bytes()[8:12] == b"WEBP"


def test_an_unreadable_file_is_skipped_in_a_folder_and_an_error_by_name(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "art" / "p3.jpg").write_text("no picture")
    assert preview("photo.png", "art") == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "1 of 3 · p2"
    assert re.fullmatch(r"styler: warning: Cannot read 'art/p3.jpg': .*\.", lines[2])
    assert len(find_cells(images.read_image("photo.preview.jpg").pixels)) == 3

    def load(_options: Options) -> Painter:
        raise AssertionError("the network was loaded")

    monkeypatch.setattr(Painter, "of", load)
    for tokens in (["one.png", "art/p3.jpg"], ["one.png", "gone.jpg"], ["one.png", "starry-nihgt"]):
        assert preview("photo.png", *tokens, "-o", "wall.jpg") == 1
        assert re.fullmatch(rf"styler: error: Cannot read '{tokens[-1]}': .*\.\n", capsys.readouterr().err)
    assert not Path("wall.jpg").exists()


def test_nothing_to_preview_has_an_exit_code_of_its_own(folder: Path, capsys: Capture) -> None:
    (folder / "bad").mkdir()
    (folder / "bad" / "a.png").write_text("no picture")
    (folder / "alone").mkdir()
    shutil.copy("photo.png", "alone")
    for photo, painting in (("photo.png", "empty"), ("photo.png", "x*.png"), ("photo.png", "bad")):
        assert preview(photo, painting, "--no-progress") == 4
        assert re.search(r"styler: error: [^\n]+\.\n$", capsys.readouterr().err)
    assert preview("alone/photo.png", "alone") == 4
    assert "but the photo itself" in capsys.readouterr().err
    assert preview("photo.png", "empty", "--json") == 4
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "NothingMatched"
    assert list_names(folder) == {*INPUTS, "bad", "alone"}


def test_a_sheet_is_never_overwritten_unasked(folder: Path, capsys: Capture) -> None:
    for name in ("photo.preview.jpg", "photo.preview-2.jpg"):
        assert preview("photo.png", "one.png", "-q") == 0
        assert capsys.readouterr().out == f"{name}\n"
    before = Path("photo.preview.jpg").read_bytes()
    assert preview("photo.png", "art", "-q", "-o", "photo.preview.jpg") == 2
    assert "already exists" in capsys.readouterr().err
    assert Path("photo.preview.jpg").read_bytes() == before
    assert preview("photo.png", "art", "-q", "-o", "photo.preview.jpg", "--overwrite") == 0
    assert Path("photo.preview.jpg").read_bytes() != before
    assert preview("photo.png", "one.png", "-q", "-o", "one.png", "--overwrite") == 2
    assert "is one of the inputs" in capsys.readouterr().err
    assert preview("photo.png", "one.png", "-q", "-o", "out/{content}-{seed}.{ext}", "--format", "png") == 0
    assert images.read_image("out/photo-0.png").width > 256
    assert preview("photo.png", "one.png", "-q", "-o", "{style}.png") == 2
    assert "-o has no field {style}" in capsys.readouterr().err


def test_a_bundled_photo_gets_its_sheet_in_the_working_folder(folder: Path, capsys: Capture) -> None:
    assert preview("cat", "one.png", "-q", "-o", "sheets/") == 0
    assert capsys.readouterr().out == os.path.join("sheets", "cat.preview.jpg") + "\n"  # noqa: PTH118 - text
    assert preview("cat", "one.png", "-q") == 0
    assert capsys.readouterr().out == "cat.preview.jpg\n"


def test_the_standard_streams_carry_pictures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path("photo.png").read_bytes())))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written))
    assert preview("one.png", "-", "art/p2.png", "-q", "-o", "-", "--format", "png") == 0
    data = written.getvalue()
    assert data.startswith(b"\x89PNG")
    assert len(find_cells(images.read_image(data).pixels)) == 3
    assert list_names(folder) == INPUTS


@pytest.mark.parametrize(("height", "width"), [(160, 40), (96, 96), (40, 320)])
def test_every_shape_keeps_its_proportions_and_its_name_in_the_sheet(
    height: int, width: int, pixels: Callable[..., NDArray[np.float32]]
) -> None:
    name = "a very long name of a painting that cannot fit below its picture, whatever its shape"
    pictures = [(name, pixels(height, width, seed)) for seed in range(12)]
    sheet = sheets.draw_grid(pictures)
    cell = sheets.choose_cell_size(width, height)
    assert cell[0] / cell[1] == pytest.approx(width / height, rel=0.02)
    assert 0.8 < sheet.shape[1] / sheet.shape[0] < 2.4
    for edge in (
        sheet[:, : sheets.GRID_MARGIN - 2],
        sheet[:, 2 - sheets.GRID_MARGIN :],
        sheet[: sheets.GRID_MARGIN - 2],
    ):
        assert edge.min() > 0.95, "nothing touches the edge"
    below = sheets.GRID_MARGIN + cell[1] + 2
    text = sheet[below : below + 2 * sheets.GRID_TEXT - 2]
    assert text.min() < 0.4, "a dark name on a light ground"
    assert np.median(text) > 0.95
    gap = sheets.GRID_MARGIN + max(cell[0], sheets.MIN_CELL_WIDTH) + 1
    assert text[:, gap : gap + sheets.GRID_GAP - 2].min() > 0.95, "names do not touch each other"


@pytest.fixture
def restore_sigint() -> Iterator[None]:
    """Restore SIGINT, which a shell ignores in background jobs and their children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_after(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Send Ctrl-C after that many previews, of whichever styles: several are painted at once."""
    real = Painter.previews

    def previews(self: Painter, *args: Any) -> Iterator[Preview]:
        if number == 0:
            signal.raise_signal(signal.SIGINT)
        for count, each in enumerate(real(self, *args), 1):
            yield each
            if count == number:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Painter, "previews", previews)


def test_ctrl_c_keeps_the_previews_that_are_finished(
    folder: Path, restore_sigint: None, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    interrupt_after(monkeypatch, 2)
    alone = "--threads", "1"  # one preview after another
    assert preview("photo.png", "one.png", "art", "-q", "-o", "wall.png", *alone) == 130
    assert capsys.readouterr() == ("", "styler: Stopped after 2 of 3; saved as 'wall.partial.jpg'.\n")
    assert list_names(folder) == {*INPUTS, "wall.partial.jpg"}
    assert len(find_cells(images.read_image("wall.partial.jpg").pixels)) == 3
    assert preview("photo.png", "one.png", "art", "--json", "-q", *alone) == 130
    answer = json.loads(capsys.readouterr().out)
    assert (answer["output"], answer["stopped"]) == ("photo.preview.partial.jpg", True)
    assert [each["name"] for each in answer["styles"]] == ["one", "p2"]


def test_ctrl_c_before_the_first_preview_writes_nothing(
    folder: Path, restore_sigint: None, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    interrupt_after(monkeypatch, 0)
    assert preview("photo.png", "one.png", "-q") == 130
    assert "Stopped before the first preview was finished; nothing was written." in capsys.readouterr().err
    assert list_names(folder) == INPUTS


def test_ctrl_c_after_the_last_preview_keeps_the_sheet(
    folder: Path, restore_sigint: None, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    interrupt_after(monkeypatch, 3)
    assert preview("photo.png", "one.png", "art", "-q") == 0
    assert capsys.readouterr().out == "photo.preview.jpg\n"


def test_limits_and_backgrounds_are_those_of_run(folder: Path, capsys: Capture) -> None:
    assert preview("photo.png", "one.png", "--max-pixels", "1000") == 1
    assert "Cannot read 'photo.png'" in capsys.readouterr().err
    assert preview("photo.png", "one.png", "--background", "nocolor") == 2
    assert preview("photo.png", "one.png", "-q", "-v") == 2
    clear = np.zeros((48, 64), np.float32)
    images.write_file("clear.png", images.encode_image(np.zeros((48, 64, 3), np.float32), alpha=clear))
    assert preview("clear.png", "one.png", "-q", "--background", "#ff0000", "-o", "red.png") == 0
    cell = sheets.GRID_MARGIN + 20
    assert images.read_image("red.png").pixels[cell, cell].tolist() == [1, 0, 0]


def test_the_help_says_how_small_previews_are_and_what_stops_them(capsys: Capture) -> None:
    assert main(["preview", "--help"]) == 0
    page = " ".join(capsys.readouterr().out.split())
    for words in ("about 128 pixels", "4 nothing to preview", "NAME.partial.jpg", "--keep-color", "--max-pixels"):
        assert words in page
