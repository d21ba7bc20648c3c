"""The pooling between two blocks, 2 × 2 of stride 2: as trained, smoother, or each where it serves.

Average pooling paints smoother strokes, without coloured speckle (Gatys, Ecker and Bethge 2015, §5); but the deeper
blocks were trained to see the largest, and by what they see then a picture comes nearer to the painting.
"""

import torch.nn.functional as F
from torch import Tensor

KINDS = ("average", "max", "mixed")
DEFAULT = "mixed"
"""What paints best; the default of `Options`, too."""
SMOOTH_BLOCKS = 2
"""Blocks that `mixed` pools by average; their maps decide how fine a picture's grain is."""


def after(block: int, pooling: str) -> str:
    """What stands after a block, from 1 on: `average` or `max`."""
    if pooling == "mixed":
        return "average" if block <= SMOOTH_BLOCKS else "max"
    return pooling


def pooled(x: Tensor, block: int, pooling: str) -> Tensor:
    """A block's last map (B, C, H, W), pooled, (B, C, H // 2, W // 2)."""
    return F.max_pool2d(x, 2) if after(block, pooling) == "max" else F.avg_pool2d(x, 2)
