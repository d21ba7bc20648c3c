"""`styler batch`: what is painted, where, which requests are rejected, and what a second run does."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from styler import images
from styler.batch import manifest
from styler.cli import batch, batch_report, files, main
from styler.engine.painter import Painter
from styler.engine.styles import StyleCache
from styler.errors import UsageError
from styler.options import Options

TINY = ["--size", "64", "--first-size", "64", "--iterations", "2", "--device", "cpu"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(
    tmp_path: Path, pixels: Callable[..., NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch, use_tiny: None
) -> Path:
    """Create a working folder with three photos and two paintings; the network is tiny."""
    for seed, name in enumerate(("photos/a1.png", "photos/a2.png", "photos/sub/a1.png", "art/x.png", "art/y.png")):
        images.write_file(tmp_path / name, images.encode_image(pixels(48, 64, seed)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paint(*tokens: str) -> int:
    return main(["batch", *TINY, *tokens])


def list_pictures(folder: Path, out: str = "out") -> set[str]:
    """List the pictures in the folder of the results."""
    return {
        path.relative_to(folder / out).as_posix() for path in (folder / out).rglob("*.*") if ".styler" not in path.parts
    }


INDEX = {"index.html", "contact-sheet.jpg"}


def test_every_photo_is_painted_in_every_style(folder: Path, capsys: Capture) -> None:
    assert paint("photos", "art", "-r", "-o", "out", "--no-progress") == 0
    out, err = capsys.readouterr()
    names = ["a1.x.png", "a2.x.png", "sub/a1.x.png", "a1.y.png", "a2.y.png", "sub/a1.y.png"]
    assert out.splitlines() == [f"out/{name}" for name in names]
    assert list_pictures(folder) == {*names, *INDEX}
    assert re.fullmatch(r"styler: 6 done, 0 failed, 0 skipped in [\d.]+ s \([\d.]+ s each\)\.\n", err)
    assert images.read_image("out/sub/a1.y.png").width == 64


def test_batch_and_run_paint_the_same_picture(folder: Path) -> None:
    assert paint("photos", "art/x.png", "-o", "out", "-q", "--seed", "3") == 0
    assert main(["run", "photos/a2.png", "art/x.png", *TINY, "--seed", "3", "-o", "one.png", "-q"]) == 0
    assert (images.read_image("out/a2.x.png").pixels == images.read_image("one.png").pixels).all()


def test_blend_zip_format_and_names(folder: Path) -> None:
    assert paint("photos", "art", "-o", "blended", "-q", "--blend", "--format", "jpg", "--style-weights", "2,1") == 0
    assert list_pictures(folder, "blended") - INDEX == {"a1.x+y.jpg", "a2.x+y.jpg"}
    assert paint("photos", "art", "-o", "zipped", "-q", "--zip", "--name", "{style}/{content}.{ext}", "--no-index") == 0
    assert list_pictures(folder, "zipped") == {"x/a1.png", "y/a2.png"}
    assert paint("photos/a1.png", "starry-night", "-o", "named", "-q", "--no-index", "--bit-depth", "16") == 0
    assert list_pictures(folder, "named") == {"a1.starry-night.png"}


def test_style_statistics_are_computed_once_per_scale_for_all_photos(
    folder: Path, monkeypatch: pytest.MonkeyPatch, painter: Painter
) -> None:
    loaded: list[Options] = []
    computed: list[object] = []
    real = StyleCache.get_moments

    def of(options: Options, _weights: object) -> Painter:
        loaded.append(options)
        return painter

    def statistics(self: StyleCache, *args: Any, **kwargs: Any) -> Any:
        before = len(self._moments)
        result = real(self, *args, **kwargs)
        computed.extend([args[2]] * (len(self._moments) - before))
        return result

    monkeypatch.setattr(Painter, "of", of)
    monkeypatch.setattr(StyleCache, "get_moments", statistics)
    assert main(["batch", "photos", "art", "-r", "-o", "out", "-q", "--size", "128", "--iterations", "2"]) == 0
    assert len(loaded) == 1
    assert computed == [(64, 48), (64, 48)], "one scale, two styles, whatever the number of photos"
    loaded.clear()
    two = [
        "batch",
        "photos",
        "art",
        "-r",
        "-o",
        "two",
        "-q",
        "--size",
        "128",
        "--first-size",
        "64",
        "--iterations",
        "2",
    ]
    assert main([*two, "--stroke-size", "2"]) == 0
    assert len(computed) - 2 == 2 * len(set(computed[2:])), "each scale's size once for each style"


def test_a_second_run_paints_only_missing_pictures(folder: Path, capsys: Capture) -> None:
    assert paint("photos", "art/x.png", "-o", "out") == 0
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert paint("photos", "art/x.png", "-o", "out") == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "0 done, 0 failed, 2 skipped" in err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (folder / "out" / "a2.x.png").unlink()
    shutil.copy("photos/sub/a1.png", "photos/a3.png")
    assert paint("photos", "art/x.png", "-o", "out") == 0
    assert capsys.readouterr().out.splitlines() == ["out/a2.x.png", "out/a3.x.png"]


def test_touched_inputs_are_unchanged_and_modified_ones_are_rejected(folder: Path, capsys: Capture) -> None:
    assert paint("photos", "art/x.png", "-o", "out", "-q") == 0
    os.utime("photos/a1.png", (1, 1))
    assert paint("photos", "art/x.png", "-o", "out", "-q") == 0
    shutil.copy("photos/a2.png", "photos/a1.png")
    capsys.readouterr()
    assert paint("photos", "art/x.png", "-o", "out", "-q") == 2
    sentence = "styler: error: 1 picture was painted from other inputs or settings, such as 'a1.x.png' "
    assert capsys.readouterr().err.startswith(f"{sentence}(changed: the content 'photos/a1.png'); paint them again")
    assert paint("photos", "art/x.png", "-o", "out", "-q", "--overwrite") == 0
    assert capsys.readouterr().out == "out/a1.x.png\n", "the other one is unchanged"


def test_changed_settings_are_rejected_by_name(folder: Path, capsys: Capture) -> None:
    assert paint("photos", "art/x.png", "-o", "out", "-q") == 0
    before = (folder / "out" / "a1.x.png").read_bytes()
    capsys.readouterr()
    assert paint("photos", "art/x.png", "-o", "out", "-q", "--strength", "70", "--threads", "1") == 2
    assert "2 pictures were" in (err := capsys.readouterr().err)
    assert "(changed: strength was 50 and is 70)" in err
    assert (folder / "out" / "a1.x.png").read_bytes() == before


def test_existing_files_are_replaced_only_with_overwrite(folder: Path, capsys: Capture) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "a1.x.png").write_bytes(b"somebody's")
    (folder / "out" / "index.html").write_bytes(b"somebody's page")
    assert paint("photos", "art/x.png", "-o", "out") == 2
    assert "1 output file exists that this batch did not write ('a1.x.png')" in capsys.readouterr().err
    assert {path.name for path in (folder / "out").iterdir()} == {"a1.x.png", "index.html"}
    assert paint("photos", "art/x.png", "-o", "out", "--overwrite") == 0
    assert images.read_image("out/a1.x.png").width == 64
    assert (folder / "out" / "index.html").read_bytes() == b"somebody's page"
    assert (
        "'out/index.html' was not written by this batch, or has been changed since; it is kept."
        in capsys.readouterr().err
    )


SPLITS = [
    ("photos one.jpg two.jpg", 1),
    ("photos art/x.png two.jpg", 1),
    ("photos starry-night mosaic", 1),
    ("one.jpg two.jpg art", 2),
    ("photos/a1.png photos/a2.png art/x.png art/y.png", 2),
    ("photos/a1.png photos/a2.png one.jpg", 2),
    ("photos/a1.png one.jpg two.jpg", 1),
    ("one.jpg two.jpg starry-night", 2),
    ("one.jpg starry-night mosaic", 1),
    ("astronaut coffee one.jpg", 2),
    ("one.jpg @list.txt", 1),
    ("one.jpg two.jpg art/*.png", 2),
    ("s3://bucket/photos/*.jpg one.jpg two.jpg", 1),
]


@pytest.mark.parametrize(("names", "place"), SPLITS)
def test_photos_and_paintings_are_told_apart_as_a_person_would(names: str, place: int, folder: Path) -> None:
    for name in ("one.jpg", "two.jpg"):
        shutil.copy(folder / "art" / "x.png", folder / name)
    words = names.split()
    assert batch.split_names(words) == (tuple(words[:place]), tuple(words[place:]))


@pytest.mark.parametrize(
    "names", ["photos art starry-night", "a.jpg b.jpg c.jpg", "a.jpg photos b.jpg", "starry-night a.jpg b.jpg"]
)
def test_unclear_names_are_refused(names: str, folder: Path) -> None:
    with pytest.raises(UsageError, match=r"^It is not clear which"):
        batch.split_names(names.split())


def test_names_that_a_shell_expanded_are_painted(folder: Path, capsys: Capture) -> None:
    assert paint("photos/a1.png", "photos/a2.png", "art/x.png", "art/y.png", "-o", "out", "--no-progress") == 0
    assert list_pictures(folder) - INDEX == {"a1.x.png", "a1.y.png", "a2.x.png", "a2.y.png"}
    note = "styler: note: photos: 'photos/a1.png' and 1 more; paintings: 'art/x.png' and 1 more."
    assert capsys.readouterr().err.splitlines()[0] == note


def test_results_of_other_batches_are_left_out_unless_they_are_named(folder: Path, capsys: Capture) -> None:
    assert paint("photos", "art/x.png", "-o", "photos/sub/out", "-q") == 0
    tokens = ["--dry-run", "--json"]
    for contents, number in (("photos", 3), ("photos/**/*.png", 3), ("photos/sub/out", 2)):
        capsys.readouterr()
        assert paint(contents, "art/y.png", "-r", "-o", "other", *tokens) == 0
        out, err = capsys.readouterr()
        assert len(json.loads(out)["todo"]) == number
        skipped = "1 folder with the pictures of an earlier batch skipped; name such a folder to paint what is in it."
        assert (skipped in err) == (number == 3)


@pytest.mark.parametrize("extension", ["jpeg", "tif"])
def test_both_spellings_of_a_format_are_accepted(extension: str, folder: Path, capsys: Capture) -> None:
    assert paint("photos/a1.png", "art/x.png", "-o", "out", "--format", extension, "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["todo"][0]["output"] == f"a1.x.{extension}"


def test_an_input_whose_name_differs_only_in_case_is_not_replaced(folder: Path, capsys: Capture) -> None:
    shutil.copy(folder / "photos" / "a1.png", folder / "A1.X.png")
    assert paint("A1.X.png", "art/x.png", "-o", ".", "--name", "a1.x.{ext}", "--overwrite") == 2
    assert "The output 'a1.x.png' is one of the inputs; use another folder." in capsys.readouterr().err


def test_results_are_never_used_as_photos(folder: Path, capsys: Capture) -> None:
    assert paint("photos", "art/x.png", "-r", "-o", "photos/out", "-q") == 0
    assert paint("photos", "art/x.png", "-r", "-o", "photos/out") == 0
    assert "0 done, 0 failed, 3 skipped" in capsys.readouterr().err
    assert paint("photos", "art/x.png", "-o", "photos") == 2


@pytest.mark.parametrize(
    ("tokens", "code", "sentence"),
    [
        (["photos"], 2, "CONTENTS and STYLES are required"),
        (["photos", "art"], 2, "A folder for the pictures is required"),
        (["a.jpg", "b.jpg", "c.jpg", "-o", "out"], 2, "not clear which of these 3 names .*'styler batch @photos.txt"),
        (["photos", "art", "photos", "-o", "out"], 2, "It is not clear which of these 3 names are photos"),
        (["-", "art", "-o", "out"], 2, "A batch cannot use standard input"),
        (["photos", "art", "-o", "art/x.png"], 2, "is a file; a batch needs a folder"),
        (["nothing", "art", "-o", "out"], 4, "Cannot read 'nothing': there is no such file"),
        (["photos/*.jpg", "art", "-o", "out"], 4, "CONTENTS 'photos/\\*.jpg' contains no picture to paint"),
        (["photos", "art", "-o", "out", "--zip", "--blend"], 2, "mutually exclusive"),
        (["photos", "art", "-o", "out", "--style-weights", "1,2"], 2, "style_weights has 2 numbers"),
        (["photos", "art", "-o", "out", "--format", "jpg", "--bit-depth", "16"], 2, "JPEG does not support 16 bits"),
        (["photos", "art", "-o", "out", "--name", "{content}.{style}.gif"], 1, "the format '.gif' is not supported"),
        (["photos", "art", "-o", "out", "--name", "{content}.{style}.jpg"], 2, "but --format is png"),
        (["photos", "art", "-o", "out", "--name", "{content}.png"], 2, "--name gives"),
        (["photos", "art", "-o", "out", "--max-failures", "0"], 2, "max_failures is 0"),
        (["photos", "art", "-o", "out", "--style-layers", "relu9_9", "--layer-weights", "1"], 2, "relu9_9"),
        (["--status", "photos"], 4, "There is no batch in 'photos'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_invalid_requests_give_one_sentence(
    tokens: list[str], code: int, sentence: str, folder: Path, capsys: Capture
) -> None:
    before = sorted(path for path in folder.rglob("*") if ".styler" not in path.parts and path.name != "out")
    assert paint(*tokens) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(f"^styler: error: .*{sentence}", err)
    assert len(err.splitlines()) == 1
    assert sorted(path for path in folder.rglob("*") if ".styler" not in path.parts and path.name != "out") == before


def test_a_dry_run_prints_the_plan_and_writes_nothing(folder: Path, capsys: Capture) -> None:
    before = sorted(folder.rglob("*"))
    assert paint("photos", "art", "-r", "-o", "out", "--dry-run") == 0
    page = capsys.readouterr().out
    for words in ("6 to paint, 0 done", "64×48, like the first one", "Device    cpu", "GB free", "each, if all are"):
        assert words in page
    assert re.search(r"Speed +about [0-9,.]+ pictures per hour", page)
    assert "'photos/sub/a1.png' × 'art/y.png' → 'out/sub/a1.y.png'" in page
    assert paint("photos", "art", "-o", "out", "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert [pair["output"] for pair in plan["todo"]] == ["a1.x.png", "a2.x.png", "a1.y.png", "a2.y.png"]
    assert plan["estimated_disk_bytes"] > 0
    assert plan["estimated_pictures_per_hour"] == pytest.approx(4 * 3600 / plan["estimated_seconds"])
    assert sorted(folder.rglob("*")) == before


def test_a_dry_run_expects_the_speed_of_pictures_that_were_painted_with_the_same_settings(
    folder: Path, capsys: Capture
) -> None:
    assert paint("photos/a1.png", "art/x.png", "-o", "out", "-q", "--no-index") == 0
    file = folder / "out" / ".styler" / "manifest.jsonl"
    file.write_text(re.sub(r'"seconds":[0-9.]+', '"seconds":1800.0', file.read_text()))
    capsys.readouterr()
    assert paint("photos", "art/x.png", "-o", "out", "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["estimated_seconds"], plan["estimated_pictures_per_hour"]) == (1800, 2)
    assert paint("photos", "art/x.png", "-o", "out", "--dry-run") == 0
    page = capsys.readouterr().out
    assert "30 min 0 s each, like those that were painted with these settings" in page
    assert "about 2.0 pictures per hour" in page
    assert paint("photos", "art/x.png", "-o", "out", "--dry-run", "--json", "--seed", "5", "--overwrite") == 0
    assert json.loads(capsys.readouterr().out)["estimated_pictures_per_hour"] > 2


def test_events_are_json_lines(folder: Path, capsys: Capture) -> None:
    (folder / "photos" / "bad.png").write_text("no picture")
    assert paint("photos", "art/x.png", "-o", "out", "--json", "-q") == 3
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (events[0]["event"], events[-1]["event"]) == ("planned", "finished")
    ends = {"a1.x.png": "done", "a2.x.png": "done", "bad.x.png": "failed"}
    for name, end in ends.items():
        kinds = [event["event"] for event in events if event.get("output") == name and event["event"] != "progress"]
        assert kinds == ["started", end]
    assert [event["output"] for event in events if event["event"] in ("done", "failed")] == [*ends]
    assert {event["schema"] for event in events} == {1}
    assert events[-1]["failures"][0]["error"].startswith("Cannot read 'photos/bad.png': it is text")
    assert events[-1]["exit_code"] == 3
    assert paint("gone", "art/x.png", "-o", "out", "--json", "-q") == 4
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["error"]["exit_code"] == 4


def test_status_is_read_from_the_manifest(folder: Path, capsys: Capture) -> None:
    (folder / "photos" / "bad.png").write_text("no picture")
    assert paint("photos", "art/x.png", "-o", "out", "-q") == 3
    (folder / "out" / "a2.x.png").unlink()
    capsys.readouterr()
    assert main(["batch", "--status", "out"]) == 3
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("1 done, 1 failed, 1 left (1 finished picture missing); the last run started at 20")
    assert second.startswith("failed: 'bad.x.png': Cannot read 'photos/bad.png': it is text")
    assert main(["batch", "--status", "out", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["left"] == 1


def test_a_folder_is_locked_by_its_batch(folder: Path, capsys: Capture) -> None:
    with files.hold_output(Path("out")):
        assert paint("photos", "art", "-o", "out") == 1
    assert re.search(r"Another run of styler \(process \d+ .*\) is writing 'out'; wait for it", capsys.readouterr().err)


def test_the_index_shows_content_style_and_result(folder: Path) -> None:
    (folder / "photos" / "a<b>&.png").write_bytes((folder / "photos" / "a1.png").read_bytes())
    (folder / "photos" / "bad.png").write_text("no picture")
    assert paint("photos", "art/x.png", "-o", "out", "-q") == 3
    page = (folder / "out" / "index.html").read_text(encoding="utf-8")
    links = re.findall(r'<img [^>]*src="([^"]+)"', page)
    assert len(links) == 9
    assert all((folder / "out" / link).is_file() for link in links)
    assert "<figcaption>a&lt;b&gt;&amp;.x.png</figcaption>" in page
    assert 'href="a%3Cb%3E%26.x.png"' in page
    assert "bad.x.png: Cannot read &#x27;photos/bad.png&#x27;" in page
    sheet = images.read_image("out/contact-sheet.jpg")
    assert (sheet.width, sheet.height) == (3 * 248 + 8, 3 * 272 + 8)
    result = sheet.pixels[38:218, 504:744]  # the third picture of the first row, in the middle of its cell
    assert result.std() > 0.02


def test_progress_lines_show_the_picture_and_the_batch(
    folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_report, "BATCH_LINE_SECONDS", 0.0)
    assert paint("photos", "art/x.png", "-o", "out", "-r") == 0
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"0 of 3 done.*; 'a1.x.png': Scale 1 of 1: 64×48, iteration 1 of 2, loss .*", lines[0])
    assert any(re.match(r"[12] of 3 done, [\d.]+ s left; 'sub/a1.x.png': ", line) for line in lines)


def test_a_terminal_gets_bars(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setattr(os.sys.stderr, "isatty", lambda: True)  # type: ignore[attr-defined]
    assert paint("photos", "art/x.png", "-o", "out") == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == ["out/a1.x.png", "out/a2.x.png"]
    assert re.search(r"'a\d\.x\.png'.*Scale 1 of 1: 64×48, iteration \d of 2", err)
    assert re.search(r"All .*\d of 2 done", err)


def test_the_manifest_has_a_schema_and_the_hashes(folder: Path) -> None:
    assert paint("photos/a1.png", "art/x.png", "-o", "out", "-q") == 0
    lines = [json.loads(line) for line in manifest.locate_manifest(Path("out")).read_text().splitlines()]
    assert [line["state"] for line in lines] == ["run", "precision", "writing", "done", "index", "index"]
    assert {line["schema"] for line in lines} == {1}
    writing = lines[2]
    assert writing["content"]["sha256"] == images.read_image("photos/a1.png").sha256
    assert writing["sha256"] == images.read_image("out/a1.x.png").sha256
    assert writing["settings"] == lines[0]["settings"]
