"""The areas of a photo: a soft mask for each region, and how much of the photo is kept everywhere.

Knows tensors only: no names of masks, no options, no files.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from styler.resample import resize

FEATHER = 1 / 100
"""Radius of the blur of all masks, as a share of the picture's long side: brush strokes cross a border softly."""
FIRST_HELD = 0.85
"""Protection from which pixels are held to the photo's; at 1 they are the photo's."""


@dataclass(frozen=True, slots=True, eq=False)
class Areas:
    """Where each painting is used, and how much of the photo is kept."""

    regions: Tensor
    """Soft masks of the regions, (1, R, H, W) in [0, 1], on the CPU; they sum to 1 everywhere."""
    styles: tuple[tuple[int, ...], ...]
    """The indices of each region's styles among all styles of the painting; every region has at least one."""
    protection: Tensor | None = None
    """How much of the photo is kept, (1, 1, H, W) in [0, 1], on the CPU; None where nothing is protected."""
    digest: str = ""
    """Identifies the areas by their values and styles, at the photo's size."""

    @classmethod
    def of(cls, regions: Tensor, styles: Sequence[Sequence[int]], protection: Tensor | None = None) -> "Areas":
        """Make areas with the digest of their values."""
        digest = hashlib.blake2b(digest_size=16)
        chosen = tuple(tuple(each) for each in styles)
        for part in (regions, protection):
            if part is not None:
                digest.update(repr(tuple(part.shape)).encode() + part.contiguous().numpy().tobytes())
        digest.update(repr(chosen).encode())
        return cls(regions, chosen, protection, digest.hexdigest())

    def fit(self, width: int, height: int) -> "Areas":
        """Return the areas at a size, with feathered borders."""
        regions = _feather(resize(self.regions, width, height))  # (1, R, height, width)
        regions = regions / regions.sum(dim=1, keepdim=True).clamp(min=1e-6)
        protection = None if self.protection is None else _feather(resize(self.protection, width, height))
        return Areas(regions, self.styles, protection, self.digest)


def normalize_regions(masks: Sequence[Tensor]) -> Tensor:
    """Return masks that sum to 1 everywhere, (1, R + 1, H, W), given those of all regions but the first.

    The first region is what the others leave. Where others overlap, each gets its share.

    Args:
        masks: of the other regions, each (1, 1, H, W) in [0, 1].
    """
    others = torch.cat([*masks], dim=1)  # (1, R, H, W)
    total = others.sum(dim=1, keepdim=True)
    others = others / total.clamp(min=1)
    return torch.cat([(1 - others.sum(dim=1, keepdim=True)).clamp(0, 1), others], dim=1)


def compute_hold(protection: Tensor) -> Tensor:
    """Return how far pixels are held to the photo's, of the same shape: 0 up to `FIRST_HELD`, 1 at 1, smooth between.

    The curve is the cubic whose slope is 0 at both ends.
    """
    share = ((protection - FIRST_HELD) / (1 - FIRST_HELD)).clamp(0, 1)
    return share * share * (3 - 2 * share)


def _feather(masks: Tensor) -> Tensor:
    """Blur masks (1, R, H, W) by two means over squares, which together weigh like a tent."""
    radius = round(FEATHER * max(masks.shape[-2:]) / 2)
    if not radius:
        return masks
    for _ in range(2):
        padded = F.pad(masks, [radius] * 4, mode="replicate")
        masks = F.avg_pool2d(padded, 2 * radius + 1, 1)  # (1, R, H, W)
    return masks
