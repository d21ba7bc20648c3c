"""Pictures for print on the command line: paper, resolution, their record, and what no format can hold."""

import json
from pathlib import Path

import pytest
from made import Pixels

from styler import images, provenance
from styler.cli import main

TINY = ["--first-size", "32", "--iterations", "2", "--device", "cpu", "-q"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, pixels: Pixels, monkeypatch: pytest.MonkeyPatch, use_tiny: None) -> Path:
    """Create a working folder with a wide photo and a painting; the network is tiny."""
    images.write_file(tmp_path / "photo.png", images.encode_image(pixels(80, 120)))
    images.write_file(tmp_path / "art.png", images.encode_image(pixels(64, 64, 1)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*tokens: str) -> int:
    return main(["run", "photo.png", "art.png", *TINY, *tokens])


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.avif", "a.tif"])
@pytest.mark.usefixtures("folder")
def test_a_picture_for_a_paper_says_how_large_it_prints(name: str, capsys: Capture) -> None:
    assert run("--paper", "3x2.5cm", "--dpi", "100", "-o", name) == 0
    capsys.readouterr()
    assert main(["inspect", "--json", name]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["file"] | {"format": ""} == {
        **{"format": "", "width": 118, "height": 79, "dpi": 100},
        **{"width_cm": 3.0, "height_cm": 2.0},
    }
    settings = document["options"]
    assert (settings["paper"], settings["dpi"], settings["fit"], settings["size"]) == ("3x2.5cm", 100, "contain", 512)


@pytest.mark.usefixtures("folder")
def test_the_paper_is_repeated_with_the_settings_of_a_picture(capsys: Capture) -> None:
    assert run("--paper", "2.5x3cm", "--dpi", "100", "--fit", "crop", "-o", "a.png") == 0
    capsys.readouterr()
    assert main(["inspect", "a.png"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("118×98, made by styler ")
    assert "\n100 dpi: 3 × 2.5 cm on paper\n" in text
    assert " --paper 2.5x3cm --dpi 100 --fit crop " in text
    again = ["run", "--from", "a.png", "photo.png", "art.png", "--device", "cpu", "-q"]
    assert main([*again, "-o", "b.png"]) == 0
    assert (images.read_image("a.png").pixels == images.read_image("b.png").pixels).all()
    assert main([*again, "-o", "c.png", "--dpi", "150"]) == 0
    assert images.read_size("c.png").width == 177
    assert main([*again, "-o", "d.png", "--size", "64"]) == 0
    record = provenance.read_record("d.png")
    assert (record["width"], record["height"], record["options"]["paper"]) == (64, 43, "")


@pytest.mark.usefixtures("folder")
def test_a_resolution_alone_changes_no_pixel() -> None:
    assert run("--size", "64", "-o", "a.png") == 0
    again = ["run", "--from", "a.png", "photo.png", "art.png", "--device", "cpu", "-q", "-o", "b.png", "--dpi", "150"]
    assert main(again) == 0
    assert [round(images.read_size(name).dpi) for name in ("a.png", "b.png")] == [300, 150]
    assert (images.read_image("a.png").pixels == images.read_image("b.png").pixels).all()
    assert provenance.read_record("a.png")["schedule"] == provenance.read_record("b.png")["schedule"]


@pytest.mark.usefixtures("folder")
def test_masks_are_those_of_the_whole_photo(pixels: Pixels) -> None:
    mask = pixels(80, 120) * 0
    mask[:, :60] = 1
    images.write_file("mask.png", images.encode_image(mask))
    assert run("--paper", "2.5x2.5cm", "--dpi", "72", "--fit", "crop", "--protect", "mask.png=100", "-o", "a.png") == 0
    assert [entry["coverage"] for entry in provenance.read_record("a.png")["masks"]] == [0.5]


@pytest.mark.usefixtures("folder")
def test_a_batch_paints_for_a_paper(capsys: Capture) -> None:
    flags = ["--paper", "3x2cm", "--dpi", "100", "--format", "jpg", "--no-index", "-o", "out"]
    assert main(["batch", "photo.png", "art.png", *TINY, *flags, "--dry-run"]) == 0
    assert "118×79, like the first one" in capsys.readouterr().out
    assert main(["batch", "photo.png", "art.png", *TINY, *flags]) == 0
    stored = images.read_size("out/photo.art.jpg")
    assert (stored.width, stored.height, stored.dpi) == (118, 79, 100)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ("--paper A4 --size 512", 2, "--paper and --size are mutually exclusive; give only one of them."),
        ("--paper B4", 2, "paper is 'B4'; it can be A0"),
        ("--paper A4 --dpi 50", 2, "dpi is 50; it can be 72 to 1200."),
    ],
)
def test_wrong_papers_are_refused_in_a_sentence(flags: str, code: int, message: str, capsys: Capture) -> None:
    assert run(*flags.split(), "-o", "a.png") == code
    assert message in capsys.readouterr().err
    assert not Path("a.png").exists()


@pytest.mark.usefixtures("folder")
def test_a_format_that_cannot_hold_the_picture_is_refused_before_it_is_painted(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    webp = images.FORMATS["webp"]
    monkeypatch.setitem(images.FORMATS, "webp", type(webp)("WebP", (".webp",), webp.encode, max_side=100))
    monkeypatch.setattr("styler.engine.painter.Painter.stream", None)  # nothing may be painted
    message = "The picture would have 118×79 pixels, and WebP holds at most 100 on a side; write PNG or TIFF"
    for size, sides in ((["--paper", "3x2cm", "--dpi", "100"], "118×79"), (["--size", "original"], "120×80")):
        for dry in (["--dry-run"], []):
            assert run(*size, "-o", "a.webp", *dry) == 1
            assert message.replace("118×79", sides) in capsys.readouterr().err
            batch = ["batch", "photo.png", "art.png", *TINY, *size, "--format", "webp", "-o", "out", *dry]
            assert main([*batch, "--no-index"]) in (1, 3) or dry
            assert "WebP holds at most 100 on a side" in capsys.readouterr().err
    assert not Path("a.webp").exists()
