"""Files are written whole or not at all, overwritten only on request, and nothing else is left behind."""

import errno
import os
import re
import signal
import stat
import struct
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


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_that_cannot_flush_works(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_file: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    images.write_file(tmp_path / "a.png", DATA)
    assert (tmp_path / "a.png").read_bytes() == DATA


def refuse_to_replace(number: int) -> Callable[[Path, Path], Path]:
    """Return a `Path.replace` of a file system that does not rename over existing files."""

    def replace(path: Path, target: Path) -> Path:
        if target.exists():
            raise OSError(number, os.strerror(number))
        return path.rename(target)

    return replace


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EPERM, errno.ENOTSUP, errno.EBUSY])
@pytest.mark.parametrize("has_links", [True, False])
def test_a_file_system_that_cannot_replace_files_works(
    number: int, has_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_args: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "replace", refuse_to_replace(number))
    if not has_links:
        monkeypatch.setattr(os, "link", no_links)
    images.write_file(tmp_path / "a.png", b"old" * 5000)
    images.write_file(tmp_path / "a.png", DATA, overwrite=True)
    assert (tmp_path / "a.png").read_bytes() == DATA
    assert listing(tmp_path) == {"a.png"}


def test_the_old_file_comes_back_if_the_new_one_cannot_take_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if target.name == "a.png" and path.read_bytes() == DATA:
            raise OSError(errno.EIO, "Input/output error")
        return real(path, target)

    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr(Path, "replace", refuse_to_replace(errno.EPERM))
    monkeypatch.setattr(Path, "rename", rename)
    assert "Input/output error" in refusal(images.write_file, tmp_path / "a.png", DATA, overwrite=True)
    assert listing(tmp_path) == {"a.png"}
    assert (tmp_path / "a.png").read_bytes() == b"old"


def test_permissions_that_cannot_be_copied_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_named: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr(Path, "chmod", refuse)
    monkeypatch.setattr(os, "chown", refuse, raising=False)
    images.write_file(tmp_path / "a.png", DATA, overwrite=True)
    assert (tmp_path / "a.png").read_bytes() == DATA


@pytest.mark.skipif(sys.platform != "linux", reason="needs the access lists of Linux")
def test_a_replaced_file_keeps_its_group_and_access_list(tmp_path: Path) -> None:
    path, acl = tmp_path / "a.png", "system.posix_acl_access"
    path.write_bytes(b"old")
    entries = [(1, 6, -1), (2, 4, 12345), (4, 4, -1), (16, 4, -1), (32, 0, -1)]  # user 12345 may read, others may not
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(path, acl, value)
    except OSError as error:
        pytest.skip(f"the file system has no access lists: {error.strerror}")
    if os.geteuid() == 0:  # others can give files only to their own groups
        os.chown(path, -1, 54321)
    before = path.stat()
    images.write_file(path, DATA, overwrite=True)
    after = path.stat()
    assert (after.st_gid, after.st_mode, os.getxattr(path, acl)) == (before.st_gid, before.st_mode, value)
    assert after.st_ino != before.st_ino


@POSIX
@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o000, 0o666), (0o027, 0o640)])
def test_new_files_and_folders_follow_the_umask_and_the_group_of_the_folder(
    umask: int, mode: int, tmp_path: Path
) -> None:
    tmp_path.chmod(0o2770)
    if os.geteuid() == 0:
        os.chown(tmp_path, -1, 54321)
    before = os.umask(umask)
    try:
        images.write_file(tmp_path / "new" / "a.png", DATA)
    finally:
        os.umask(before)
    status = (tmp_path / "new" / "a.png").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (mode, tmp_path.stat().st_gid)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) & 0o777 == 0o777 & ~umask


def test_a_file_in_a_folder_that_cannot_be_written_is_replaced_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(b"old and longer than the new one" * 1000)
    number = (tmp_path / "a.png").stat().st_ino
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != tmp_path)
    images.check_output(tmp_path / "a.png", overwrite=True)
    images.write_file(tmp_path / "a.png", DATA, overwrite=True)
    assert (tmp_path / "a.png").read_bytes() == DATA
    assert (tmp_path / "a.png").stat().st_ino == number
    assert "already exists" in refusal(images.write_file, tmp_path / "a.png", DATA)


def test_reasons_of_the_system_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, reason in {
        errno.EDQUOT: "your disk quota is exceeded",
        errno.EFBIG: "it is larger than 'ulimit -f' or the file system allows",
        errno.EROFS: "the disk is read-only",
        errno.EINVAL: "a file there cannot have this name",  # a colon on exFAT
        errno.ENOENT: "its folder no longer exists",
        errno.ESTALE: "the system reports",
    }.items():

        def fail(*_args: Any, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "write", fail)
        assert reason in refusal(images.write_file, tmp_path / "a.png", DATA)
        assert listing(tmp_path) == set()


@POSIX
def test_a_working_folder_that_is_gone_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for call in (images.check_output, lambda path: images.write_file(path, DATA)):
        assert "its folder no longer exists; choose another folder" in refusal(call, "a.png")


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(os, "O_NOFOLLOW", raising=False)
    monkeypatch.delattr(os, "O_CLOEXEC", raising=False)


@pytest.mark.parametrize(
    "name",
    ["con.png", "NUL", "Aux.tar.png", "com1.png", "LPT9 .png", "a:b.png", "what?.png", "a.png.", "a.png ", "a|b"],
)
def test_names_that_windows_reserves_are_refused_there(name: str, windows: None, tmp_path: Path) -> None:
    assert "a file cannot have this name" in refusal(images.write_file, tmp_path / name, DATA)
    assert "a file cannot have this name" in refusal(images.write_file, tmp_path / name / "a.png", DATA)
    assert listing(tmp_path) == set()


@pytest.mark.parametrize(
    "name", ["console.png", "a.con.png", "com.png", "com10.png", ".png", "a b (1).png", "nul-1.png"]
)
def test_other_names_are_possible_on_windows(name: str, windows: None, tmp_path: Path) -> None:
    images.write_file(tmp_path / name, DATA)
    assert listing(tmp_path) == {name}


@pytest.mark.parametrize("is_released", [True, False])
def test_a_file_that_another_program_has_open_is_waited_for_on_windows(
    is_released: bool, windows: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    real = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if is_released and len(waits) == 2:
            return real(path, target)
        raise PermissionError(errno.EACCES, "The process cannot access the file because it is being used by another")

    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(Path, "replace", replace)
    if is_released:
        images.write_file(tmp_path / "a.png", DATA, overwrite=True)
    else:
        message = refusal(images.write_file, tmp_path / "a.png", DATA, overwrite=True)
        assert message.endswith(
            "you have no permission, or another program has it open; close that program or choose another name."
        )
    assert (tmp_path / "a.png").read_bytes() == (DATA if is_released else b"old")
    assert listing(tmp_path) == {"a.png"}
    assert 0 < sum(waits) < 2


def test_windows_removes_stale_files_after_closing_them(
    windows: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those of the last minute: a finished one is closed, and so unlocked, before it is renamed."""
    opened: list[int] = []
    real_open, real_close, real_unlink = os.open, os.close, Path.unlink

    def unlink(path: Path, *, missing_ok: bool = False) -> None:
        assert opened == [], "an open file cannot be removed"
        real_unlink(path, missing_ok=missing_ok)

    def close(file: int) -> None:
        opened.remove(file)
        real_close(file)

    def open_file(*args: Any) -> int:
        opened.append(real_open(*args))
        return opened[-1]

    for name, age in (("old", 100), ("new", 0)):
        (tmp_path / f".styler-{name}.tmp").write_bytes(DATA)
        os.utime(tmp_path / f".styler-{name}.tmp", (time.time() - age,) * 2)
    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(os, "close", close)
    monkeypatch.setattr(Path, "unlink", unlink)
    images.remove_stale_files(tmp_path)
    assert listing(tmp_path) == {".styler-new.tmp"}
