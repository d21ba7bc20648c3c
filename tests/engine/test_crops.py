"""Paintings for a paper that the photo does not fit: its middle is painted, with the middle of its masks."""

from pathlib import Path

import numpy as np
from made import Pixels

from styler import images
from styler.engine.painter import Painter
from styler.engine.sources import load_content
from styler.options import Options

PAPER = {"paper": "2.4x2.4cm", "dpi": 72, "fit": "crop"}
"""Has 68×68 pixels."""
WORK = {"iterations": 3, "first_size": 32, "optimizer": "adam", "device": "cpu", "precision": "fp32", "threads": 1}


def paint(painter: Painter, photo: object, style: object, options: Options, **given: object) -> np.ndarray:
    return painter.stylize(photo, style, options, **given).pixels  # type: ignore[arg-type]


def test_the_middle_of_photo_and_masks_is_painted(painter: Painter, pixels: Pixels) -> None:
    photo, style = pixels(80, 120), pixels(64, 64, 1)
    mask = np.zeros((80, 120), np.float32)
    mask[:, :60] = 1
    options = Options.of(**PAPER, **WORK, protect=["left=100"])
    whole = painter.stylize(photo, style, options, masks={"left": mask})
    middle = painter.stylize(photo[:, 20:100], style, options, masks={"left": mask[:, 20:100]})
    assert whole.pixels.shape == (68, 68, 3)
    assert np.array_equal(whole.pixels, middle.pixels)
    assert [entry.coverage for entry in (*whole.masks, *middle.masks)] == [0.5, 0.5]
    without = painter.stylize(photo, style, options.replace(protect=("none",)))
    assert np.abs(whole.pixels[:, :20] - without.pixels[:, :20]).max() > 0.01
    small = load_content(photo[:, 20:100]).fit(68, 68)[0].permute(1, 2, 0).numpy()
    assert np.abs(whole.pixels[:, :20] - small[:, :20]).max() < 1e-5, "the photo is held on the left"


def test_a_region_outside_of_the_paper_is_left_out(painter: Painter, pixels: Pixels) -> None:
    photo, styles = pixels(80, 120), (pixels(64, 64, 1), pixels(64, 64, 2))
    mask = np.zeros((80, 120), np.float32)
    mask[:, :15] = 1
    options = Options.of(**PAPER, **WORK, protect=["none"])
    regional = painter.stylize(photo, styles, options.replace(regions=("edge",)), masks={"edge": mask})
    plain = painter.stylize(photo, styles[0], options)
    assert np.isfinite(regional.pixels).all()
    assert np.abs(regional.pixels - plain.pixels).max() < 0.05


def test_alpha_and_the_start_are_cropped_like_the_photo(painter: Painter, pixels: Pixels, tmp_path: Path) -> None:
    photo, style = pixels(80, 120), pixels(64, 64, 1)
    alpha = np.zeros((80, 120), np.float32)
    alpha[:, 20:60] = 1
    data = images.encode_image(photo, alpha=alpha)
    start = images.write_file(tmp_path / "start.png", images.encode_image(pixels(80, 120, 5)))
    cut = images.write_file(tmp_path / "cut.png", images.encode_image(pixels(80, 120, 5)[:, 20:100]))
    options = Options.of(**PAPER, **WORK, protect=["none"])
    result = painter.stylize(data, style, options)
    assert result.alpha is not None
    assert result.alpha.shape == (68, 68)
    assert (result.alpha[:, :30] > 0.9).all()
    assert (result.alpha[:, 40:] < 0.1).all()
    assert result.content_sha256 == images.read_image(data).sha256, "that of the file"
    one, other = (paint(painter, photo, style, options.replace(init=str(path))) for path in (start, cut))
    assert np.array_equal(one, other)


def test_previews_show_the_middle_and_share_the_opening(painter: Painter, pixels: Pixels) -> None:
    photo, style = pixels(80, 120), pixels(64, 64, 1)
    options = Options.of(**PAPER, **WORK, protect=["none"])
    (preview,) = painter.previews(photo, [style], options)
    height, width, _ = preview.result.pixels.shape
    assert height == width
    (middle,) = painter.previews(photo[:, 20:100], [style], options)
    assert np.array_equal(preview.result.pixels, middle.result.pixels)


def test_contain_paints_the_whole_photo(painter: Painter, pixels: Pixels) -> None:
    options = Options.of(**{**PAPER, "fit": "contain"}, **WORK, protect=["none"])
    result = painter.stylize(pixels(80, 120), pixels(64, 64, 1), options)
    assert result.pixels.shape == (45, 68, 3)
    for format_ in ("png", "jpeg"):
        assert round(images.read_size(result.encode(format=format_)).dpi) == 72
    sized = painter.stylize(pixels(80, 120), pixels(64, 64, 1), options.replace(size=68))
    assert np.array_equal(sized.pixels, result.pixels)
