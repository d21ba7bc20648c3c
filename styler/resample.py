"""Resizing of image tensors, before a scale and inside the objective."""

import torch
import torch.nn.functional as F
from torch import Tensor

RESIZED_VALUES = 1 << 22
"""Values of an image that `Downsample` handles at once, so that what it makes on the way takes little memory."""


def resize(image: Tensor, width: int, height: int) -> Tensor:
    """Resize an image (1, 3, H, W), bicubic and antialiased, clamped to [0, 1]; the result is on the same device.

    It is computed on the CPU, where every build of PyTorch supports antialiasing.
    """
    if tuple(image.shape[-2:]) == (height, width):
        return image
    return _interpolate(image.float().cpu(), width, height).clamp_(0, 1).to(image.device)


def extract_detail(image: Tensor, before: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Return the detail of an image (1, 3, H, W) at `size` (width, height) that is lost by resizing it to `before`.

    The result is a new tensor, whose memory is used on the way: a large picture has no room for copies.
    """
    if before == size:
        return torch.zeros((*image.shape[:2], size[1], size[0]), dtype=torch.float32)
    left = resize(resize(image, *before), *size)
    return torch.sub(resize(image, *size), left, out=left)


def cut_view(style: Tensor, view: int, limit: int) -> Tensor:
    """Return the part of a style (1, 3, H, W) that one of its views shows, at most `limit` pixels on each side.

    A style that is enlarged for large strokes would take too much memory as a whole: each view shows another quarter of
    it, or the middle of that.
    """
    bounds = []
    for side, half in zip(style.shape[-2:], divmod(view % 4, 2), strict=True):
        length = min(side, limit)
        first = min(max(0, side * (1 + 2 * half) // 4 - length // 2), side - length)
        bounds.append(slice(first, first + length))
    return style[..., bounds[0], bounds[1]]


class Downsample:
    """The same resizing without the clamp, as two matrix products, which every device can do and differentiate.

    Args:
        before: width and height of the input.
        after: width and height of the output.
        device: of the images.
    """

    def __init__(self, before: tuple[int, int], after: tuple[int, int], device: torch.device) -> None:
        self._across, self._down = (_make_resize_matrix(*sides).to(device) for sides in zip(before, after, strict=True))
        self._rows = max(1, RESIZED_VALUES // (3 * before[0]))

    def __call__(self, image: Tensor) -> Tensor:
        """Resize an image (1, 3, H, W) to (1, 3, h, w), part by part."""
        across = self._across.to(image).T
        return torch.cat([down @ image @ across for down in torch.split(self._down.to(image), self._rows)], dim=-2)

    def add_adjoint(self, total: Tensor, gradient: Tensor, weight: float = 1.0) -> Tensor:
        """Map the gradient with respect to the output (1, 3, h, w) to that of the input, and add it to `total`.

        Args:
            total: changed in place, (1, 3, H, W), part by part, and returned.
            gradient: with respect to the output.
            weight: factor of what is added.
        """
        across = self._across.to(gradient)
        parts = torch.split(self._down.to(gradient).T, self._rows), torch.split(total, self._rows, dim=-2)
        for down, part in zip(*parts, strict=True):
            part.add_((down @ gradient @ across).mul_(weight))
        return total


def _make_resize_matrix(before: int, after: int) -> Tensor:
    """Return the weight of each of `before` pixels in each of `after`, (after, before), by resizing unit vectors."""
    return _interpolate(torch.eye(before, dtype=torch.float32)[None, None], before, after)[0, 0]


def _interpolate(image: Tensor, width: int, height: int) -> Tensor:
    return F.interpolate(image, (height, width), mode="bicubic", antialias=True, align_corners=False)
