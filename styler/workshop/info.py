"""`vgg info`: the layers of a VGG network and their costs, with totals.

FLOPs count a multiply-add as two, so a published "15.5 GMAC" is 31 GFLOP here. Padding keeps the size of a map; a
pooling halves it, rounding down.

This module knows numbers only: no tensors, no torch.
"""

from dataclasses import asdict, dataclass

from styler.errors import OptionError
from styler.vgg import arch

LETTERS = {"vgg11": "A", "vgg13": "B", "vgg16c": "C", "vgg16": "D", "vgg19": "E"}
"""The paper's names of the configurations."""
NETWORK_NAMES = tuple(f"{name}{norm}" for name in LETTERS for norm in ("", "-bn"))
CLASSIFIER = (4096, 4096, 1000)
"""Outputs of the fully connected layers."""
CLASSIFIER_SIDE = 7
"""torchvision's classifier takes 7×7, whatever the size of the image; at 224 the paper's is the same."""
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One layer."""

    name: str
    kernel: str
    """Such as `3×3`."""
    channels: int
    side: int
    """Side of the square output, in pixels."""
    parameters: int
    flops: int
    bytes: int
    """Size of the float32 output."""
    receptive_field: int
    """Side, in pixels, of the square of the image that one output sees."""


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """A network applied to a square image."""

    name: str
    letter: str
    size: int
    rows: tuple[LayerInfo, ...]

    def total(self, *, classifier: bool) -> LayerInfo:
        """Sum the costs of all rows, with the classifier or without."""
        rows = [row for row in self.rows if classifier or not row.name.startswith("fc")]
        name = "total with classifier" if classifier else "total of convolutions"
        last = rows[-1]
        sums = [sum(getattr(row, field) for row in rows) for field in ("parameters", "flops", "bytes")]
        return LayerInfo(name, "", last.channels, last.side, sums[0], sums[1], sums[2], last.receptive_field)


def describe_network(name: str = "vgg16", size: int = 224) -> NetworkInfo:
    """Return every layer of a network, first to last.

    Args:
        name: a network of the family, with the suffix `-bn` for batch normalization: `vgg16`, `vgg16c`, `vgg19-bn`.
        size: side of the square image, in pixels, 32 to 65536.

    Raises:
        OptionError: there is no such network, or the size is out of range.
    """
    plain = name.removesuffix("-bn")
    if name not in NETWORK_NAMES:
        raise OptionError(f"'{name}' is not a VGG network; choose one of {', '.join(NETWORK_NAMES)}.")
    if not 32 <= size <= 65536:
        raise OptionError(f"size is {size}; it can be 32 to 65536, since five poolings halve it.")
    rows: list[LayerInfo] = []
    side = size
    for conv in arch.list_convolutions(plain):
        if conv.follows_pooling:
            rows.append(_describe_pooling(rows[-1], conv.block - 1))
            side = rows[-1].side
        outputs = side * side * conv.outputs
        flops = 2 * conv.kernel**2 * conv.inputs * outputs
        norm = 2 * conv.outputs if name.endswith("-bn") else 0  # a gain and a shift per channel
        kernel, parameters = f"{conv.kernel}×{conv.kernel}", conv.parameters + norm
        bytes_ = FLOAT_BYTES * outputs
        rows.append(LayerInfo(conv.name, kernel, conv.outputs, side, parameters, flops, bytes_, conv.receptive_field))
    rows.append(_describe_pooling(rows[-1], arch.LAST_BLOCK))
    return NetworkInfo(name, LETTERS[plain], size, (*rows, *_describe_classifier(rows[-1])))


def _describe_pooling(before: LayerInfo, block: int) -> LayerInfo:
    """Describe the pooling after the last layer of a block."""
    side, field = before.side // 2, before.receptive_field + 2 ** (block - 1)
    size = FLOAT_BYTES * before.channels * side * side
    return LayerInfo(f"pool{block}", "2×2", before.channels, side, 0, 0, size, field)


def _describe_classifier(last: LayerInfo) -> list[LayerInfo]:
    """Describe the three fully connected layers, which painting does not use."""
    rows, inputs = [], last.channels * CLASSIFIER_SIDE**2
    for number, outputs in enumerate(CLASSIFIER, start=6):
        parameters, flops, size = outputs * (inputs + 1), 2 * inputs * outputs, FLOAT_BYTES * outputs
        rows.append(LayerInfo(f"fc{number}", "full", outputs, 1, parameters, flops, size, last.receptive_field))
        inputs = outputs
    return rows


def info_to_json(info: NetworkInfo) -> dict[str, object]:
    """Return rows and totals for JSON."""
    totals = {"convolutions": info.total(classifier=False), "with_classifier": info.total(classifier=True)}
    sums = {
        name: {"parameters": row.parameters, "flops": row.flops, "bytes": row.bytes} for name, row in totals.items()
    }
    return {"layers": [asdict(row) for row in info.rows], "totals": sums}
