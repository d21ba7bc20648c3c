"""`vgg info`: what every layer of a network of the family is, and what it costs, with totals.

FLOPs count a product and a sum as two, so that a published "15.5 GMAC" is 31 GFLOP here. Padding by zeros keeps the
size; a pooling halves it, rounding down.

Knows numbers only: no tensors, no torch.
"""

from dataclasses import asdict, dataclass

from styler.errors import OptionError
from styler.vgg import arch

LETTERS = {"vgg11": "A", "vgg13": "B", "vgg16c": "C", "vgg16": "D", "vgg19": "E"}
"""Names of the paper's configurations."""
NETWORK_NAMES = tuple(f"{name}{norm}" for name in LETTERS for norm in ("", "-bn"))
CLASSES = 1000
CLASSIFIER = (4096, 4096, CLASSES)
CLASSIFIER_SIDE = 7
"""torchvision's classifier takes 7×7, whatever the size of the picture; at 224 the paper's is the same."""
FLOAT = 4
"""Bytes of a float32."""


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One layer."""

    name: str
    kernel: str
    """Such as `3×3`."""
    channels: int
    side: int
    """Of the output, in pixels: it is square."""
    parameters: int
    flops: int
    bytes: int
    """Of the float32 output."""
    receptive_field: int
    """Side of the square of the picture that one output sees, in pixels."""


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """A network at a size of picture."""

    name: str
    letter: str
    size: int
    rows: tuple[LayerInfo, ...]

    def total(self, *, classifier: bool) -> LayerInfo:
        """The sums over all rows, with the classifier or without."""
        rows = [row for row in self.rows if classifier or not row.name.startswith("fc")]
        name = "total with classifier" if classifier else "total of convolutions"
        last = rows[-1]
        sums = [sum(getattr(row, field) for row in rows) for field in ("parameters", "flops", "bytes")]
        return LayerInfo(name, "", last.channels, last.side, sums[0], sums[1], sums[2], last.receptive_field)


def describe_network(name: str = "vgg16", size: int = 224) -> NetworkInfo:
    """Every layer of a network, first to last.

    Args:
        name: of the family, `-bn` behind it for batch normalisation: `vgg16`, `vgg16c`, `vgg19-bn`.
        size: side of the square picture, in pixels.

    Raises:
        OptionError: there is no such network, or the picture is too small for its five poolings.
    """
    plain = name.removesuffix("-bn")
    if name not in NETWORK_NAMES:
        raise OptionError(f"'{name}' is no VGG network; choose one of {', '.join(NETWORK_NAMES)}.")
    if not 32 <= size <= 65536:
        raise OptionError(f"size is {size}; it can be 32 to 65536, since five poolings halve it.")
    rows: list[LayerInfo] = []
    side = size
    for conv in arch.list_convolutions(plain):
        if conv.opens_block:
            side = _add_pooling(rows, side, conv.block - 1, conv.inputs)
        outputs = side * side * conv.outputs
        flops = 2 * conv.kernel**2 * conv.inputs * outputs
        norm = 2 * conv.outputs if name.endswith("-bn") else 0  # a gain and a shift of each channel
        field = conv.receptive_field
        kernel = f"{conv.kernel}×{conv.kernel}"
        rows.append(
            LayerInfo(conv.name, kernel, conv.outputs, side, conv.parameters + norm, flops, FLOAT * outputs, field)
        )
    side = _add_pooling(rows, side, arch.LAST_BLOCK, rows[-1].channels)
    return NetworkInfo(name, LETTERS[plain], size, (*rows, *_classifier_rows(rows[-1])))


def _add_pooling(rows: list[LayerInfo], side: int, block: int, channels: int) -> int:
    """Add the pooling after a block; the side of its output."""
    side, field = side // 2, rows[-1].receptive_field + 2 ** (block - 1)
    rows.append(LayerInfo(f"pool{block}", "2×2", channels, side, 0, 0, FLOAT * channels * side * side, field))
    return side


def _classifier_rows(last: LayerInfo) -> list[LayerInfo]:
    """The three full layers, which painting does not use."""
    found, inputs = [], last.channels * CLASSIFIER_SIDE**2
    for number, outputs in enumerate(CLASSIFIER, start=6):
        parameters = outputs * (inputs + 1)
        found.append(
            LayerInfo(
                f"fc{number}",
                "full",
                outputs,
                1,
                parameters,
                2 * inputs * outputs,
                FLOAT * outputs,
                last.receptive_field,
            )
        )
        inputs = outputs
    return found


def info_to_json(found: NetworkInfo) -> dict[str, object]:
    """Rows and totals for JSON."""
    totals = {"convolutions": found.total(classifier=False), "with_classifier": found.total(classifier=True)}
    sums = {
        name: {"parameters": row.parameters, "flops": row.flops, "bytes": row.bytes} for name, row in totals.items()
    }
    return {"layers": [asdict(row) for row in found.rows], "totals": sums}
