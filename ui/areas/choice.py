"""What a visitor chooses for parts of the photo, as options and masks, and the other way round.

Knows neither Gradio nor how masks are found.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styler import library
from styler.errors import OptionError, UsageError, quote_name
from styler.options import Options
from styler.provenance import Record
from styler.regions.specs import BUILT_IN_MASKS, DEFAULT_AMOUNT, NOTHING, parse_protection
from ui.session import PaintRequest, Upload

SHOWN_MASK_SIDE = 640
"""Long side of the masks that are shown, in pixels."""
DRAWN = "drawn"
"""Name of the mask that a visitor draws."""
WHOLE = "whole"
"""The choice of a region that stands for none: the whole photo takes the same paintings."""
CHIPS = {"faces": "Faces", "subject": "Subject", "background": "Background", DRAWN: "My drawing", NOTHING: "Nothing"}
"""Labels of what can be protected."""
REGIONS = {WHOLE: "No part", "subject": "The subject", "background": "The background", DRAWN: "What I draw"}
"""Labels of the parts that can take another painting."""
WORDS = {"faces": "faces", "subject": "the subject", "background": "the background", DRAWN: "what was drawn"}
"""The masks within a sentence."""
ABSENCES = {
    "faces": "No face was found in this photo.",
    "subject": "No subject was found in this photo.",
    "background": "No subject was found in this photo, so it has no background either.",
}
"""What is said if there is no such mask."""
NO_DRAWING = "Nothing is drawn on this photo yet; draw on it, or choose another part."


def check_masks(options: Options, given: Collection[str]) -> None:
    """Refuse every mask but the built-in ones and those that a visitor gives: a name could be that of a file.

    Args:
        options: those of a visitor.
        given: the names of the masks that came with them.

    Raises:
        OptionError: there is no such mask, or a label picture is named.
    """
    known = (*given, *BUILT_IN_MASKS)
    protected = [parse_protection(text).mask for text in options.protect]
    for mask in (*protected, *options.regions):
        if mask not in known and (mask, options.protect) != (NOTHING, (NOTHING,)):
            raise OptionError(f"There is no mask {quote_name(mask)}; a mask is {', '.join(known)}.")
    if options.labels:
        raise OptionError(f"labels is {quote_name(options.labels)}, but no label picture can be used here; omit it.")


def drop_file_masks(options: Options) -> Options:
    """Return the defaults of a server without masks that belong to one photo only: files, labels and regions."""
    named = (*BUILT_IN_MASKS, NOTHING)
    protect = tuple(text for text in options.protect if parse_protection(text).mask in named)
    return options.replace(protect=protect, regions=(), labels="")


def settle_chips(before: Collection[str], chips: Sequence[str]) -> list[str]:
    """Return what is chosen after a click: `none` and everything else exclude each other, and the click counts.

    Args:
        before: what was chosen before the click.
        chips: what seems to be chosen.
    """
    if NOTHING in chips and NOTHING not in before:
        return [NOTHING]
    return [chip for chip in chips if chip != NOTHING or len(chips) == 1]


def list_protections(chips: Sequence[str], amount: float) -> tuple[str, ...]:
    """Return the option `protect` for what is chosen; nothing chosen means faces, gently."""
    return (NOTHING,) if NOTHING in chips else tuple(f"{chip}={amount:g}" for chip in chips)


def chips_from_options(options: Options) -> tuple[list[str], float, str]:
    """Return what is chosen to protect, the amount, and the region, for options as `adopt_areas` leaves them."""
    protections = [parse_protection(text) for text in options.protect]
    amount = max((each.amount for each in protections if each.mask != NOTHING), default=DEFAULT_AMOUNT)
    return [each.mask for each in protections], amount, options.regions[0] if options.regions else WHOLE


def add_areas(
    request: PaintRequest,
    drawing: Upload | None,
    chips: Sequence[str] | None,
    amount: float | None,
    region: str | None,
    style: str | None,
    own_style: Sequence[Upload] | None,
) -> PaintRequest:
    """Return a request that also says what is protected and which part takes another painting.

    Args:
        request: without these.
        drawing: what the visitor drew on its photo.
        chips: the names in `CHIPS` that are chosen.
        amount: how much of the photo stays there, from 0 to 100.
        region: one of `REGIONS`.
        style: the bundled painting of the region.
        own_style: an uploaded painting for it, which takes precedence.

    Raises:
        UsageError: the region has no painting, or nothing was drawn.
        OptionError: the amount is out of range.
    """
    chips, region = chips or (), region or WHOLE
    options = request.options.replace(
        protect=list_protections(chips, DEFAULT_AMOUNT if amount is None else float(amount))
    )
    styles = request.styles
    if region != WHOLE:
        if not own_style and not style:
            raise UsageError(f"Choose the other painting for {WORDS.get(region, region)}, or upload one.")
        styles = (*styles, own_style[0] if own_style else Upload.from_path(library.list_styles()[str(style)]))
        options = options.replace(regions=(region,))
    if DRAWN not in (*chips, region):
        return replace(request, options=options, styles=styles)
    if drawing is None:
        raise UsageError(NO_DRAWING)
    return replace(request, options=options, styles=styles, masks={DRAWN: drawing})


def adopt_areas(recorded: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return what can be set on the page of the recorded options of parts, and a sentence on what cannot.

    Args:
        recorded: the options of a picture.
    """
    protections = [parse_protection(text) for text in recorded["protect"]]
    known = [each for each in protections if each.mask in (*BUILT_IN_MASKS, NOTHING)]
    regions, notes = tuple(recorded["regions"]), []
    if len(known) < len(protections):
        notes.append("A part was protected by a mask that is not stored; draw it again.")
    if len({each.amount for each in known}) > 1:
        notes.append("Its parts were protected by different amounts; the largest is set for all.")
    kept = regions if len(regions) == 1 and regions[0] in BUILT_IN_MASKS and regions[0] in REGIONS else ()
    if kept:
        notes.append(f"Choose the other painting for {WORDS[kept[0]]} again, too.")
    elif regions:
        notes.append(f"Its other paintings for {join_words(regions)} cannot be set; choose a part again.")
    protect = tuple(each.mask if each.mask == NOTHING else f"{each.mask}={each.amount:g}" for each in known)
    return {"protect": protect, "regions": kept, "labels": "", "style_weights": tuple(recorded["style_weights"])}, notes


def join_words(masks: Iterable[str]) -> str:
    """Return the names of masks as part of a sentence: `faces and the subject`."""
    *most, last = [WORDS.get(mask, mask) for mask in masks]
    return f"{', '.join(most)} and {last}" if most else last


def describe_styles(request: PaintRequest) -> str:
    """Return the paintings of a request, each region's with its part: `woodcut · mosaic for the background`."""
    regions = request.options.regions
    first = len(request.styles) - len(regions)
    blended = " + ".join(style.stem for style in request.styles[:first])
    others = zip(request.styles[first:], regions, strict=True)
    return " · ".join([blended, *(f"{style.stem} for {WORDS.get(mask, mask)}" for style, mask in others)])


def describe_protection(record: Record) -> str:
    """Return what was protected in a picture, such as `faces and the subject kept at 70`; empty if nothing was."""
    found = [entry["name"] for entry in record["masks"]]
    protections = [parse_protection(text) for text in record["options"]["protect"]]
    if not protections:
        return "faces gently kept" if "faces" in found and "faces" not in record["options"]["regions"] else ""
    amounts: dict[float, list[str]] = {}
    for each in protections:
        if each.mask in found and each.amount > 0:
            amounts.setdefault(each.amount, []).append(each.mask)
    return ", ".join(f"{join_words(masks)} kept at {amount:g}" for amount, masks in amounts.items())


def forget_drawing(chips: Sequence[str], region: str) -> tuple[list[str], str]:
    """Return what is chosen when there is another photo, on which nothing is drawn yet."""
    return [chip for chip in chips if chip != DRAWN], WHOLE if region == DRAWN else region


def shrink_mask(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Return a mask (H, W) in [0, 1] as it is shown: in 0 to 255, with a long side of at most `SHOWN_MASK_SIDE`."""
    mask = Image.fromarray((values * 255).round().astype(np.uint8))
    mask.thumbnail((SHOWN_MASK_SIDE, SHOWN_MASK_SIDE), Image.Resampling.BILINEAR)
    return np.asarray(mask)
