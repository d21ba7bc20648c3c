"""Kill a batch at random moments and let it go on: nothing may be torn, missing, or made more often than it must be.

    python tests/bench/kill_batch.py [KILLS] [PICTURES]

Every kill is a SIGKILL to a process that goes on with the same batch; when a batch is done before all kills are,
the next one begins. At the end each is let finish, and every picture is decoded and compared with one of a batch that
was never killed.
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
    *(
        "--size",
        "64",
        "--first-size",
        "64",
        "--iterations",
        "6",
        "--threads",
        "1",
        "--device",
        "cpu",
        "-q",
        "--no-index",
    ),
    *("--distance", "gram", "--style-layers", "relu1_1,relu2_1", "--layer-weights", "1", "--content-layers", "relu2_1"),
]
"""Work that is cheap, so that many kills take minutes; what is tried is what becomes of the files."""


@dataclass(slots=True)
class Run:
    """A batch in a process of its own, which is forked: it has PyTorch loaded already, so that kills hit the work."""

    pid: int
    code: int | None = None

    def poll(self, *, wait: bool = False) -> int | None:
        """Its exit code, once it has ended."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, 0 if wait else os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def ends_within(self, seconds: float) -> bool:
        """Wait so long at most."""
        end = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < end:
            time.sleep(0.001)
        return self.code is not None


def started(folder: Path, out: str) -> Run:
    """Begin a batch, or go on with it."""
    pid = os.fork()
    if pid:
        return Run(pid)
    os.chdir(folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os._exit(cli.main(["batch", "photos", "starry-night", "-o", out, *FLAGS]))


def lines(folder: Path, out: str) -> list[dict[str, object]]:
    """The whole lines of a manifest."""
    file = folder / out / ".styler" / "manifest.jsonl"
    data = file.read_bytes() if file.exists() else b""
    return [json.loads(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]


def made_by(folder: Path, out: str) -> Counter[object]:
    """How often the bytes of each picture were made."""
    return Counter(line["output"] for line in lines(folder, out) if line["state"] == "writing")


def unfinished(folder: Path, out: str) -> int:
    """Pictures whose bytes were made and of which it is not recorded that they are there."""
    states = {line["output"]: line["state"] for line in lines(folder, out) if "output" in line}
    return sum(state == "writing" for state in states.values())


def killed(folder: Path, out: str, chance: random.Random) -> bool:
    """Kill one run at a random moment of its work; False if it ended before.

    The moment is a number of lines of the manifest, of which there is one at the beginning and two a picture, and a
    while.
    """
    process = started(folder, out)
    due = len(lines(folder, out)) + chance.choice((1, 2, 2, 3, 3, 4, 5, 6))
    while process.poll() is None and len(lines(folder, out)) < due:
        time.sleep(0.002)
    if process.ends_within(chance.uniform(0.0, 0.4)):
        return False
    os.kill(process.pid, signal.SIGKILL)
    return process.poll(wait=True) == -signal.SIGKILL


def main() -> int:
    """Kill, finish, compare; the exit code."""
    kills, pictures = (int(text) for text in [*sys.argv[1:], "30", "12"][:2])
    chance = random.Random(6)
    for name in ("styler.cli.app", "styler.cli.batch_report", "styler.batch.runner", "styler.batch.runner"):
        importlib.import_module(name)  # and PyTorch with them, once for all
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        areas = np.random.default_rng(0).random((pictures, 12, 16, 3), np.float32)
        for number, area in enumerate(areas):
            pixels = np.repeat(np.repeat(area, 8, 0), 8, 1)  # (96, 128, 3)
            images.write_file(folder / "photos" / f"{number}.png", images.encode_image(pixels))
        assert started(folder, "whole").poll(wait=True) == 0
        done, batch, redone, torn, missing, most = 0, 0, 0, 0, 0, 0
        while done < kills:
            out = f"out{batch}"
            while done < kills and killed(folder, out, chance):
                done += 1
                most = max(most, unfinished(folder, out))
            assert started(folder, out).poll(wait=True) == 0
            redone += sum(made_by(folder, out).values()) - pictures
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
        print(f"{redone} pictures whose bytes were made twice, {redone / done:.2f} per kill; {most} at most were being")
        print("written when a run was killed.")
    return int(bool(torn or missing or redone > 2 * done))


if __name__ == "__main__":
    environment.prepare_process()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
