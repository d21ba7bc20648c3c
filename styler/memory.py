"""Will a picture fit? An estimate from the network's table, and what to advise when it does not.

Does not allocate anything.
"""

import math

import torch

from styler import devices
from styler.errors import OutOfMemory
from styler.vgg import arch
from styler.vgg.model import Features

OVERHEAD = 1.15
"""Measured peak over the estimate of the activations: convolutions have workspaces, allocators round up."""
FIXED_BYTES = 300e6
"""Network, statistics, eigenvalues and the rest, whatever the size of the picture."""
USABLE = 0.9
"""Share of the free memory that may be planned with."""

PLENTY = 2.0
"""Free memory over the estimate: what is kept at hand is cut up, and was measured at up to 1.4 times the estimate."""


def estimate(features: Features, size: tuple[int, int], *, checkpoint: bool) -> float:
    """Peak memory in bytes of one evaluation at `size` (width, height)."""
    pixels = size[0] * size[1]
    activations = arch.estimate_activation_bytes(
        features.network, features.layers, pixels, checkpoint=checkpoint, widths=features.widths
    )
    half = 1.0 if features.precision is torch.float32 else 0.75  # statistics and losses stay in float32
    return FIXED_BYTES + OVERHEAD * half * activations


def needs_checkpoint(features: Features, size: tuple[int, int], wanted: str, device: torch.device) -> bool:
    """Decide on activation checkpointing: `on`, `off`, or `auto` by the memory there is.

    Raises:
        OutOfMemory: the picture cannot fit either way; the sentence names the size that would.
    """
    free, needed = USABLE * devices.free_memory(device), estimate(features, size, checkpoint=False)
    if needed > free:  # what earlier pictures had may still be at hand, which is not free for the system
        devices.release(device)
        free = USABLE * devices.free_memory(device)
    if wanted != "on" and needed <= free:
        return False
    if wanted != "off" and estimate(features, size, checkpoint=True) <= free:
        return True
    raise OutOfMemory(advice(features, size, device, checkpoint=wanted != "off"))


def is_plentiful(features: Features, size: tuple[int, int], device: torch.device) -> bool:
    """Whether a picture leaves so much room that memory need not be returned between two evaluations."""
    return PLENTY * estimate(features, size, checkpoint=False) <= USABLE * devices.free_memory(device)


def largest_side(features: Features, size: tuple[int, int], device: torch.device, *, checkpoint: bool = True) -> int:
    """The longest side, in steps of 32 pixels, of a picture in the proportion of `size` that fits."""
    free = USABLE * devices.free_memory(device) - FIXED_BYTES
    needed = estimate(features, size, checkpoint=checkpoint) - FIXED_BYTES
    return max(0, int(max(size) * math.sqrt(max(0.0, free) / needed)) // 32 * 32)


def advice(features: Features, size: tuple[int, int], device: torch.device, *, checkpoint: bool = True) -> str:
    """The sentence for a picture that does not fit.

    The size it names is well below the one that failed, even if memory is free again by now.
    """
    needed = estimate(features, size, checkpoint=checkpoint)
    side = min(largest_side(features, size, device, checkpoint=checkpoint), max(size) * 3 // 4 // 32 * 32)
    way = f"take --size {side}" if side >= 64 else "close other programs"
    more = "" if checkpoint else ", or let --checkpoint be auto"
    return (
        f"A picture of {size[0]}×{size[1]} needs about {needed / 1e9:.1f} GB, but {device} has "
        f"{devices.free_memory(device) / 1e9:.1f} GB free; {way}{more}."
    )
