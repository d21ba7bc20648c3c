"""Decoding in a child process: the same pictures, limits on time and memory, and replacement of a dead process."""

import io
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from styler import images
from styler.errors import ImageError
from styler.images.child import Decoder

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals and limits")


def png(side: int = 40, seed: int = 0) -> bytes:
    noise = np.random.default_rng(seed).random((side, side, 4))
    return images.encode_image(noise[..., :3], alpha=noise[..., 3], text={"a": "b"}, metadata={"make": "x"})


def bomb(side: int) -> bytes:
    """Return a black RGBA PNG of almost no bytes."""
    stream = io.BytesIO()
    Image.new("RGBA", (side, side)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as shared:
        yield shared


def test_the_child_reads_the_same_picture(decoder: Decoder) -> None:
    pid = decoder.pid
    for data in (png(), bomb(20), images.encode_image(np.zeros((16, 300, 3), np.float32), format="jpeg")):
        there, here = decoder.read(data, background=(0, 1, 0)), images.read_image(data, background=(0, 1, 0))
        assert np.array_equal(there.pixels, here.pixels)
        assert (there.alpha is None) == (here.alpha is None)
        assert there.alpha is None or np.array_equal(there.alpha, here.alpha if here.alpha is not None else -1)
        assert (there.sha256, there.warnings, there.metadata) == (here.sha256, here.warnings, here.metadata)
    assert decoder.pid == pid


def test_pictures_are_kept_up_to_a_limit_the_last_ones_longest() -> None:
    small = [images.encode_image(np.full((20, 20, 3), level, np.float32)) for level in (0.1, 0.5, 0.9)]
    with Decoder(kept=2 * 20 * 20 * 12) as keeping:
        first, second = map(keeping.read, small[:2])
        assert keeping.read(small[0]) is first
        assert keeping.read(small[0], background=(0, 0, 0)) is not first, "it may have other pixels"
        assert keeping.read(small[1]) is not second, "it was used longest ago"
        large = images.encode_image(np.zeros((40, 40, 3), np.float32))
        assert keeping.read(large) is not keeping.read(large)
        with pytest.raises(ImageError):
            keeping.read(small[2], min_side=30)
        half = np.full((20, 20), 0.5, np.float32)
        rgba = keeping.read(images.encode_image(np.full((20, 20, 3), 0.5, np.float32), alpha=half))
        assert rgba.alpha is not None
        for values in (rgba.pixels, rgba.alpha):
            with pytest.raises(ValueError, match="read-only"):
                values[0] = 0
    with Decoder() as forgetting:
        assert forgetting.read(small[0]) is not forgetting.read(small[0])


REFUSED = {"empty": b"", "page": b"<html>", "cut": png()[:300], "small": png(8), "bomb": bomb(8000)}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_the_child_raises_the_same_errors(decoder: Decoder, data: bytes) -> None:
    pid = decoder.pid
    with pytest.raises(ImageError) as here:
        images.read_image(data, name="a\nb.png", max_pixels=50_000_000)
    with pytest.raises(ImageError) as there:
        decoder.read(data, name="a\nb.png")
    assert str(there.value) == str(here.value)
    assert decoder.pid == pid, "an error does not end the process"


def test_on_windows_ctrl_c_is_for_the_server_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    class NoProcess:
        stdin = stdout = io.BytesIO()

        def __init__(self, _command: list[str], **settings: Any) -> None:
            given.update(settings)

        def kill(self) -> None: ...

        def wait(self) -> None: ...

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200, raising=False)
    monkeypatch.setattr(subprocess, "Popen", NoProcess)
    with Decoder():
        assert given["creationflags"] == 0x200


def test_output_of_libraries_is_not_shown(decoder: Decoder, capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.BytesIO()
    Image.new("1", (64, 64)).save(stream, "TIFF", compression="group4")
    broken = stream.getvalue().replace(b"\x00\x10\x01", b"\xff\xff\xff")
    for data in (stream.getvalue(), broken, stream.getvalue()[:200]):
        with suppress(ImageError):
            decoder.read(data)
    assert capfd.readouterr() == ("", "")


def test_a_timeout_is_reported_and_the_next_picture_is_read() -> None:
    with Decoder(seconds=0.0) as decoder:
        pid = decoder.pid
        with pytest.raises(
            ImageError, match=r"^Cannot read 'x': decoding it takes longer than 0 seconds; make it .*\.$"
        ):
            decoder.read(bomb(3000), name="x")
        assert decoder.pid != pid
        decoder.seconds = 60.0
        assert decoder.read(png()).width == 40


@POSIX
def test_a_process_that_never_becomes_ready_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper = tmp_path / "python"
    sleeper.write_text("#!/bin/sh\nexec sleep 1000\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    with Decoder(seconds=0.2) as decoder:
        for data in (png(), png(300)):  # the second is longer than a pipe holds
            with pytest.raises(ImageError, match=r"^Cannot read 'x': decoding it takes longer than 0\.2 seconds; "):
                decoder.read(data, name="x")


@POSIX
def test_memory_is_limited() -> None:
    with Decoder(memory=200_000_000) as decoder:
        with pytest.raises(ImageError, match=r"memory|crashed"):
            decoder.read(bomb(4000))
        assert decoder.read(png()).width == 40


@POSIX
def test_a_child_killed_while_waiting_is_replaced(decoder: Decoder) -> None:
    pid = decoder.pid
    os.kill(pid, signal.SIGKILL)
    decoder._process.wait()
    assert decoder.read(png()).width == 40
    assert decoder.pid != pid


@POSIX
def test_a_crash_affects_only_the_current_picture(decoder: Decoder) -> None:
    assert decoder.read(png()).width == 40
    pid = decoder.pid
    os.kill(pid, signal.SIGSTOP)  # so that it dies at work
    caught: list[str] = []

    def read_picture() -> None:
        try:
            decoder.read(png())
        except ImageError as refusal:
            caught.append(str(refusal))

    thread = threading.Thread(target=read_picture)
    thread.start()
    while not decoder._lock.locked():
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(pid, signal.SIGKILL)
    thread.join()
    assert caught == [
        "Cannot read the picture: its data is so damaged that the decoder crashed; download or export it again."
    ]
    assert decoder.read(png()).width == 40


def test_each_thread_gets_its_own_picture(decoder: Decoder) -> None:
    pictures: dict[int, images.Picture] = {}

    def read_picture(seed: int) -> None:
        pictures[seed] = decoder.read(png(seed=seed))

    threads = [threading.Thread(target=read_picture, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(8):
        assert np.array_equal(pictures[seed].pixels, images.read_image(png(seed=seed)).pixels)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_child_does_not_load_torch(decoder: Decoder) -> None:
    decoder.read(png())
    loaded = Path(f"/proc/{decoder.pid}/maps").read_text()
    assert "imagecodecs" in loaded or "PIL" in loaded
    assert "torch" not in loaded


@POSIX
def test_the_child_ends_with_its_parent() -> None:
    program = (
        "import os, sys\nfrom styler.images.child import Decoder\n"
        "print(Decoder().pid, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=100)
    pid = int(done.stdout)
    for _ in range(500):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":  # nobody reaps orphans here
            return
        time.sleep(0.02)
    raise AssertionError("the child is still running")


def test_a_false_header_does_not_fill_the_memory(decoder: Decoder) -> None:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 7000, 7000, 8, 6, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match=r"ends too early|damaged"):
        decoder.read(data)
