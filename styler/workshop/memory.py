"""Measure the peak memory of one iteration, in a separate process: memory that was used before would hide it.

`python -m styler.workshop.memory BACKBONE POOLING LAYERS HEIGHT WIDTH` prints the bytes.
"""

import subprocess
import sys
import threading
from collections.abc import Sequence

import psutil

from styler.errors import StylerError

SAMPLE_SECONDS = 0.002
"""Seconds between two samples of the resident memory."""


def measure_peak_memory(name: str, pooling: str, layers: Sequence[str], size: tuple[int, int]) -> float:
    """Return the bytes that one forward and backward pass at a size (height, width) adds to an idle process.

    Raises:
        StylerError: the process failed.
    """
    arguments = [name, pooling, ",".join(layers), *map(str, size)]
    process = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", "styler.workshop.memory", *arguments], capture_output=True, text=True, check=False
    )
    if process.returncode:
        reason = process.stderr.strip().splitlines()[-1:] or ["it printed nothing"]
        raise StylerError(f"Cannot measure the memory of {name}: {reason[0]}; free some memory and try again.")
    return float(process.stdout)


def main() -> None:
    """Measure one iteration and print its bytes."""
    import torch

    from styler.vgg import registry
    from styler.vgg.model import Features

    name, pooling, layers, height, width = sys.argv[1:]
    features = Features(registry.load_backbone(name), layers.split(","), pooling)
    image = torch.rand((1, 3, int(height), int(width)), requires_grad=True)
    process, done = psutil.Process(), threading.Event()
    idle = process.memory_info().rss
    samples = [idle]

    def sample() -> None:
        while not done.wait(SAMPLE_SECONDS):
            samples.append(process.memory_info().rss)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    total = torch.stack([maps.square().mean() for maps in features(image).values()]).sum()
    torch.autograd.grad(total, image)
    samples.append(process.memory_info().rss)
    done.set()
    sampler.join()
    sys.stdout.write(f"{max(samples) - idle}\n")


if __name__ == "__main__":
    main()
