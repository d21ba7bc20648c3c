"""`styler batch --dry-run`: what would be painted, where, and about what it would cost. Nothing is written."""

import math
import os
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from styler.cli import answers, dry_run, report
from styler.cli.batch_flags import Where
from styler.errors import ImageError
from styler.options import INIT_CHOICES

if TYPE_CHECKING:
    from styler.batch.plan import BatchPlan
    from styler.cli.dry_run import Forecast
    from styler.images import Picture

BYTES = {"png": 2.4, "jpg": 0.9, "webp": 0.7, "avif": 0.6, "tiff": 2.6}
"""Of a pixel of a painting in a file, about; twice as many at 16 bit."""


def told(batch: "BatchPlan", read: "Callable[[str], Picture]", where: Where, *, json: bool) -> int:
    """Say what would be done; return the exit code."""
    found = _forecast(batch, read, where)
    workers = max(1, len(where.listed))
    request, todo = batch.request, batch.standing.todo
    pixel = BYTES[request.format] * (request.bit_depth // 8)
    disk = math.prod(found.size) * pixel * len(todo) if found else None
    free = shutil.disk_usage(
        next(it for it in (batch.out.absolute(), *batch.out.absolute().parents) if it.exists())
    ).free
    if json:
        answers.document(_document(batch, found, disk, free, workers))
    else:
        answers.lines(_lines(batch, found, disk, free, where))
    return 0


def _forecast(batch: "BatchPlan", read: "Callable[[str], Picture]", where: Where) -> "Forecast | None":
    """Of the first picture that can be read, on the first device; None if there is none."""
    options = batch.request.options
    if where.listed:
        options = options.replace(device=where.listed[0])
    start = None if options.init in INIT_CHOICES else read(options.init)
    for pair in batch.standing.todo:
        try:
            content, styles = read(pair.content.path), [read(style.path) for style in pair.styles]
        except ImageError as problem:
            report.complain(f"error: {problem}")
            continue
        return dry_run.forecast(options, content, styles, start)
    return None


def _lines(batch: "BatchPlan", found: "Forecast | None", disk: float | None, free: int, where: Where) -> list[str]:
    from styler.errors import quote_name

    now = batch.standing
    rows = [("Pictures", f"{len(now.todo)} to paint, {len(now.done)} done, {len(now.failed)} failed before")]
    if found and disk is not None:
        width, height = found.size
        workers = max(1, len(where.listed))
        total, each = report.clock(found.seconds * len(now.todo) / workers), report.clock(found.seconds)
        like = "if all are like the first one" + (f", with {workers} workers" if workers > 1 else "")
        if where.engine == "ray":
            like += "; a cluster divides it by its workers, and is as fast as its machines"
        rows += [
            ("Size", f"{width}×{height}, as the first one"),
            ("Device", f"{found.device}, precision {found.precision}"),
            ("Memory", f"about {found.memory / 1e9:.1f} GB of the {found.free / 1e9:.1f} GB that are free"),
            ("Time", f"about {total}, {each} each, {like}"),
            ("Disk", f"about {disk / 1e6:.1f} MB of the {free / 1e9:.1f} GB that are free"),
        ]
    plan = [
        " × ".join(quote_name(it.path) for it in (pair.content, *pair.styles))
        + f" → {quote_name(os.fspath(batch.out / pair.output))}"
        for pair in now.todo
    ]
    return ["A dry run: nothing is painted or written.", *answers.columns(rows), *plan]


def _document(
    batch: "BatchPlan", found: "Forecast | None", disk: float | None, free: int, workers: int
) -> dict[str, Any]:
    now = batch.standing
    return {
        "dry_run": True,
        "folder": str(batch.out),
        "todo": [
            {
                "content": pair.content.path,
                "styles": [style.path for style in pair.styles],
                "output": pair.output,
            }
            for pair in now.todo
        ],
        "done": len(now.done),
        "failed": len(now.failed),
        "first": dry_run.document(found, batch.request.options) if found else None,
        "estimated_seconds": found.seconds * len(now.todo) / workers if found else None,
        "estimated_disk_bytes": None if disk is None else round(disk),
        "free_disk_bytes": free,
    }
