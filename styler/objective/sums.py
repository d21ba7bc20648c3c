"""Statistics of style that are added up over the tiles of a picture, and their gradients divided among the tiles.

Knows tensors only: no network, no options, no files.
"""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from styler.objective.moments import Moments

StyleParts = dict[tuple[str, int], Moments | Tensor]
"""What the distances of style are computed from, by layer and region: the statistics, or the features themselves where
there are fewer positions than channels."""


class StyleSums:
    """The parts of all tiles, which are to be added in order."""

    def __init__(self) -> None:
        self.moments: dict[tuple[str, int], Moments] = {}
        self._features: dict[tuple[str, int], list[Tensor]] = {}

    def add(self, parts: StyleParts) -> None:
        """Add the parts of the next tile, without a graph."""
        for key, part in parts.items():
            if not isinstance(part, Moments):
                self._features.setdefault(key, []).append(line_up(part))
            elif key in self.moments:
                before = self.moments[key]
                self.moments[key] = Moments(before.mean + part.mean, before.second + part.second)
            else:
                self.moments[key] = part

    def join(self) -> StyleParts:
        """Return the parts of the whole picture, of which gradients can be taken."""
        whole: StyleParts = {
            key: Moments(*(each.requires_grad_() for each in moments)) for key, moments in self.moments.items()
        }
        return whole | {key: torch.cat(each, dim=-1).requires_grad_() for key, each in self._features.items()}

    def divide(self, whole: StyleParts, slopes: Iterable[Tensor | None]) -> "StyleSlopes":
        """Return the gradients for each tile, given those of `list_tensors` of the whole picture, None for zeros."""
        left, found = iter(slopes), {}
        for key, part in whole.items():
            tensors = list_tensors(part)
            pairs = zip(tensors, itertools.islice(left, len(tensors)), strict=True)
            own = [torch.zeros_like(each) if slope is None else slope for each, slope in pairs]
            sizes = [each.shape[-1] for each in self._features.get(key, [])]
            found[key] = iter(torch.split(own[0], sizes, dim=-1)) if sizes else itertools.cycle(own)
        return StyleSlopes(found)


class StyleSlopes(NamedTuple):
    """The gradients of the parts of all tiles, which are to be taken in order."""

    by_part: dict[tuple[str, int], Iterator[Tensor]]

    def pair(self, parts: StyleParts) -> list[tuple[Tensor, Tensor]]:
        """Return the tensors of the next tile, each with its gradient."""
        return [(each, next(self.by_part[key])) for key, part in parts.items() for each in list_tensors(part)]


def list_tensors(part: Moments | Tensor) -> list[Tensor]:
    """Return the tensors of a part."""
    return [*part] if isinstance(part, Moments) else [line_up(part)]


def line_up(features: Tensor) -> Tensor:
    """Return features (1, C, H, W) with all positions in one row, (1, C, 1, N); themselves if they are."""
    return features if features.shape[-2] == 1 else features.flatten(2)[:, :, None]
