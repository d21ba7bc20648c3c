"""Files are written whole or not at all, overwritten only on request, and nothing else is left behind."""

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from styler import images
from styler.errors import OutputError

DATA = b"picture" * 1000
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs the pipes, devices and locks of POSIX")


def refusal(call: Callable[..., Any], *args: Any, **settings: Any) -> str:
    with pytest.raises(OutputError) as caught:
        call(*args, **settings)
    sentence = str(caught.value)
    assert re.fullmatch(r"Cannot write '.*': [^\n]*[^.\s]\.", sentence), sentence
    assert "; " in sentence
    assert sentence.isprintable()
    return sentence


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_writing_creates_folders_and_only_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.png"
    assert images.write_file(path, DATA) == path
    assert path.read_bytes() == DATA
    assert listing(path.parent) == {"a.png"}
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_nothing_is_overwritten_by_default(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    path.chmod(0o640)
    assert "already exists" in refusal(images.write_file, path, DATA)
    assert "already exists" in refusal(images.check_output, path)
    assert path.read_bytes() == b"old"
    images.check_output(path, overwrite=True)
    images.write_file(path, DATA, overwrite=True)
    assert path.read_bytes() == DATA
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert listing(tmp_path) == {"a.png"}


@pytest.mark.parametrize("step", ["write", "fsync", "link", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    step: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    if step == "replace":
        path.write_bytes(b"old")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    if step != "replace":
        monkeypatch.setattr(os, step, fail)
    if step in ("link", "replace"):  # which is also used where there are no links
        monkeypatch.setattr(Path, "replace", fail)
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            images.write_file(path, DATA, overwrite=step == "replace")
    else:
        assert "disk is full" in refusal(images.write_file, path, DATA, overwrite=step == "replace")
    monkeypatch.undo()
    assert listing(tmp_path) == ({"a.png"} if step == "replace" else set())
    assert step != "replace" or path.read_bytes() == b"old"


def test_a_file_system_without_hard_links_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*args: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    images.write_file(tmp_path / "a.png", DATA)
    assert (tmp_path / "a.png").read_bytes() == DATA
    assert "already exists" in refusal(images.write_file, tmp_path / "a.png", b"other")
    assert listing(tmp_path) == {"a.png"}


def test_only_one_of_many_threads_creates_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    start = threading.Barrier(8)

    def attempt(number: int) -> int | None:
        start.wait()
        try:
            images.write_file(path, bytes([number]) * 100_000)
        except OutputError:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(attempt, range(8)) if number is not None]
    assert len(winners) == 1
    assert path.read_bytes() == bytes(winners) * 100_000
    assert listing(tmp_path) == {"a.png"}


def test_a_file_that_threads_overwrite_is_always_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    images.write_file(path, b"\0" * 100_000)
    done = threading.Event()

    def overwrite(number: int) -> None:
        for _ in range(10):
            images.write_file(path, bytes([number]) * 100_000, overwrite=True)

    def watch() -> None:
        while not done.is_set():
            seen = path.read_bytes()
            assert len(seen) == 100_000
            assert len(set(seen)) == 1
            images.remove_stale_files(tmp_path)  # which removes nothing that is in use

    with ThreadPoolExecutor(5) as pool:
        watcher = pool.submit(watch)
        for writer in [pool.submit(overwrite, number) for number in range(1, 5)]:
            writer.result()
        done.set()
        watcher.result()
    assert listing(tmp_path) == {"a.png"}


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path: Path) -> None:
    link = tmp_path / "link.png"
    link.symlink_to("real.png")
    images.write_file(link, DATA)
    assert link.is_symlink()
    assert (tmp_path / "real.png").read_bytes() == DATA
    assert "already exists" in refusal(images.write_file, link, b"other")
    images.write_file(link, b"other", overwrite=True)
    assert (tmp_path / "real.png").read_bytes() == b"other"


@POSIX
def test_devices_and_pipes_are_written_to_and_never_replaced(tmp_path: Path) -> None:
    images.check_output("/dev/null")
    images.write_file("/dev/null", DATA)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    images.check_output(pipe)
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(pipe.read_bytes)
        images.write_file(pipe, DATA * 100)
        assert reader.result(10) == DATA * 100
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert listing(tmp_path) == {"pipe"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_reported() -> None:
    assert "disk is full" in refusal(images.write_file, "/dev/full", DATA)
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


def test_a_path_that_cannot_be_written_is_detected_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "sub.png").mkdir()
    (tmp_path / "file").write_text("x")
    for name, message in {
        "sub.png": "it is a folder",
        "": "it is a folder",
        "new/": "it is a folder",
        "file/a.png": "is a file, not a folder",
        "file/deep/a.png": "is a file, not a folder",
        "long" * 99 + ".png": "too long",
        "null\0.png": "a file cannot have this name",
    }.items():
        assert message in refusal(images.check_output, f"{tmp_path}/{name}")
        assert message in refusal(images.write_file, f"{tmp_path}/{name}", DATA)
    assert "its name has no extension; end the name in one of .png, .jpg" in refusal(
        images.check_output, tmp_path / "a"
    )
    assert "the format '.bmp' is not supported" in refusal(images.check_output, tmp_path / "a.bmp")
    assert listing(tmp_path) == {"sub.png", "file"}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root can write to")
def test_an_unwritable_folder_is_detected_before_any_work() -> None:
    refusal(images.check_output, "/proc/a.png")
    refusal(images.write_file, "/proc/a.png", DATA)
    refusal(images.check_output, "/proc/new/folder/a.png")


def test_no_permission_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):  # root may write anywhere, so the system call is replaced

        def deny(*args: Any, **kwargs: Any) -> int:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(os, "open", deny)
        monkeypatch.setattr("tempfile.TemporaryFile", deny)
    assert "no permission" in refusal(images.check_output, tmp_path / "a.png")
    assert "no permission" in refusal(images.write_file, tmp_path / "a.png", DATA)


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    images.check_output(tmp_path / "new" / "folder" / "a.png")
    images.check_output(tmp_path / "b.TIFF")
    assert listing(tmp_path) == set()


def test_odd_names_are_written_and_shown_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "line\nbreak\udcff -x.png"
    images.write_file(path, DATA)
    assert path.read_bytes() == DATA
    assert r"line\nbreak\xff -x.png" in refusal(images.write_file, path, DATA)


def test_a_free_name_is_numbered_before_the_extension(tmp_path: Path) -> None:
    path = tmp_path / "a b.png"
    assert images.find_free_name(path) == path
    path.touch()
    (tmp_path / "a b-2.png").symlink_to("dangling")
    assert images.find_free_name(str(path)) == tmp_path / "a b-3.png"
    (tmp_path / "folder").mkdir()
    assert images.find_free_name(tmp_path / "folder") == tmp_path / "folder-2"


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("a.png", "png"),
        ("a.JPG", "jpeg"),
        ("b.c.jpeg", "jpeg"),
        ("a.webp", "webp"),
        ("a.avif", "avif"),
        ("a.TIF", "tiff"),
    ],
)
def test_the_extension_decides_the_format(name: str, format_: str) -> None:
    assert images.find_format(name) == format_
    assert images.find_format(Path("folder.x") / name) == format_


@pytest.mark.parametrize("name", ["a", "a.", ".png", "a.bmp", "a.png.", "folder.png/a", "a.b\nc"])
def test_an_unknown_extension_lists_the_known_ones(name: str) -> None:
    assert ".png, .jpg, .webp, .avif, .tif." in refusal(images.find_format, name)


@POSIX
def test_the_temporary_file_of_a_killed_run_is_removed_by_the_next(tmp_path: Path) -> None:
    program = (
        "import os, sys, time\n"
        "from styler import images\n"
        "os.fsync = lambda file: (print('written', flush=True), time.sleep(60))\n"
        "images.write_file(sys.argv[1], b'x' * 1000)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.png")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        (name,) = listing(tmp_path)
        assert re.fullmatch(r"\.styler-[0-9a-f]+\.tmp", name)
        images.remove_stale_files(tmp_path)
        assert listing(tmp_path) == {name}, "its owner is alive"
        process.send_signal(signal.SIGKILL)
        process.wait()
    images.remove_stale_files(tmp_path)
    assert listing(tmp_path) == set()


def test_only_stale_temporary_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".styler-young.tmp").touch()  # empty, and perhaps about to be locked by its owner
    (tmp_path / ".styler-old.tmp").touch()
    long_ago = time.time() - 3600
    os.utime(tmp_path / ".styler-old.tmp", (long_ago, long_ago))
    (tmp_path / ".styler-full.tmp").write_bytes(b"x")
    (tmp_path / ".styler-folder.tmp").mkdir()
    (tmp_path / "styler-x.tmp").write_bytes(b"x")
    (tmp_path / "a.png").write_bytes(b"x")
    images.remove_stale_files(tmp_path)
    images.remove_stale_files(tmp_path / "missing")
    assert listing(tmp_path) == {".styler-young.tmp", ".styler-folder.tmp", "styler-x.tmp", "a.png"}
