"""Measure the parts of one iteration of the default objective, for this tree and optionally for an earlier one.

Strokes are left out, since trees from before them are compared, too.

    python tests/bench/iteration.py [--sizes 256 512] [--precisions fp32 bf16] [--before TREE] [--rounds 3] [--span 6]

Every tree paints in a process of its own; once all are warm, they take turns within one run. In each round a process
makes `span` iterations undisturbed, of which the seconds are reported, and as many under PyTorch's profiler, which
gives the shares of the parts. The figures are medians of the rounds, in milliseconds per iteration. A tree has its own
`.venv`, or else uses this interpreter.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
PAIR = ("astronaut", "starry-night")
PARTS = {
    "convolutions": ("conv",),
    "roots": ("linalg", "cholesky", "eigh"),
    "products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::dot", "aten::addmv", "aten::mv"),
    "copies": ("copy", "clone", "aten::cat", "aten::stack", "fill", "zero", "contiguous", "aten::empty"),
}
"""Names of the operations of a part, or pieces of them for convolutions, roots and copies; all else is `other`."""
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16", "asimd", "bf16", "sve")


def find_part(operation: str) -> str:
    """Return the part that an operation of the profiler belongs to."""
    if operation.endswith("1×1"):
        return "products"
    for part, names in PARTS.items():
        if any(
            name in operation if part in {"convolutions", "roots", "copies"} else operation == name for name in names
        ):
            return part
    return "other"


def is_product(operation: str, shapes: list[list[int]]) -> bool:
    """Return whether an operation is a convolution by a 1×1 kernel, by which products of channels are computed."""
    return "conv" in operation and any(len(shape) == 4 and shape[0] > 1 and shape[2:] == [1, 1] for shape in shapes)


def describe_processor() -> str:
    """Return the name of the processor and those of its flags that matter here."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    has = set(fields.get("flags", fields.get("Features", "")).split())
    name = fields.get("model name") or platform.processor() or platform.machine()
    return f"{name} ({', '.join(flag for flag in FLAGS if flag in has) or 'flags unknown'})"


def paint(size: int, precision: str, iterations: int) -> Iterator[Any]:
    """Yield after every iteration of one scale of the real objective, without half-size copies."""
    from styler import Options, Painter, library

    texture = {"brushwork": 0} if hasattr(Options(), "brushwork") else {}
    options = Options.of(
        size=size, first_size=size, iterations=iterations, optimizer="adam", precision=precision, **texture
    )
    contents, styles = library.list_contents(), library.list_styles()
    yield from Painter.of(options).stream(contents[PAIR[0]], styles[PAIR[1]], options)


def work(size: int, precision: str, rounds: int, span: int) -> None:
    """Print an empty line when warm, then for each line of input one round's milliseconds as a line of JSON."""
    from torch.profiler import ProfilerActivity, profile

    steps = paint(size, precision, 2 + 2 * span * rounds)
    next(steps), next(steps)  # to warm up
    print(flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        for _ in range(span):
            next(steps)
        row = {"whole": (time.perf_counter() - began) / span * 1000}
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            for _ in range(span):
                next(steps)
        for event in profiler.key_averages(group_by_input_shape=True):
            name = f"{event.key}{' 1×1' if is_product(event.key, event.input_shapes) else ''}"
            row[name] = row.get(name, 0.0) + event.self_cpu_time_total / span / 1000
        print(json.dumps(row), flush=True)


def start_worker(tree: Path, arguments: list[str]) -> "subprocess.Popen[str]":
    """Start a process that paints with a tree's own modules."""
    own = tree / ".venv" / "bin" / "python"
    command = [str(own if own.exists() else sys.executable), __file__, "--worker", *arguments]
    paths = os.pathsep.join([str(tree), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        command,
        cwd=tree,
        env=os.environ | {"PYTHONPATH": paths, "KINETO_LOG_LEVEL": "5"},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def ask(worker: "subprocess.Popen[str]") -> dict[str, float]:
    """Let a worker make one round and return its figures."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    row: dict[str, float] = json.loads(worker.stdout.readline())
    return row


def measure(trees: dict[str, Path], size: int, precision: str, rounds: int, span: int) -> dict[str, dict[str, float]]:
    """Return the milliseconds of every operation by tree, each the median of its rounds."""
    arguments = [str(size), precision, str(rounds), str(span)]
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(start_worker(tree, arguments)) for name, tree in trees.items()}
        for worker in workers.values():
            assert worker.stdout is not None
            worker.stdout.readline()  # otherwise, the first round would be measured beside another tree's start
        for _ in range(rounds):
            for name, worker in workers.items():
                rows[name].append(ask(worker))
        for worker in workers.values():
            worker.kill()
    return {
        name: {key: median(row.get(key, 0.0) for row in own) for key in {key for row in own for key in row}}
        for name, own in rows.items()
    }


def format_row(size: int, precision: str, tree: str, operations: dict[str, float]) -> str:
    """Format the line of one tree at one size and precision."""
    parts = dict.fromkeys([*PARTS, "other"], 0.0)
    for name, milliseconds in operations.items():
        if name != "whole":
            parts[find_part(name)] += milliseconds
    rest = 1 - parts["convolutions"] / sum(parts.values())
    cells = " | ".join(f"{value:.0f}" for value in parts.values())
    return f"| {size}² | {precision} | {tree} | {operations['whole']:.0f} | {cells} | {100 * rest:.0f} % |"


def main() -> None:
    """Print the table, and with `--detail` every operation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--span", type=int, default=6)
    parser.add_argument("--detail", action="store_true")
    args = parser.parse_args()
    trees = ({"before": args.before.resolve()} if args.before else {}) | {"this tree": ROOT}
    print(f"{describe_processor()}, {os.environ.get('OMP_NUM_THREADS', os.cpu_count())} threads, ms per iteration:\n")
    print(f"| size | precision | tree | whole | {' | '.join(PARTS)} | other | all but convolutions |")
    print("|---|---|---|" + "---:|" * (len(PARTS) + 3), flush=True)
    for size in args.sizes:
        for precision in args.precisions:
            for name, row in measure(trees, size, precision, args.rounds, args.span).items():
                print(format_row(size, precision, name, row), flush=True)
                if args.detail:
                    for key, value in sorted(row.items(), key=lambda item: -item[1])[:24]:
                        print(f"    {value:8.2f}  {key}", file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        main()
