"""Count the borders that are found around paintings, and the paintings that are cut without one.

    python tests/bench/borders.py [FOLDER]

FOLDER has pictures without borders; the bundled paintings and photos by default. Each is put into the borders of the
tests.
"""

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "engine"))
from test_borders import BORDERS, find  # type: ignore[import-not-found]

from styler import images, library
from styler.errors import ImageError


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    folder: Path | None = parser.parse_args().folder
    bundled = [*library.list_styles().values(), *library.list_contents().values()]
    found, count = dict.fromkeys(BORDERS, 0), 0
    for path in sorted(folder.iterdir()) if folder else bundled:
        try:
            pixels = images.read_image(path).pixels
        except ImageError:
            continue
        count += 1
        if box := find(pixels):
            print(f"{path.name} is cut to {tuple(box)}")
        for name, (surround, _) in BORDERS.items():
            found[name] += find(surround(pixels)) is not None
    print("| border | found |\n|---|---|")
    for name, hits in found.items():
        print(f"| {name} | {hits} of {count} |")


if __name__ == "__main__":
    main()
