"""Scores of a picture that no optimizer here minimizes. Images are (1, 3, H, W), sRGB in [0, 1]."""

import torch
import torch.nn.functional as F
from torch import Tensor

from styler.engine.losses import chroma

LUMA = (0.299, 0.587, 0.114)


def luminance(image: Tensor) -> Tensor:
    """Return the luminance, (1, 1, H, W)."""
    return (image * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def laplacian(maps: Tensor) -> Tensor:
    """Compute the five-point Laplacian of each channel, inside the border."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).expand(maps.shape[1], 1, 3, 3)
    return F.conv2d(maps, kernel, groups=maps.shape[1])


def blur(maps: Tensor, sigma: float = 2.0) -> Tensor:
    """Blur one channel with a Gaussian, (1, 1, H, W)."""
    radius = int(4 * sigma)
    kernel = torch.exp(-torch.arange(-radius, radius + 1.0).square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(maps, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def blur_color(image: Tensor, sigma: float = 4.0) -> Tensor:
    """Blur every channel, which leaves the colors of areas, (1, 3, H, W)."""
    return torch.cat([blur(image[:, channel : channel + 1], sigma) for channel in range(3)], dim=1)


def structure(image: Tensor, content: Tensor) -> float:
    """Correlate blurred luminance gradients with the content's: 1 is the content itself."""

    def gradients(picture: Tensor) -> Tensor:
        smooth = blur(luminance(picture))
        return torch.cat([smooth.diff(dim=-1).flatten(), smooth.diff(dim=-2).flatten()])

    return float(torch.corrcoef(torch.stack([gradients(image), gradients(content)]))[0, 1])


def noise(image: Tensor, style: Tensor) -> float:
    """Return the mean |Laplacian| of luminance over the style's."""
    return float(laplacian(luminance(image)).abs().mean() / laplacian(luminance(style)).abs().mean())


def speckle(image: Tensor) -> float:
    """Return the chroma noise, mean |Laplacian| of both chroma channels, of the worst 1 % of 16-pixel blocks."""
    blocks = F.avg_pool2d(laplacian(chroma(image)).abs().mean(1, keepdim=True), 16).flatten()
    return float(blocks.topk(max(1, round(0.01 * blocks.numel()))).values.mean())


def ssim(image: Tensor, content: Tensor) -> float:
    """Compute the structural similarity of luminance, Gaussian window of 1.5 pixels (Wang et al. 2004, equation 13)."""
    x, y = luminance(image), luminance(content)
    mean_x, mean_y = blur(x, 1.5), blur(y, 1.5)
    var_x, var_y = blur(x * x, 1.5) - mean_x**2, blur(y * y, 1.5) - mean_y**2
    shared = blur(x * y, 1.5) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    above = (2 * mean_x * mean_y + c1) * (2 * shared + c2)
    return float((above / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


def grid(image: Tensor) -> float:
    """Measure how far roughness depends on the position in a lattice of 2, 4, 8 or 16 pixels, on the worse axis.

    Returns:
        The share by which the roughest phase of the lattice is above the smoothest. A natural picture has no lattice.
    """
    maps = luminance(image)
    worst = 0.0
    for axis, across in ((-1, -2), (-2, -1)):
        rough = maps.diff(n=2, dim=axis).abs().mean(dim=across).flatten()
        for period in (2, 4, 8, 16):
            phases = rough[: len(rough) // period * period].view(-1, period).mean(dim=0)
            worst = max(worst, float((phases.max() - phases.min()) / phases.mean()))
    return worst


def palette(image: Tensor, style: Tensor) -> float:
    """Return the total variation distance of the 2-D histograms of chroma, 0 (the same colors) to 1 (none shared)."""

    def histogram(picture: Tensor) -> Tensor:
        bins = ((chroma(picture) + 0.5) * 32).long().clamp(0, 31)  # (1, 2, H, W)
        counts = torch.bincount((bins[:, 0] * 32 + bins[:, 1]).flatten(), minlength=1024).float()
        return counts / counts.sum()

    return float((histogram(image) - histogram(style)).abs().sum() / 2)
