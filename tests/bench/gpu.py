"""Measure what a GPU should show, in minutes: speed by size and precision, memory, repeatability, cost of exactness.

    bash tests/bench/gpu.sh [--device cuda] [--sizes 512 1024 2048] [--seconds 420]

`gpu.sh` finds or makes a Python environment and starts this. Each part runs in a process of its own and within a share
of the time; one that fails or runs out of time is named in the table, with whatever it had measured before. On a
machine without a GPU, `--device cpu --sizes 128` shows in about a minute that everything works.
"""

import argparse
import contextlib
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any, cast
from unittest import mock

PRECISIONS = ("bf16", "fp32", "fp16")
"""The most important first, in case time runs out."""
ROUNDS, STEPS = 3, 4
"""Rounds of steps that are timed together; the fastest round counts."""

Row = tuple[str, str, str]
"""What was measured, in which column, and the value."""


def list_precisions(device: str) -> tuple[str, ...]:
    """Return the precisions to measure; CPUs emulate float16."""
    return PRECISIONS[:2] if device == "cpu" else PRECISIONS


def synchronize(device: Any) -> None:
    """Wait for all work on a device."""
    import torch

    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def time_rounds(work: Callable[[], Any], device: Any, steps: int = STEPS, rounds: int = ROUNDS) -> float:
    """Return the seconds of one call of `work` in the fastest of several rounds, after one call that is not timed."""
    work()
    seconds = []
    for _ in range(rounds):
        synchronize(device)
        began = time.perf_counter()
        for _ in range(steps):
            work()
        synchronize(device)
        seconds.append((time.perf_counter() - began) / steps)
    return min(seconds)


def make_pictures(side: int) -> tuple[Any, Any]:
    """Return a photo and a painting of noise at several scales, each (side, side, 3)."""
    import numpy as np

    random, pictures = np.random.default_rng(0), []
    for _ in range(2):
        picture = 0.2 * random.random((side, side, 3), dtype=np.float32)
        for cell in (16, 64):
            coarse = random.random((-(-side // cell), -(-side // cell), 3), dtype=np.float32)
            picture += 0.4 * coarse.repeat(cell, axis=0).repeat(cell, axis=1)[:side, :side]
        pictures.append(picture)
    return pictures[0], pictures[1]


def iterate(device: str, side: int, precision: str, **settings: Any) -> Generator[Any]:
    """Yield after every iteration of Adam at side × side, with the default objective."""
    from styler import Options, Painter

    options = Options.of(
        size=side, first_size=side, iterations=1000, optimizer="adam", device=device, precision=precision, **settings
    )
    yield from Painter.of(options).stream(*make_pictures(side), options)


def measure_iterations(device: str, sizes: list[int]) -> Iterator[Row]:
    """Measure the seconds and the peak memory of an iteration at every size in every precision."""
    import torch

    place = torch.device(device)
    for side in (64, *sizes):
        for precision in list_precisions(device):
            if place.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                with contextlib.closing(iterate(device, side, precision)) as steps:
                    seconds = time_rounds(partial(next, steps), place)
            except Exception as error:  # noqa: BLE001 - the other cells can still be measured
                yield f"an iteration at {side}²", precision, explain(error)
                continue
            yield f"an iteration at {side}²", precision, f"{1000 * seconds:.1f} ms"
            if place.type == "cuda" and side in sizes:
                yield f"peak memory at {side}²", precision, f"{torch.cuda.max_memory_allocated() / 2**20:.0f} MiB"


def measure_presets(device: str, sizes: list[int]) -> Iterator[Row]:
    """Time whole paintings of a bundled pair, without loading and without the first, which chooses the kernels."""
    from styler import Options, Painter, images, library

    content, style = (
        images.read_image(next(iter(each().values()))) for each in (library.list_contents, library.list_styles)
    )
    for precision in list_precisions(device):
        painter = Painter(device=device, precision=precision)
        painter.stylize(content, style, Options.of(preset="draft", size=sizes[0], iterations=4))
        for preset in ("standard", "fine"):
            for side in sizes[:2]:
                began = time.perf_counter()
                result = painter.stylize(content, style, Options.of(preset=preset, size=side))
                synchronize(painter.device)
                text = f"{time.perf_counter() - began:.2f} s, {result.iterations} iterations"
                yield f"`{preset}` at {side} px", precision, text


def measure_repeatability(device: str, sizes: list[int]) -> Iterator[Row]:
    """Paint a picture twice, by two painters, and compare all pixels."""
    from styler import Options, Painter

    side = sizes[0]
    for precision in list_precisions(device):
        options = Options.of(preset="draft", size=side, device=device, precision=precision)
        first, second = (Painter.of(options).stylize(*make_pictures(side), options) for _ in range(2))
        differing = float((first.pixels != second.pixels).mean())
        text = f"{100 * differing:.2f} % of the values differ" if differing else "the same to the last bit"
        yield f"two paintings at {side} px", precision, text


@contextlib.contextmanager
def use_flags(flags: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Set flags (owner, name, value) of PyTorch in place of styler's own, which no flags leave as they are."""
    from styler.engine import device as device_module

    with contextlib.ExitStack() as settings:
        if flags:
            settings.enter_context(mock.patch.object(device_module, "_exact_arithmetic", contextlib.nullcontext()))
        for owner, name, value in flags:
            settings.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


def measure_determinism(device: str, sizes: list[int]) -> Iterator[Row]:
    """Compare iterations with styler's settings of cuDNN, which make them repeatable, with others, in turns."""
    import torch

    place, side, cudnn = torch.device(device), sizes[min(1, len(sizes) - 1)], cast("Any", torch.backends.cudnn)
    free = (cudnn, "deterministic", False)
    variants: dict[str, list[tuple[Any, str, Any]]] = {
        "any algorithms of cuDNN": [free],
        "the fastest algorithms of cuDNN": [free, (cudnn, "benchmark", True)],
        "convolutions without TF32": [(cudnn.conv, "fp32_precision", "ieee")],
    }
    for precision in PRECISIONS[:2]:
        best = dict.fromkeys(("", *variants), float("inf"))
        for _ in range(2):
            for name in best:
                with use_flags(variants.get(name, [])), contextlib.closing(iterate(device, side, precision)) as steps:
                    best[name] = min(best[name], time_rounds(partial(next, steps), place, rounds=2))
        for name in variants:
            yield f"{name}, an iteration at {side}²", precision, f"{best[name] / best['']:.3f} × the time"
    yield from measure_pooling(place, side)


def measure_pooling(place: Any, side: int) -> Iterator[Row]:
    """Compare styler's gradient of max pooling with PyTorch's, which CUDA counts among the non-deterministic ones."""
    import torch
    import torch.nn.functional as F

    from styler.vgg import model

    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        before = torch.randn(1, 256, side // 4, side // 4, device=place).to(dtype, memory_format=torch.channels_last)
        after, indices = F.max_pool2d(before, 2, return_indices=True)
        geometry = ([2, 2], [2, 2], [0, 0], [1, 1], False)
        plain = partial(torch.ops.aten.max_pool2d_with_indices_backward, after, before, *geometry, indices)
        theirs, ours = (
            time_rounds(plain, place),
            time_rounds(partial(model._pooling_backward, after, before, indices), place),
        )
        text = f"{1e6 * ours:.0f} µs; PyTorch's own {1e6 * theirs:.0f} µs"
        yield f"gradient of max pooling, block 3 at {side}²", precision, text


def measure_roots(device: str, _sizes: list[int]) -> Iterator[Row]:
    """Time the Wasserstein distance and its gradient, for every width of a layer, by products and by eigenvalues."""
    import torch

    from styler.objective.moments import compute_moments
    from styler.objective.wasserstein import prepare_wasserstein_target, wasserstein_distance

    place = torch.device(device)
    for channels in (64, 128, 256, 512):
        rows = torch.randn(2, 1, channels, 64, 64, device=place).abs()
        target = prepare_wasserstein_target(compute_moments(rows[1]))

        def differentiate(features: Any = rows[0], target: Any = target, **settings: Any) -> Any:
            features = features.detach().requires_grad_()
            moments = compute_moments(features)
            return torch.autograd.grad(wasserstein_distance(moments, target, **settings), features)

        products = time_rounds(lambda: differentiate(newton_schulz=True), place)
        name = f"Wasserstein distance of {channels} channels"
        yield name, "fp32", f"{1000 * products:.2f} ms by products"
        eigenvalues = time_rounds(differentiate, place)
        yield name, "fp32", f"{1000 * products:.2f} ms by products, {1000 * eigenvalues:.2f} ms by eigenvalues"


PARTS: dict[str, tuple[float, Callable[[str, list[int]], Iterator[Row]]]] = {
    "iterations": (0.3, measure_iterations),
    "repeatability": (0.15, measure_repeatability),
    "determinism": (0.15, measure_determinism),
    "roots": (0.1, measure_roots),
    "presets": (0.3, measure_presets),
}
"""The parts with their shares of the time; what one does not use, the others may."""


def explain(error: Exception) -> str:
    """Return an error as the text of a cell."""
    text = " ".join(str(error).split())[:160].replace("|", "/")
    return f"failed: {type(error).__name__}: {text}"


def run_part(name: str, args: argparse.Namespace) -> None:
    """Print the rows of a part as lines of JSON; a process of its own does this."""
    try:
        for row in PARTS[name][1](args.device, args.sizes):
            print(json.dumps(row), flush=True)
    except Exception as error:  # noqa: BLE001 - the table says what failed
        print(json.dumps((f"the part *{name}*", "", explain(error))), flush=True)


def collect_rows(name: str, args: argparse.Namespace, seconds: float) -> list[Row]:
    """Run a part in a process of its own, for at most some seconds, and return its rows."""
    command = [sys.executable, __file__, "--part", name, "--device", args.device, "--sizes", *map(str, args.sizes)]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        output, problem = run.stdout, "" if run.returncode == 0 else f"failed: {run.stderr.strip()[-160:]}"
    except subprocess.TimeoutExpired as stopped:
        output = stopped.stdout.decode() if isinstance(stopped.stdout, bytes) else stopped.stdout or ""
        problem = f"stopped after {seconds:.0f} s"
    rows = [tuple(json.loads(line)) for line in output.splitlines() if line.startswith("[")]
    return [*rows, (f"the part *{name}*", "", problem)] if problem else rows


def describe_machine(device: str) -> str:
    """Return the names of the GPU or CPU, its driver and PyTorch's version."""
    import torch

    parts = [f"PyTorch {torch.__version__}", f"Python {platform.python_version()}", platform.platform(terse=True)]
    if not device.startswith("cuda"):
        return "; ".join([f"{device}: {platform.processor() or platform.machine()}", *parts])
    gpu, cudnn = torch.cuda.get_device_properties(torch.device(device)), cast("Any", torch.backends.cudnn)
    driver = "driver unknown"
    if program := shutil.which("nvidia-smi"):
        command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout.split()
        driver = f"driver {answer[0]}" if answer else driver
    memory = f"{gpu.total_memory / 2**30:.0f} GiB"
    versions = [driver, f"CUDA {torch.version.cuda}", f"cuDNN {cudnn.version()}"]
    return "; ".join([f"{gpu.name}, {memory}", *versions, *parts])


def print_table(rows: list[Row]) -> None:
    """Print rows of the same name as one line with a column per precision."""
    columns = ("fp32", "bf16", "fp16")
    table: dict[str, dict[str, str]] = {}
    for name, column, text in rows:
        table.setdefault(name, {})[column] = text
    print(f"\n| | {' | '.join(columns)} |\n|---|---|---|---|")
    for name, cells in table.items():
        values = [cells.get(column, "–") for column in columns]
        print(f"| {name} | {' | '.join([cells[''], '', ''] if '' in cells else values)} |")


def main() -> None:
    """Run every part and print the table, or run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--seconds", type=float, default=420, help="for all parts together")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        run_part(args.part, args)
        return
    import torch

    if args.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("PyTorch finds no CUDA GPU here; give --device cpu --sizes 128 to try this script without one.")
    print(describe_machine(args.device), flush=True)
    began, rows, shares = time.monotonic(), [], [share for share, _ in PARTS.values()]
    for index, name in enumerate(PARTS):
        left = args.seconds - (time.monotonic() - began)
        allowed = left * shares[index] / sum(shares[index:])
        part_began = time.monotonic()
        rows += collect_rows(name, args, allowed)
        print(f"{name}: {time.monotonic() - part_began:.0f} s of {allowed:.0f} s", flush=True)
    print_table(rows)


if __name__ == "__main__":
    main()
