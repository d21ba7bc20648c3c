"""Protected parts and regions on the command line: flags, inputs, answers, the record, and repeating it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from styler import images, provenance
from styler.cli import main
from styler.engine import painter as painter_module
from styler.regions.find import MaskFinder
from styler.regions.resolve import resolve_areas

TINY = ["--size", "64", "--first-size", "64", "--iterations", "6", "--device", "cpu"]
Capture = pytest.CaptureFixture[str]


def find_left(_finder: MaskFinder, photo: Tensor, _digest: str = "") -> Tensor:
    """Return a mask of the left quarter."""
    mask = torch.zeros(1, 1, *photo.shape[-2:])
    mask[..., : photo.shape[-1] // 4] = 1
    return mask


def write_mask(path: Path, first: int, last: int) -> None:
    """Write a mask of columns for a photo of 64×48."""
    mask = np.zeros((48, 64), np.float32)
    mask[:, first:last] = 1
    images.write_file(path, images.encode_image(mask), overwrite=True)


@pytest.fixture(autouse=True)
def folder(
    tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, use_tiny: None
) -> Path:
    """Make a working folder with a photo, two paintings, masks and labels; the subject is the left quarter."""
    for seed, name in enumerate(("photo.png", "painting.png", "other.png")):
        images.write_file(tmp_path / name, images.encode_image(pixels(48, 64, seed)))
    write_mask(tmp_path / "masks" / "a,b=c.png", 32, 64)
    labels = np.zeros((48, 64, 3), np.float32)
    labels[:, 16:32, 0] = 1
    images.write_file(tmp_path / "labels.png", images.encode_image(labels))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MaskFinder, "subject", find_left)
    return tmp_path


def paint(*tokens: str) -> int:
    return main(["run", *TINY, "photo.png", "painting.png", *tokens])


def load(name: str) -> NDArray[np.float32]:
    return images.read_image(name).pixels


def describe(name: str) -> dict[str, Any]:
    """Return the record of a picture with the masks by name."""
    record: dict[str, Any] = {**provenance.read_record(name)}
    return record | {"masks": {mask["name"]: mask for mask in record["masks"]}}


def test_protected_parts_stay_and_regions_take_their_own_painting(folder: Path, capsys: Capture) -> None:
    tokens = ("--protect", "masks/a,b=c.png=100", "--protect", "subject=20", "--region", "subject=other.png")
    assert paint(*tokens, "-o", "a.png", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert np.abs(load("a.png") - load("photo.png"))[:, 36:].max() < 0.01
    assert answer["styles"] == ["painting.png", "other.png"]
    assert answer["options"]["protect"] == ["masks/a,b=c.png=100", "subject=20"]
    assert {mask["name"]: (mask["kind"], mask["coverage"]) for mask in answer["masks"]} == {
        "masks/a,b=c.png": ("file", 0.5),
        "subject": ("found", 0.25),
    }
    assert paint(*tokens[:4], "other.png", "-o", "b.png", "-q") == 0, "the same protection, but both styles everywhere"
    assert not np.array_equal(load("a.png"), load("b.png"))


def test_labels_are_masks(folder: Path, capsys: Capture) -> None:
    assert paint("--labels", "labels.png", "--protect", "#ff0000=100", "-o", "a.png", "-q") == 0
    assert np.abs(load("a.png") - load("photo.png"))[:, 20:28].max() < 0.01
    assert describe("a.png")["masks"]["#ff0000"]["coverage"] == 0.25
    assert paint("--protect", "#ff0000", "-q") == 2
    assert "there is none; name it with --labels" in capsys.readouterr().err


def test_the_log_says_what_was_found(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(MaskFinder, "faces", find_left)
    assert paint("-v", "-o", "a.png") == 0
    sentence = "Faces cover 25 % of the photo and are gently protected; --protect none paints them, too."
    assert sentence in capsys.readouterr().err.splitlines()
    assert paint("-v", "-o", "b.png", "--protect", "none") == 0
    assert "Faces" not in capsys.readouterr().err
    assert paint("-v", "--protect", "masks/a,b=c.png", "--region", "faces=other.png", "-o", "c.png") == 0
    lines = capsys.readouterr().err.splitlines()
    assert "The mask 'masks/a,b=c.png' covers 50 % of the photo and is protected (70 of 100)." in lines
    assert "Faces cover 25 % of the photo and take style 2." in lines


def test_a_dry_run_lists_the_masks(folder: Path, capsys: Capture) -> None:
    tokens = ("--dry-run", "--protect", "subject=30")
    assert paint(*tokens) == 0
    assert "The subject covers 25 % of the photo and is protected (30 of 100)." in capsys.readouterr().out
    assert paint(*tokens, "--json") == 0
    assert json.loads(capsys.readouterr().out)["masks"][0]["name"] == "subject"


def test_variables_and_files_of_settings_name_masks(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    Path("styler.toml").write_text('protect = ["masks/a,b=c.png=90", "subject"]\nlabels = "labels.png"\n')
    assert main(["config", "--json"]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert settings["protect"] == {"value": ["masks/a,b=c.png=90", "subject"], "origin": "styler.toml"}
    monkeypatch.setenv("STYLER_PROTECT", "subject=10,#ff0000")
    assert main(["config", "--json", "--region", "subject=mosaic"]) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert settings["protect"] == {"value": ["subject=10", "#ff0000"], "origin": "STYLER_PROTECT"}
    assert settings["regions"] == {"value": ["subject"], "origin": "flag"}


def test_weights_belong_to_the_styles_that_share_the_rest(folder: Path, capsys: Capture) -> None:
    region = ("--region", "subject=mosaic", "-q")
    assert paint("other.png", "--style-weights", "3,1", *region, "-o", "a.png") == 0
    assert describe("a.png")["options"]["style_weights"] == [3, 1]
    assert paint("other.png", "--style-weights", "3,1,1", *region, "-o", "b.png") == 2
    message = "style_weights has 3 numbers for 2 styles; give one for each; the style of a region has none."
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tokens", "code", "message"),
    [
        (("--protect", "missing.png"), 1, "Cannot read 'missing.png': there is no such file"),
        (("--protect", "fases"), 2, "There is no mask or file 'fases' (did you mean 'faces'?)"),
        (("--protect", "faces=120"), 2, "it can be 0 to 100"),
        (("--protect", "none", "--protect", "faces"), 2, "none stands alone"),
        (("--protect", "-"), 2, "A mask cannot come from standard input"),
        (("--protect", "wide.png"), 1, "other proportions"),
        (("--protect", "masks/a,b=c.png", "--max-pixels", "3072", "--labels", "wide.png"), 1, "Cannot read 'wide.png'"),
        (("--protect", "photo.png", "-o", "photo.png", "--overwrite"), 2, "is one of the inputs"),
        (("--protect", "masks/a,b=c.png", "-o", "masks/a,b=c.png", "--overwrite"), 2, "is one of the inputs"),
        (("--region", "subject"), 2, "write MASK=STYLE"),
        (("--region", "subject=missing.png"), 1, "Cannot read 'missing.png'"),
        (("--region", "subject=mosaic", "--region", "subject=other.png"), 2, "twice"),
        (("--regions", "subject"), 2, "Unknown option"),
    ],
)
def test_refusals(tokens: tuple[str, ...], code: int, message: str, capsys: Capture) -> None:
    images.write_file("wide.png", images.encode_image(np.ones((48, 200), np.float32)))
    assert paint("-q", *tokens) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_regions_in_settings_need_a_style_for_the_rest(folder: Path, capsys: Capture) -> None:
    Path("styler.toml").write_text('regions = ["subject"]\n')
    assert paint("-q") == 2
    assert "leaves none for the rest of the photo" in capsys.readouterr().err
    assert paint("other.png", "-q", "-o", "a.png") == 0
    assert describe("a.png")["masks"]["subject"]["coverage"] == 0.25


def test_the_record_has_no_folders_and_repeats_the_pixels(folder: Path, capsys: Capture) -> None:
    tokens = ("--protect", "masks/a,b=c.png=90", "--region", "subject=other.png", "-q")
    assert paint(*tokens, "-o", "a.png") == 0
    record = describe("a.png")
    assert record["options"]["protect"] == ["a,b=c.png=90"]
    assert record["options"]["regions"] == ["subject"]
    assert "masks/" not in json.dumps(record)

    again = ["run", "--from", "a.png", "photo.png", "painting.png", "other.png", "--device", "cpu"]
    assert main([*again, "-o", "b.png"]) == 2
    message = "was painted with the mask 'a,b=c.png'; give that file with --protect a,b=c.png, or put it beside"
    assert message in capsys.readouterr().err
    assert main([*again[:-3], "--device", "cpu", *tokens, "-o", "c.png"]) == 0
    assert np.array_equal(load("a.png"), load("c.png"))
    shutil.move("masks/a,b=c.png", "a,b=c.png")
    assert main([*again, "-o", "d.png"]) == 0
    assert "differs" not in capsys.readouterr().err
    assert np.array_equal(load("a.png"), load("d.png"))
    write_mask(folder / "a,b=c.png", 30, 64)
    assert main([*again, "-o", "e.png"]) == 0
    assert "The mask 'a,b=c.png' differs from the recorded one." in capsys.readouterr().err


def test_faces_are_found_again_but_never_where_none_were_protected(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    again = ["photo.png", "painting.png", "--device", "cpu"]
    assert paint("-q", "-o", "plain.png") == 0
    monkeypatch.setattr(MaskFinder, "faces", find_left)
    assert paint("-q", "-o", "faces.png") == 0
    assert not np.array_equal(load("plain.png"), load("faces.png"))
    for name in ("plain", "faces"):
        assert main(["run", "--from", f"{name}.png", *again, "-o", f"{name}2.png"]) == 0
        assert "differs" not in capsys.readouterr().err
        assert np.array_equal(load(f"{name}.png"), load(f"{name}2.png"))
    monkeypatch.setattr(MaskFinder, "faces", lambda *args: 1 - find_left(*args))
    assert main(["run", "--from", "faces.png", *again, "-o", "faces3.png"]) == 0
    assert "The mask 'faces' differs from the recorded one." in capsys.readouterr().err


def test_inspect_tells_regions_and_protection_in_words(folder: Path, capsys: Capture) -> None:
    tokens = ("--protect", "masks/a,b=c.png", "--region", "subject=other.png", "--region", "labels.png=mosaic")
    assert paint(*tokens, "-q", "-o", "a.png") == 0
    capsys.readouterr()
    assert main(["inspect", "a.png"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "The mask 'a,b=c.png' covers 50 % of the photo and is protected (70 of 100)." in lines
    assert "The subject covers 25 % of the photo and takes style 2." in lines
    end = "--protect a,b=c.png --region subject=STYLE2 --region labels.png=STYLE3"
    assert f"styler run --from FILE CONTENT STYLE1 {end}" in lines
    assert any(line.startswith("styler run CONTENT STYLE1 --size 64") and line.endswith(end) for line in lines)


def test_previews_protect_and_ignore_regions(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    seen: list[Any] = []
    real = resolve_areas

    def record(*args: Any, **settings: Any) -> Any:
        seen.append(real(*args, **settings))
        return seen[-1]

    monkeypatch.setattr(painter_module, "resolve_areas", record)
    tokens = ("--protect", "masks/a,b=c.png=100", "--region", "missing.png=mosaic", "--device", "cpu", "-v")
    assert main(["preview", "photo.png", "painting.png", *tokens, "-o", "wall.png"]) == 0
    assert [entry.name for each in seen for entry in each.entries] == ["masks/a,b=c.png"]
    assert all(each.areas.regions.shape[1] == 1 for each in seen)
    assert "'masks/a,b=c.png' covers 50 % of the photo and is protected (100 of 100)." in capsys.readouterr().err
    assert main(["preview", "photo.png", "painting.png", "--protect", "x.png", "-q", "--device", "cpu"]) == 1
    assert "Cannot read 'x.png'" in capsys.readouterr().err
