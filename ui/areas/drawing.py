"""The HTML of parts of the photo: masks over it, what is said about them, and the board to draw on."""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styler.regions.specs import NOTHING
from ui.areas.choice import ABSENCES

TINT = (196, 24, 176)
"""Color of a mask on the photo, which few photos have."""
OPACITY = 0.62
"""Opacity of a mask where it is whole."""
FRAME_END = "</figure>"
"""The end of the frame of a photo."""
AUTOMATIC = "Faces are kept gently, if there are any."
NOTHING_KEPT = "Nothing is kept: the whole photo is painted."
NO_PHOTO_YET = "Choose a photo first; then you can see and draw its parts."


def encode_mask(masks: Sequence[NDArray[np.uint8]]) -> str:
    """Return the union of masks (H, W) as a colored PNG with transparency, in a `data:` URL.

    Args:
        masks: at least one; all but the first are resized to its size.
    """
    height, width = masks[0].shape
    sized = [np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.BILINEAR)) for mask in masks]
    union = np.maximum.reduce(sized)  # (H, W)
    colored = np.empty((height, width, 4), np.uint8)
    colored[..., :3], colored[..., 3] = TINT, (union * OPACITY).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(colored, "RGBA").save(stream, "PNG", compress_level=3)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def render_masked(photo_html: str, mask_url: str, parts: str) -> str:
    """Return the photo in its frame with a mask over it.

    Args:
        photo_html: the frame of the photo.
        mask_url: as `encode_mask` returns it.
        parts: what the mask shows, for screen readers.
    """
    mask = f'<img class="mask" src="{mask_url}" alt="{escape(parts)}, colored">'
    return f"{photo_html.removesuffix(FRAME_END)}{mask}{FRAME_END}"


def render_note(text: str, photo_url: str = "", mask_url: str = "") -> str:
    """Return what is said below the choice; on a phone, whose stage is out of sight, with a small copy of it."""
    small = ""
    if mask_url:
        small = f'<span class="small"><img src="{photo_url}" alt=""><img class="mask" src="{mask_url}" alt=""></span>'
    return f'<div class="kept">{small}<p role="status">{escape(text)}</p></div>'


def render_chips_note(chips: Sequence[str]) -> str:
    """Return what is said about what is protected without showing it."""
    return render_note(NOTHING_KEPT if NOTHING in chips else "" if chips else AUTOMATIC)


def explain_masks(missing: Sequence[str], shown: str, *, is_region: bool) -> str:
    """Return what is said about masks.

    Args:
        missing: the names of those that were not found.
        shown: those that are shown, in words; empty if there is none.
        is_region: whether they take another painting, or else are kept.
    """
    sentences = [ABSENCES[name] for name in missing]
    if shown:
        use = "takes the other painting" if is_region else "is kept"
        sentences.append(f"What is colored {use}: {shown}.")
    return " ".join(dict.fromkeys(sentences))


def render_board(photo_html: str, number: int) -> str:
    """Return the board on which a visitor draws a mask; the script of the page opens it and reads the drawing.

    Args:
        photo_html: the frame of the photo; the drawing has the pixels of the picture in it.
        number: another one than that of the board before it.
    """
    return (
        f'<dialog class="board" data-number="{number}" aria-labelledby="board-title">'
        '<h2 id="board-title">Draw over the part that you mean</h2>'
        f"{photo_html.removesuffix(FRAME_END)}"
        f'<canvas aria-label="Your drawing; draw with the mouse, a pen or a finger" role="img"></canvas>{FRAME_END}'
        '<div class="pens" role="group" aria-label="Drawing">'
        '<button type="button" class="quiet" data-pen="brush" aria-pressed="true">Brush</button>'
        '<button type="button" class="quiet" data-pen="eraser" aria-pressed="false">Eraser</button>'
        '<label>Width <input type="range" class="width" min="1" max="25" value="8"></label>'
        '<button type="button" class="quiet" data-pen="undo" disabled>Undo</button>'
        '<button type="button" class="quiet" data-pen="clear" disabled>Clear</button></div>'
        '<div class="ends"><button type="button" class="quiet" data-pen="cancel">Cancel</button>'
        '<button type="button" class="use" data-pen="done" disabled>Use the drawing</button></div></dialog>'
    )
