"""For servers: `read` in a process of its own, with limits on time and memory, that is replaced when it dies.

A decoder in C that crashes, hangs or fills the memory on somebody's upload then costs that upload and nothing else. The
process is started by name and not forked or spawned, so that it loads neither the server's main module nor torch.
"""

import json
import os
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from styler.errors import ImageError
from styler.images.read import Picture, describe_source, read_image, read_text

_LENGTH = struct.Struct("<Q")
_READY = b"+"

_Answer = tuple[dict[str, Any], NDArray[np.float32] | None, NDArray[np.float32] | None]
"""What the child says, with the pixels and the alpha where it was asked for a picture."""


class Decoder:
    """A warm process that decodes one picture at a time; threads that come meanwhile wait for their turn.

    Args:
        seconds: for one picture, from its first byte sent to its last pixel received.
        memory: bytes for one picture, where the system has such limits (POSIX). A picture of n pixels takes about 20 n.
    """

    def __init__(self, seconds: float = 20.0, memory: int = 1_500_000_000) -> None:
        self.seconds = seconds
        self.memory = memory
        self._turn = threading.Lock()
        self._process = self._started()

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of the process that decodes now."""
        return self._process.pid

    def close(self) -> None:
        """End the process."""
        with self._turn:
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
        """Decode bytes as `images.read` does.

        Raises:
            ImageError: as `images.read` does, or because it took too long, too much memory, or crashed the decoder.
        """
        asked = {"name": name, "background": background, "max_pixels": max_pixels, "min_side": min_side}
        answer, pixels, alpha = self._asked(data, asked)
        assert pixels is not None
        return Picture(pixels, alpha, answer["sha256"], tuple(answer["warnings"]), answer["metadata"])

    def read_text(self, data: bytes, *, name: str | None = None) -> dict[str, str]:
        """Read what is stored in a picture as `images.read_text` does.

        Raises:
            ImageError: as `read` does.
        """
        answer, _, _ = self._asked(data, {"name": name, "text": True})
        return dict(answer["text"])

    def _asked(self, data: bytes, asked: dict[str, Any]) -> _Answer:
        name = asked["name"]
        with self._turn:
            if self._process.poll() is not None:  # somebody killed it while it waited
                self._replace()
            try:
                return self._answer(data, asked)
            except ImageError:  # an answer like any other
                raise
            except (OSError, EOFError, _TooLong) as problem:
                self._replace()
                late = f"decoding it takes longer than {self.seconds:g} seconds; make it smaller or save it again"
                crash = "its data are so damaged that the decoder crashed; download or export it again"
                why = late if isinstance(problem, _TooLong) else crash
                raise ImageError(f"Cannot read {describe_source(data, name)}: {why}.") from problem
            except BaseException:  # an interruption: whatever is under way must not be taken for the next answer
                self._replace()
                raise

    def _answer(self, data: bytes, asked: dict[str, Any]) -> _Answer:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.read(1) != _READY:
            raise EOFError
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(self.seconds, stop)
        timer.start()
        try:
            _send(process.stdin, json.dumps(asked).encode())
            _send(process.stdin, data)
            answer = json.loads(_receive(process.stdout))
            if "refused" in answer:
                raise ImageError(answer["refused"])
            if "text" in answer:
                return answer, None, None
            pixels = _receive_array(process.stdout, answer["shape"])  # (H, W, 3)
            alpha = _receive_array(process.stdout, answer["shape"][:2]) if answer["alpha"] else None  # (H, W)
        except (OSError, EOFError) as problem:
            if late.is_set():
                raise _TooLong from problem
            raise
        finally:
            timer.cancel()
            timer.join()
        return answer, pixels, alpha

    def _started(self) -> "subprocess.Popen[bytes]":
        paths = os.pathsep.join(path for path in sys.path if path)
        return subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-P", "-m", "styler.images.child", str(self.memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what libraries in C say about damage
            env={**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the server
        )

    def _replace(self) -> None:
        self._end()
        self._process = self._started()

    def _end(self) -> None:
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(OSError):  # what is left to be sent, to a process that is no more
                stream.close()
        self._process.wait()


class _TooLong(Exception):
    """The time was up."""


def _send(stream: IO[bytes], data: bytes) -> None:
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes:
    size = _LENGTH.unpack(_read_exactly(stream, _LENGTH.size))[0]
    return _read_exactly(stream, size)


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _receive_array(stream: IO[bytes], shape: list[int]) -> NDArray[np.float32]:
    array = np.empty(shape, np.float32)
    rest = memoryview(array.view(np.uint8).reshape(-1))  # type: ignore[arg-type] # arrays are buffers
    while rest:
        got = stream.readinto(rest)  # type: ignore[attr-defined] # buffered readers have it
        if not got:
            raise EOFError
        rest = rest[got:]
    return array


def _limit_memory(memory: int) -> None:
    """Allow so many bytes more than the program itself takes, where the system has such limits."""
    if sys.platform == "win32":
        return
    import resource

    import psutil

    most = psutil.Process().memory_info().vms + memory
    with suppress(ValueError, OSError):  # macOS knows the limit and does not keep it
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def serve_decoder(memory: int) -> None:
    """Decode what comes on standard input, one picture after another, until it is closed."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries that print shall not do so between the answers
    _limit_memory(memory)
    while True:
        answers.write(_READY)
        answers.flush()
        try:
            asked = json.loads(_receive(sys.stdin.buffer))
            data = _receive(sys.stdin.buffer)
            if asked.pop("text", False):
                _send(answers, json.dumps({"text": read_text(data, **asked)}).encode())
                continue
            picture = read_image(data, **asked)
        except EOFError:
            return
        except ImageError as refusal:
            _send(answers, json.dumps({"refused": str(refusal)}).encode())
            continue
        except MemoryError:  # even the bytes themselves do not fit
            return
        found = {
            "shape": picture.pixels.shape,
            "alpha": picture.alpha is not None,
            "sha256": picture.sha256,
            "warnings": picture.warnings,
            "metadata": dict(picture.metadata),
        }
        _send(answers, json.dumps(found).encode())
        for array in (picture.pixels, picture.alpha):
            if array is not None:
                answers.write(array.data)
        del picture, data


if __name__ == "__main__":
    serve_decoder(int(sys.argv[1]))
