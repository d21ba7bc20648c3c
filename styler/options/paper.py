"""Paper sizes: the notation of `--paper`, and the pixels of a paper at a resolution."""

import re

from styler.errors import OptionError

MILLIMETERS_PER_INCH = 25.4

PAPERS = {
    "A0": (841.0, 1189.0),
    "A1": (594.0, 841.0),
    "A2": (420.0, 594.0),
    "A3": (297.0, 420.0),
    "A4": (210.0, 297.0),
    "A5": (148.0, 210.0),
    "A6": (105.0, 148.0),
    "letter": (215.9, 279.4),
    "legal": (215.9, 355.6),
    "tabloid": (279.4, 431.8),
}
"""Width and height in millimeters, of the A series (ISO 216) and of the common American papers (ANSI Y14.1)."""
_UNITS = {"mm": 1.0, "cm": 10.0, "in": MILLIMETERS_PER_INCH}
_MEASURES = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*[x×]\s*([0-9]+(?:\.[0-9]+)?)\s*(mm|cm|in)", re.ASCII | re.IGNORECASE)


def normalize_paper(text: str) -> str:
    """Return the usual notation of a paper: `A4` for `a4`, `50x70cm` for `50 × 70 cm`; empty for an empty text.

    Raises:
        OptionError: there is no such paper.
    """
    text = text.strip()
    if not text:
        return ""
    if name := next((name for name in PAPERS if name.lower() == text.lower()), None):
        return name
    match = _MEASURES.fullmatch(text)
    if not match or not float(match[1]) * float(match[2]):
        names = ", ".join(PAPERS)
        raise OptionError(
            f"paper is '{text[:100]}'; it can be {names}, or a size such as 50x70cm, 12x18in or 90x130mm."
        )
    return f"{float(match[1]):g}x{float(match[2]):g}{match[3].lower()}"


def measure_paper(paper: str, dpi: int) -> tuple[int, int]:
    """Return width and height of a paper in pixels, to the nearest; A3 at 300 dots per inch has 3508×4961.

    Args:
        paper: as `normalize_paper` returns it.
        dpi: dots per inch.
    """
    if paper in PAPERS:
        sides = PAPERS[paper]
    else:
        match = _MEASURES.fullmatch(paper)
        assert match is not None
        sides = (float(match[1]) * _UNITS[match[3]], float(match[2]) * _UNITS[match[3]])
    width, height = (max(1, round(side / MILLIMETERS_PER_INCH * dpi)) for side in sides)
    return width, height


def check_paper(paper: str, dpi: int, low: int, high: int) -> None:
    """Check that a picture on a paper is neither too large nor too small to be painted.

    Args:
        paper: as `normalize_paper` returns it.
        dpi: dots per inch.
        low: smallest long side in pixels.
        high: largest long side in pixels.

    Raises:
        OptionError: it is; the message says which resolution is possible.
    """
    width, height = measure_paper(paper, dpi)
    side = max(width, height)
    if low <= side <= high:
        return
    possible = (dpi * high // side) if side > high else -(-dpi * low // side)
    limit = f"the long side can have at most {high}" if side > high else f"the long side needs at least {low}"
    advice = f"--dpi {possible} or {'less' if side > high else 'more'}"
    raise OptionError(f"The paper {paper} at {dpi} dpi has {width}×{height} pixels, and {limit}; use {advice}.")


def convert_to_centimeters(pixels: int, dpi: float) -> float:
    """Return the length of a side on paper, in centimeters."""
    return pixels / dpi * MILLIMETERS_PER_INCH / 10
