"""Paint a few iterations on every rung of the memory planner, and print what was estimated and what was measured.

    python tests/bench/rungs.py --sizes 1024 2048 --memory 0 3gb          # the rung that the plan chooses
    python tests/bench/rungs.py --sizes 2048 --tiles off 1024 512         # tiles forced, or none
    python tests/bench/rungs.py --sizes 1024 --checkpoints off on         # checkpointing forced, or none
    python tests/bench/rungs.py --sizes 8192 --memory 6gb --preset draft --iterations 1  # one of each network

Each row is a process of its own that paints one scale of a photo of that size, with its half-size copies. `estimated`
is what the plan says, `measured` the peak above the memory before painting, when the photo had been read. On a GPU both
are those of the device.
"""

import argparse
import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from styler import environment

environment.prepare_process()

STATUS, REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")
HEADER = ("size", "memory", "rung", "estimated MB", "measured MB", "s per megapixel and iteration")


def reset_peak() -> None:
    """Forget the peak memory of this process so far; only Linux can."""
    if REFERENCES.exists():
        REFERENCES.write_text("5", encoding="ascii")


def read_memory(name: str) -> int:
    """Return a figure of this process's memory in bytes: `VmHWM` is the peak, `VmRSS` what is used now."""
    return int(STATUS.read_text(encoding="ascii").split(f"{name}:")[1].split()[0]) << 10


def make_photo(content: str, size: int) -> Any:
    """Return a photo with a long side, as an array (H, W, 3)."""
    import numpy as np
    from PIL import Image

    from styler import images, library
    from styler.geometry import fit_size

    picture = images.read_image(library.list_contents().get(content, content))
    pixels = Image.fromarray(images.to_uint8(picture.pixels)).resize(fit_size(picture.width, picture.height, size))
    return np.asarray(pixels)


def paint(case: dict[str, Any]) -> dict[str, Any]:
    """Paint one case and return its row."""
    import torch

    from styler import Options, Painter, library
    from styler.engine.memory.ladder import Ladder
    from styler.engine.run import Run
    from styler.errors import OutOfMemory

    size, plans = case["size"], list[Ladder]()
    first = {"first_size": size} if case["last"] else {}
    options = Options.of(size=size, iterations=case["iterations"], **first, **case["options"])
    painter = Painter.of(options)
    painter.load_networks(options)
    photo, style = make_photo(case["content"], size), library.list_styles().get(case["style"], case["style"])
    on_gpu, begin = painter.device.type == "cuda", Run.paint

    def watch(run: Run) -> Any:
        plans.append(run.ladder)
        return begin(run)

    Run.paint = watch  # type: ignore[method-assign, assignment]
    reset_peak()
    before, times = read_memory("VmRSS"), []
    if on_gpu:
        before = torch.cuda.memory_allocated(painter.device)
        torch.cuda.reset_peak_memory_stats(painter.device)
    try:
        for progress in painter.stream(photo, style, options):
            _ = progress.loss  # waits for the device
            times.append(time.perf_counter())
    except OutOfMemory as problem:
        return {"problem": str(problem)}
    peak = torch.cuda.max_memory_allocated(painter.device) if on_gpu else read_memory("VmHWM")
    plan = plans[0].plan
    assert plan is not None
    assert progress.result is not None
    pixels = progress.result.pixels.shape[0] * progress.result.pixels.shape[1]
    return {
        "rung": plans[0].rung.describe(),
        "estimated": plan.needed / 1e6,
        "measured": (peak - before) / 1e6,
        "seconds": (times[-2] - times[-3]) / pixels * 1e6 if len(times) > 2 else None,
        "notes": progress.result.notes,
    }


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Paint a case in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--case", json.dumps(case)], check=True, stdout=subprocess.PIPE, text=True
    )
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def print_row(case: dict[str, Any], row: dict[str, Any]) -> None:
    """Print a row of the table, and what was noted."""
    memory = case["options"].get("memory") or "free"
    if "problem" in row:
        print(f"| {case['size']} | {memory} | {row['problem']} | | | |", flush=True)
        return
    seconds = "" if row["seconds"] is None else f"{row['seconds']:.2f}"
    cells = (case["size"], memory, row["rung"], f"{row['estimated']:.0f}", f"{row['measured']:.0f}", seconds)
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    for note in row["notes"]:
        print(f"  {note}", file=sys.stderr, flush=True)


def list_cases(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return every combination of what the command line asks for."""
    forced = itertools.product(arguments.sizes, arguments.memory, arguments.tiles, arguments.checkpoints)
    common = {
        "preset": arguments.preset,
        "precision": arguments.precision,
        "brushwork": arguments.brushwork,
        "optimizer": "adam",
    }
    common |= {"device": arguments.device, "threads": arguments.threads}
    return [
        {
            "size": size,
            "iterations": arguments.iterations,
            "last": not arguments.all_scales,
            "content": arguments.pair[0],
            "style": arguments.pair[1],
            "options": {**common, "memory": memory, "tile": tile, "checkpoint": checkpoint},
        }
        for size, memory, tile, checkpoint in forced
    ]


def parse_number(text: str) -> int | str:
    """Return a number, or any other text as it is."""
    return int(text) if text.isdigit() else text


def main() -> None:
    """Paint every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--memory", type=parse_number, nargs="+", default=[0], help="limits such as 3gb; 0 for none")
    parser.add_argument("--tiles", "--tile", type=parse_number, nargs="+", default=["auto"])
    parser.add_argument("--checkpoints", "--checkpoint", nargs="+", default=["auto"], choices=("auto", "on", "off"))
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--preset", default="standard", help="a draft paints with both networks, one after the other")
    parser.add_argument("--all-scales", action="store_true", help="paint the smaller scales, too")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--brushwork", type=float, default=50)
    parser.add_argument("--pair", nargs=2, default=["bridge", "starry-night"], metavar=("CONTENT", "STYLE"))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(paint(json.loads(arguments.case))))
        return
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}", flush=True)
    for case in list_cases(arguments):
        print_row(case, run_case(case))


if __name__ == "__main__":
    main()
