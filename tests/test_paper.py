"""Paper sizes: their pixels, the part of a photo that is painted, and the resolution in the files of every format."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from styler import images, schedule
from styler.errors import OptionError, OutputError
from styler.geometry import crop_to_proportion, turn_like
from styler.images import encode
from styler.options import Options, check_settings, list_options, resolve_options
from styler.options.paper import PAPERS, measure_paper

PIXELS = np.random.default_rng(0).random((48, 64, 3), np.float32)
LONGEST = int(list_options()["size"].high or 0)


@pytest.mark.parametrize(
    ("paper", "dpi", "pixels"),
    [
        ("A3", 300, (3508, 4961)),
        ("A4", 300, (2480, 3508)),
        ("a5", 72, (420, 595)),
        ("letter", 300, (2550, 3300)),
        ("12x18in", 300, (3600, 5400)),
        ("18x12in", 100, (1800, 1200)),
        ("50x70cm", 150, (2953, 4134)),
        ("50 × 70 CM", 150, (2953, 4134)),
        ("500x700mm", 150, (2953, 4134)),
        ("10.5x20cm", 254, (1050, 2000)),
    ],
)
def test_a_paper_has_the_nearest_pixels(paper: str, dpi: int, pixels: tuple[int, int]) -> None:
    assert Options.of(paper=paper, dpi=dpi).paper_size == pixels


def test_every_paper_has_two_different_sides() -> None:
    for name, (width, height) in PAPERS.items():
        assert width < height
        assert measure_paper(name, 254) == (round(width * 10), round(height * 10))


@pytest.mark.parametrize(
    ("photo", "fit", "size", "part"),
    [
        ((4000, 3000), "contain", (4677, 3508), (0, 0, 4000, 3000)),
        ((3000, 4000), "contain", (3508, 4677), (0, 0, 3000, 4000)),
        ((2000, 2000), "contain", (3508, 3508), (0, 0, 2000, 2000)),
        ((4000, 1000), "contain", (4961, 1240), (0, 0, 4000, 1000)),
        ((4000, 3000), "crop", (4961, 3508), (0, 86, 4000, 2914)),
        ((3000, 4000), "crop", (3508, 4961), (86, 0, 2914, 4000)),
        ((2000, 2000), "crop", (3508, 4961), (293, 0, 1707, 2000)),
        ((4000, 1000), "crop", (4961, 3508), (1293, 0, 2707, 1000)),
        ((4961, 3508), "crop", (4961, 3508), (0, 0, 4961, 3508)),
    ],
)
def test_a_paper_is_turned_like_the_photo(
    photo: tuple[int, int], fit: str, size: tuple[int, int], part: tuple[int, int, int, int]
) -> None:
    options = Options.of(paper="A3", fit=fit)
    assert schedule.compute_result_size(options, *photo) == size
    assert schedule.find_painted_part(options, *photo) == part
    scales = schedule.build_schedule(options, *photo, 16)
    assert scales[-1].size == size
    left, top, right, bottom = part
    assert scales == schedule.build_schedule(options, right - left, bottom - top, 16), "cropped before or not"


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.tuples(st.integers(1, 99), st.integers(1, 99)))
def test_what_is_cropped_is_not_cropped_again(width: int, height: int, box: tuple[int, int]) -> None:
    left, top, right, bottom = crop_to_proportion(width, height, turn_like(box, width, height))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert abs(left - (width - right)) <= 1
    assert abs(top - (height - bottom)) <= 1
    kept = right - left, bottom - top
    assert crop_to_proportion(*kept, turn_like(box, *kept)) == (0, 0, *kept)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"paper": "B5"}, "paper is 'B5'; it can be A0, A1, "),
        ({"paper": "0x10cm"}, "paper is '0x10cm'; it can be "),
        ({"paper": "10x20"}, "or a size such as 50x70cm, 12x18in or 90x130mm."),
        ({"paper": "A4", "size": 1024}, "paper is A4 and size is 1024; give only one of them."),
        ({"paper": "A4", "size": "original"}, "paper is A4 and size is original; give only one of them."),
        ({"paper": "A0", "dpi": 1200}, f"39732×56173 pixels, and the long side can have at most {LONGEST}; use --dpi "),
        ({"paper": "1x1cm", "dpi": 72}, "28×28 pixels, and the long side needs at least 64; use --dpi 165 or more."),
        ({"dpi": 71}, "dpi is 71; it can be 72 to 1200."),
        ({"fit": "cover"}, "fit is 'cover'; it can be contain, crop."),
    ],
)
def test_a_paper_that_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        Options.of(**given)
    assert message in str(caught.value)


def test_the_advice_about_a_resolution_is_followed() -> None:
    with pytest.raises(OptionError) as caught:
        Options.of(paper="A0", dpi=1200)
    dpi = int(str(caught.value).split("--dpi ")[1].split()[0])
    assert max(Options.of(paper="A0", dpi=dpi).paper_size or ()) <= LONGEST
    with pytest.raises(OptionError):
        Options.of(paper="A0", dpi=dpi + 1)


def test_a_wrong_paper_is_found_where_it_is_set() -> None:
    with pytest.raises(OptionError, match="paper is 'B5'"):
        check_settings({"paper": "B5"})


def test_the_strongest_of_size_and_paper_wins() -> None:
    weak, strong = {"size": 700}, {"paper": "A4", "dpi": 100}
    resolved = resolve_options(("file", weak), ("flag", strong))
    assert (resolved.options.paper, resolved.options.size) == ("A4", Options().size)
    assert (resolved.origins["size"], resolved.origins["paper"]) == ("default", "flag")
    resolved = resolve_options(("file", strong), ("flag", weak))
    assert (resolved.options.paper, resolved.options.size, resolved.options.dpi) == ("", 700, 100)
    options = Options.of(paper="A5")
    assert options.replace(size=64).paper == ""
    assert options.replace(seed=3).paper == "A5"
    assert Options(size=64).replace(paper="A5") == options
    assert resolve_options(("record", options.to_dict())).options == options


@pytest.mark.parametrize("dpi", [72, 300, 317, 1200])
@pytest.mark.parametrize("format_", images.FORMATS)
def test_every_format_has_the_resolution(format_: str, dpi: int) -> None:
    for metadata in ({}, {"make": "Leica"}):
        data = images.encode_image(PIXELS, format=format_, dpi=dpi, metadata=metadata)
        with Image.open(io.BytesIO(data)) as image:
            tags = image.getexif()
            if format_ in ("png", "jpeg", "tiff"):
                assert image.info["dpi"] == pytest.approx((dpi, dpi), abs=0.02)
            if format_ in ("jpeg", "webp", "avif", "tiff") or metadata:
                assert (tags[0x011A], tags[0x011B], tags[0x0128]) == (dpi, dpi, 2), "dots per inch"
        stored = images.read_size(data)
        assert (stored.kind, stored.width, stored.height) == (format_, 64, 48)
        assert round(stored.dpi, 1) == dpi


@pytest.mark.parametrize("format_", images.FORMATS)
def test_no_resolution_is_made_up(format_: str) -> None:
    assert images.read_size(images.encode_image(PIXELS, format=format_)).dpi == 0


def test_centimeters_are_understood() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (20, 20)).save(stream, "TIFF", resolution=100, resolution_unit="cm")
    assert images.read_size(stream.getvalue()).dpi == pytest.approx(254)


@pytest.mark.parametrize("depth", [8, 16])
def test_a_large_tiff_has_tiles_and_a_huge_one_wide_offsets(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    alpha = PIXELS[..., 0]
    plain = images.encode_image(PIXELS, alpha=alpha, format="tiff", bit_depth=depth, text={"a": "b"}, dpi=300)
    assert plain[:4] == b"II*\0"
    monkeypatch.setattr(encode, "MAX_STRIPS_PIXELS", 48 * 64 - 1)
    monkeypatch.setattr(encode, "BIG_TIFF_BYTES", 48 * 64 * 4 * depth // 8)
    huge = images.encode_image(PIXELS, alpha=alpha, format="tiff", bit_depth=depth, text={"a": "b"}, dpi=300)
    assert huge[:4] == b"II+\0"
    with Image.open(io.BytesIO(plain)) as image:
        assert 322 not in image.tag_v2  # type: ignore[attr-defined] # of a TIFF
    one, other = images.read_image(plain), images.read_image(huge)
    assert np.array_equal(one.pixels, other.pixels)
    assert one.alpha is not None
    assert other.alpha is not None
    assert np.array_equal(one.alpha, other.alpha)
    assert images.read_text(huge) == {"a": "b"}
    assert images.read_size(huge) == images.read_size(plain)
    assert round(images.read_size(huge).dpi) == 300
    monkeypatch.setattr(encode, "BIG_TIFF_BYTES", 48 * 64 * 4 * depth // 8 + 1)
    tiled = images.encode_image(PIXELS, alpha=alpha, format="tiff", bit_depth=depth)
    assert tiled[:4] == b"II*\0"
    with Image.open(io.BytesIO(tiled)) as image:
        assert image.tag_v2[322] == 512  # type: ignore[attr-defined]


@pytest.mark.parametrize(("format_", "limit"), [("webp", 16383), ("jpeg", 65500), ("avif", 65536)])
def test_a_format_refuses_sides_before_anything_is_painted(format_: str, limit: int) -> None:
    images.check_sides(format_, (limit, 10))
    with pytest.raises(OutputError) as caught:
        images.check_sides(format_, (10, limit + 1))
    assert f"10×{limit + 1} pixels, and {images.FORMATS[format_].name} holds at most {limit:,}" in str(caught.value)
    assert "write PNG or TIFF, with a name that ends in .png or .tif" in str(caught.value)
    images.check_sides("png", (10, limit + 1))
    images.check_sides("tiff", (10, limit + 1))
