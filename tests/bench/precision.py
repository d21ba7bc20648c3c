"""Figures about the precisions: what `auto` measures, the gradients on real pictures, and the memory of a painting.

python tests/bench/precision.py probe                     # seconds, figures and choice of the measurement
python tests/bench/precision.py gradient --side 256       # cosine with float32 on three pairs
python tests/bench/precision.py memory --sides 512,768    # peak above the memory before painting, beside the estimate
"""

import argparse
import subprocess
import sys
import time

from styler import environment

environment.prepare_process()

PAIRS = (("astronaut", "starry-night"), ("cat", "woodcut"), ("bridge", "wheat-field"))


def show_probe() -> None:
    """Measure as `--precision auto` does where nothing is stored, and print how long each part takes."""
    import torch

    from styler.engine import precision
    from styler.engine.device import prepare_torch

    device = torch.device("cpu")
    with prepare_torch(device):
        start = time.perf_counter()
        compare, seconds = precision.GradientComparison(device), []

        def timed(name: str) -> float:
            began = time.perf_counter()
            cosine = compare(name)
            seconds.append(time.perf_counter() - began)
            return cosine

        workload = precision.ConvolutionWorkload(device)
        measured = precision.compare_precisions(precision.list_candidates(device), workload, timed)
        total = time.perf_counter() - start
        print(precision.describe_machine(device))
        print(f"{measured.choice}: {measured.describe()}")
        print(f"{total:.3f} s, of which {sum(seconds):.3f} s for the gradients")


def show_gradients(side: int) -> None:
    """Print the cosine of the gradient at the photo, in bfloat16 and float32."""
    import torch

    from styler.engine.device import prepare_torch
    from styler.engine.precision import GradientComparison

    device = torch.device("cpu")
    with prepare_torch(device):
        for pair in PAIRS:
            print(f"{pair[0]} × {pair[1]}, {side} px: {GradientComparison(device, side, pair)('bf16'):.5f}", flush=True)


def show_memory(sides: list[int]) -> None:
    """Print the peak of a painting in each precision, each in a process of its own."""
    for side in sides:
        for name in ("fp32", "bf16"):
            subprocess.run([sys.executable, __file__, "paint", "--sides", str(side), "--name", name], check=True)


def paint(side: int, name: str) -> None:
    """Paint three iterations of a square picture, and print the memory that this takes."""
    import resource

    import numpy as np
    import psutil

    from styler import Options, Painter
    from styler.engine.memory.estimate import FIXED_BYTES, Demand, Rung, estimate_memory

    pixels = np.random.default_rng(0).random((2, side, side, 3), dtype=np.float32)
    options = Options(size=side, first_size=side, iterations=3, optimizer="adam", precision=name, checkpoint="off")
    painter = Painter.of(options)
    features = painter.features(options)
    before = psutil.Process().memory_info().rss
    painter.stylize(pixels[0], pixels[1], options)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    demand = Demand(features=features, size=(side, side), styles=[(side, side)], options=options, photo=(side, side))
    estimate = estimate_memory(demand, Rung()).device - FIXED_BYTES
    print(
        f"{side}×{side} {name}: {peak / 1e6:.0f} MB, estimated {estimate / 1e6:.0f} MB and the fixed part", flush=True
    )


def main() -> None:
    """Print what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("probe", "gradient", "memory", "paint"))
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--sides", default="512,768")
    parser.add_argument("--name", default="fp32")
    given = parser.parse_args()
    sides = [int(side) for side in given.sides.split(",")]
    if given.what == "probe":
        show_probe()
    elif given.what == "gradient":
        show_gradients(given.side)
    elif given.what == "memory":
        show_memory(sides)
    else:
        paint(sides[0], given.name)


if __name__ == "__main__":
    main()
