"""The VGG family as one table, and the figures that follow from it by arithmetic.

Source: K. Simonyan and A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
ICLR 2015, table 1: configurations A (11 layers), B (13), C and D (16) and E (19). Every block is a sequence of 3×3
convolutions with padding 1, each followed by a rectifier, and 2×2 poolings of stride 2 separate the blocks. In C the
last convolution of blocks 3 to 5 is 1×1.

This module knows names and numbers only: no tensors, no files, no torch.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import groupby

from styler.errors import OptionError
from styler.options import normalize_layer

Blocks = tuple[tuple[int, int], ...]
"""The width (channels) and depth (convolutions) of each block."""

NETWORKS: dict[str, Blocks] = {
    "vgg11": ((64, 1), (128, 1), (256, 2), (512, 2), (512, 2)),
    "vgg13": ((64, 2), (128, 2), (256, 2), (512, 2), (512, 2)),
    "vgg16": ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)),
    "vgg16c": ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)),
    "vgg19": ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)),
}

LAST_BLOCK = 5
MAX_STRIDE = 16
"""Image pixels per output pixel of the last block."""

POINTWISE = {"vgg16c": frozenset({(3, 3), (4, 3), (5, 3)})}
"""The 1×1 convolutions, as (block, index)."""


@dataclass(frozen=True, slots=True)
class Conv:
    """One convolution and its place in the network."""

    block: int
    """1 to 5."""
    index: int
    """1, 2, … within the block."""
    inputs: int
    """Input channels."""
    outputs: int
    """Output channels."""
    stride: int
    """Image pixels per output pixel: 1, 2, 4, 8 or 16."""
    receptive_field: int
    """Side, in pixels, of the square of the image that one output sees."""
    kernel: int = 3
    """Side of the kernel: 3, or 1 in configuration C."""

    @property
    def reach(self) -> int:
        """Pixels that one output sees beyond its own square of `stride` × `stride` pixels, on each side."""
        return (self.receptive_field - self.stride) // 2

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of the kernel, (O, I, 3, 3)."""
        return (self.outputs, self.inputs, self.kernel, self.kernel)

    @property
    def padding(self) -> int:
        """Zeros on each side of the input; none for the first convolution, whose input repeats the image's border."""
        return 0 if self.is_first else self.kernel // 2

    @property
    def parameters(self) -> int:
        """The number of weights and biases."""
        return self.outputs * (self.inputs * self.kernel**2 + 1)

    @property
    def name(self) -> str:
        """The name used in the literature, such as `conv4_2`."""
        return f"conv{self.block}_{self.index}"

    @property
    def layer(self) -> str:
        """The name of its rectified output, such as `relu4_2`."""
        return f"relu{self.block}_{self.index}"

    @property
    def is_first(self) -> bool:
        """Whether its input is the image."""
        return self.block == self.index == 1

    @property
    def follows_pooling(self) -> bool:
        """Whether its input is the pooled output of the previous block."""
        return self.index == 1 and self.block > 1

    def count_flops(self, pixels: int) -> float:
        """Return the floating-point operations of a forward pass over an image; a multiply-add counts as two."""
        return 2 * self.kernel**2 * self.inputs * self.outputs * pixels / self.stride**2


@cache
def list_convolutions(network: str, widths: tuple[int, ...] = ()) -> tuple[Conv, ...]:
    """Return all convolutions of a network of the family, first to last.

    Args:
        widths: output channels of each convolution of a slim network, which may end early; empty for the full one.

    Raises:
        OptionError: the family has no such network.
    """
    if network not in NETWORKS:
        raise OptionError(f"'{network}' is not a VGG network; choose one of {', '.join(NETWORKS)}.")
    convs: list[Conv] = []
    inputs, field = 3, 1
    for block, (outputs, depth) in enumerate(NETWORKS[network], start=1):
        stride = 2 ** (block - 1)
        if block > 1:
            field += stride // 2  # the pooling sees one more pixel of the previous block
        for index in range(1, depth + 1):
            kernel = 1 if (block, index) in POINTWISE.get(network, ()) else 3
            field += (kernel - 1) * stride
            width = outputs
            if widths:
                if len(convs) == len(widths):
                    return tuple(convs)
                width = widths[len(convs)]
            convs.append(Conv(block, index, inputs, width, stride, field, kernel))
            inputs = width
    return tuple(convs)


def list_layers(network: str) -> tuple[str, ...]:
    """Return the names of all layers, first to last: `relu1_1`, `relu1_2` and so on."""
    return tuple(conv.layer for conv in list_convolutions(network))


def canonicalize_layer(layer: str, network: str) -> str:
    """Return the layer's name in styler, as `normalize_layer` does.

    Raises:
        OptionError: the network has no such layer; the message lists those it has.
    """
    name, names = normalize_layer(layer), list_layers(network)
    if name not in names:
        raise OptionError(f"'{layer}' is not a layer of {network}; choose from {', '.join(names)}.")
    return name


def find_nearest_layer(layer: str, network: str) -> str:
    """Return `layer`, or the last layer of its block if the network lacks it: VGG-11 and VGG-13 have no conv4_3."""
    names = list_layers(network)
    if layer in names:
        return layer
    block = layer.removeprefix("relu").split("_")[0]
    return [name for name in names if name.startswith(f"relu{block}_")][-1]


def list_convolutions_until(network: str, layers: Iterable[str], widths: tuple[int, ...] = ()) -> tuple[Conv, ...]:
    """Return the convolutions needed to compute `layers`: all up to the last of them."""
    convs = list_convolutions(network, widths)
    wanted = set(layers)
    last = max((i for i, conv in enumerate(convs) if conv.layer in wanted), default=-1)
    return convs[: last + 1]


def compute_margin(convs: Iterable[Conv]) -> int:
    """Return the pixels around a tile on which the outputs of its own pixels depend, a multiple of every stride."""
    known = [*convs]
    stride = max((conv.stride for conv in known), default=1)
    return math.ceil(max((conv.reach for conv in known), default=0) / stride) * stride


def count_flops(network: str, layers: Iterable[str], pixels: int, widths: tuple[int, ...] = ()) -> float:
    """Return the floating-point operations of a forward pass up to the last of `layers`."""
    return sum(conv.count_flops(pixels) for conv in list_convolutions_until(network, layers, widths))


def estimate_activation_bytes(
    network: str, layers: Iterable[str], pixels: float, *, checkpoint: bool = False, widths: tuple[int, ...] = ()
) -> float:
    """Estimate the peak memory of the float32 activations of a forward and backward pass up to the last of `layers`.

    Without checkpointing, every rectified and every pooled map is kept, along with one gradient as large as the
    largest of them and a workspace of about the same size. With checkpointing, only the inputs of the blocks and the
    requested layers are kept, plus the activations of the block that is being recomputed.
    """
    convs = list_convolutions_until(network, layers, widths)
    maps = [4 * conv.outputs * pixels / conv.stride**2 for conv in convs]
    largest = max(maps, default=0.0)
    pooled = [maps[i - 1] / 4 for i, conv in enumerate(convs) if conv.follows_pooling]
    if not checkpoint:
        return sum(maps) + 2 * sum(pooled) + 2 * largest
    wanted = set(layers)
    kept = sum(size for conv, size in zip(convs, maps, strict=True) if conv.layer in wanted)
    blocks = [
        sum(size for conv, size in zip(convs, maps, strict=True) if conv.block == block)
        for block in {conv.block for conv in convs}
    ]
    return kept + sum(pooled) + max(blocks, default=0.0) + 2 * largest


def estimate_map_bytes(network: str, layers: Iterable[str], pixels: float, widths: tuple[int, ...] = ()) -> float:
    """Return the memory of the float32 maps of `layers`."""
    wanted = set(layers)
    convs = list_convolutions_until(network, wanted, widths)
    return sum(4 * conv.outputs * pixels / conv.stride**2 for conv in convs if conv.layer in wanted)


def estimate_forward_bytes(network: str, layers: Iterable[str], pixels: float, widths: tuple[int, ...] = ()) -> float:
    """Estimate the peak memory of the float32 activations of a forward pass without gradients.

    The requested maps are kept; the others of a block are kept until the next block has been computed.
    """
    wanted = set(layers)
    peak = kept = dropped = 0.0
    for _, convs in groupby(list_convolutions_until(network, wanted, widths), key=lambda conv: conv.block):
        names = [conv.layer for conv in convs]
        own = estimate_map_bytes(network, names, pixels, widths)
        peak = max(peak, kept + dropped + own)
        requested = estimate_map_bytes(network, wanted.intersection(names), pixels, widths)
        kept, dropped = kept + requested, own - requested
    return peak


POOLINGS = ("average", "max", "mixed")
DEFAULT_POOLING = "mixed"
"""The pooling that paints best, also the default of `Options`."""
SMOOTH_BLOCKS = 2
"""The number of blocks that `mixed` pools by average; their maps determine how fine the grain of a picture is."""


def choose_pooling(block: int, pooling: str) -> str:
    """Return how the output of a block (1 to 5) is pooled: `average` or `max`."""
    if pooling == "mixed":
        return "average" if block <= SMOOTH_BLOCKS else "max"
    return pooling
