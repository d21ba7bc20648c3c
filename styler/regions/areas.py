"""The areas of a photo: a soft mask for each region, and how much of the photo is kept everywhere.

Knows tensors only: no names of masks, no options, no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Areas:
    """Where each painting is used, and how much of the photo is kept, at the photo's size."""

    regions: Tensor
    """Soft masks of the regions, (1, R, H, W) in [0, 1], on the CPU; they sum to 1 everywhere."""
    styles: tuple[tuple[int, ...], ...]
    """The indices of each region's styles among all styles of the painting; every region has at least one."""
    protection: Tensor | None = None
    """How much of the photo is kept, (1, 1, H, W) in [0, 1], on the CPU; None where nothing is protected."""
    digest: str = field(default="")
    """Identifies the areas by their values."""


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
