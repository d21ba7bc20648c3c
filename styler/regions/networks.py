"""The networks that find masks: U²-Net (small) for the subject of a photo, CenterFace for faces.

Both are plain convolutional networks, written as functions of their kernels. Their weights come with styler, with
batch normalization folded into the convolutions; `assets/weights/build_masks.py` makes them.
Knows nothing about options or about what the masks are for.

Sources: X. Qin et al., "U²-Net: Going Deeper with Nested U-Structure for Salient Object Detection", 2020;
Y. Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point", 2019.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from styler import library
from styler.errors import WeightsError
from styler.vgg.weights import hash_bytes, read_bytes, view_tensors

SUBJECT, FACES = "u2netp", "centerface"
MASK_SHA256 = {
    SUBJECT: "0db93707976061a6f83782f9fe312b39e959ed8dc86ec84c9799a749f3f59dbd",
    FACES: "1c9b7c09ec0a243f39212b4923c282b047649783f915726e5e4ebcefab99465b",
}
"""Hashes of the weights files that come with styler."""

IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the images that U²-Net was trained on."""

SUBJECT_STRIDE, FACE_STRIDE = 32, 32
"""The sides of an input are best multiples of these, in pixels: those of CenterFace must be."""
FACE_CELL = 4
"""Pixels of the input for each place of CenterFace's output, in both directions."""

ENCODER_DEPTHS = {"encoder1": 7, "encoder2": 6, "encoder3": 5, "encoder4": 4, "encoder5": 0, "encoder6": 0}
"""Levels of each U-block of the encoder; 0 for the block that dilates its kernels instead of pooling."""
DECODER_DEPTHS = {"decoder5": 0, "decoder4": 4, "decoder3": 5, "decoder2": 6, "decoder1": 7}
DILATIONS = (1, 2, 4, 8)

INVERTED_BLOCKS = ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
"""MobileNetV2 after its first block: output channels, blocks, and the stride of the first of them."""
PYRAMID_STAGES = (0, 1, 3, 5)
"""The stages of `INVERTED_BLOCKS` that the feature pyramid joins, at strides 4, 8, 16 and 32."""

Kernels = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class MaskNetwork:
    """The verified weights of one network, in float32 on their device."""

    name: str
    sha256: str
    kernels: Kernels
    """`NAME.weight` and `NAME.bias` of every convolution."""


def load_mask_network(name: str, device: torch.device) -> MaskNetwork:
    """Read and verify the weights of a network.

    Raises:
        WeightsError: the file is missing, truncated or altered.
    """
    path = find_mask_weights(name)
    data = read_bytes(path, "reinstall styler")
    digest = hash_bytes(data)
    if digest != MASK_SHA256[name]:
        raise WeightsError(
            f"The weights file '{path}' is truncated or has been altered "
            f"(its SHA-256 is {digest[:12]}…, not {MASK_SHA256[name][:12]}…); reinstall styler."
        )
    return MaskNetwork(name, digest, {key: _place(each, device) for key, each in view_tensors(data).items()})


def _place(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor in float32 on a device; kernels with their channels last, which is up to twice as fast."""
    layout = torch.channels_last if tensor.dim() == 4 else torch.contiguous_format
    return tensor.float().to(device).contiguous(memory_format=layout)


def find_mask_weights(name: str) -> Path:
    """Return the path of the weights of a network."""
    return library.find_assets() / "weights" / f"{name}.safetensors"


@torch.no_grad()
def run_subject_network(kernels: Kernels, image: Tensor) -> Tensor:
    """Return how likely each pixel belongs to the subject, (1, 1, H, W) in [0, 1]; U²-Net, figure 5.

    Args:
        kernels: of `u2netp`.
        image: sRGB in [0, 1], (1, 3, H, W), about 320 pixels on each side.
    """
    mean, std = (image.new_tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    x = ((image - mean) / std).contiguous(memory_format=torch.channels_last)  # (1, 3, H, W)
    encoded: list[Tensor] = []
    for name, depth in ENCODER_DEPTHS.items():
        x = _run_u_block(kernels, name, _halve(x) if encoded else x, depth)  # (1, 64, h, w)
        encoded.append(x)
    decoded = [x]
    for (name, depth), skip in zip(DECODER_DEPTHS.items(), reversed(encoded[:-1]), strict=True):
        x = _run_u_block(kernels, name, torch.cat([_enlarge(x, skip), skip], dim=1), depth)  # (1, 64, h, w)
        decoded.append(x)
    sides = [_convolve(kernels, f"side{index}", each) for index, each in enumerate(reversed(decoded), start=1)]
    joined = torch.cat([_enlarge(side, sides[0]) for side in sides], dim=1)  # (1, 6, H, W)
    return _convolve(kernels, "out", joined).sigmoid()


def _run_u_block(kernels: Kernels, name: str, x: Tensor, depth: int) -> Tensor:
    """Return the output of a residual U-block (1, 64, H, W): a small U-Net, added to its own first features."""
    count = depth or len(DILATIONS)
    first = _convolve(kernels, f"{name}.in", x).relu()
    maps = [_convolve(kernels, f"{name}.down1", first).relu()]
    for level in range(2, count + 1):
        is_bottom = level == count
        below = maps[-1] if is_bottom or not depth else _halve(maps[-1])
        dilation = (2 if is_bottom else 1) if depth else DILATIONS[level - 1]
        maps.append(_convolve(kernels, f"{name}.down{level}", below, dilation=dilation).relu())
    x = maps.pop()
    for level, skip in zip(range(count - 1, 0, -1), reversed(maps), strict=True):
        joined = torch.cat([_enlarge(x, skip), skip], dim=1)  # (1, 2C, h, w)
        x = _convolve(kernels, f"{name}.up{level}", joined, dilation=1 if depth else DILATIONS[level - 1]).relu()
    return x + first


@torch.no_grad()
def run_face_network(kernels: Kernels, image: Tensor) -> Tensor:
    """Return the output of CenterFace at every fourth pixel, (15, H / 4, W / 4).

    Channel 0 is the probability that a face is centered there; 1 and 2 are the logarithms of its height and width
    in cells; 3 and 4 the vertical and horizontal offset of its center, in cells; 5 to 14 five landmarks (eyes, nose,
    corners of the mouth), vertical and horizontal, in heights and widths of the box from its upper left corner.

    Args:
        kernels: of `centerface`.
        image: sRGB in [0, 1], (1, 3, H, W), whose sides are multiples of `FACE_STRIDE`.
    """
    image = image.contiguous(memory_format=torch.channels_last)
    x = _convolve(kernels, "stem.0", image, stride=2).relu()  # (1, 32, H / 2, W / 2)
    x = _convolve(kernels, "stem.1", x).relu()
    x = _convolve(kernels, "stem.2", x)  # (1, 16, H / 2, W / 2)
    stages = []
    for stage, (_, blocks, stride) in enumerate(INVERTED_BLOCKS):
        for block in range(blocks):
            x = _run_inverted_block(kernels, f"stage{stage}.{block}", x, 1 if block else stride)
        stages.append(x)
    laterals = [_convolve(kernels, f"lateral{stage}", stages[stage]).relu() for stage in PYRAMID_STAGES]
    x = laterals.pop()  # (1, 24, H / 32, W / 32)
    for index, lateral in reversed([*enumerate(laterals)]):
        weight, bias = kernels[f"enlarge{index}.weight"], kernels[f"enlarge{index}.bias"]
        x = F.conv_transpose2d(x, weight, bias, stride=2).relu() + lateral  # (1, 24, 2h, 2w)
    x = _convolve(kernels, "neck", x).relu()
    heads: Tensor = _convolve(kernels, "heads", x)[0]  # (15, H / 4, W / 4)
    return torch.cat([heads[:1].sigmoid(), heads[1:]])


def _run_inverted_block(kernels: Kernels, name: str, x: Tensor, stride: int) -> Tensor:
    """Return the output of an inverted residual block: expand, filter each channel by itself, project."""
    y = _convolve(kernels, f"{name}.expand", x).relu()
    y = _convolve(kernels, f"{name}.filter", y, stride=stride).relu()
    y = _convolve(kernels, f"{name}.project", y)
    return x + y if x.shape == y.shape else y


def _convolve(kernels: Kernels, name: str, x: Tensor, *, stride: int = 1, dilation: int = 1) -> Tensor:
    weight, bias = kernels[f"{name}.weight"], kernels[f"{name}.bias"]
    groups, padding = x.shape[1] // weight.shape[1], dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2, ceil_mode=True)


def _enlarge(x: Tensor, like: Tensor) -> Tensor:
    """Resize maps to the height and width of others."""
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)
