"""What the page says of itself: what it does, how, where the pictures go, and whose the rest is."""

from functools import cache
from html import escape
from pathlib import Path

from styler import library
from ui import show

FOLDER = Path(__file__).parent
SIDE = 320
"""Pixels of the pictures that explain."""
PAIR = ("bridge", "starry-night")
"""What the picture that invites was made of."""


@cache
def page() -> str:
    """The text with its picture."""
    items = "".join(f"<li>{escape(credit)}</li>" for credit in library.read_credits().values())
    text = (FOLDER / "about.html").read_text(encoding="utf-8")
    return text.replace("{figure}", _figure()).replace("{credits}", items)


def _figure() -> str:
    """Photo and painting become the picture."""
    photo, painting = library.list_contents()[PAIR[0]], library.list_styles()[PAIR[1]]
    cells = [
        _cell(photo, "A photo of a bridge at night", "what is where?"),
        '<span aria-hidden="true">+</span>',
        _cell(painting, "The Starry Night by Vincent van Gogh", "which colours and strokes?"),
        '<span aria-hidden="true">→</span>',
        _cell(FOLDER / "invitation.jpg", "The bridge, painted like The Starry Night", "both"),
    ]
    return f'<div class="how">{"".join(cells)}</div>'


def _cell(path: Path, alt: str, caption: str) -> str:
    image = f'<img src="{show.file_address(path, SIDE)}" alt="{escape(alt)}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
