"""Compare a batch with as many separate runs: loading once, and overlapping reading and writing with painting.

    python tests/bench/ratio_batch.py [PICTURES] [SIZE]

Half of the runs come before the batch and half after it, so that a machine whose speed changes favors neither. Two more
batches then count how often style statistics are computed, and how often they are read from the disk.
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
from styler.batch.stores import DiskStatsStore
from styler.cli import main
counts = collections.Counter()
get_real, put_real = DiskStatsStore.get, DiskStatsStore.put
def get(self, key, device):
    statistics = get_real(self, key, device)
    counts["read"] += statistics is not None
    return statistics
def put(self, key, device, statistics):
    counts["computed"] += 1
    return put_real(self, key, device, statistics)
DiskStatsStore.get, DiskStatsStore.put = get, put
code = main(sys.argv[1:])
print(dict(counts), file=sys.stderr)
sys.exit(code)
"""


def time_command(tokens: list[str], folder: Path) -> tuple[float, float]:
    """Return elapsed seconds of a command, and its seconds of CPU time, which depend less on other programs."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "styler", *tokens], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - start, cpu_seconds


def main() -> None:
    """Time runs, a batch and more runs, then count statistics."""
    pictures, size = (int(text) for text in (*sys.argv[1:], *("20", "256")[len(sys.argv) - 1 :]))
    flags = ["--preset", "draft", "--size", str(size), "-q", "--device", "cpu"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        (folder / "runs").mkdir()
        photos = [*library.list_contents().values()]
        for number in range(pictures):
            picture = images.read_image(photos[number % len(photos)])
            shift = number // len(photos) * 16
            images.write_file(
                folder / "photos" / f"{number}.jpg", images.encode_image(picture.pixels[shift:, shift:], format="jpeg")
            )

        def run(number: int) -> tuple[float, float]:
            output = f"runs/{number}.png"  # not among the photos of the batch
            return time_command(["run", f"photos/{number}.jpg", "starry-night", "-o", output, *flags], folder)

        loads = [os.getloadavg()[0]]
        runs = [run(number) for number in range(pictures // 2)]
        loads.append(os.getloadavg()[0])
        batch = time_command(["batch", "photos", "starry-night", "-o", "out", *flags], folder)
        loads.append(os.getloadavg()[0])
        runs += [run(number) for number in range(len(runs), pictures)]
        assert len(list((folder / "out").glob("*.png"))) == len(list((folder / "runs").iterdir())) == pictures
        loads.append(os.getloadavg()[0])
        print(f"{pictures} pictures × 1 style at {size} px, draft, batch / runs:")
        for index, label in enumerate(("elapsed time", "CPU time")):
            separate = sum(run[index] for run in runs)
            print(f"seconds of {label}: {batch[index]:.1f} / {separate:.1f} = {batch[index] / separate:.2f}")
        print(f"load {', '.join(f'{load:.1f}' for load in loads)}.")
        os.environ["XDG_CACHE_HOME"] = str(folder / "second cache")
        for out in ("first", "second"):
            tokens = [sys.executable, "-c", COUNTING, "batch", "photos", "starry-night", "-o", out, *flags]
            done = subprocess.run(tokens, cwd=folder, check=True, capture_output=True, text=True)
            print(f"{out} batch, style statistics: {done.stderr.strip()}")


if __name__ == "__main__":
    main()
