"""Claims about the inputs of a batch and the names of its results."""

import io
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from styler.batch import discover, names, plan
from styler.batch.discover import BatchInput, SelectionRules
from styler.errors import ImageError, NothingMatched, StylerError, UsageError


def refuse(name: str) -> Path:
    raise ImageError(f"Cannot read '{name}': there is no such file.")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create empty files with the extensions of pictures, and enter their folder."""
    for name in (
        *("p/img10.jpg", "p/img2.JPG", "p/img1.png", "p/notes.txt", "p/.hidden.jpg", "p/sub/img1.png"),
        *("p/sub/deep/x.webp", "p/raw/y.tif", "p/.trash/z.jpg", "q/a.jpg"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def find(*arguments: str, find_bundled: Callable[[str], Path] = refuse, **rules: object) -> list[str]:
    listing = discover.find_inputs(arguments, SelectionRules(**rules), find_bundled, "CONTENTS")  # type: ignore[arg-type]
    return [item.relative for item in listing.inputs]


def test_a_folder_stands_for_its_pictures_in_natural_order(tree: Path) -> None:
    assert find("p") == find("p/") == ["img1.png", "img2.JPG", "img10.jpg"]


def test_recursion_keeps_relative_paths_and_omits_hidden_files(tree: Path) -> None:
    deep = ["img1.png", "img2.JPG", "img10.jpg", "raw/y.tif", "sub/deep/x.webp", "sub/img1.png"]
    assert find("p", recursive=True) == deep
    assert find("p", recursive=True, exclude=("RAW", "*.webp")) == [*deep[:3], "sub/img1.png"]
    assert find("p", recursive=True, include=("sub/*",)) == ["sub/deep/x.webp", "sub/img1.png"]
    assert find("p", include=("*.txt",)) == ["notes.txt"]


def test_the_output_folder_is_never_listed(tree: Path) -> None:
    assert find("p", recursive=True, skip_folder=str(tree / "p" / "sub")) == [
        *("img1.png", "img2.JPG", "img10.jpg", "raw/y.tif")
    ]
    assert find("p/**/*.png", skip_folder=str(tree / "p" / "sub")) == ["img1.png"]
    with pytest.raises(UsageError, match=r"'p' would be painted into the same folder; .*-o\."):
        find("p", skip_folder=str(tree / "p"))


def test_a_pattern_is_expanded_unless_a_file_has_its_name(tree: Path) -> None:
    assert find("p/*.png") == ["img1.png"]
    assert find("p/**/img1.png") == ["img1.png", "sub/img1.png"]
    assert find("*/img?.*") == ["p/img1.png", "p/img2.JPG"]
    assert find("p/*/img1.png") == ["sub/img1.png"]
    (tree / "p" / "*.png").write_bytes(b"")
    assert find("p/*.png") == ["*.png"]


def test_a_list_contains_files_folders_and_patterns(tree: Path) -> None:
    (tree / "list.txt").write_text("# mine\np/img1.png\r\n\nq\np/sub/*.png\nnot/there.jpg\np/img1.png\n")
    listing = discover.find_inputs(["@list.txt"], SelectionRules(), refuse, "CONTENTS")
    assert [os.path.relpath(it.path) for it in listing.inputs] == [
        *("not/there.jpg", "p/img1.png", "p/sub/img1.png", "q/a.jpg")
    ]
    assert [it.relative for it in listing.inputs] == ["not/there.jpg", "p/img1.png", "p/sub/img1.png", "q/a.jpg"]
    (tree / "new\nline.jpg").write_bytes(b"")
    (tree / "null.txt").write_bytes(b"new\nline.jpg\0q/a.jpg\0")
    assert find("@null.txt") == ["new\nline.jpg", "q/a.jpg"]
    with pytest.raises(StylerError, match=r"^Cannot read the list 'none.txt': .*; check the name\.$"):
        find("@none.txt")


LISTS = {
    "utf-8 with mark": b"\xef\xbb\xbfp/img1.png\r\nq/a.jpg\r\n",
    "utf-16": "p/img1.png\r\nq/a.jpg\r\n".encode("utf-16"),
    "utf-16 without mark": "p/img1.png\nq/a.jpg\n".encode("utf-16-le"),
    "big-endian": b"\xfe\xff" + "p/img1.png\nq/a.jpg".encode("utf-16-be"),
    "utf-32": "p/img1.png\nq/a.jpg".encode("utf-32"),
    "quotes": b"\"p/img1.png\"\r\n 'q/a.jpg' \r\n",
    "spaces": b"  p/img1.png \n\tq/a.jpg\n \n",
    "home": b"~/p/img1.png\nq/a.jpg\n",
    "null bytes": b"./p/img1.png\0./q/a.jpg\0",
    "comment": b"# p/img2.JPG\np/img1.png\nq/a.jpg\n",
}


@pytest.mark.parametrize("data", LISTS.values(), ids=LISTS.keys())
def test_a_list_is_read_however_it_was_written(data: bytes, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tree))
    (tree / "list.txt").write_bytes(data)
    assert find("@list.txt") == ["p/img1.png", "q/a.jpg"]


def test_entries_of_a_list_are_found_in_the_working_folder_or_beside_the_list(tree: Path) -> None:
    for name in ('p/"odd".jpg', "p/#1.jpg", "p/caf\udce9.jpg"):
        (tree / name).write_bytes(b"")
    (tree / "p" / "list.txt").write_bytes(b'img1.png\n"odd".jpg\nsub/*.png\ncaf\xe9.jpg\nq/a.jpg\n')
    assert find("@p/list.txt") == ['p/"odd".jpg', "p/caf\udce9.jpg", "p/img1.png", "p/sub/img1.png", "q/a.jpg"]
    (tree / "list.txt").write_bytes(b"p/#1.jpg\n")
    assert find("@list.txt") == ["#1.jpg"]


def test_an_entry_that_stands_for_nothing_is_reported(tree: Path) -> None:
    (tree / "list.txt").write_bytes(b"p/img1.png\np/*.heic\n")
    listing = discover.find_inputs(["@list.txt"], SelectionRules(), refuse, "CONTENTS")
    assert len(listing.inputs) == 1
    assert listing.problems == [
        "The entry 'p/*.heic' of the list 'list.txt' contains no picture to paint: no file matches this name or "
        "pattern; check it."
    ]


def test_a_list_can_come_from_standard_input(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"p/img1.png\0q/a.jpg\0")))
    assert find("@-") == ["p/img1.png", "q/a.jpg"]


def test_several_names_and_bundled_pictures_are_named_like_a_list(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bundled(name: str) -> Path:
        return Path(f"/somewhere/else/{name}.jpg")

    assert find("q/a.jpg", "p/sub/img1.png") == ["p/sub/img1.png", "q/a.jpg"]
    assert find("p/sub/img1.png", "p/img1.png", "coffee", find_bundled=bundled) == [
        *("coffee.jpg", "img1.png", "sub/img1.png")
    ]
    monkeypatch.setattr(os.path, "commonpath", refuse_drives)
    assert find("q/a.jpg", "p/img1.png") == [f"{tree}/{name}".strip("/") for name in ("p/img1.png", "q/a.jpg")], (
        "on several drives: below their roots"
    )


def refuse_drives(_paths: object) -> str:
    raise ValueError("Paths don't have the same drive")


SYSTEM_FOLDERS = [
    *("@eaDir", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", ".Trashes"),
    *("lost+found", ".thumbnails", "@Recycle", "@Recently-Snapshot", "My Previews.lrdata", "Temporary Items"),
]


@pytest.mark.parametrize("name", SYSTEM_FOLDERS)
def test_trash_snapshots_and_thumbnails_of_systems_are_left_out(name: str, tree: Path) -> None:
    for place in (f"q/{name}/a.jpg", f"q/sub/{name}/deep/b.jpg", "q/._a.jpg", "q/Thumbs.db", "q/desktop.ini"):
        (tree / place).parent.mkdir(parents=True, exist_ok=True)
        (tree / place).write_bytes(b"")
    assert find("q", recursive=True) == find("q/**/*.jpg") == ["a.jpg"]
    assert find("q", recursive=True, include=("*",)) == ["a.jpg"]
    assert find(f"q/{name}", recursive=True) == ["a.jpg"], "it was named"
    store = f"memory://{tree.name}-{abs(hash(name))}"
    for place in ("a.jpg", f"{name}/a.jpg", f"sub/{name}/deep/b.jpg", "._a.jpg"):
        fsspec.filesystem("memory").pipe(f"{store}/{place}", b"")
    assert find(store, recursive=True) == find(f"{store}/**/*.jpg") == ["a.jpg"]


def test_loops_are_recognized_by_folders_and_not_by_their_names(tree: Path) -> None:
    """A link to `pho` in `photos` is no loop; links back and forth, or through other links, are."""
    for name in ("pho/x.jpg", "photos/a.jpg", "photos/sub/b.jpg"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"")
    (tree / "photos" / "short").symlink_to(tree / "pho")
    assert find("photos/**/*.jpg", follow_symlinks=True) == ["a.jpg", "short/x.jpg", "sub/b.jpg"]
    (tree / "pho" / "back").symlink_to("../photos/")
    (tree / "photos" / "sub" / "up").symlink_to("../../photos/sub/../sub")
    (tree / "album").symlink_to(tree / "photos")
    for argument in ("photos/**/*.jpg", "album/**/*.jpg", "./photos/../photos/**/*.jpg"):
        assert find(argument, follow_symlinks=True) == ["a.jpg", "short/x.jpg", "sub/b.jpg"]


def test_the_output_folder_is_recognized_whatever_its_spelling(tree: Path) -> None:
    (tree / "out").symlink_to(tree / "p" / "sub")
    expected = ["img1.png", "img2.JPG", "img10.jpg", "raw/y.tif"]
    for spelling in ("out", "p/sub/", "p/../p/sub", str(tree / "out")):
        assert find("p", recursive=True, skip_folder=spelling) == expected
    with pytest.raises(UsageError, match="painted into the same folder"):
        find("p/sub", skip_folder="out")


def test_links_are_followed_on_request_and_loops_end(tree: Path) -> None:
    (tree / "p" / "sub" / "loop").symlink_to(tree / "p")
    (tree / "p" / "other").symlink_to(tree / "q")
    (tree / "p" / "dangling.jpg").symlink_to(tree / "gone.jpg")
    listing = discover.find_inputs(["p"], SelectionRules(recursive=True), refuse, "CONTENTS")
    assert len(listing.links) == 3
    assert "other/a.jpg" not in [it.relative for it in listing.inputs]
    followed = find("p", recursive=True, follow_symlinks=True)
    assert {"other/a.jpg", "dangling.jpg"} < set(followed)
    assert not [place for place in followed if "loop" in place]
    assert "other/a.jpg" in find("p/**/*.jpg", follow_symlinks=True)


def test_a_folder_that_cannot_be_listed_is_reported_and_the_others_are_used(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = discover.find_inputs(["p"], SelectionRules(recursive=True), refuse, "CONTENTS")
    assert listing.problems == [
        "Cannot list the folder 'p/sub': Permission denied; change its permissions or exclude it."
    ]
    assert len(listing.inputs) == 4
    with pytest.raises(NothingMatched, match="Cannot list the folder 'p/sub'"):
        find("p/sub")


@pytest.mark.parametrize(
    ("argument", "advice"),
    [
        ("empty", "add -r to search its subfolders"),
        ("p/*.heic", "no file matches this name or pattern"),
        ("gone.jpg", "there is no such file"),
    ],
)
def test_finding_no_picture_is_an_error_with_advice(argument: str, advice: str, tree: Path) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(NothingMatched, match=advice):
        find(argument)
    with pytest.raises(NothingMatched, match="--include and --exclude leave no picture"):
        find("p", exclude=("*",))


def test_an_argument_that_is_not_a_file_can_name_a_bundled_picture(tree: Path) -> None:
    assert find("starry", find_bundled=lambda name: Path("/styles") / f"{name}.jpg") == ["starry.jpg"]


A, B, C = BatchInput("p/a.jpg", "a.jpg"), BatchInput("p/a.png", "a.png"), BatchInput("p/s/a.jpg", "s/a.jpg")
X, Y = BatchInput("x.jpg", "x.jpg"), BatchInput("y.jpg", "y.jpg")


def outputs(
    contents: list[BatchInput], styles: list[BatchInput], template: str | None = None, **mode: bool
) -> list[str]:
    couples = plan.pair_inputs(contents, styles, **mode)
    return [pair.output for pair in names.name_outputs(couples, template, "png", 7)]


def test_every_content_is_paired_with_every_style_style_by_style() -> None:
    assert outputs([A, C], [X, Y]) == ["a.x.png", "s/a.x.png", "a.y.png", "s/a.y.png"]
    assert outputs([A, C], [X, Y], zipped=True) == ["a.x.png", "s/a.y.png"]
    assert outputs([A, C], [X, Y], blended=True) == ["a.x+y.png", "s/a.x+y.png"]
    with pytest.raises(UsageError, match="there are 1 contents and 2 styles; choose the same number of each"):
        outputs([A], [X, Y], zipped=True)
    with pytest.raises(UsageError, match="mutually exclusive"):
        outputs([A], [X, Y], zipped=True, blended=True)


def make_inputs(*names: str) -> list[BatchInput]:
    return [BatchInput(f"p/{name}", name) for name in names]


def test_generated_names_are_as_short_as_uniqueness_allows() -> None:
    assert outputs([A, B, C], [X]) == ["a.jpg.x.png", "a.png.x.png", "s/a.x.png"]
    assert outputs([A], [X, BatchInput("x.png", "x.png")]) == ["a.x.jpg.png", "a.x.png.png"]
    assert outputs([A, B], [X, Y], zipped=True) == ["a.x.png", "a.y.png"]
    assert outputs(make_inputs("a.b.jpg", "a.jpg"), make_inputs("c.jpg", "b.c.jpg")) == [
        *("a.b.c-2.png", "a.c.png", "a.b.b.c.png", "a.b.c-3.png")
    ]


def test_names_that_differ_only_in_case_or_unicode_form_get_a_number_after_the_stem() -> None:
    assert outputs(make_inputs("a.jpg", "A.PNG", "a.png"), [X]) == ["a.jpg.x.png", "A.PNG.x.png", "a-2.png.x.png"]
    assert outputs(make_inputs("a.jpg", "A.JPG", "a-2.jpg"), [X]) == ["a.jpg.x.png", "A-2.JPG.x.png", "a-2.x.png"]
    assert outputs([A], make_inputs("x.jpg", "X.JPG")) == ["a.x.jpg.png", "a.X-2.JPG.png"]
    assert outputs(make_inputs("s/a.jpg", "S/A.jpg"), [X]) == ["s/a.jpg.x.png", "S/A-2.jpg.x.png"]
    twins = outputs(make_inputs("é.jpg", "e\u0301.jpg"), [X, Y])
    assert twins == ["é.jpg.x.png", "e\u0301-2.jpg.x.png", "é.jpg.y.png", "e\u0301-2.jpg.y.png"]
    assert len(set(map(discover.fold_name, twins))) == 4


@pytest.mark.parametrize("stem", ["x" * 250, "é" * 120, "日本" * 41, "\udce9" * 250, "👩‍🎨" * 22])
def test_names_that_would_be_too_long_are_shortened_and_stay_unique(stem: str, tmp_path: Path) -> None:
    names = outputs(make_inputs(f"{stem}1.jpg", f"{stem}2.jpg"), make_inputs(f"{stem}.jpg", "y.jpg"))
    assert len(set(names)) == 4
    for name in names:
        assert len(os.fsencode(name)) <= 255
        (tmp_path / name).write_bytes(b"")
    assert outputs(make_inputs(f"{stem}1.jpg", f"{stem}2.jpg"), make_inputs(f"{stem}.jpg", "y.jpg")) == names
    assert all(
        len(os.fsencode(name)) <= 255 for name in outputs(make_inputs(f"{stem}.jpg"), [X], "{content}-{style}-x.{ext}")
    )


def test_names_that_windows_reserves_and_odd_names_are_usable() -> None:
    assert outputs(make_inputs("CON.jpg", "aux.jpg", "com1.tar.jpg", "console.jpg"), [X]) == [
        *("_CON.x.png", "_aux.x.png", "_com1.tar.x.png", "console.x.png")
    ]
    assert outputs(make_inputs("-rf.jpg", "a .jpg", "b..jpg", "🎨.jpg"), [X]) == [
        *("-rf.x.png", "a .x.png", "b..x.png", "🎨.x.png")
    ]


def test_names_of_earlier_runs_are_kept() -> None:
    couples = plan.pair_inputs([A, B], [X])
    earlier = {names.make_couple_key(couples[0]): "a.x.png"}
    assert [pair.output for pair in names.name_outputs(couples, None, "png", 0, earlier)] == ["a.x.png", "a.png.x.png"]


def test_a_file_that_is_added_later_takes_no_name_of_others() -> None:
    earlier: dict[names.CoupleKey, str] = {}
    contents: list[BatchInput] = []
    expected: list[str] = []
    for name, output in {
        "a.png": "a.x.png",
        "A.PNG": "A-2.PNG.x.png",
        "a.jpg": "a.jpg.x.png",
        "a-2.png": "a-2.x.png",
        "A.png": "A-3.png.x.png",
    }.items():
        contents += make_inputs(name)
        expected.append(output)
        couples = plan.pair_inputs(contents, [X])
        pairs = names.name_outputs(couples, None, "png", 0, earlier)
        assert [pair.output for pair in pairs] == expected
        earlier = {names.make_couple_key(couple): pair.output for couple, pair in zip(couples, pairs, strict=True)}


def test_a_template_names_the_path_below_the_mirrored_folder() -> None:
    assert outputs([A, C], [X], "{style}/{content}-{seed}.{ext}") == ["x/a-7.png", "s/x/a-7.png"]


@pytest.mark.parametrize(
    ("contents", "template"),
    [([A, B], "{content}.{ext}"), ([A, BatchInput("p/A.JPG", "A.JPG")], "{content}.{ext}"), ([A, B], "same.{ext}")],
)
def test_a_template_that_gives_colliding_names_is_refused(contents: list[BatchInput], template: str) -> None:
    with pytest.raises(
        UsageError, match=r"^--name gives 'p/a\.jpg' × 'x\.jpg' and 'p/.*the same name '.*differ only in case"
    ):
        outputs(contents, [X], template)


@pytest.mark.parametrize("template", ["../{content}.png", "/{content}.png", "a//{content}.png", "", "x/"])
def test_a_template_cannot_leave_the_output_folder(template: str) -> None:
    with pytest.raises(UsageError, match=r"^--name gives '.*', which is not a name in the output folder"):
        outputs([A], [X], template)
    with pytest.raises(UsageError, match=r"^--name has no field \{nr\}; it can have \{content\}"):
        outputs([A], [X], "{nr}.png")


def test_20000_pairs_are_named_in_seconds_and_megabytes() -> None:
    contents = [BatchInput(f"photos/{n // 1000}/img{n}.jpg", f"{n // 1000}/img{n}.jpg") for n in range(20_000)]
    tracemalloc.start()
    start = time.process_time()
    pairs = names.name_outputs(plan.pair_inputs(contents, [X]), None, "png", 0)
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(pairs) == 20_000
    assert (seconds < 20, peak < 50e6) == (True, True), (seconds, peak)
