"""What the program that drives a batch does for a picture itself, whoever paints: the limit to the number of workers.

    python tests/bench/driver_batch.py [PICTURES] [FOLDER]

An engine that paints nothing hands back the bytes of a picture of 1024 × 768 at once; hashes, small copies, three lines
of the manifest and the picture itself are written and flushed as ever.
"""

import hashlib
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from unittest import mock

import numpy as np

from styler import images
from styler.batch import report, runner
from styler.batch.discover import SelectionRules
from styler.batch.runner import stylize_folder
from styler.batch.worker import EncodedPicture, PaintTask, WorkerReport


class Instant:
    """An engine that has every picture done."""

    slots = 16

    def __init__(self, data: bytes, small: bytes) -> None:
        self._data, self._small = data, small
        self._said: deque[WorkerReport] = deque()
        self._woken = threading.Event()

    def submit(self, task: PaintTask) -> None:
        """Done."""
        data = self._data + task.number.to_bytes(4, "big")
        sha256 = hashlib.sha256(data).hexdigest()
        encoded = EncodedPicture(data, sha256, {sha256: self._small})
        self._said += [
            WorkerReport(task.number, "started"),
            WorkerReport(task.number, "encoded", encoded=encoded, hashes=("0", "0")),
        ]

    def poll(self, seconds: float) -> WorkerReport | None:
        """What is done."""
        if not self._said:
            self._woken.wait(seconds)
            self._woken.clear()
        return self._said.popleft() if self._said else None

    def wake(self) -> None:
        """Somebody has written a picture."""
        self._woken.set()

    def settled(self, number: int) -> None:
        """Nothing waits for it."""

    def stop(self) -> None:
        """Nothing is in work."""

    def close(self) -> list[WorkerReport]:
        """Nothing is left."""
        return []


def main() -> None:
    """Time them."""
    pictures = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    pixels = np.random.default_rng(0).random((96, 128, 3), np.float32).repeat(8, 0).repeat(8, 1)  # (768, 1024, 3)
    pixels += np.random.default_rng(1).normal(0, 0.02, pixels.shape).astype(np.float32)
    data, small = images.encode_image(pixels.clip(0, 1)), report.make_thumbnail(pixels)
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as name:
        folder = Path(name)
        for number in range(pictures):
            images.write_file(folder / "photos" / str(number // 1000) / f"{number}.jpg", b"")
        images.write_file(folder / "x.jpg", b"")
        with (
            mock.patch.object(runner, "_start_engine", return_value=Instant(data, small)),
            mock.patch("styler.batch.report.write_index", return_value=[]),
        ):
            began, used = time.monotonic(), time.process_time()
            told = stylize_folder(
                folder / "photos", folder / "x.jpg", folder / "out", rules=SelectionRules(recursive=True)
            )
            done = sum(event.kind == "done" for event in told)
            clock, used = time.monotonic() - began, time.process_time() - used
        lines = (folder / "out" / ".styler" / "manifest.jsonl").stat().st_size
    print(f"{done} pictures of {len(data) / 1e6:.2f} MB: {1000 * clock / done:.1f} ms each, of the processor")
    print(f"{1000 * used / done:.1f} ms; {lines / done:.0f} bytes of manifest each.")


if __name__ == "__main__":
    main()
