"""A frozen VGG as a function from a picture to its named features.

Knows the forward pass and nothing else: not where weights come from, not what the features are for.
"""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from styler.errors import ImageError, OptionError
from styler.vgg import family
from styler.vgg.block import Block, Check, Step, run
from styler.vgg.pooling import after as pooling_after
from styler.vgg.weights import Weights


class Features(nn.Module):
    """A VGG, frozen, from a picture to `{"relu4_2": (1, C, H/8, W/8), …}`.

    The picture is RGB in [0, 1], (1, 3, H, W); the network's own normalisation is folded into its first convolution,
    whose border is padded by replication (zeros would draw a dark frame) and the others by zeros, as trained. Every
    filter is rescaled so that its mean activation over natural pictures is 1 (Gatys, Ecker and Bethge, "Image Style
    Transfer Using Convolutional Neural Networks", CVPR 2016, §2), which changes nothing in what the network computes
    and keeps a few loud filters from deciding every loss. Nothing beyond the last layer asked for is computed.

    Args:
        weights: a verified set of weights; the rescaling constants come with them.
        layers: names such as `relu4_2` (`conv4_2` is an alias).
        pooling: one of `styler.vgg.pooling.KINDS`.
        precision: the dtype of the convolutions; float32 switches autocast off.

    Raises:
        OptionError: the network, or what is kept of it, has no such layer.
    """

    def __init__(
        self,
        weights: Weights,
        layers: Iterable[str],
        pooling: str = "max",
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.network = weights.network
        self.sha256 = weights.sha256
        self.layers = tuple(dict.fromkeys(family.canonical(layer, weights.network) for layer in layers))
        self.pooling = pooling
        self.precision = precision
        self.widths = weights.widths
        self.convs = family.until(weights.network, self.layers, weights.widths)
        missing = [
            layer for layer in family.layer_names(weights.network) if layer in {*self.layers} - {*weights.layers}
        ]
        if missing:
            raise OptionError(
                f"The weights of {weights.network} end before {missing[-1]}; choose from {', '.join(weights.layers)}."
            )
        if weights.pooling not in (None, pooling):
            raise OptionError(
                f"This slim network was made for {weights.pooling} pooling; take --pooling {weights.pooling} with it."
            )
        for conv in self.convs:
            kernel, bias = weights.rescaled(conv, pooling)
            self.register_buffer(f"{conv.name}_weight", kernel.contiguous(memory_format=torch.channels_last))
            self.register_buffer(f"{conv.name}_bias", bias)
            if conv.layer in self.layers and (metric := weights.metric(conv.layer)) is not None:
                self.register_buffer(f"{conv.name}_metric", metric[:, :, None, None])
        self.requires_grad_(False).eval()

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.buffers()).device

    @property
    def min_side(self) -> int:
        """Shortest side of a picture, in pixels, that still leaves one value in the last layer asked for."""
        return max((conv.stride for conv in self.convs), default=1)

    def forward(self, image: Tensor, check: Check | None = None, *, checkpoint: bool = False) -> dict[str, Tensor]:
        """Compute the features of a picture.

        Args:
            image: (1, 3, H, W), RGB in [0, 1].
            check: called between convolutions in the forward and the backward pass.
            checkpoint: keep only the blocks' inputs and compute the rest again in the backward pass: slower, less
                memory.

        Returns:
            One rectified map per layer asked for, (1, C, H/stride, W/stride), in the precision of the convolutions.

        Raises:
            ImageError: the picture is smaller than the stride of the last layer.
        """
        height, width = image.shape[-2:]
        if min(height, width) < self.min_side:
            raise ImageError(
                f"A picture of {width}×{height} pixels is too small for {self.convs[-1].layer}; give it at least "
                f"{self.min_side} pixels on each side."
            )
        found: dict[str, Tensor] = {}
        x = F.pad(image.contiguous(memory_format=torch.channels_last), (1, 1, 1, 1), mode="replicate")
        with torch.autocast(image.device.type, self.precision, enabled=self.precision is not torch.float32):
            for layers, block in self._blocks(check):
                if checkpoint and torch.is_grad_enabled():
                    maps = recompute(run, x, block, use_reentrant=False)
                else:
                    maps = run(x, block)
                x = maps[-1]
                found |= {layer: x for layer, x in zip(layers, maps, strict=False) if layer in self.layers}
            return {layer: self._measured(layer, maps) for layer, maps in found.items()}

    def _measured(self, layer: str, maps: Tensor) -> Tensor:
        """A slim layer's channels in the full network's metric; those of a full network as they are."""
        metric = getattr(self, layer.replace("relu", "conv") + "_metric", None)
        return maps if metric is None else F.conv2d(maps, metric)  # (1, C, H, W)

    def _blocks(self, check: Check | None) -> Iterator[tuple[list[str], Block]]:
        """The layers of each block, and what is done in it."""
        last = self.convs[-1].block if self.convs else 0
        for number in dict.fromkeys(conv.block for conv in self.convs):
            convs = [conv for conv in self.convs if conv.block == number]
            steps = tuple(
                Step(
                    self.get_buffer(f"{conv.name}_weight"),
                    self.get_buffer(f"{conv.name}_bias"),
                    0 if conv.block == conv.index == 1 else conv.kernel // 2,
                )
                for conv in convs
            )
            pooling = "" if number == last else pooling_after(number, self.pooling)
            yield [conv.layer for conv in convs], Block(steps, pooling, check)
