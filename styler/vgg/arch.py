"""The VGG family as one table, and what follows from it by arithmetic.

Source: K. Simonyan and A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
ICLR 2015, table 1: configurations A (11 layers), B (13), C and D (16) and E (19). Every block is a run of 3×3
convolutions with padding 1, each followed by a rectification; a 2×2 pooling of stride 2 stands between blocks. In C
the last convolution of blocks 3 to 5 is 1×1.

This module knows names and numbers only: no tensors, no files, no torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from styler.errors import OptionError

Blocks = tuple[tuple[int, int], ...]
"""Width in channels and depth in convolutions of each block."""

NETWORKS: dict[str, Blocks] = {
    "vgg11": ((64, 1), (128, 1), (256, 2), (512, 2), (512, 2)),
    "vgg13": ((64, 2), (128, 2), (256, 2), (512, 2), (512, 2)),
    "vgg16": ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)),
    "vgg16c": ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)),
    "vgg19": ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)),
}

LAST_BLOCK = 5

POINTWISE = {"vgg16c": frozenset({(3, 3), (4, 3), (5, 3)})}
"""Convolutions of 1×1, by block and index."""


@dataclass(frozen=True, slots=True)
class Conv:
    """One convolution and its place in the network."""

    block: int
    """1 to 5."""
    index: int
    """1, 2, … within the block."""
    inputs: int
    """Channels in."""
    outputs: int
    """Channels out."""
    stride: int
    """Pixels of the picture per pixel of the output: 1, 2, 4, 8 or 16."""
    receptive_field: int
    """Side of the square of the picture, in pixels, that one output sees."""
    kernel: int = 3
    """Side of the kernel: 3, or 1 in configuration C."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the kernel: (O, I, 3, 3)."""
        return (self.outputs, self.inputs, self.kernel, self.kernel)

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.outputs * (self.inputs * self.kernel**2 + 1)

    @property
    def name(self) -> str:
        """The literature's name, such as `conv4_2`."""
        return f"conv{self.block}_{self.index}"

    @property
    def layer(self) -> str:
        """The name of its rectified output, such as `relu4_2`."""
        return f"relu{self.block}_{self.index}"

    @property
    def opens_block(self) -> bool:
        """Whether a pooling stands before it."""
        return self.index == 1 and self.block > 1

    def flops(self, pixels: int) -> float:
        """Floating-point operations of one forward pass over so many pixels; a product and a sum are two."""
        return 2 * self.kernel**2 * self.inputs * self.outputs * pixels / self.stride**2


@cache
def list_convolutions(network: str, widths: tuple[int, ...] = ()) -> tuple[Conv, ...]:
    """All convolutions of a network of the family, first to last.

    Args:
        network: a name of the family.
        widths: channels of each convolution of a slim network, as many as it has; the family's own when empty.

    Raises:
        OptionError: the network is not of the family.
    """
    if network not in NETWORKS:
        raise OptionError(f"'{network}' is no VGG network; choose one of {', '.join(NETWORKS)}.")
    found: list[Conv] = []
    inputs, field = 3, 1
    for block, (outputs, depth) in enumerate(NETWORKS[network], start=1):
        stride = 2 ** (block - 1)
        if block > 1:
            field += stride // 2  # the pooling sees one more pixel of the block before
        for index in range(1, depth + 1):
            kernel = 1 if (block, index) in POINTWISE.get(network, ()) else 3
            field += (kernel - 1) * stride
            width = outputs
            if widths:
                if len(found) == len(widths):
                    return tuple(found)
                width = widths[len(found)]
            found.append(Conv(block, index, inputs, width, stride, field, kernel))
            inputs = width
    return tuple(found)


def list_layers(network: str) -> tuple[str, ...]:
    """Every layer one may ask for, first to last: `relu1_1`, `relu1_2` and so on."""
    return tuple(conv.layer for conv in list_convolutions(network))


def canonical_layer(layer: str, network: str) -> str:
    """The layer's name in this project: the literature's `conv4_2` means its rectified output, `relu4_2`.

    Raises:
        OptionError: the network has no such layer; the sentence lists those it has.
    """
    name = layer.strip().lower()
    if name.startswith("conv"):
        name = "relu" + name.removeprefix("conv")
    names = list_layers(network)
    if name not in names:
        raise OptionError(f"'{layer}' is no layer of {network}; choose from {', '.join(names)}.")
    return name


def nearest_layer(layer: str, network: str) -> str:
    """Return `layer`, or the last layer of its block where the network is too shallow to have it.

    VGG-11 and VGG-13 have no conv4_3.
    """
    names = list_layers(network)
    if layer in names:
        return layer
    block = layer.removeprefix("relu").split("_")[0]
    return [name for name in names if name.startswith(f"relu{block}_")][-1]


def convolutions_until(network: str, layers: Iterable[str], widths: tuple[int, ...] = ()) -> tuple[Conv, ...]:
    """The convolutions that must run to reach every one of `layers`; nothing beyond the last."""
    convs = list_convolutions(network, widths)
    wanted = set(layers)
    last = max((i for i, conv in enumerate(convs) if conv.layer in wanted), default=-1)
    return convs[: last + 1]


def count_flops(network: str, layers: Iterable[str], pixels: int, widths: tuple[int, ...] = ()) -> float:
    """Floating-point operations of the convolutions of one forward pass up to the last of `layers`."""
    return sum(conv.flops(pixels) for conv in convolutions_until(network, layers, widths))


def estimate_activation_bytes(
    network: str, layers: Iterable[str], pixels: int, *, checkpoint: bool = False, widths: tuple[int, ...] = ()
) -> float:
    """Memory of the float32 activations that a forward and backward pass up to the last of `layers` holds at its peak.

    Without checkpointing every rectified and every pooled map is kept, along with about one gradient as large as the
    largest of them and the workspace beside it. With checkpointing per block only the blocks' inputs and the
    asked-for layers stay, beside the activations of the one block that is being recomputed.
    """
    convs = convolutions_until(network, layers, widths)
    maps = [4 * conv.outputs * pixels / conv.stride**2 for conv in convs]
    largest = max(maps, default=0.0)
    pooled = [maps[i - 1] / 4 for i, conv in enumerate(convs) if conv.opens_block]
    if not checkpoint:
        return sum(maps) + 2 * sum(pooled) + 2 * largest
    wanted = set(layers)
    kept = sum(size for conv, size in zip(convs, maps, strict=True) if conv.layer in wanted)
    blocks = [
        sum(size for conv, size in zip(convs, maps, strict=True) if conv.block == block)
        for block in {conv.block for conv in convs}
    ]
    return kept + sum(pooled) + max(blocks, default=0.0) + 2 * largest


POOLINGS = ("average", "max", "mixed")
DEFAULT_POOLING = "mixed"
"""What paints best; the default of `Options`, too."""
SMOOTH_BLOCKS = 2
"""Blocks that `mixed` pools by average; their maps decide how fine a picture's grain is."""


def pooling_after(block: int, pooling: str) -> str:
    """What stands after a block, from 1 on: `average` or `max`."""
    if pooling == "mixed":
        return "average" if block <= SMOOTH_BLOCKS else "max"
    return pooling
