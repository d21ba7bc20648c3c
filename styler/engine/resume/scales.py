"""Scales that are painted once and used again by other paintings, since everything that determines them is the same.

Knows images, losses, targets and the states of an optimizer; does not know how a scale is painted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from styler.engine.optimizers import LbfgsState
from styler.objective.terms import Targets

MAX_SCALES_BYTES = 32_000_000
"""Memory of the shared scales that a painter keeps: 200 of 128×96 pixels, two for each preview."""
MAX_BEGUN = 4
"""Number of interrupted scales that a painter keeps; the history of each takes up to 6 MB at 128×96 pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class PaintedScale:
    """The end of a scale that was painted to its last iteration."""

    image: Tensor
    """(1, 3, H, W) in [0, 1], on the CPU."""
    losses: dict[str, Tensor]
    """Terms of the image evaluated last, each (), on the CPU."""
    best_losses: dict[str, Tensor]
    """Terms of the image with the lowest total, each (), on the CPU."""

    @classmethod
    def of(cls, image: Tensor, losses: Mapping[str, Tensor], best_losses: Mapping[str, Tensor]) -> "PaintedScale":
        """Copy the end of a scale from its device."""
        terms = [{name: term.cpu() for name, term in each.items()} for each in (losses, best_losses)]
        return cls(image.cpu(), *terms)

    @property
    def bytes(self) -> int:
        """The memory that it takes."""
        return self.image.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class BegunScale:
    """A scale that was interrupted between two iterations of L-BFGS, or before the first one."""

    done: int
    """Iterations made."""
    seconds: float
    """What they took."""
    optimizer: LbfgsState | None
    """None before the first iteration. Must be copied before it is used, since that updates it."""
    targets: dict[tuple[str, tuple[int, int], int], Targets]
    """As in the run. The objective that they belong to remembers nothing of earlier iterations."""
    losses: dict[str, Tensor]
    """As in `PaintedScale`, on the device."""
    best_losses: dict[str, Tensor]
    """As in `PaintedScale`, on the device."""


class ScaleStore(Protocol):
    """Persistent storage of painted scales."""

    def get(self, key: str, device: torch.device) -> PaintedScale | None:
        """Return the scale stored under a key, or None if there is none."""

    def put(self, key: str, device: torch.device, scale: PaintedScale) -> None:
        """Store a scale under a key."""


class ScaleCache:
    """A cache of painted scales by everything that determines their pixels; the least recently used are dropped first.

    Also keeps the most recently interrupted scales, in memory only, for other paintings to resume.

    Threads may share it: every access to its dictionary is a single operation.

    Args:
        store: where scales are looked up that are not in memory, and stored.
        max_bytes: limit on the memory.
    """

    def __init__(self, store: ScaleStore | None = None, max_bytes: int = MAX_SCALES_BYTES) -> None:
        self._scales: dict[str, PaintedScale] = {}
        self._begun: dict[str, BegunScale] = {}
        self._store = store
        self._max_bytes = max_bytes

    @property
    def bytes(self) -> int:
        """The memory that the scales take."""
        return sum(scale.bytes for scale in [*self._scales.values()])

    def get(self, key: str, device: torch.device) -> PaintedScale | None:
        """Return the scale with a key, or None if there is none."""
        scale = self._scales.pop(key, None)
        if scale is None and self._store:
            scale = self._store.get(key, device)
        if scale is not None:
            self._keep(key, scale)
        return scale

    def put(self, key: str, device: torch.device, scale: PaintedScale) -> None:
        """Keep a scale under a key, and store it."""
        self._begun.pop(key, None)
        self._keep(key, scale)
        if self._store:
            self._store.put(key, device, scale)

    def get_begun(self, key: str) -> BegunScale | None:
        """Return the interrupted scale with a key, or None if there is none."""
        return self._begun.get(key)

    def put_begun(self, key: str, scale: BegunScale) -> None:
        """Keep an interrupted scale under a key."""
        self._begun.pop(key, None)
        self._begun[key] = scale  # the last is the most recent
        for oldest in [*self._begun][:-MAX_BEGUN]:
            self._begun.pop(oldest, None)

    def _keep(self, key: str, scale: PaintedScale) -> None:
        self._scales[key] = scale  # the last is the most recently used
        excess = self.bytes - self._max_bytes
        for oldest, dropped in [*self._scales.items()][:-1]:
            if excess > 0:
                excess -= dropped.bytes
                self._scales.pop(oldest, None)
