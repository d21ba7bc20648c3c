"""Measure what the driver of a batch does for each picture, which limits the number of workers.

    python tests/bench/driver_batch.py [PICTURES] [FOLDER]

An engine that paints nothing returns the bytes of a picture of 1024 × 768 at once; thumbnails, lines of the manifest
and the picture itself are written and flushed as usual.
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


class InstantEngine:
    """An engine whose pictures are finished at once."""

    slots = 16

    def __init__(self, data: bytes, thumbnail: bytes) -> None:
        self._data, self._thumbnail = data, thumbnail
        self._reports: deque[WorkerReport] = deque()
        self._woken = threading.Event()

    def submit(self, task: PaintTask) -> None:
        """Report the picture as finished."""
        data = self._data + task.number.to_bytes(4, "big")
        sha256 = hashlib.sha256(data).hexdigest()
        encoded = EncodedPicture(data, sha256, {sha256: self._thumbnail})
        self._reports += [
            WorkerReport(task.number, "started"),
            WorkerReport(task.number, "encoded", encoded=encoded, hashes=("0", "0")),
        ]

    def poll(self, seconds: float) -> WorkerReport | None:
        """Return the next report."""
        if not self._reports:
            self._woken.wait(seconds)
            self._woken.clear()
        return self._reports.popleft() if self._reports else None

    def wake(self) -> None:
        """Make `poll` return."""
        self._woken.set()

    def stop(self) -> None:
        """Do nothing, since nothing is in progress."""

    def close(self) -> list[WorkerReport]:
        """Return no reports."""
        return []


def main() -> None:
    """Time a batch and print the time for a picture."""
    pictures = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    pixels = np.random.default_rng(0).random((96, 128, 3), np.float32).repeat(8, 0).repeat(8, 1)  # (768, 1024, 3)
    pixels += np.random.default_rng(1).normal(0, 0.02, pixels.shape).astype(np.float32)
    data, thumbnail = images.encode_image(pixels.clip(0, 1)), report.make_thumbnail(pixels)
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as name:
        folder = Path(name)
        for number in range(pictures):
            images.write_file(folder / "photos" / str(number // 1000) / f"{number}.jpg", b"")
        images.write_file(folder / "x.jpg", b"")
        with (
            mock.patch.object(runner, "_start_engine", return_value=InstantEngine(data, thumbnail)),
            mock.patch.object(runner, "write_index", return_value=[]),
        ):
            start, cpu_start = time.monotonic(), time.process_time()
            events = stylize_folder(
                folder / "photos", folder / "x.jpg", folder / "out", rules=SelectionRules(recursive=True)
            )
            done = sum(event.kind == "done" for event in events)
            seconds, cpu_seconds = time.monotonic() - start, time.process_time() - cpu_start
        manifest_bytes = (folder / "out" / ".styler" / "manifest.jsonl").stat().st_size
    print(f"{done} pictures of {len(data) / 1e6:.2f} MB: {1000 * seconds / done:.1f} ms each, of which CPU time")
    print(f"{1000 * cpu_seconds / done:.1f} ms; {manifest_bytes / done:.0f} bytes of manifest each.")


if __name__ == "__main__":
    main()
