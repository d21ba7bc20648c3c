"""Masks in batches: found for every picture, repainted when they change, and missing ones fail their own picture."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from styler import images, provenance
from styler.batch import manifest
from styler.batch.discover import BatchInput
from styler.batch.plan import find_masks
from styler.batch.runner import stylize_folder
from styler.cli import main
from styler.errors import UsageError
from styler.options import Options

TINY = ["--size", "64", "--first-size", "64", "--iterations", "2", "--device", "cpu", "-q"]
Capture = pytest.CaptureFixture[str]


def write_mask(name: str, first: int, last: int) -> None:
    """Write a mask of columns for a photo of 64×48."""
    mask = np.zeros((48, 64), np.float32)
    mask[:, first:last] = 1
    images.write_file(Path(name), images.encode_image(mask), overwrite=True)


@pytest.fixture(autouse=True)
def folder(
    tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, use_tiny: None
) -> Path:
    """Enter a folder with two photos, each with a mask, and two paintings."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("photos/a.png", "photos/b.png", "art/x.png", "sky.png")):
        images.write_file(tmp_path / name, images.encode_image(pixels(48, 64, seed)))
    write_mask("masks/a.mask.png", 0, 32)
    write_mask("masks/b.mask.png", 32, 64)
    return tmp_path


def paint(*tokens: str) -> int:
    return main(["batch", "photos", "art", "-o", "out", *TINY, *tokens])


def load(name: str) -> NDArray[np.float32]:
    return images.read_image(name).pixels


def test_every_photo_has_its_own_mask(capsys: Capture) -> None:
    assert paint("--protect", "masks/{content}.mask.png=100") == 0
    for name, part in (("a", slice(0, 28)), ("b", slice(36, 64))):
        assert np.abs(load(f"out/{name}.x.png") - load(f"photos/{name}.png"))[:, part].max() < 0.01
        record = provenance.read_record(f"out/{name}.x.png")
        assert record["options"]["protect"] == [f"{name}.mask.png=100"]
        assert [mask["name"] for mask in record["masks"]] == [f"{name}.mask.png"]
    assert np.abs(load("out/a.x.png") - load("photos/a.png"))[:, 36:].max() > 0.01


def test_a_batch_paints_what_a_run_paints(capsys: Capture) -> None:
    tokens = ("--protect", "masks/a.mask.png=40", "--threads", "1")
    assert paint(*tokens, "--region", "masks/{content}.mask.png=sky.png") == 0
    assert sorted(path.name for path in Path("out").glob("*.png")) == ["a.x+sky.png", "b.x+sky.png"]
    run = ["run", "photos/b.png", "art/x.png", *TINY, *tokens, "--region", "masks/b.mask.png=sky.png"]
    assert main([*run, "-o", "one.png"]) == 0
    assert np.array_equal(load("one.png"), load("out/b.x+sky.png"))


def test_a_changed_mask_repaints_its_picture_alone(capsys: Capture) -> None:
    tokens = ("--protect", "masks/{content}.mask.png", "--protect", "masks/a.mask.png=10")
    assert paint(*tokens) == 0
    entry = manifest.read_manifest(Path("out")).entries["b.x.png"]
    assert [(Path(each["path"]).name, len(each["sha256"])) for each in entry["masks"]] == [
        ("b.mask.png", 64),
        ("a.mask.png", 64),
    ]
    capsys.readouterr()
    assert paint(*tokens) == 0
    assert capsys.readouterr().out == ""
    write_mask("masks/b.mask.png", 16, 64)
    assert paint(*tokens) == 2
    assert "changed: the mask 'masks/b.mask.png'" in capsys.readouterr().err
    assert paint(*tokens, "--overwrite") == 0
    assert capsys.readouterr().out.split() == ["out/b.x.png"]


def test_a_missing_mask_fails_its_picture_until_it_is_there(capsys: Capture) -> None:
    Path("masks/b.mask.png").rename("b.png")
    assert paint("--protect", "masks/{content}.mask.png") == 3
    out, err = capsys.readouterr()
    assert out == "out/a.x.png\n"
    assert "Cannot read 'masks/b.mask.png': there is no such file" in err
    Path("b.png").rename("masks/b.mask.png")
    assert paint("--protect", "masks/{content}.mask.png") == 0
    assert capsys.readouterr().out == "out/b.x.png\n"


@pytest.mark.parametrize(
    ("tokens", "code", "message"),
    [
        (("--protect", "masks/c.png"), 1, "Cannot read the mask 'masks/c.png': there is no such file"),
        (("--protect", "fases"), 2, "did you mean 'faces'?"),
        (("--protect", "masks/{style}.png"), 2, "The name of a mask has no field {style}; it can have {content}"),
        (("--region", "subject=photos"), 2, "has 2 paintings, 'photos'; name a single one"),
        (("--region", "subject=gone"), 4, "Cannot read 'gone'"),
        (("--region", "faces=sky.png", "--style-weights", "1,2"), 2, "has 2 numbers, but each picture has 1 styles"),
        (("--protect", "out/{content}.x.png", "--overwrite"), 2, "is one of the inputs"),
    ],
)
def test_what_is_wrong_with_all_pictures_is_refused_at_once(
    tokens: tuple[str, ...], code: int, message: str, capsys: Capture
) -> None:
    assert paint(*tokens) == code
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


def test_masks_beside_the_photos_are_no_photos(capsys: Capture) -> None:
    for name in "ab":
        shutil.copy(f"masks/{name}.mask.png", f"photos/{name}.mask.png")
    tokens = ("--protect", "photos/{content}.mask.png")
    assert paint(*tokens, "--dry-run") == 0
    assert "2 to paint" in capsys.readouterr().out
    assert paint(*tokens) == 0
    assert len(capsys.readouterr().out.split()) == 2


def test_the_masks_of_an_earlier_picture_have_to_be_given_again(capsys: Capture) -> None:
    assert paint("--protect", "masks/a.mask.png=90") == 0
    assert main(["batch", "photos", "art", "-o", "again", "--from", "out/a.x.png", "-q"]) == 2
    message = "was painted with the mask 'a.mask.png'; give that file with --protect a.mask.png."
    assert message in capsys.readouterr().err


def test_settings_of_batches_name_masks(capsys: Capture) -> None:
    Path("styler.toml").write_text('[batch]\nprotect = ["masks/{content}.mask.png=100"]\n')
    assert paint() == 0
    assert np.abs(load("out/b.x.png") - load("photos/b.png"))[:, 36:].max() < 0.01


def test_programs_name_masks_and_the_paintings_of_regions() -> None:
    masks: dict[str, Any] = {"protect": ["masks/{content}.mask.png=100"], "regions": ["masks/a.mask.png"]}
    options = Options.of(size=64, first_size=64, iterations=2, device="cpu", **masks)
    events = [*stylize_folder("photos", "art", "out", options, region_styles=("sky.png",))]
    assert [event.pair.output for event in events if event.kind == "done"] == ["a.x+sky.png", "b.x+sky.png"]
    lines = Path("out/.styler/manifest.jsonl").read_text().splitlines()
    assert {len(line["styles"]) for line in map(json.loads, lines) if line["state"] == "writing"} == {2}
    with pytest.raises(UsageError, match="leaves none for the rest"):
        next(iter(stylize_folder("photos", "art", "other", options)))


def test_placeholders_are_the_name_without_extension_and_braces_are_doubled() -> None:
    photo = BatchInput("in/cat.v2.jpg", "cat.v2.jpg")
    names = ["m/{content}.png", "{{x}}.png", "s3://bucket/{content}"]
    assert [path for _, path in find_masks(photo, names)] == ["m/cat.v2.png", "{x}.png", "s3://bucket/cat.v2"]
