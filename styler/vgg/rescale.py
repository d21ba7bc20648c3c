"""The constants that rescale every filter to mean activation 1.

Source: Gatys, Ecker and Bethge, "Image Style Transfer Using Convolutional Neural Networks", CVPR 2016, §2. A
    rectified unit is positively
homogeneous and so is pooling, so that a filter may be divided by its mean activation if the next layer's matching
inputs are multiplied by it: the network computes the same, in units that make every filter count alike.

Knows tensors; does not know files or the `Features` module.
"""

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from styler.vgg import family
from styler.vgg.pooling import pooled

FLOOR = 0.05
"""A filter that hardly ever fires is divided by this share of its layer's mean, not by nearly nothing."""


@torch.no_grad()
def mean_activations(
    kernels: Mapping[str, Tensor], network: str, pooling: str, pictures: Iterable[Tensor]
) -> dict[str, Tensor]:
    """Mean rectified activation of every filter over pictures, each picture counting alike.

    Args:
        kernels: `conv1_1.weight` (O, I, 3, 3) and `conv1_1.bias` (O,), for RGB in [0, 1].
        network: a name of the family.
        pooling: one of `styler.vgg.pooling.KINDS`; the constants hold for that one alone.
        pictures: each (1, 3, H, W), RGB in [0, 1].

    Returns:
        `{"conv1_1": (O,)}`, all above 0.
    """
    convs = [conv for conv in family.convolutions(network) if f"{conv.name}.weight" in kernels]
    sums = {conv.name: torch.zeros(conv.outputs) for conv in convs}
    count = 0
    for picture in pictures:
        count += 1
        x = F.pad(picture, (1, 1, 1, 1), mode="replicate")
        for conv in convs:
            x = pooled(x, conv.block - 1, pooling) if conv.opens_block else x
            kernel, bias = kernels[f"{conv.name}.weight"].float(), kernels[f"{conv.name}.bias"].float()
            x = F.relu(F.conv2d(x, kernel, bias, padding=0 if conv.name == "conv1_1" else 1))  # (1, C, H, W)
            sums[conv.name] += x.mean(dim=(0, 2, 3))
    return {name: floored(total / count) for name, total in sums.items()}


def floored(means: Tensor) -> Tensor:
    """The means (C,), with those of nearly dead filters raised to a share of the layer's mean."""
    return means.clamp(min=FLOOR * float(means.mean()))
