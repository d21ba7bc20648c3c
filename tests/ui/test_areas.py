"""Tests of parts of the photo on the page: what is protected, what is drawn, and another painting for a part."""

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
import torch
from made import Pixels
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from styler import images, library, provenance
from styler.errors import OptionError, UsageError
from styler.options import Options
from styler.regions.find import MaskFinder
from ui import api, controls, handlers, render, wall
from ui.areas import choice, drawing
from ui.areas.events import AreaHandlers
from ui.handlers import PaintHandlers
from ui.layout import PageLayout
from ui.session import FinishedPicture, PaintRequest, Session, Upload
from ui.studio import Studio

SMALL = Options(size=64, first_size=64, iterations=2)


@pytest.fixture
def finder(monkeypatch: pytest.MonkeyPatch, use_tiny: None) -> list[str]:
    """Make the left half of every photo its subject; return the names of the masks that were looked for."""
    asked: list[str] = []

    def find_subject(_self: MaskFinder, photo: Tensor, _digest: str = "") -> Tensor:
        asked.append("subject")
        mask = torch.zeros(1, 1, *photo.shape[-2:])
        mask[..., : photo.shape[-1] // 2] = 1
        return mask

    monkeypatch.setattr(MaskFinder, "subject", find_subject)
    return asked


@pytest.fixture
def studio(finder: list[str]) -> Iterator[Studio]:
    """Create a studio with the tiny network."""
    studio = Studio()
    yield studio
    studio.close()


@pytest.fixture
def areas(studio: Studio, page: PageLayout) -> AreaHandlers:
    return AreaHandlers(PaintHandlers(studio, page))


def store(studio: Studio, name: str, pixels: NDArray[np.float32], alpha: NDArray[np.float32] | None = None) -> Upload:
    path = studio.sessions.uploads / name
    path.write_bytes(images.encode_image(pixels, alpha=alpha))
    return Upload(path, name)


@pytest.fixture
def photo(studio: Studio, session: Session, areas: AreaHandlers, pixels: Pixels) -> Upload:
    """Choose a photo."""
    photo = store(studio, "photo.png", pixels(48, 64))
    areas.tab.show_content(session, photo, None)
    return photo


def make_drawing(studio: Studio, *, is_empty: bool = False) -> Upload:
    """Return what the board makes of a stroke across the upper half: white where it is, transparent elsewhere."""
    alpha = np.zeros((48, 64), np.float32)
    alpha[:24] = 0 if is_empty else 1
    return store(studio, "drawing.png", np.ones((48, 64, 3), np.float32), alpha)


def read_overlay(html: str) -> NDArray[np.uint8]:
    """Return the opacity of the mask on the stage, (H, W)."""
    data = html.split('class="mask" src="data:image/png;base64,')[1].split('"', maxsplit=1)[0]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))[..., 3]


def make_values(**changed: Any) -> list[Any]:
    inputs: dict[str, Any] = {"content": None, "sample": None, "style": "woodcut", "own": None, "mixed": []}
    inputs |= {"protect": [], "amount": 70, "region": "whole", "region_style": None, "own_region": None}
    options = controls.values_from_options(SMALL)
    return [*(inputs | changed).values(), *[1.0] * controls.MAX_STYLES, *options]


def paint(studio: Studio, session: Session, request: PaintRequest) -> FinishedPicture:
    *_, picture = studio.paint(session, request)
    assert isinstance(picture, FinishedPicture)
    return picture


def test_a_chip_shows_its_mask_over_the_photo(
    areas: AreaHandlers, session: Session, photo: Upload, finder: list[str]
) -> None:
    page = areas.tab.layout
    changes = areas.choose_chips(session, photo, None, ["subject"])
    opacity = read_overlay(changes[page.stage])
    assert opacity.shape == (48, 64)
    assert opacity[:, :30].min() > 100
    assert opacity[:, 34:].max() == 0
    assert "What is colored is kept: the subject." in changes[page.area_note]
    opacity = read_overlay(areas.choose_chips(session, photo, None, ["subject", "background"])[page.stage])
    assert opacity.min() > 100, "everything is kept"
    areas.choose_chips(session, photo, None, ["subject"])
    assert finder == ["subject"] * 2, "each mask is found once"
    changes = areas.choose_chips(session, photo, None, [])
    assert changes[page.stage] == session.photo_html
    assert drawing.AUTOMATIC in changes[page.area_note]


def test_what_is_not_found_is_said(areas: AreaHandlers, session: Session, photo: Upload) -> None:
    page = areas.tab.layout
    changes = areas.choose_chips(session, photo, None, ["faces"])
    assert "No face was found in this photo." in changes[page.area_note]
    assert "data:" not in changes[page.area_note]
    changes = areas.choose_chips(session, photo, None, ["faces", "subject"])
    assert "No face was found in this photo. What is colored is kept: the subject." in changes[page.area_note]
    nothing = areas.choose_chips(session, None, None, ["faces"])
    assert drawing.NO_PHOTO_YET in nothing[page.area_note]


@pytest.mark.parametrize(
    ("before", "chips", "after"),
    [
        ((), ["faces"], ["faces"]),
        (("faces",), ["faces", "none"], ["none"]),
        (("none",), ["faces", "none"], ["faces"]),
        (("none",), ["none"], ["none"]),
        (("faces",), ["faces", "subject"], ["faces", "subject"]),
    ],
)
def test_nothing_and_something_exclude_each_other(before: tuple[str, ...], chips: list[str], after: list[str]) -> None:
    assert choice.settle_chips(before, chips) == after


def test_the_board_opens_with_the_photo_and_its_drawing_is_protected(
    areas: AreaHandlers, session: Session, photo: Upload, studio: Studio
) -> None:
    page = areas.tab.layout
    changes = areas.choose_chips(session, photo, None, ["drawn"])
    assert session.photo_html.removesuffix("</figure>") in changes[page.board]
    with pytest.raises(UsageError, match="Nothing is drawn on this photo yet"):
        handlers.make_request(session, *make_values(content=photo, protect=["drawn"]))
    changes = areas.take_drawing(session, photo, None, ["none"], "whole", [make_drawing(studio)])
    assert changes[page.protect] == ["drawn"]
    opacity = read_overlay(changes[page.stage])
    assert opacity[:22].min() > 100
    assert opacity[26:].max() == 0
    request = handlers.make_request(session, *make_values(content=photo, protect=["drawn"], amount=100))
    picture = paint(studio, session, request)
    (entry,) = picture.record["masks"]
    assert (entry["name"], entry["kind"], round(entry["coverage"], 1)) == ("drawn", "given", 0.5)
    assert "what was drawn kept at 100" in render.render_summary(picture)
    kept = np.abs(picture.result.pixels - studio.read_picture(photo).pixels).mean(axis=(1, 2))
    assert kept[:20].max() < 0.01 < kept[30:].mean()
    assert handlers.retry_request(session).masks == request.masks
    other = replace(photo, path=photo.path.with_name("other.png"))
    with pytest.raises(UsageError, match="Nothing is drawn"):
        handlers.make_request(session, *make_values(content=other, protect=["drawn"]))


def test_a_hostile_or_empty_drawing_is_refused(
    areas: AreaHandlers, session: Session, photo: Upload, studio: Studio
) -> None:
    page = areas.tab.layout
    hostile = Upload(studio.sessions.uploads / "drawing.png", "drawing.png")
    hostile.path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    for drawn in (hostile, make_drawing(studio, is_empty=True)):
        changes = areas.take_drawing(session, photo, None, ["drawn"], "whole", [drawn])
        assert 'role="alert"' in changes[page.area_note]
        assert session.drawing is None


def test_another_photo_forgets_the_drawing(session: Session, photo: Upload, tmp_path: Path) -> None:
    session.photo, session.drawing = photo, (photo.path, photo)
    assert AreaHandlers.forget_drawing(session, ["faces", "drawn"], "drawn") == (gr.skip(), gr.skip())
    session.photo = Upload.from_path(tmp_path / "other.png")
    assert AreaHandlers.forget_drawing(session, ["faces", "drawn"], "drawn") == (["faces"], "whole")
    assert choice.forget_drawing(["faces", "drawn"], "drawn") == (["faces"], "whole")
    assert choice.forget_drawing(["faces"], "subject") == (["faces"], "subject")


def test_a_part_takes_another_painting(areas: AreaHandlers, session: Session, photo: Upload, studio: Studio) -> None:
    changes = areas.choose_region(session, photo, None, [], "background")
    assert read_overlay(changes[areas.tab.layout.stage])[:, :30].max() == 0
    assert "takes the other painting: the background" in changes[areas.tab.layout.area_note]
    with pytest.raises(UsageError, match="Choose the other painting for the background"):
        handlers.make_request(session, *make_values(content=photo, region="background"))
    values = make_values(content=photo, mixed=["mosaic"], region="background", region_style="wheat-field")
    request = handlers.make_request(session, *values)
    assert [style.stem for style in request.styles] == ["woodcut", "mosaic", "wheat-field"]
    assert request.options.regions == ("background",)
    assert [*request.options.style_weights] == [1, 1], "the other painting has none"
    picture = paint(studio, session, request)
    assert "woodcut + mosaic · wheat-field for the background · " in render.render_summary(picture)
    mine = Upload(library.list_styles()["mosaic"], "mine.jpg")
    own = handlers.make_request(session, *make_values(content=photo, region="subject", own_region=[mine]))
    assert own.styles[-1] == mine
    assert own.options.style_weights == ()


def test_settings_of_a_picture_set_the_controls(
    areas: AreaHandlers, session: Session, photo: Upload, studio: Studio
) -> None:
    page = areas.tab.layout
    values = make_values(content=photo, protect=["subject"], amount=40, region="background", region_style="mosaic")
    picture = paint(studio, session, handlers.make_request(session, *values))
    changes = areas.tab.load_settings(session, [Upload.from_path(picture.png)])
    assert (changes[page.protect], changes[page.protect_amount]) == (["subject"], 40)
    assert changes[page.region] == "background"
    assert "Choose the other painting for the background again, too." in changes[page.status]


def test_what_cannot_be_set_is_said() -> None:
    recorded = Options(protect=("mask.png=30", "faces=20", "subject=60"), regions=("a.png", "b.png")).to_dict()
    settings, notes = choice.adopt_areas({**recorded, "style_weights": (1.0, 2.0)})
    assert settings["protect"] == ("faces=20", "subject=60")
    assert settings["regions"] == ()
    assert settings["style_weights"] == (1.0, 2.0)
    text = " ".join(notes)
    for part in ("a mask that is not stored", "different amounts", "other paintings for a.png and b.png cannot be set"):
        assert part in text
    assert choice.chips_from_options(Options(**settings)) == (["faces", "subject"], 60, "whole")


FILES = ("/etc/passwd", "mask.png", "../mask.png", "drawn", "mask2", "#ff0000")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("option", ["protect", "regions", "labels"])
def test_no_file_of_the_server_is_a_mask(
    areas: AreaHandlers, session: Session, photo: Upload, studio: Studio, name: str, option: str, tmp_path: Path
) -> None:
    """Whatever way the options of a visitor come, the page and `/preview` as well as `/stylize`."""
    (tmp_path / "mask.png").write_bytes(photo.path.read_bytes())
    name = str(tmp_path / name) if name == "mask.png" else name
    labels = "labels.png" if name.startswith("#") else ""
    options = SMALL.replace(**({option: name} if option == "labels" else {"labels": labels, option: (name,)}))
    styles = tuple(Upload.from_path(path) for path in [*library.list_styles().values()][:2])
    request = PaintRequest(content=photo, styles=styles, options=options, masks={"mask1": photo})
    with pytest.raises(OptionError, match=r"There is no mask|no label picture can be used"):
        next(studio.paint(session, request))
    if option == "protect":
        current = wall.begin_round(session, photo, styles, options, request.masks)
        with pytest.raises(OptionError, match=r"There is no mask|no label picture can be used"):
            next(wall.paint_wall(studio, session, current, current.stop))


@pytest.mark.parametrize("name", [*FILES[:5], "faces=5=/etc/passwd"])
@pytest.mark.parametrize("option", ["protect", "regions"])
def test_a_program_can_name_no_file(studio: Studio, name: str, option: str) -> None:
    for value in (name, [name], [name, "faces"]):
        with pytest.raises(OptionError, match=r"There is no mask|the amount is"):
            call(studio, **{option: value})
    assert "labels" not in api.API_OPTIONS


def call(studio: Studio, **arguments: Any) -> PaintRequest:
    """Return the request of a call of `/stylize`."""
    given = dict.fromkeys(api.API_OPTIONS) | {"masks": None} | arguments
    styles = given.pop("styles", None)
    return api.parse_request(studio, "cat", "woodcut", styles, *given.values())


def test_a_program_names_masks_and_gives_some(studio: Studio) -> None:
    file = {"path": str(make_drawing(studio).path), "orig_name": "m.png"}
    request = call(studio, protect=["faces", "mask1=30"], regions="mask1", styles=["mosaic"], masks=[file])
    assert request.options.protect == ("faces", "mask1=30")
    assert request.options.regions == ("mask1",)
    assert [mask.name for mask in request.masks.values()] == ["m.png"]
    assert call(studio, protect="none").options.protect == ("none",)
    for masks in ({"path": "x"}, ["cat"], [{"path": "/etc/passwd"}], [file] * 9):
        with pytest.raises(UsageError, match="masks "):
            call(studio, masks=masks)


def test_a_drawing_is_in_the_previews_as_soon_as_it_is_there(
    areas: AreaHandlers, session: Session, photo: Upload, studio: Studio
) -> None:
    walls = wall.WallHandlers(areas.tab)
    values = make_values(content=photo, protect=["drawn"], region="background")
    walls.begin(session, *values)
    assert session.wall
    assert not session.wall.masks
    assert session.wall.options.regions == ()
    areas.take_drawing(session, photo, None, ["drawn"], "whole", [make_drawing(studio)])
    walls.begin(session, *values)
    assert [*session.wall.masks] == ["drawn"]
    assert session.wall.options.protect == ("drawn=70",)
    _style, preview = next(wall.paint_wall(studio, session, session.wall, session.wall.stop))
    assert [entry.name for entry in preview.result.masks] == ["drawn"]


def test_the_defaults_of_the_server_have_no_masks_of_one_photo(use_tiny: None) -> None:
    studio = Studio(Options(protect=("faces=90", "mask.png"), regions=("sky.png",), labels="labels.png"))
    try:
        assert studio.options == Options(protect=("faces=90",))
    finally:
        studio.close()


def test_the_record_of_a_drawing_names_no_file(studio: Studio, session: Session, photo: Upload) -> None:
    session.drawing = (photo.path, make_drawing(studio))
    picture = paint(studio, session, handlers.make_request(session, *make_values(content=photo, protect=["drawn"])))
    texts = provenance.record_to_text(picture.record)
    assert str(studio.sessions.uploads) not in json.dumps(texts)
