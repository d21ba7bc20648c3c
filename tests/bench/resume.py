"""Kill a painting at random moments and resume it until it is finished: what is lost, what saving costs, which pixels.

    python tests/bench/resume.py --size 1024 --kills 20

Paints once without an interruption, then once more with kills, and prints a line for each kill: the seconds since the
state was saved last. At the end: the most that was lost, the size of the state, the share of the time that saving
takes, and whether the pixels are the same.
"""

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from styler import images, provenance
from styler.batch.states import SAVE_SECONDS, locate_state

PROGRAM = """
import sys
from functools import partial
import styler.cli.app
from styler.cli import main
run = sys.modules["styler.cli.run"]
run._open_state = partial(run._open_state, interval=float(sys.argv[1]))
sys.exit(main(sys.argv[2:]))
"""
"""Runs styler with another interval between two saves."""


def start(arguments: argparse.Namespace, out: Path, *flags: str) -> "subprocess.Popen[str]":
    """Start a painting."""
    pictures = [arguments.content, arguments.style, "--size", str(arguments.size), "--device", arguments.device]
    command = [sys.executable, "-c", PROGRAM, str(arguments.interval), "run", *pictures, *arguments.flags, *flags]
    return subprocess.Popen([*command, "--no-progress", "-o", str(out)], stderr=subprocess.PIPE, text=True)


def paint_whole(arguments: argparse.Namespace, out: Path) -> float:
    """Paint without an interruption, print what saving took, and return the seconds of the painting."""
    _, err = start(arguments, out, "-vv").communicate()
    seconds = provenance.read_record(out)["seconds"]
    found = re.search(r"Saved the state (\d+) times? in ([\d.]+) s", err)
    count, saving = (int(found[1]), float(found[2])) if found else (0, 0.0)
    print(f"whole: {seconds:.1f} s; saved {count} times in {saving:.2f} s, {100 * saving / seconds:.2f} % of the time")
    return seconds


def paint_with_kills(arguments: argparse.Namespace, out: Path, seconds: float) -> tuple[list[float], int]:
    """Paint with kills at random moments; return the seconds that each lost and the largest size of the state."""
    chance, state, largest = random.Random(arguments.seed), locate_state(out), 0
    mean = max(seconds / arguments.kills, arguments.interval)  # long enough to get on
    lost: list[float] = []
    while not out.exists():
        begun = time.time()
        process = start(arguments, out, "--resume")
        try:
            if len(lost) < arguments.kills:
                process.communicate(timeout=chance.uniform(0.0, 2 * mean) + arguments.startup)
            else:
                process.communicate()
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            status = state.stat() if state.exists() else None
            largest = max(largest, status.st_size if status else 0)
            lost.append(time.time() - max(begun, status.st_mtime if status else 0.0))
            print(f"kill {len(lost)}: {lost[-1]:.1f} s lost")
        else:
            if process.returncode:
                sys.exit(f"the painting ended with {process.returncode}")
    return lost, largest


def main() -> None:
    """Paint twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--content", default="bridge")
    parser.add_argument("--style", default="wheat-field")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--interval", type=float, default=SAVE_SECONDS, help="seconds between two saves")
    parser.add_argument("--startup", type=float, default=5.0, help="seconds that a run needs before it paints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("flags", nargs="*", help="further flags of styler run, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole.png", Path(folder) / "killed.png"
        seconds = paint_whole(arguments, whole)
        lost, largest = paint_with_kills(arguments, killed, seconds)
        if lost:
            print(f"{len(lost)} kills: at most {max(lost):.1f} s lost, {sum(lost) / len(lost):.1f} s on average")
        print(f"state: {largest / 1e6:.1f} MB; left over: {sorted(path.name for path in Path(folder).iterdir())}")
        same = np.array_equal(images.read_image(whole).pixels, images.read_image(killed).pixels)
        print("the pixels are the same" if same else "THE PIXELS DIFFER")
        sys.exit(not same)


if __name__ == "__main__":
    main()
