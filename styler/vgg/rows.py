"""What a comparison of networks found, and how it is told: a row of numbers for each network, and Markdown.

Knows numbers only: no tensors, no networks.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field


@dataclass(slots=True)
class Row:
    """One network. What it cannot give is NaN: an ONNX model has no gradient and paints nothing."""

    name: str
    parameters: int
    bytes: int
    gflop: float = math.nan
    """Of a forward pass at the size of timing."""
    forward: float = math.nan
    """Seconds of a forward pass."""
    evaluation: float = math.nan
    """Seconds of the objective and its gradient."""
    peak: float = math.nan
    """Bytes beyond the resting program, in an evaluation."""
    cosine: dict[str, float] = field(default_factory=dict)
    gram: dict[str, float] = field(default_factory=dict)
    gradient: float = math.nan
    """Cosine of the objective's gradient with the first network's, at contents and half-way to its paintings."""
    same: float = math.nan
    """Its objective of the first network's paintings, over the first network's own."""
    objective: dict[str, float] = field(default_factory=dict)
    """The first network's objective of the picture painted with this one, by pair."""
    held_out: dict[str, float] = field(default_factory=dict)
    structure: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Of painting."""


def mean(values: Mapping[str, float]) -> float:
    """Of a row's numbers by pair or layer; NaN when there are none."""
    return sum(values.values()) / len(values) if values else math.nan


def ratio(row: Row, first: Row, what: str) -> float:
    """The mean over pairs of a row's numbers over the first row's."""
    ours, theirs = getattr(row, what), getattr(first, what)
    return mean({pair: ours[pair] / theirs[pair] for pair in ours})


def table(rows: Sequence[Row]) -> list[str]:
    """Markdown, one network a line; ratios are to the first."""
    lines = [
        "| network | numbers | file | GFLOP | forward | evaluation | peak | features | Gram | gradient | same picture "
        "| objective | held-out | structure |",
        "|---|" + "---:|" * 13,
    ]
    return lines + [f"| {row.name} | " + " | ".join(_cells(row, rows[0])) + " |" for row in rows]


def _cells(row: Row, first: Row) -> Iterator[str]:
    yield f"{row.parameters / 1e6:.2f} M"
    yield f"{row.bytes / 1e6:.1f} MB"
    yield _shown(row.gflop, ".0f")
    yield _shown(row.forward, ".2f", " s")
    yield _shown(row.evaluation, ".2f", " s")
    yield _shown(row.peak / 1e6, ".0f", " MB")
    yield _shown(mean(row.cosine), ".4f")
    yield _shown(mean(row.gram), ".4f")
    yield _shown(row.gradient, ".4f")
    yield _shown(row.same, ".4f")
    yield _shown(ratio(row, first, "objective"), ".3f", " ×")
    yield _shown(ratio(row, first, "held_out"), ".3f", " ×")
    yield _shown(mean(row.structure), ".2f")


def _shown(value: float, form: str, unit: str = "") -> str:
    return f"{value:{form}}{unit}" if math.isfinite(value) else "–"


def as_json(rows: Sequence[Row]) -> list[dict[str, object]]:
    """All numbers."""
    return [asdict(row) for row in rows]
