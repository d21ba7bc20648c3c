"""The pictures and weights that come with styler: where they are, and their names. Decodes nothing."""

import mimetypes
import os
from functools import cache
from pathlib import Path

from styler.errors import StylerError


@cache
def find_assets() -> Path:
    """Return the folder of the assets: inside the installed package, or beside it in a checkout.

    Raises:
        StylerError: there is neither.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "assets", package.parent / "assets"):
        if (folder / "weights").is_dir():
            return folder
    raise StylerError(f"The assets of styler are missing next to '{package}'; reinstall styler.")


def list_styles() -> dict[str, Path]:
    """Return the bundled paintings, by name."""
    return _list_pictures("styles")


def list_contents() -> dict[str, Path]:
    """Return the bundled photos, by name."""
    return _list_pictures("contents")


def list_spellings(name: str) -> list[str]:
    """Return the names that may be meant by a name as it was typed, dropped or listed, the most literal first.

    Quotes and spaces around it are removed, `~` is expanded, a backslash before a space is omitted, and a `file://` URL
    is converted.
    """
    bare = name.strip()
    if len(bare) > 2 and bare[0] == bare[-1] and bare[0] in "\"'":
        bare = bare[1:-1]
    names = [name, bare, os.path.expanduser(bare), bare.replace("\\ ", " ")]  # noqa: PTH111 - keeps the text as given
    if bare.startswith("file://"):
        from urllib.request import url2pathname

        names.append(url2pathname(bare.removeprefix("file://").removeprefix("localhost")))
    return list(dict.fromkeys(names))


def find_file(name: str) -> str:
    """Return the first spelling of a name that is a file; the name itself if there is none."""
    return next((spelling for spelling in list_spellings(name) if os.path.lexists(spelling)), name)


def find_style(name: str) -> Path:
    """Return the path of a style: a file, or the bundled painting of that name if there is no such file."""
    return Path(name) if os.path.lexists(name) else list_styles().get(name, Path(name))


def find_content(name: str) -> Path:
    """Return the path of a content: a file, or the bundled photo of that name if there is no such file."""
    return Path(name) if os.path.lexists(name) else list_contents().get(name, Path(name))


def read_credits() -> dict[str, str]:
    """Return what each asset shows, its author and its license, by file name, from the tables in CREDITS.md."""
    credit_lines = {}
    for line in (find_assets() / "CREDITS.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")]
        if len(cells) == 6 and "/" in cells[0]:
            name, subject, author, _source, license_, _hash = cells
            credit_lines[Path(name).name] = f"{subject.split(';')[0].replace('*', '')}; {author}; {license_}"
    return credit_lines


def _list_pictures(folder: str) -> dict[str, Path]:
    paths = sorted((find_assets() / folder).iterdir())  # beside the pictures are the scripts that made some of them
    return {path.stem: path for path in paths if (mimetypes.guess_type(path.name)[0] or "").startswith("image/")}
