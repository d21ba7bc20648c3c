"""Claims about what goes into a batch, and under which names it comes out."""

import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from styler.batch import discover, plan
from styler.batch.discover import BatchInput, SelectionRules
from styler.errors import ImageError, NothingMatched, StylerError, UsageError


def unknown(name: str) -> Path:
    raise ImageError(f"Cannot read '{name}': there is no such file.")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files that look like pictures by their names."""
    for name in (
        *("p/img10.jpg", "p/img2.JPG", "p/img1.png", "p/notes.txt", "p/.hidden.jpg", "p/sub/img1.png"),
        *("p/sub/deep/x.webp", "p/raw/y.tif", "p/.trash/z.jpg", "q/a.jpg"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(given: str, named: Callable[[str], Path] = unknown, **rules: object) -> list[str]:
    listing = discover.find_inputs(given, SelectionRules(**rules), named, "CONTENTS")  # type: ignore[arg-type]
    return [it.relative for it in listing.inputs]


def test_a_folder_is_its_pictures_in_natural_order(tree: Path) -> None:
    assert found("p") == found("p/") == ["img1.png", "img2.JPG", "img10.jpg"]


def test_a_walk_keeps_the_places_and_leaves_hidden_things_out(tree: Path) -> None:
    deep = ["img1.png", "img2.JPG", "img10.jpg", "raw/y.tif", "sub/deep/x.webp", "sub/img1.png"]
    assert found("p", recursive=True) == deep
    assert found("p", recursive=True, exclude=("RAW", "*.webp")) == [*deep[:3], "sub/img1.png"]
    assert found("p", recursive=True, include=("sub/*",)) == ["sub/deep/x.webp", "sub/img1.png"]
    assert found("p", include=("*.txt",)) == ["notes.txt"]


def test_the_folder_of_the_results_is_never_walked(tree: Path) -> None:
    assert found("p", recursive=True, without=str(tree / "p" / "sub")) == [
        *("img1.png", "img2.JPG", "img10.jpg", "raw/y.tif")
    ]
    assert found("p/**/*.png", without=str(tree / "p" / "sub")) == ["img1.png"]
    with pytest.raises(UsageError, match=r"'p' would be painted into that very folder; .*-o\."):
        found("p", without=str(tree / "p"))


def test_patterns_are_ours_to_spread_and_a_file_of_that_very_name_comes_first(tree: Path) -> None:
    assert found("p/*.png") == ["img1.png"]
    assert found("p/**/img1.png") == ["img1.png", "sub/img1.png"]
    assert found("*/img?.*") == ["p/img1.png", "p/img2.JPG"]
    assert found("p/*/img1.png") == ["sub/img1.png"]
    (tree / "p" / "*.png").write_bytes(b"")
    assert found("p/*.png") == ["*.png"]


def test_a_list_names_files_folders_and_patterns(tree: Path) -> None:
    (tree / "list.txt").write_text("# mine\np/img1.png\r\n\nq\np/sub/*.png\nnot/there.jpg\np/img1.png\n")
    listing = discover.find_inputs("@list.txt", SelectionRules(), unknown, "CONTENTS")
    assert [os.path.relpath(it.path) for it in listing.inputs] == [
        *("not/there.jpg", "p/img1.png", "p/sub/img1.png", "q/a.jpg")
    ]
    assert [it.relative for it in listing.inputs] == ["not/there.jpg", "p/img1.png", "p/sub/img1.png", "q/a.jpg"]
    (tree / "new\nline.jpg").write_bytes(b"")
    (tree / "null.txt").write_bytes(b"new\nline.jpg\0q/a.jpg\0")
    assert found("@null.txt") == ["new\nline.jpg", "q/a.jpg"]
    with pytest.raises(StylerError, match=r"^Cannot read the list 'none.txt': .*; check the name\.$"):
        found("@none.txt")


def test_links_are_followed_only_when_asked_and_loops_end(tree: Path) -> None:
    (tree / "p" / "sub" / "loop").symlink_to(tree / "p")
    (tree / "p" / "other").symlink_to(tree / "q")
    (tree / "p" / "dangling.jpg").symlink_to(tree / "gone.jpg")
    listing = discover.find_inputs("p", SelectionRules(recursive=True), unknown, "CONTENTS")
    assert listing.links == 3
    assert "other/a.jpg" not in [it.relative for it in listing.inputs]
    followed = found("p", recursive=True, follow=True)
    assert {"other/a.jpg", "dangling.jpg"} < set(followed)
    assert not [place for place in followed if "loop" in place]
    assert "other/a.jpg" in found("p/**/*.jpg", follow=True)


def test_a_folder_that_cannot_be_listed_is_told_and_the_rest_is_taken(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = discover.find_inputs("p", SelectionRules(recursive=True), unknown, "CONTENTS")
    assert listing.problems == [
        "Cannot list the folder 'p/sub': Permission denied; change its permissions or leave it out."
    ]
    assert len(listing.inputs) == 4
    with pytest.raises(NothingMatched, match="Cannot list the folder 'p/sub'"):
        found("p/sub")


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("empty", "walk its folders too with -r"),
        ("p/*.heic", "nothing of that name or pattern is there"),
        ("gone.jpg", "there is no such file"),
    ],
)
def test_nothing_is_an_error_with_advice(given: str, advice: str, tree: Path) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(NothingMatched, match=advice):
        found(given)
    with pytest.raises(NothingMatched, match="--include and --exclude leave nothing"):
        found("p", exclude=("*",))


def test_what_is_no_file_may_be_a_name(tree: Path) -> None:
    assert found("starry", lambda name: Path("/styles") / f"{name}.jpg") == ["starry.jpg"]


A, B, C = BatchInput("p/a.jpg", "a.jpg"), BatchInput("p/a.png", "a.png"), BatchInput("p/s/a.jpg", "s/a.jpg")
X, Y = BatchInput("x.jpg", "x.jpg"), BatchInput("y.jpg", "y.jpg")


def outputs(
    contents: list[BatchInput], styles: list[BatchInput], template: str | None = None, **how: bool
) -> list[str]:
    found = plan.pair_inputs(contents, styles, **how)
    return [pair.output for pair in plan.name_outputs(found, template, "png", 7)]


def test_every_content_is_paired_with_every_style_style_by_style() -> None:
    assert outputs([A, C], [X, Y]) == ["a.x.png", "s/a.x.png", "a.y.png", "s/a.y.png"]
    assert outputs([A, C], [X, Y], zipped=True) == ["a.x.png", "s/a.y.png"]
    assert outputs([A, C], [X, Y], blended=True) == ["a.x+y.png", "s/a.x+y.png"]
    with pytest.raises(UsageError, match="there are 1 contents and 2 styles; choose as many of each"):
        outputs([A], [X, Y], zipped=True)
    with pytest.raises(UsageError, match="exclude each other"):
        outputs([A], [X, Y], zipped=True, blended=True)


def test_made_names_get_what_makes_them_unique_and_no_more() -> None:
    assert outputs([A, B, C], [X]) == ["a.jpg.x.png", "a.png.x.png", "s/a.x.png"]
    assert outputs([A], [X, BatchInput("x.png", "x.png")]) == ["a.x.jpg.png", "a.x.png.png"]
    upper = BatchInput("p/A.JPG", "A.JPG")
    assert outputs([A, upper], [X]) == ["a.jpg.x.jpg-2.png", "A.JPG.x.jpg-3.png"]
    composed, split = BatchInput("é.jpg", "é.jpg"), BatchInput("e\u0301.jpg", "e\u0301.jpg")
    assert len(set(map(plan.fold_name, outputs([composed, split], [X])))) == 2


def test_names_of_earlier_runs_stay_when_a_namesake_comes() -> None:
    found = plan.pair_inputs([A, B], [X])
    kept = {plan.pair_key(found[0]): "a.x.png"}
    assert [pair.output for pair in plan.name_outputs(found, None, "png", 0, kept)] == ["a.x.png", "a.png.x.png"]


def test_a_template_names_everything_below_the_mirrored_folder() -> None:
    assert outputs([A, C], [X], "{style}/{content}-{seed}.{ext}") == ["x/a-7.png", "s/x/a-7.png"]


@pytest.mark.parametrize(
    ("contents", "template"),
    [
        ([A, B], "{content}.{ext}"),
        ([A, BatchInput("p/A.JPG", "A.JPG")], "{content}.{ext}"),
        ([A, B], "same.{ext}"),
    ],
)
def test_a_template_under_which_two_meet_is_refused(contents: list[BatchInput], template: str) -> None:
    with pytest.raises(UsageError, match=r"^--name gives 'p/a\.jpg' × 'x\.jpg' and 'p/.*the same name '.*case alone"):
        outputs(contents, [X], template)


@pytest.mark.parametrize("template", ["../{content}.png", "/{content}.png", "a//{content}.png", "", "x/"])
def test_a_template_leads_nowhere_else(template: str) -> None:
    with pytest.raises(UsageError, match=r"^--name makes '.*', which is no name in the folder"):
        outputs([A], [X], template)
    with pytest.raises(UsageError, match=r"^--name has no field \{nr\}; it can have \{content\}"):
        outputs([A], [X], "{nr}.png")


def test_many_pairs_are_named_in_seconds_and_megabytes() -> None:
    contents = [BatchInput(f"photos/{n // 1000}/img{n}.jpg", f"{n // 1000}/img{n}.jpg") for n in range(20_000)]
    tracemalloc.start()
    began = time.process_time()
    made = plan.name_outputs(plan.pair_inputs(contents, [X]), None, "png", 0)
    seconds, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(made) == 20_000
    assert (seconds < 20, peak < 50e6) == (True, True), (seconds, peak)
