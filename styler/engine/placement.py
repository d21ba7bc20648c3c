"""The areas of one scale: where each painting counts in each layer, and how much of the photo is kept there.

Knows masks as tensors and the strides of the network; does not know images, targets or optimizers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from styler.engine.styles import Blend
from styler.objective.matching import MatchedRegions
from styler.objective.parts import EROSION, Layout, make_layouts, reduce_masks
from styler.objective.terms import Hold
from styler.objective.tiles import Tile
from styler.regions.areas import Areas, compute_hold
from styler.vgg.arch import Conv

LEAST_SHARE = 1e-4
"""Share of the picture below which a region is left out."""
STYLE_RELEASE, STYLE_EXPONENT = 0.9, 2.0
"""Share of their weight in the statistics of style that fully protected positions lose; it grows with this power of
the protection."""
CONTENT_PROTECTION = 20.0
"""Weight that full protection adds to the content layers together, as a multiple of the content weight."""
PROTECTED_LAYERS = {"relu2_1": 3.0, "relu3_1": 10.0}
"""Finer layers whose content counts where the photo is protected, and their weights at full protection, likewise."""
CONTENT_EXPONENT = 4.0
"""Power of the protection with which these weights grow: half of it leaves room for paint, most of it does not."""
STROKES_EXPONENT = 1.4
"""Power of the protection that is the share of the content in matched features. Of all, this keeps a face most."""


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """The areas of a scale."""

    regions: Tensor
    """Masks of the regions that are seen at this scale, (1, R, H, W), on the CPU."""
    styles: tuple[Mapping[int, float], ...]
    """Shares of each region's styles, by their index in the blend."""
    protection: Tensor | None
    """(1, 1, H, W), on the CPU, or None."""

    @classmethod
    def of(cls, areas: Areas, blend: Blend, size: tuple[int, int]) -> "Placement":
        """Place areas at a size (width, height)."""
        fitted = areas.fit(*size)
        seen = [index for index, mask in enumerate(fitted.regions[0]) if float(mask.mean()) > LEAST_SHARE]
        styles = blend.share_regions(areas)
        return cls(fitted.regions[:, seen], tuple(styles[index] for index in seen), fitted.protection)

    @property
    def painted(self) -> Tensor:
        """The weight of every pixel in the statistics of each region, (1, R, H, W)."""
        if self.protection is None:
            return self.regions
        return self.regions * _release_style(self.protection)

    @property
    def shares(self) -> tuple[float, ...]:
        """Each region's share of the picture, without what is protected."""
        return tuple(self.painted.mean(dim=(0, 2, 3)).tolist())

    @property
    def released(self) -> Tensor:
        """How far the strokes of the styles may replace the content, (1, 1, H, W), or 1 for everywhere entirely."""
        return torch.ones(1, 1, 1, 1) if self.protection is None else 1 - self.protection.pow(STROKES_EXPONENT)

    def share_styles(self, count: int) -> list[float]:
        """Return each style's share of the picture, with the sum 1, for `count` styles."""
        total = sum(self.shares)
        pairs = [*zip(self.shares, self.styles, strict=True)]
        return [sum(share / total * styles.get(index, 0.0) for share, styles in pairs) for index in range(count)]

    def make_layouts(self, conv: Conv, tiles: Sequence[Tile], device: torch.device) -> tuple[Layout, ...]:
        """Return the parts of a layer in each tile of the scale."""
        size = (self.regions.shape[-2] // conv.stride, self.regions.shape[-1] // conv.stride)
        radius = EROSION * conv.receptive_field / 2 / conv.stride
        masks = reduce_masks(self.regions, conv.stride, size, radius)
        if self.protection is not None:
            masks = masks * _release_style(reduce_masks(self.protection, conv.stride, size))
        return make_layouts(masks[0], [tile.reduce(conv.stride) for tile in tiles], device)

    def weigh_content(self, conv: Conv, scales: list[Tensor], weight: float, protected: float) -> Tensor:
        """Return the square roots of the content weights of a layer's positions, (1, 1, h, w).

        Args:
            conv: of the layer.
            scales: by which the weights of each region are multiplied, each ().
            weight: of the layer.
            protected: what full protection adds to it.
        """
        size = (self.regions.shape[-2] // conv.stride, self.regions.shape[-1] // conv.stride)
        masks = reduce_masks(self.regions, conv.stride, size).to(scales[0])
        scale = (masks * torch.stack(scales).view(1, -1, 1, 1)).sum(dim=1, keepdim=True)
        if self.protection is None:
            return (weight * scale).sqrt()
        kept = reduce_masks(self.protection, conv.stride, size).to(scale)
        return (scale * (weight + protected * kept.pow(CONTENT_EXPONENT))).sqrt()

    def make_hold(self, image: Tensor) -> Hold | None:
        """Return how far the pixels of the photo (1, 3, H, W) are held; None if none are."""
        if self.protection is None:
            return None
        amount = compute_hold(self.protection)  # (1, 1, H, W)
        return Hold(image, amount.to(image)) if bool(amount.any()) else None

    def compose(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the image (1, 3, H, W) that has in each region its own part, each of the same size on the CPU."""
        masks = self.regions.unbind(dim=1)
        return torch.stack([mask[:, None] * part for mask, part in zip(masks, parts, strict=True)]).sum(dim=0)

    def match_regions(self, count: int, device: torch.device) -> MatchedRegions:
        """Return what places may take of `count` styles; the areas are placed at the size of the matched layer."""
        region = self.regions[0].argmax(dim=0).flatten()  # (h · w,)
        numbers = [number for number in range(self.regions.shape[1]) if bool((region == number).any())]
        chosen = [self.styles[number] for number in numbers]
        allowed = torch.tensor([[index in styles for index in range(count)] for styles in self.styles])[region]
        return MatchedRegions(
            tuple((region == number).nonzero()[:, 0].to(device) for number in numbers),
            tuple(tuple(styles) for styles in chosen),
            tuple(torch.tensor([*styles.values()], dtype=torch.float32, device=device) for styles in chosen),
            allowed.to(device),
            None if self.protection is None else self.released.to(device),
        )


def _release_style(protection: Tensor) -> Tensor:
    """Return the weights of pixels or positions in the statistics of style, of the same shape."""
    return 1 - STYLE_RELEASE * protection.pow(STYLE_EXPONENT)
