"""How much memory one evaluation takes, measured in a program of its own: memory that was used before would hide it.

`python -m styler.vgg.peak BACKBONE POOLING LAYERS HEIGHT WIDTH` prints the bytes.
"""

import subprocess
import sys
import threading
from collections.abc import Sequence

import psutil

from styler.errors import StylerError

SAMPLE_SECONDS = 0.002
"""Seconds between two looks at the resident memory."""


def measure_peak_memory(name: str, pooling: str, layers: Sequence[str], size: tuple[int, int]) -> float:
    """Bytes beyond the resting program in one forward and backward pass at a size (height, width).

    Raises:
        StylerError: the program ended early.
    """
    arguments = [name, pooling, ",".join(layers), *map(str, size)]
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", "styler.workshop.memory", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise StylerError(f"The memory of {name} could not be measured ({said[0]}); free some and try again.")
    return float(done.stdout)


def main() -> None:
    """Measure and print."""
    import torch

    from styler.vgg import registry
    from styler.vgg.model import Features

    name, pooling, layers, height, width = sys.argv[1:]
    features = Features(registry.load_backbone(name), layers.split(","), pooling)
    image = torch.rand((1, 3, int(height), int(width)), requires_grad=True)
    process, done, most = psutil.Process(), threading.Event(), [0]
    resting = process.memory_info().rss

    def watch() -> None:
        while not done.wait(SAMPLE_SECONDS):
            most[0] = max(most[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    total = torch.stack([maps.square().mean() for maps in features(image).values()]).sum()
    torch.autograd.grad(total, image)
    most[0] = max(most[0], process.memory_info().rss)
    done.set()
    watcher.join()
    sys.stdout.write(f"{most[0] - resting}\n")


if __name__ == "__main__":
    main()
