"""The notation of masks: `MASK` or `MASK=AMOUNT` for what is protected, `MASK=STYLE` for a region.

A mask is a name that a program gives, one of `BUILT_IN_MASKS`, the color `#rrggbb` of a label picture, or a picture
file. Since names of files may contain `=`, the last one that makes sense counts. Reads no file, and does without
PyTorch.
"""

import difflib
import itertools
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from styler.errors import OptionError, UsageError, quote_name

BUILT_IN_MASKS = MappingProxyType(
    {
        "subject": "what stands out: a person, an animal, a thing",
        "background": "everything but the subject",
        "faces": "the faces of people",
    }
)
"""The masks that styler finds itself, by name, with what each shows."""
NOTHING = "none"
"""Protects nothing, not even faces."""
DEFAULT_AMOUNT = 70.0
"""How much of the photo stays where it is protected, from 0 to 100."""
MASK_CHOICES = f"{', '.join(BUILT_IN_MASKS)}, a picture file, or a color such as #ff0000 of the label picture"
MAX_STEM, MAX_SUFFIX = 100, 20
"""Characters of the name of a file that `make_plain_names` keeps."""

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?(nan|inf)", re.ASCII | re.IGNORECASE)
_COLOR = re.compile("#[0-9a-f]{6}", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Protection:
    """A part of the photo that is kept."""

    mask: str
    amount: float = DEFAULT_AMOUNT
    """How much of the photo stays there, from 0 to 100."""


def parse_protection(text: str) -> Protection:
    """Parse `MASK` or `MASK=AMOUNT`: a number after the last `=` is the amount.

    Without a number there, the whole text is the name of a file, unless what is before the `=` is a mask without doubt.

    Raises:
        OptionError: the mask is missing, or the amount is not a number from 0 to 100.
    """
    mask, equals, tail = (part.strip() for part in text.rpartition("="))
    if not equals:
        return Protection(_check_mask("protect", text, text.strip()))
    if (percent := tail.removesuffix("%").strip()) != tail and _NUMBER.fullmatch(percent):
        raise OptionError(f"protect has {quote_name(text)}; write it without the percent sign, {mask}={percent}.")
    if _NUMBER.fullmatch(tail):
        if not 0 <= float(tail) <= 100:  # false for NaN, too
            raise OptionError(f"protect has {quote_name(text)}: the amount is {tail}; it can be 0 to 100.")
        return Protection(_check_mask("protect", text, mask), float(tail))
    if not tail or mask in (*BUILT_IN_MASKS, NOTHING) or is_color(mask):
        raise OptionError(f"protect has {quote_name(text)}: the amount is {quote_name(tail)}; it can be 0 to 100.")
    return Protection(_check_mask("protect", text, text.strip()))


def format_protection(mask: str, amount: float) -> str:
    """Return the text that `parse_protection` turns into a mask and an amount."""
    if parse_protection(mask) == Protection(mask, amount):
        return mask
    return f"{mask}={repr(float(amount)).removesuffix('.0')}"


def parse_region(text: str, is_style: Callable[[str], bool], names: Collection[str] = ()) -> tuple[str, str]:
    """Parse `MASK=STYLE`, and return both.

    Of all places where the text can be divided at a `=`, the last counts at which both parts exist; if there is none,
    the last at which the mask exists; else the last at which the style does; else the first at which neither is empty.

    Args:
        is_style: whether there is a painting, bundled or a file, of a name.
        names: of masks that a program gives.

    Raises:
        OptionError: a part is missing.
    """
    places = [place for place, character in enumerate(text) if character == "="]
    pairs = [(text[:place].strip(), text[place + 1 :].strip()) for place in places]
    pairs = [(mask, style) for mask, style in pairs if mask and style]
    if not pairs:
        raise OptionError(f"The region is {quote_name(text)}; write MASK=STYLE, such as subject=woodcut.")
    known = [pair for pair in pairs if pair[0] in names or _is_mask(pair[0])]
    complete = [pair for pair in known if is_style(pair[1])]
    return (complete or known or [pair for pair in pairs if is_style(pair[1])] or pairs[:1])[-1]


def check_protections(texts: Iterable[str], labels: str) -> None:
    """Check what is protected as far as that is possible without the photo.

    Args:
        texts: each `MASK` or `MASK=AMOUNT`.
        labels: name of the label picture; empty if there is none.

    Raises:
        OptionError: one is malformed, or they contradict each other.
    """
    texts = [*texts]
    masks = [parse_protection(text).mask for text in texts]
    if NOTHING in masks and texts != [NOTHING]:
        raise OptionError(f"protect is {','.join(texts)}, but none stands alone; omit it or everything else.")
    _check_labels("protect", masks, labels)


def check_regions(masks: Iterable[str], labels: str) -> None:
    """Check the masks of regions like `check_protections`.

    Raises:
        OptionError: one is malformed or given twice.
    """
    masks = [*masks]
    for mask in masks:
        _check_mask("regions", mask, mask.strip())
        if mask == NOTHING:
            raise OptionError(f"regions has '{NOTHING}', which is no mask; a mask is {MASK_CHOICES}.")
        if masks.count(mask) > 1:
            raise OptionError(f"regions has {quote_name(mask)} twice; give each mask one style.")
    _check_labels("regions", masks, labels)


def check_style_count(masks: Collection[str], style_count: int) -> None:
    """Check that a painting is left for the rest of the photo.

    Args:
        masks: of regions.
        style_count: number of paintings.

    Raises:
        UsageError: the regions take them all.
    """
    if masks and len(masks) >= style_count:
        needed = "one painting" if len(masks) == 1 else f"{len(masks)} paintings"
        raise UsageError(
            f"The regions take {needed} of {style_count}, which leaves none for the rest of the photo; give one more "
            "painting, before theirs."
        )


def list_mask_files(protect: Iterable[str] = (), regions: Iterable[str] = (), labels: str = "") -> list[str]:
    """Return the masks that are files or given by a program, and the label picture, each once.

    Args:
        protect: each `MASK` or `MASK=AMOUNT`, like all arguments as in the options.
        regions: masks of regions.
        labels: the label picture; empty if there is none.
    """
    masks = [*(parse_protection(text).mask for text in protect), *regions]
    names = [mask for mask in masks if mask not in (*BUILT_IN_MASKS, NOTHING) and not is_color(mask)]
    return [*dict.fromkeys([*names, *([labels] if labels else [])])]


def rename_masks(
    names: Mapping[str, str], protect: Iterable[str], regions: Iterable[str], labels: str
) -> dict[str, Any]:
    """Return the options that name masks with some names replaced.

    Args:
        names: the new names by the old ones.
        protect: as in `list_mask_files`, like the others.
    """
    protections = [(text, parse_protection(text)) for text in protect]
    return {
        "protect": tuple(
            format_protection(names[each.mask], each.amount) if each.mask in names else text
            for text, each in protections
        ),
        "regions": tuple(names.get(mask, mask) for mask in regions),
        "labels": names.get(labels, labels),
    }


def make_plain_names(names: Iterable[str]) -> dict[str, str]:
    """Return names of files without their folders, short, printable and different from each other, by the names."""
    plain: dict[str, str] = {}
    for name in names:
        last = "".join(c if c.isprintable() else "_" for c in re.split(r"[\\/]", name)[-1]).strip() or "mask"
        last = f"./{last}" if last in (*BUILT_IN_MASKS, NOTHING) or last.startswith("#") else last
        stem, suffix = os.path.splitext(last)  # noqa: PTH122 - keeps `./`
        suffix = suffix[:MAX_SUFFIX]
        stem = stem[:MAX_STEM]
        choices = (f"{stem}{'' if number == 1 else f'-{number}'}{suffix}" for number in itertools.count(1))
        plain[name] = next(choice for choice in choices if choice not in plain.values())
    return plain


def has_folder(name: str) -> bool:
    """Return whether a name says in which folder a file is, apart from `./`."""
    return re.search(r"[\\/]", name.removeprefix("./")) is not None


def is_file_name(name: str) -> bool:
    """Return whether a name is that of a file that exists, or can only be meant as one."""
    return os.path.lexists(name) or Path(name).name != name or "." in name


def is_color(mask: str) -> bool:
    """Return whether a mask is a color, `#rrggbb`."""
    return _COLOR.fullmatch(mask) is not None


def parse_color(mask: str) -> tuple[int, int, int]:
    """Return red, green and blue of a color `#rrggbb`, from 0 to 255."""
    red, green, blue = bytes.fromhex(mask.removeprefix("#"))
    return red, green, blue


def explain_missing_mask(name: str, names: Iterable[str]) -> str:
    """Return the sentence about a mask that is neither a name nor a file.

    Args:
        names: of masks that a program gives.
    """
    known = [*names, *BUILT_IN_MASKS]
    close = difflib.get_close_matches(name.lower(), known, 1)
    hint = f" (did you mean {quote_name(close[0])}?)" if close else ""
    return f"There is no mask or file {quote_name(name)}{hint}; a mask is {MASK_CHOICES}."


def explain_missing_name(name: str) -> str:
    """Return the sentence about a name that is not among `BUILT_IN_MASKS`."""
    close = difflib.get_close_matches(name.lower(), BUILT_IN_MASKS, 1)
    hint = f" (did you mean {quote_name(close[0])}?)" if close else ""
    return f"NAME is {quote_name(name)}{hint}; it can be {', '.join(BUILT_IN_MASKS)}."


def _check_mask(option: str, text: str, mask: str) -> str:
    """Return a mask, or raise an error if it is empty or almost a color."""
    if not mask:
        raise OptionError(f"{option} has {quote_name(text)}, which names no mask; a mask is {MASK_CHOICES}.")
    if re.fullmatch("#[0-9a-zA-Z]*", mask) and not is_color(mask):
        raise OptionError(f"{option} has the color {quote_name(mask)}; write it with six hexadecimal digits: #rrggbb.")
    return mask


def _check_labels(option: str, masks: Iterable[str], labels: str) -> None:
    for mask in masks:
        if is_color(mask) and not labels:
            raise OptionError(
                f"{option} has {quote_name(mask)}, a color of the label picture, but there is none; name it with "
                "--labels."
            )


def _is_mask(name: str) -> bool:
    return name in BUILT_IN_MASKS or is_color(name) or os.path.lexists(name)
