"""`styler run --dry-run`: what would be painted, where, and what it would cost. Nothing is written.

The time is an estimate: one evaluation at a small size is timed on the chosen device, and scaled by pixels.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from styler import schedule
from styler.cli import report
from styler.cli.flags import OUTPUT
from styler.options import Options
from styler.schedule import Schedule

if TYPE_CHECKING:
    from styler.engine.painter import Painter
    from styler.images import Picture

DryRun = Annotated[
    bool, Parameter(group=OUTPUT, negative=(), help="say what would be done, at what cost, and do nothing")
]

TIMED_SIDE = {"cpu": 256}
"""Long side of the picture that is timed; where the kind of device is not listed, `WIDE_SIDE`."""
WIDE_SIDE = 512
"""GPUs are not busy below that, and would be thought slower than they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a painting would be and cost."""

    size: tuple[int, int]
    device: str
    precision: str
    plan: Schedule
    checkpoint: bool
    memory: float
    """Bytes at the peak, about."""
    free: float
    """Bytes there are."""
    timed: tuple[int, int] | None
    """Width and height of the evaluation that was timed; None when there is nothing to paint."""
    evaluation: float
    """Seconds of one evaluation at the final size, of that octave alone, about."""

    @property
    def seconds(self) -> float:
        """Of the whole plan, about."""
        return self.evaluation * schedule.count_units(self.plan)


def forecast(options: Options, content: "Picture", styles: "list[Picture]", start: "Picture | None") -> Forecast:
    """Load the network, ask what `Painter.stream` would ask, and time one evaluation.

    Raises:
        StylerError: whatever would end the painting before its first evaluation.
    """
    from styler.engine import budget
    from styler.engine.device import describe_device, estimate_memory, free_memory, needs_checkpoint
    from styler.engine.painter import Painter

    painter = Painter.of(options)
    painter.ready(options)
    features = painter.features(options)
    scales = schedule.build_schedule(options, content.width, content.height, features.min_side)
    size = schedule.compute_result_size(options, content.width, content.height)
    checkpoint = bool(scales) and needs_checkpoint(features, size, options.checkpoint, painter.device)
    small = _small(options, size, features.min_side, painter.device.type, checkpoint=checkpoint)
    seconds, timed = _timed(painter, small, content, styles, start)
    if timed and options.time:
        scales = budget.fit_schedule(scales, options.time, seconds / math.prod(timed))
    return Forecast(
        size=size,
        device=describe_device(painter.device),
        precision=str(painter.precision).removeprefix("torch."),
        plan=scales,
        checkpoint=checkpoint,
        memory=estimate_memory(features, size, checkpoint=checkpoint) if scales else 0.0,
        free=free_memory(painter.device),
        timed=timed,
        evaluation=seconds * math.prod(size) / math.prod(timed) if timed else 0.0,
    )


def _small(options: Options, size: tuple[int, int], min_side: int, device: str, *, checkpoint: bool) -> Options:
    """The same painting in one small scale of two evaluations: the second is timed, the first warms up."""
    needed = math.ceil(min_side * max(size) / min(size)) + 1
    side = max(TIMED_SIDE.get(device, WIDE_SIDE), needed)
    return options.replace(
        size=side if side < max(size) else options.size,
        first_size=8192,
        steps=2,
        optimizer="adam",
        sketch=0.0,
        octaves=0.0,
        time=0.0,
        checkpoint="on" if checkpoint else "off",
    )


def _timed(
    painter: "Painter", options: Options, content: "Picture", styles: "list[Picture]", start: "Picture | None"
) -> tuple[float, tuple[int, int] | None]:
    """Seconds of an evaluation, and its size."""
    marks: list[float] = []
    size = None
    for progress in painter.stream(content, [*styles], options, start=start):
        if progress.result is None:
            _ = progress.loss  # reading it waits for the device
            marks.append(time.perf_counter())
            size = progress.size
    return (marks[1] - marks[0], size) if size else (0.0, None)


def lines(found: Forecast, names: Sequence[str], pictures: "Sequence[Picture]", output: str) -> list[str]:
    """A forecast for a person; `names` and `pictures` are the content and the styles, in this order."""
    from styler.cli.answers import columns
    from styler.errors import quote_name

    inputs = [f"{quote_name(name)}, {it.width}×{it.height}" for name, it in zip(names, pictures, strict=True)]
    rows = [
        ("Content", inputs[0]),
        *(("Style", style) for style in inputs[1:]),
        ("Output", f"{quote_name(output)}, {found.size[0]}×{found.size[1]}"),
        ("Device", f"{found.device}, precision {found.precision}"),
        ("Plan", report.plan(found.plan).removeprefix("Plan: ")),
    ]
    if found.timed:
        how = "with" if found.checkpoint else "without"
        needed, free = found.memory / 1e9, found.free / 1e9
        width, height = found.timed
        rows += [
            ("Memory", f"about {needed:.1f} GB of the {free:.1f} GB that are free, {how} checkpointing"),
            ("Time", f"about {report.clock(found.seconds)}: an estimate from one evaluation at {width}×{height}"),
        ]
    return ["A dry run: nothing is painted or written.", *columns(rows)]


def document(found: Forecast, options: Options) -> Mapping[str, Any]:
    """A forecast for a program."""
    return {
        "dry_run": True,
        "width": found.size[0],
        "height": found.size[1],
        "options": options.to_dict(),
        "device": found.device,
        "precision": found.precision,
        "plan": report.scales(found.plan),
        "evaluations": sum(scale.steps for scale in found.plan),
        "units": schedule.count_units(found.plan),
        "checkpoint": found.checkpoint,
        "estimated_memory_bytes": round(found.memory),
        "free_memory_bytes": round(found.free),
        "estimated_seconds": found.seconds,
        "estimated_seconds_per_evaluation": found.evaluation,
    }
