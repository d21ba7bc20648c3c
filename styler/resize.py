"""One way to bring a picture to another size."""

import torch.nn.functional as F
from torch import Tensor


def resized(image: Tensor, width: int, height: int) -> Tensor:
    """The image (1, 3, H, W) at another size: bicubic, antialiased, in [0, 1], on its own device.

    It is computed on the CPU, where every build of PyTorch can do it, once a scale.
    """
    if tuple(image.shape[-2:]) == (height, width):
        return image
    small = F.interpolate(image.float().cpu(), (height, width), mode="bicubic", antialias=True, align_corners=False)
    return small.clamp(0, 1).to(image.device)
