"""Score existing pictures by all measures of `quality.py`, a line for each.

python tests/bench/judge.py CONTENT STYLE PICTURE ...
"""

import argparse
from pathlib import Path

import quality
from PIL import Image


def main() -> None:
    """Print the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("content", type=Path)
    parser.add_argument("style", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE")
    args = parser.parse_args()
    judges, width = quality.Judges(), max(len(path.stem) for path in args.pictures)
    print(" " * width, *(f"{name:>9}" for name in quality.SCORES))
    for path in args.pictures:
        picture = quality.to_tensor(Image.open(path))
        content, style = (quality.load_fitted(source, max(picture.shape)) for source in (args.content, args.style))
        row = quality.score(judges, picture, content, style)
        print(f"{path.stem:{width}}", *(f"{row[name]:9.3f}" for name in quality.SCORES), flush=True)


if __name__ == "__main__":
    main()
