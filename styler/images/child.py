"""Decoding in a separate process with limits on time and memory, for programs that read untrusted pictures.

A decoder in C that crashes, hangs or fills the memory then costs only that one picture: the process is
replaced. It is started by its module's name, not forked or spawned, so that it loads neither the main module nor torch.
Both sides exchange JSON and raw floats, never pickles.
"""

import hashlib
import json
import os
import struct
import subprocess
import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from styler.errors import ImageError
from styler.images.read import Picture, describe_source, read_image, read_text

_LENGTH = struct.Struct("<Q")

_Response = tuple[dict[str, Any], NDArray[np.float32] | None, NDArray[np.float32] | None]
"""Header, pixels and alpha."""


class _PictureCache:
    """Pictures up to a number of bytes together; the one that was used longest ago is dropped first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._pictures: OrderedDict[Hashable, Picture] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Picture | None:
        with self._lock:
            if key in self._pictures:
                self._pictures.move_to_end(key)
            return self._pictures.get(key)

    def add(self, key: Hashable, picture: Picture) -> None:
        if _count_bytes(picture) > self.limit:
            return
        with self._lock:
            self._pictures[key] = picture
            while sum(map(_count_bytes, self._pictures.values())) > self.limit:
                self._pictures.popitem(last=False)


def _count_bytes(picture: Picture) -> int:
    return picture.pixels.nbytes + (0 if picture.alpha is None else picture.alpha.nbytes)


class Decoder:
    """A process that decodes one picture at a time; other threads wait for their turn.

    Args:
        seconds: limit for one picture, including the start of the process if it is new.
        memory: limit for one picture in bytes, on POSIX systems. A picture of n pixels takes about 20 n.
        kept: limit in bytes on the decoded pictures that are kept in case they are read again, at 12 bytes for each
            pixel. Their arrays are read-only.
    """

    def __init__(self, seconds: float = 20.0, memory: int = 1_500_000_000, kept: int = 0) -> None:
        self.seconds = seconds
        self.memory = memory
        self._pictures = _PictureCache(kept)
        self._lock = threading.Lock()
        self._process = self._start()

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Id of the current process."""
        return self._process.pid

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def read(
        self,
        data: bytes,
        *,
        name: str | None = None,
        background: tuple[float, float, float] = (1, 1, 1),
        max_pixels: int = 50_000_000,
        min_side: int = 16,
    ) -> Picture:
        """Decode bytes as `read_image` does.

        Raises:
            ImageError: as `read_image`, or decoding took too long or too much memory, or crashed the decoder.
            RuntimeError: a bug in styler; the message has the child's traceback.
        """
        request = {"name": name, "background": background, "max_pixels": max_pixels, "min_side": min_side}
        key = (*request.values(), hashlib.sha256(data).digest()) if self._pictures.limit else ()
        if key and (known := self._pictures.get(key)):
            return known
        header, pixels, alpha = self._request(data, request)
        assert pixels is not None
        behind = None if alpha is None else background
        picture = Picture(pixels, alpha, header["sha256"], tuple(header["warnings"]), header["metadata"], behind)
        if key:
            for values in (pixels, *([] if alpha is None else [alpha])):
                values.setflags(write=False)
            self._pictures.add(key, picture)
        return picture

    def read_text(self, data: bytes, *, name: str | None = None) -> dict[str, str]:
        """Return the texts in a picture as `images.read_text` does.

        Raises:
            ImageError: as `read`.
        """
        header, _, _ = self._request(data, {"name": name, "text": True})
        return dict(header["text"])

    def _request(self, data: bytes, request: dict[str, Any]) -> _Response:
        with self._lock:
            if self._process.poll() is not None:  # killed from outside while it waited
                self._replace()
            process, response, expired = self._process, None, threading.Event()

            def expire() -> None:
                expired.set()
                process.kill()

            timer = threading.Timer(self.seconds, expire)
            timer.start()
            try:
                response = _exchange(process, data, request)
            except (OSError, EOFError) as error:
                late = f"decoding it takes longer than {self.seconds:g} seconds; make it smaller or save it again"
                crash = "its data is so damaged that the decoder crashed; download or export it again"
                reason = late if expired.is_set() else crash
                raise ImageError(f"Cannot read {describe_source(data, request['name'])}: {reason}.") from error
            finally:
                timer.cancel()
                timer.join()
                if response is None or expired.is_set():  # also after Ctrl-C: what comes next would answer this request
                    self._replace()
        if "error" in response[0]:
            raise ImageError(response[0]["error"])
        if "bug" in response[0]:
            raise RuntimeError(f"decoding failed in the child process\n{response[0]['bug']}")
        return response

    def _start(self) -> "subprocess.Popen[bytes]":
        paths = os.pathsep.join(path for path in sys.path if path)
        return subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-P", "-m", "styler.images.child", str(self.memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # C libraries print warnings about damaged data
            env={**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the server alone; on Windows, a new group does the same
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )

    def _replace(self) -> None:
        self._end()
        self._process = self._start()

    def _end(self) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(OSError):  # closing flushes what was not sent, and the process has ended
                stream.close()
        self._process.wait()


def _exchange(process: "subprocess.Popen[bytes]", data: bytes, request: dict[str, Any]) -> _Response:
    assert process.stdin is not None
    assert process.stdout is not None
    _send(process.stdin, json.dumps(request).encode())
    _send(process.stdin, data)
    header = json.loads(_receive(process.stdout))
    if "shape" not in header:
        return header, None, None
    pixels = _receive_array(process.stdout, header["shape"])  # (H, W, 3)
    alpha = _receive_array(process.stdout, header["shape"][:2]) if header["alpha"] else None  # (H, W)
    return header, pixels, alpha


def _send(stream: IO[bytes], data: bytes) -> None:
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes:
    return _read_exactly(stream, _LENGTH.unpack(_read_exactly(stream, _LENGTH.size))[0])


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _receive_array(stream: IO[bytes], shape: list[int]) -> NDArray[np.float32]:
    array = np.empty(shape, np.float32)
    if stream.readinto(array.data.cast("B")) < array.nbytes:  # type: ignore[attr-defined] # buffered readers have it
        raise EOFError
    return array


def serve_decoder(memory: int) -> None:
    """Answer requests on standard input until it is closed."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries that print must not write between the responses
    _limit_memory(memory)
    with suppress(EOFError, MemoryError):  # the other side is gone, or not even the bytes of the picture fit
        while True:
            _answer_request(sys.stdin.buffer, output)


def _answer_request(requests: IO[bytes], output: IO[bytes]) -> None:
    request = json.loads(_receive(requests))
    data = _receive(requests)
    arrays = []
    header: dict[str, Any]
    try:
        if request.pop("text", False):
            header = {"text": read_text(data, **request)}
        else:
            picture = read_image(data, **request)
            arrays = [array for array in (picture.pixels, picture.alpha) if array is not None]
            header = {
                "shape": picture.pixels.shape,
                "alpha": picture.alpha is not None,
                "sha256": picture.sha256,
                "warnings": picture.warnings,
                "metadata": dict(picture.metadata),
            }
    except ImageError as error:
        header = {"error": str(error)}
    except Exception:  # noqa: BLE001 - a bug, which must be reported where somebody sees it
        header = {"bug": traceback.format_exc()}
    _send(output, json.dumps(header).encode())
    for array in arrays:
        output.write(array.data)
    output.flush()


def _limit_memory(memory: int) -> None:
    """Allow `memory` bytes more than the program itself takes, where the system has such limits."""
    if sys.platform == "win32":
        return
    import resource

    import psutil

    limit = psutil.Process().memory_info().vms + memory
    with suppress(ValueError, OSError):  # macOS has the limit but does not enforce it
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    serve_decoder(int(sys.argv[1]))
