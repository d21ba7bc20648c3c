"""Kill a batch at random moments and resume it: nothing may be torn or missing, or painted too often.

    python tests/bench/kill_batch.py [KILLS] [PICTURES]

Every kill is a SIGKILL to a process that resumes the same batch; if a batch ends before all kills are done, the next
one starts. In the end each one finishes, and every picture is compared with that of a batch that was never killed.
"""

import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from styler import cli, environment, images

FLAGS = [
    *("--size", "64", "--first-size", "64", "--iterations", "6", "--threads", "1", "--device", "cpu"),
    *("--distance", "gram", "--style-layers", "relu1_1,relu2_1", "--layer-weights", "1", "--content-layers", "relu2_1"),
    *("-q", "--no-index"),
]
"""Cheap work, so that many kills take minutes; only the files are tested."""


@dataclass(slots=True)
class Run:
    """A batch in a forked process, which has PyTorch loaded already, so that kills hit the work."""

    pid: int
    code: int | None = None

    def poll(self, *, wait: bool = False) -> int | None:
        """Return the exit code; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, 0 if wait else os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def ends_within(self, seconds: float) -> bool:
        """Return whether it ends within some seconds."""
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        return self.code is not None


def start_run(folder: Path, out: str) -> Run:
    """Start or resume a batch."""
    pid = os.fork()
    if pid:
        return Run(pid)
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os._exit(cli.main(["batch", "photos", "starry-night", "-o", out, *FLAGS]))


def read_lines(folder: Path, out: str) -> list[dict[str, object]]:
    """Return the complete lines of a manifest."""
    file = folder / out / ".styler" / "manifest.jsonl"
    data = file.read_bytes() if file.exists() else b""
    return [json.loads(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]


def count_encoded(folder: Path, out: str) -> Counter[object]:
    """Return how often each picture was encoded."""
    return Counter(line["output"] for line in read_lines(folder, out) if line["state"] == "writing")


def count_unrecorded(folder: Path, out: str) -> int:
    """Return the number of pictures that are encoded and not recorded as done."""
    states = {line["output"]: line["state"] for line in read_lines(folder, out) if "output" in line}
    return sum(state == "writing" for state in states.values())


def kill_once(folder: Path, out: str, chance: random.Random) -> bool:
    """Kill a run at a random moment of its work; return whether it was killed before it ended.

    The moment is a number of lines of the manifest, which has one for the run and two for each picture, and a delay.
    """
    process = start_run(folder, out)
    due = len(read_lines(folder, out)) + chance.choice((1, 2, 2, 3, 3, 4, 5, 6))
    while process.poll() is None and len(read_lines(folder, out)) < due:
        time.sleep(0.002)
    if process.ends_within(chance.uniform(0.0, 0.4)):
        return False
    os.kill(process.pid, signal.SIGKILL)
    return process.poll(wait=True) == -signal.SIGKILL


def main() -> int:
    """Kill, finish and compare; return the exit code."""
    kills, pictures = (int(text) for text in [*sys.argv[1:], "30", "12"][:2])
    chance = random.Random(6)
    for name in ("styler.cli.app", "styler.cli.batch_report", "styler.batch.runner"):
        importlib.import_module(name)  # and PyTorch with them
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        areas = np.random.default_rng(0).random((pictures, 12, 16, 3), np.float32)
        for number, area in enumerate(areas):
            pixels = np.repeat(np.repeat(area, 8, 0), 8, 1)  # (96, 128, 3)
            images.write_file(folder / "photos" / f"{number}.png", images.encode_image(pixels))
        assert start_run(folder, "whole").poll(wait=True) == 0
        done, batch, encoded_twice, torn, missing, most = 0, 0, 0, 0, 0, 0
        while done < kills:
            out = f"out{batch}"
            while done < kills and kill_once(folder, out, chance):
                done += 1
                most = max(most, count_unrecorded(folder, out))
            assert start_run(folder, out).poll(wait=True) == 0
            encoded_twice += sum(count_encoded(folder, out).values()) - pictures
            for number in range(pictures):
                path = folder / out / f"{number}.starry-night.png"
                if not path.exists():
                    missing += 1
                    continue
                same = images.read_image(path).pixels == images.read_image(folder / "whole" / path.name).pixels
                torn += not same.all()
            left = [path for path in (folder / out).rglob("*") if path.name.endswith(".tmp")]
            missing += len(left)
            batch += 1
        print(f"{done} kills over {batch} batches of {pictures}: {torn} torn or different, {missing} missing or left,")
        print(f"{encoded_twice} pictures were encoded twice, {encoded_twice / done:.2f} per kill; at most {most} at a")
        print("time were being written when a run was killed.")
    return int(bool(torn or missing or encoded_twice > 2 * done))


if __name__ == "__main__":
    environment.prepare_process()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
