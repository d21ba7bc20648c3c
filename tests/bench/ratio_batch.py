"""A batch against as many single runs: how much is saved by loading once, and by reading and writing meanwhile.

    python tests/bench/ratio_batch.py [PICTURES] [SIZE]

The runs are cut in two halves around the batch, so that a machine that grows slower or faster favours neither. Then two
batches whose statistics of the style are counted: how often they are computed, and how often read from the disk.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from styler import images, library

COUNTING = """
import collections, sys
from styler.batch.shelf import DiskShelf
from styler.cli import main
seen = collections.Counter()
real = DiskShelf.get, DiskShelf.put
def get(self, key, device):
    found = real[0](self, key, device)
    seen["read"] += found is not None
    return found
def put(self, key, device, found):
    seen["computed"] += 1
    return real[1](self, key, device, found)
DiskShelf.get, DiskShelf.put = get, put
code = main(sys.argv[1:])
print(dict(seen), file=sys.stderr)
sys.exit(code)
"""


def seconds(tokens: list[str], folder: Path) -> tuple[float, float]:
    """Of one command, from start to end: of the clock, and of the processors, which a busy machine changes less."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "styler", *tokens], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - began, used


def main() -> None:
    """Runs, batch, runs; then the counts."""
    pictures, size = (int(text) for text in (*sys.argv[1:], *("20", "256")[len(sys.argv) - 1 :]))
    flags = ["--preset", "draft", "--size", str(size), "-q", "--device", "cpu"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        (folder / "runs").mkdir()
        known = [*library.list_contents().values()]
        for number in range(pictures):
            picture = images.read_image(known[number % len(known)])
            shift = number // len(known) * 16
            images.write_file(
                folder / "photos" / f"{number}.jpg", images.encode_image(picture.pixels[shift:, shift:], format="jpeg")
            )

        def run(number: int) -> tuple[float, float]:
            output = f"runs/{number}.png"  # or the batch would find it among the photos
            return seconds(["run", f"photos/{number}.jpg", "starry-night", "-o", output, *flags], folder)

        load = [os.getloadavg()[0]]
        runs = [run(number) for number in range(pictures // 2)]
        load.append(os.getloadavg()[0])
        batch = seconds(["batch", "photos", "starry-night", "-o", "out", *flags], folder)
        load.append(os.getloadavg()[0])
        runs += [run(number) for number in range(len(runs), pictures)]
        assert len(list((folder / "out").glob("*.png"))) == len(list((folder / "runs").iterdir())) == pictures
        load.append(os.getloadavg()[0])
        print(f"{pictures} pictures × 1 style at {size} px, draft, batch / runs:")
        for index, kind in enumerate(("the clock", "the processors")):
            whole = sum(run[index] for run in runs)
            print(f"seconds of {kind}: {batch[index]:.1f} / {whole:.1f} = {batch[index] / whole:.2f}")
        print(f"load {', '.join(f'{it:.1f}' for it in load)}.")
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache of the count")
        for out in ("first", "second"):
            tokens = [sys.executable, "-c", COUNTING, "batch", "photos", "starry-night", "-o", out, *flags]
            done = subprocess.run(tokens, cwd=folder, check=True, capture_output=True, text=True)
            print(f"{out} batch, statistics of the style at a size: {done.stderr.strip()}")


if __name__ == "__main__":
    main()
