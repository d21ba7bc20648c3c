"""Measure what happens before the first iteration of `styler run`, and how long `styler --help` takes.

    python tests/bench/startup.py [ROUNDS] [SIZE] [TREE ...]

A TREE is another checkout with its own `.venv`; all are measured in turns, so that a machine whose speed changes favors
none. Each number is the median over the rounds, without the first one, which warms up the file cache.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = """
import importlib, json, os, sys, time
marks = {}
def mark(stage):
    marks.setdefault(stage, time.time() - float(sys.argv[1]))
mark("Python")
from styler.cli import main
from styler import environment
environment.prepare_process()
command = importlib.import_module("styler.cli.run")
mark("command line")
paint = command._paint
def timed_paint(*given):
    mark("arguments, pictures")
    import torch
    mark("torch")
    from styler.engine.painter import Painter
    mark("engine")
    stream = Painter.stream
    def timed_stream(*given):
        mark("network")
        for progress in stream(*given):
            float(progress.loss)  # waits for the device
            mark("first iteration")
            yield progress
            print(json.dumps(marks), file=sys.stderr, flush=True)
            os._exit(0)
    Painter.stream = timed_stream
    return paint(*given)
command._paint = timed_paint
assert "torch" not in sys.modules
main(["run", "astronaut", "starry-night", "-q", "--device", "cpu", "-o", os.devnull + ".png", "--size", sys.argv[2]])
"""
TORCH = "torch"


def time_stages(tree: Path, size: int) -> dict[str, float]:
    """Return the seconds of every stage of a run, in order."""
    command = [str(tree / ".venv" / "bin" / "python"), "-c", PROGRAM, repr(time.time()), str(size)]
    done = subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True)
    marks = json.loads(done.stderr.splitlines()[-1])
    ends = [0.0, *marks.values()]
    return {stage: end - before for (stage, end), before in zip(marks.items(), ends, strict=False)}


def time_help(tree: Path) -> float:
    """Return the seconds of `styler --help`."""
    began = time.perf_counter()
    command = [str(tree / ".venv" / "bin" / "python"), "-m", "styler", "--help"]
    subprocess.run(command, cwd=tree, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Measure all trees in turns and print a table."""
    rounds, size = (int(text) for text in (*sys.argv[1:3], *("5", "256")[len(sys.argv[1:3]) :]))
    trees = [Path(__file__).resolve().parents[2], *map(Path, sys.argv[3:])]
    runs: list[list[dict[str, float]]] = [[] for _ in trees]
    for number in range(rounds + 1):
        for tree, measured in zip(trees, runs, strict=True):
            stages = time_stages(tree, size)
            stages["all but torch"] = sum(stages.values()) - stages[TORCH]
            stages["styler --help"] = time_help(tree)
            if number:
                measured.append(stages)
    print(f"Milliseconds at {size} px, load {os.getloadavg()[0]:.1f}:\n")
    print(f"| stage | {' | '.join('this tree' if tree == trees[0] else 'another' for tree in trees)} |")
    print(f"|---|{'---:|' * len(trees)}")
    for stage in runs[0][0]:
        cells = (f"{1000 * statistics.median(run[stage] for run in measured):.0f}" for measured in runs)
        print(f"| {stage} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
