"""Measure an iteration in tiles against a plain one, side by side in one run: seconds, peak memory and gradient.

    python tests/bench/tiles.py [--size 2048] [--tile 1024] [--precision fp32] [--rounds 3] [--brushwork 50]

Each side works in a process of its own, so that its peak memory is its own; once both have prepared their targets, they
take turns. The seconds are medians of iterations without matching, and those of iterations with matching apart. The
bytes are the largest memory of the process beyond what it had before the targets were prepared; on a GPU, those that
PyTorch had reserved. The gradients are those of the first evaluation, with the matches that each side found itself.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

LIMIT = 2.2
"""Largest ratio of the seconds of a tiled iteration to those of a plain one."""
PAIR = ("astronaut", "starry-night")


def measure_memory(device: Any) -> int:
    """Return the largest memory so far, in bytes."""
    import torch

    if device.type != "cpu":
        return int(torch.get_device_module(device).max_memory_reserved(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def build_objective(size: tuple[int, int], tile: int, precision: str, brushwork: float) -> tuple[Any, Any]:
    """Return the objective of a bundled pair at a size (width, height), and the image of the photo."""
    from styler import Options, Painter, library
    from styler.engine import targets
    from styler.engine.sources import load_content, load_styles
    from styler.engine.styles import StyleCache, prepare_blend
    from styler.objective.terms import Objective
    from styler.schedule import build_schedule

    long_side = max(size)
    options = Options(size=long_side, first_size=long_side, optimizer="adam", precision=precision, brushwork=brushwork)
    features = Painter.of(options).features(options)
    content = load_content(library.list_contents()[PAIR[0]])
    blend = prepare_blend(content, load_styles(library.list_styles()[PAIR[1]]), options)
    goal = targets.compute_targets(features, content, blend, size, options, StyleCache(), None, None, tile)
    plan = targets.plan_matching(options, features.network, size, build_schedule(options, *size, 32)[-1])
    matching = None
    if plan is not None:
        matching = targets.prepare_matching(plan, features, goal, blend, long_side, options)
    weights = targets.compute_term_weights(options, features.network)
    is_cpu = features.device.type == "cpu"
    objective = Objective(features, goal, weights, newton_schulz=not is_cpu, matching=matching)
    return objective, content.fit(*size).to(features.device)


def work(arguments: argparse.Namespace, tile: int, path: Path) -> None:
    """Print a line of JSON when ready, then one for each line of input: seconds and peak memory of an evaluation."""
    from styler import Options, Painter
    from styler.engine.device import prepare_torch

    device = Painter.of(Options(precision=arguments.precision)).device
    with prepare_torch(device):
        before = measure_memory(device)
        size = (arguments.size, arguments.size * 3 // 4)
        objective, image = build_objective(size, tile, arguments.precision, arguments.brushwork)
        print(json.dumps({"prepared": measure_memory(device) - before}), flush=True)
        for number, _ in enumerate(sys.stdin):
            began = time.perf_counter()
            terms, gradient = objective.gradient(image)
            total = float(terms["total"])  # waits for the device
            seconds = time.perf_counter() - began
            if not number:
                np.save(path, gradient.cpu().numpy())
            is_matching = objective.matching is not None and number % objective.matching.plan.interval == 0
            row = {"seconds": seconds, "bytes": measure_memory(device) - before, "total": total}
            print(json.dumps(row | {"matching": is_matching}), flush=True)


def start_worker(arguments: argparse.Namespace, tile: int, path: Path) -> "subprocess.Popen[str]":
    """Start one side."""
    given = [f"--{name}={getattr(arguments, name)}" for name in ("size", "precision", "rounds", "brushwork")]
    command = [sys.executable, __file__, *given, f"--tile={tile}", f"--worker={path}"]
    return subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def ask(worker: "subprocess.Popen[str]", *, wait: bool = False) -> dict[str, Any]:
    """Let a side evaluate once, unless it only has to be waited for, and return its line."""
    assert worker.stdin
    assert worker.stdout
    if not wait:
        worker.stdin.write("\n")
        worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        raise SystemExit("A process ended early.")
    row: dict[str, Any] = json.loads(line)
    return row


def compare(arguments: argparse.Namespace, folder: Path) -> None:
    """Let both sides take turns, and print the figures."""
    paths = {"plain": folder / "plain.npy", "tiled": folder / "tiled.npy"}
    sides = {"plain": 0, "tiled": arguments.tile}
    workers, rows = {}, {name: list[dict[str, Any]]() for name in sides}
    try:
        for name, tile in sides.items():  # one after the other, so that neither slows the other down
            workers[name] = start_worker(arguments, tile, paths[name])
            print(f"{name}: {ask(workers[name], wait=True)['prepared'] / 1e9:.2f} GB to prepare", flush=True)
        for _ in range(1 + arguments.rounds):
            for name, worker in workers.items():
                rows[name].append(ask(worker))
    finally:
        for worker in workers.values():
            worker.communicate()
    for name, found in rows.items():
        seconds, peak = median(row["seconds"] for row in found[1:]), max(row["bytes"] for row in found) / 1e9
        first, loss = found[0]["seconds"], found[0]["total"]
        print(f"{name}: {seconds:.2f} s per iteration, first {first:.2f} s, {peak:.2f} GB, loss {loss:.6f}")
    plain, tiled = (median(row["seconds"] for row in rows[name][1:] if not row["matching"]) for name in sides)
    ours, theirs = (np.load(paths[name]) for name in ("tiled", "plain"))
    apart = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    print(f"ratio {tiled / plain:.2f} (limit {LIMIT}); gradients differ by {apart:.1e}")


def main() -> None:
    """Compare both sides, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", type=int, default=2048, help="long side, in pixels; the other is three quarters of it"
    )
    parser.add_argument("--tile", type=int, default=1024, help="longest side of a tile, in pixels")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=3, help="evaluations of each side after the first, at most 4")
    parser.add_argument("--brushwork", type=float, default=50.0)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments, arguments.tile, arguments.worker)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(arguments, Path(folder))


if __name__ == "__main__":
    main()
