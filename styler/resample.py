"""One way to bring a picture to another size, before a scale and inside the objective."""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(image: Tensor, width: int, height: int) -> Tensor:
    """The image (1, 3, H, W) at another size: bicubic, antialiased, in [0, 1], on its own device.

    It is computed on the CPU, where every build of PyTorch can do it, once a scale.
    """
    if tuple(image.shape[-2:]) == (height, width):
        return image
    return _interpolate(image.float().cpu(), width, height).clamp(0, 1).to(image.device)


class Downsample:
    """The same, without the clamp, as two products of matrices: every device can do them, and their gradients.

    Args:
        before: width and height.
        after: likewise.
        device: where.
    """

    def __init__(self, before: tuple[int, int], after: tuple[int, int], device: torch.device) -> None:
        self._across, self._down = (_resize_matrix(*sides).to(device) for sides in zip(before, after, strict=True))

    def __call__(self, image: Tensor) -> Tensor:
        """(1, 3, H, W) to (1, 3, h, w)."""
        return self._down @ image @ self._across.T

    def adjoint(self, gradient: Tensor) -> Tensor:
        """What a gradient (1, 3, h, w) to the smaller picture is to the larger one, (1, 3, H, W)."""
        return self._down.T @ gradient @ self._across


def _resize_matrix(before: int, after: int) -> Tensor:
    """How much each of `before` pixels counts for each of `after`, (after, before), found by resizing unit vectors."""
    return _interpolate(torch.eye(before)[None, None], before, after)[0, 0]


def _interpolate(image: Tensor, width: int, height: int) -> Tensor:
    return F.interpolate(image, (height, width), mode="bicubic", antialias=True, align_corners=False)
