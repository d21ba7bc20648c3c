"""Turns options that name masks into the areas of one photo."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from styler import library
from styler.borders import Box
from styler.errors import OptionError, quote_name
from styler.images import Picture, read_image
from styler.options import Options
from styler.regions import specs
from styler.regions.areas import Areas, normalize_regions
from styler.regions.read import MaskInput, read_array, read_label, read_mask

GENTLE = 50.0
"""How much of the photo stays in faces, from 0 to 100, unless `protect` says otherwise."""
UNPROTECTED_LOOKS = ("gatys", "gram")
"""Looks that reproduce a method: faces are protected only on request."""
MIN_OVERLAP = 0.01
"""Share of the photo in which two regions may overlap before that is worth a warning."""
MIN_COVERAGE = 1e-4
"""A region that has less of the photo than this is left out."""

ReadMaskPicture = Callable[[str], Picture]
"""Reads the picture at a path."""


class Finder(Protocol):
    """Finds the built-in masks of a photo: `find.MaskFinder`, or a substitute in tests."""

    def subject(self, photo: Tensor, digest: str = "") -> Tensor | None:
        """Return the mask of the subject, (1, 1, H, W); None if there is none."""

    def background(self, photo: Tensor, digest: str = "") -> Tensor | None:
        """Return the mask of the background, (1, 1, H, W); None if there is no subject."""

    def faces(self, photo: Tensor, digest: str = "") -> Tensor | None:
        """Return the mask of all faces, (1, 1, H, W); None if there is none."""

    def get_network(self, name: str) -> tuple[str, str]:
        """Return the name and the SHA-256 of the network that finds a mask."""


@dataclass(frozen=True, slots=True)
class MaskEntry:
    """What a record says about one mask."""

    name: str
    """As it was given; the name of a file, too."""
    kind: str
    """`given` by a program, `found` by a network, `label` or `file`."""
    sha256: str
    """Of its values at the photo's size in 8 bits, row by row."""
    coverage: float
    """Share of the photo, or of the part of it that is painted, from 0 to 1."""
    network: str = ""
    """Name of the network that found it."""
    network_sha256: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ResolvedAreas:
    """The areas of one photo, and what is to be said about them."""

    areas: Areas | None
    """None if the whole photo takes all styles and nothing is protected."""
    warnings: tuple[str, ...] = ()
    entries: tuple[MaskEntry, ...] = ()
    """One for each mask that is used, in the order of the options."""


@dataclass(slots=True, eq=False)
class MaskSource:
    """Where the masks of one photo come from: a program, networks, a label picture, files."""

    photo: Tensor
    digest: str
    given: Mapping[str, MaskInput]
    finder: Finder
    labels: str
    read: ReadMaskPicture
    part: Box
    """Where the part is that is painted, in pixels of the photo."""
    entries: dict[str, MaskEntry] = field(default_factory=dict)
    _loaded: dict[str, Tensor | None] = field(default_factory=dict)
    _label_picture: Picture | None = None

    def load(self, name: str) -> Tensor | None:
        """Return a mask of the part by its name, (1, 1, h, w) in [0, 1] on the CPU; None if nothing was found.

        Raises:
            OptionError: there is no such mask.
            ImageError: its picture cannot be read or used.
        """
        if name not in self._loaded:
            kind, mask = self._load(name)
            if mask is not None:
                cropped = mask[..., self.part.top : self.part.bottom, self.part.left : self.part.right].contiguous()
                self.entries[name] = self._describe(name, kind, mask, float(cropped.mean()))
                mask = cropped
            self._loaded[name] = mask
        return self._loaded[name]

    def _load(self, name: str) -> tuple[str, Tensor | None]:
        height, width = self.photo.shape[-2:]
        if (mask := self.given.get(name)) is not None:
            if isinstance(mask, Picture):
                return "file", read_mask(mask, name, width, height)
            return "given", read_array(mask, name, width, height)
        if name in specs.BUILT_IN_MASKS:
            find: Callable[[Tensor, str], Tensor | None] = getattr(self.finder, name)
            return "found", find(self.photo, self.digest)
        if specs.is_color(name) and self.labels:
            if self._label_picture is None:
                given = self.given.get(self.labels)
                self._label_picture = given if isinstance(given, Picture) else self.read(library.find_file(self.labels))
            return "label", read_label(self._label_picture, self.labels, name, width, height)
        path = library.find_file(name)
        if not specs.is_file_name(path):
            raise OptionError(specs.explain_missing_mask(name, self.given))
        return "file", read_mask(self.read(path), name, width, height)

    def _describe(self, name: str, kind: str, mask: Tensor, coverage: float) -> MaskEntry:
        values = (mask * 255).round().to(torch.uint8)  # (1, 1, H, W)
        digest = hashlib.sha256(values.numpy().tobytes()).hexdigest()
        network = self.finder.get_network(name) if kind == "found" else ("", "")
        return MaskEntry(name, kind, digest, coverage, *network)


def resolve_areas(
    options: Options,
    photo: Tensor,
    digest: str,
    style_count: int,
    masks: Mapping[str, MaskInput] | None,
    finder: Finder,
    read: ReadMaskPicture = read_image,
    part: Box | None = None,
) -> ResolvedAreas:
    """Return the areas of a photo that the options describe.

    Args:
        options: `protect`, `regions`, `labels`, `look` and `strength` are used.
        photo: sRGB in [0, 1], (1, 3, H, W).
        digest: identifies the photo, for the cache of the finder.
        style_count: number of paintings.
        masks: those that a program gives, by name: arrays, or pictures that have been read, also that of the labels;
            they take precedence over all others.
        finder: finds `subject`, `background` and `faces`.
        read: reads mask and label pictures.
        part: where the part is that is painted, in pixels of the photo; masks are those of the whole photo.

    Raises:
        UsageError: no painting is left for the rest of the photo, or there is no such mask.
        ImageError: a mask cannot be read, is empty, or has other proportions than the photo.
        WeightsError: a network is missing or damaged.
    """
    specs.check_style_count(options.regions, style_count)
    part = part or Box(0, 0, photo.shape[-1], photo.shape[-2])
    source = MaskSource(photo, digest, masks or {}, finder, options.labels, read, part)
    warnings: list[str] = []
    protection = _protect(options, source, warnings)
    regions, styles = _divide(options.regions, source, style_count, warnings)
    if protection is None and not options.regions:
        return ResolvedAreas(None, tuple(warnings), tuple(source.entries.values()))
    areas = Areas.of(regions, styles, protection)
    return ResolvedAreas(areas, tuple(warnings), tuple(source.entries.values()))


def _protect(options: Options, source: MaskSource, warnings: list[str]) -> Tensor | None:
    """Return how much of the photo is kept, (1, 1, H, W): the maximum of all protections; None for nothing."""
    if not options.protect:
        if options.strength == 0 or options.look in UNPROTECTED_LOOKS:
            return None
        mask = source.load("faces")
        return None if mask is None else mask * (GENTLE / 100)
    if options.protect == (specs.NOTHING,):
        return None
    kept: Tensor | None = None
    for text in options.protect:
        protection = specs.parse_protection(text)
        mask = source.load(protection.mask)
        if mask is None:
            nothing = "nothing is protected" if len(options.protect) == 1 else "nothing is protected by it"
            warnings.append(f"{_describe_absence(protection.mask)}; {nothing}.")
        elif protection.amount > 0:
            share = mask * (protection.amount / 100)  # (1, 1, H, W)
            kept = share if kept is None else torch.maximum(kept, share)
    return kept


def _divide(
    names: Sequence[str], source: MaskSource, style_count: int, warnings: list[str]
) -> tuple[Tensor, tuple[tuple[int, ...], ...]]:
    """Return the regions (1, R, H, W), the rest of the photo first, and the styles of each.

    Regions that have no part of the photo are left out, and so is the rest if the others cover everything.
    """
    first = style_count - len(names)
    masks, styles = [], [tuple(range(first))]
    for index, name in enumerate(names, start=first):
        mask = source.load(name)
        if mask is None:
            warnings.append(f"{_describe_absence(name)}; its painting is not used.")
        else:
            masks.append(mask)
            styles.append((index,))
    if not masks:
        shape = source.part.bottom - source.part.top, source.part.right - source.part.left
        return torch.ones(1, 1, *shape, dtype=torch.float32), tuple(styles)
    if float((torch.stack(masks).sum(dim=0) - 1).clamp(min=0).mean()) > MIN_OVERLAP:
        warnings.append("Regions overlap; where they do, each painting gets its share.")
    regions = normalize_regions(masks)  # (1, R, H, W)
    is_used = (regions.mean(dim=(0, 2, 3)) >= MIN_COVERAGE).tolist()
    if not is_used[0]:
        warnings.append("The regions cover the whole photo; the painting for the rest is not used.")
    if not all(is_used):
        regions = regions[:, torch.tensor(is_used)]
        regions[:, 0] += 1 - regions.sum(dim=1)  # what the others had goes to the first, so that the sum is 1 again
        styles = [each for each, used in zip(styles, is_used, strict=True) if used]
    return regions, tuple(styles)


def _describe_absence(name: str) -> str:
    if name == "faces":
        return "No face was found in the photo"
    return f"No subject was found in the photo, and so no mask {quote_name(name)}"
