"""Scores of a picture that no optimiser here minimises. Images are (1, 3, H, W), sRGB in [0, 1]."""

import torch
import torch.nn.functional as F
from torch import Tensor

from styler.color import chroma

LUMA = (0.299, 0.587, 0.114)


def luminance(image: Tensor) -> Tensor:
    """(1, 1, H, W)."""
    return (image * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def laplacian(maps: Tensor) -> Tensor:
    """Five-point Laplacian of each channel, inside the border."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).expand(maps.shape[1], 1, 3, 3)
    return F.conv2d(maps, kernel, groups=maps.shape[1])


def blurred(maps: Tensor, sigma: float = 2.0) -> Tensor:
    """Gaussian blur of one channel, (1, 1, H, W)."""
    radius = int(4 * sigma)
    kernel = torch.exp(-torch.arange(-radius, radius + 1.0).square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(maps, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def structure(image: Tensor, content: Tensor) -> float:
    """Correlation of blurred luminance gradients with the content's: 1 is the content itself."""

    def gradients(picture: Tensor) -> Tensor:
        smooth = blurred(luminance(picture))
        return torch.cat([smooth.diff(dim=-1).flatten(), smooth.diff(dim=-2).flatten()])

    return float(torch.corrcoef(torch.stack([gradients(image), gradients(content)]))[0, 1])


def noise(image: Tensor, style: Tensor) -> float:
    """Mean |Laplacian| of luminance over the style's."""
    return float(laplacian(luminance(image)).abs().mean() / laplacian(luminance(style)).abs().mean())


def speckle(image: Tensor) -> float:
    """Chroma noise, mean |Laplacian| of both chroma channels, of the worst 1 % of 16-pixel blocks."""
    blocks = F.avg_pool2d(laplacian(chroma(image)).abs().mean(1, keepdim=True), 16).flatten()
    return float(blocks.topk(max(1, round(0.01 * blocks.numel()))).values.mean())
