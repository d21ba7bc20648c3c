"""The pictures and weights that come with styler: where they are, and by which names.

Does not decode anything.
"""

from functools import cache
from pathlib import Path

from styler.errors import StylerError


@cache
def assets_root() -> Path:
    """The folder of the assets: inside the installed package, or beside it in a checkout.

    Raises:
        StylerError: neither is there.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "assets", package.parent / "assets"):
        if (folder / "weights").is_dir():
            return folder
    raise StylerError(f"The assets of styler are missing beside '{package}'; install styler again.")


def list_styles() -> dict[str, Path]:
    """The bundled styles, by name."""
    return _pictures("styles")


def list_contents() -> dict[str, Path]:
    """The bundled photographs, by name."""
    return _pictures("contents")


def find_style(name: str) -> Path:
    """A style as a person gives it: a file, or the name of a bundled one if there is no such file."""
    return Path(name) if Path(name).exists() else list_styles().get(name, Path(name))


def find_content(name: str) -> Path:
    """A content as a person gives it: a file, or the name of a bundled one if there is no such file."""
    return Path(name) if Path(name).exists() else list_contents().get(name, Path(name))


def read_credits() -> dict[str, str]:
    """What every asset shows, by whom, and under which licence, by file name: from the tables of the credits."""
    found = {}
    for line in (assets_root() / "CREDITS.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]
        if len(cells) == 6 and "/" in cells[0]:
            name, what, author, _source, licence, _hash = cells
            found[Path(name).name] = f"{what.split(';')[0].replace('*', '')}; {author}; {licence}"
    return found


def _pictures(kind: str) -> dict[str, Path]:
    from styler.images import PICTURE_SUFFIXES  # loads numpy and Pillow, which `styler --help` does without

    return {path.stem: path for path in sorted((assets_root() / kind).iterdir()) if path.suffix in PICTURE_SUFFIXES}
