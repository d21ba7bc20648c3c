"""What a person and a program are told of a batch: progress on stderr, events on stdout, the summary, the status."""

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from styler.cli import output, report, run
from styler.cli.flags import EngineOptions
from styler.errors import ImageError, NothingMatched
from styler.options import INIT_CHOICES

if TYPE_CHECKING:
    from styler.batch.plan import BatchPlan, Pair
    from styler.batch.runner import BatchEvent
    from styler.cli.run import Forecast
    from styler.engine.result import Progress
    from styler.images import Picture


ShowEvent = Callable[["BatchEvent"], None]

BATCH_LINE_SECONDS = 10.0
"""Between two lines where there is no terminal, and between two events of progress."""
MAX_FAILURES_LISTED = 20
"""Failures that the summary lists; all are in the manifest."""


@dataclass(slots=True, eq=False)
class Tally:
    """How a batch stands, counted from its events."""

    batch: "BatchPlan"
    done: int = 0
    failures: "list[tuple[str, str]]" = field(default_factory=list)
    """Names of pictures, and why they failed; those of earlier runs too."""
    failures_now: int = 0
    began: float = field(default_factory=time.monotonic)
    in_work: "dict[str, Progress | None]" = field(default_factory=dict)
    """How far each picture is that has been begun, by its name."""

    def __post_init__(self) -> None:
        self.failures = [(pair.output, sentence) for pair, sentence in self.batch.state.failed]

    @property
    def todo(self) -> int:
        """Pictures of this run."""
        return len(self.batch.state.todo)

    @property
    def left(self) -> int:
        """Pictures of this run that are neither done nor failed."""
        return self.todo - self.done - self.failures_now

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    def count(self, event: "BatchEvent") -> None:
        """Take in an event."""
        if event.kind in ("started", "progress"):
            self.in_work[event.pair.output] = event.progress
        elif event.kind != "note":
            self.in_work.pop(event.pair.output, None)
        self.done += event.kind == "done"
        if event.kind == "failed":
            self.failures_now += 1
            self.failures.append((event.pair.output, event.text))

    def eta(self) -> float | None:
        """Seconds left, as far as can be told."""
        shares = [min(1.0, it.units / it.total_units) for it in self.in_work.values() if it and it.total_units]
        finished = self.done + self.failures_now + sum(shares)
        return self.seconds / finished * (self.todo - finished) if finished > 0.05 else None

    def line(self) -> str:
        """`3 of 12 done, 1 failed, 2:10 left`."""
        eta = self.eta()
        failed = f", {self.failures_now} failed" if self.failures_now else ""
        left = "" if eta is None else f", {report.format_clock(eta)} left"
        return f"{self.done} of {self.todo} done{failed}{left}"


@contextmanager
def show_batch(tally: Tally, *, progress: bool, json: bool) -> Iterator[ShowEvent]:
    """Give what is to be called with every event."""
    where = report.make_console()
    if json:
        _print_opening(tally)
    with _show_progress(tally, where, wanted=progress) as move:
        stream = _stream_events() if json else None

        def tell(event: "BatchEvent") -> None:
            move(event)
            if event.kind == "failed":
                report.print_error(f"error: {event.text}")
            if event.kind == "note" and progress:
                report.print_line(where, f"styler: note: {_quote_output(event.pair)}: {event.text}")
            if stream:
                stream(event)

        yield tell


@contextmanager
def _show_progress(tally: Tally, where: Any, *, wanted: bool) -> Iterator[ShowEvent]:
    if not wanted:
        yield lambda _event: None
    elif sys.stderr.isatty() and not where.is_dumb_terminal:
        with _show_batch_bars(tally, where) as move:
            yield move
    else:
        yield _show_batch_lines(tally, where)


@contextmanager
def _show_batch_bars(tally: Tally, where: Any) -> Iterator[ShowEvent]:
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(bar_width=30),
        rich.TextColumn("{task.fields[detail]}", markup=False),
    )
    with rich.Progress(*columns, console=where, transient=True, redirect_stdout=False) as bar:
        whole = bar.add_task("All", total=max(1, tally.todo), detail=tally.line())
        loading = bar.add_task("Loading the network", total=None, detail="")
        ones: dict[str, rich.TaskID] = {}
        due: dict[str, float] = {}

        def move(event: "BatchEvent") -> None:
            at, name = event.progress, event.pair.output
            bar.update(loading, visible=False)
            if at and time.monotonic() < due.get(name, 0.0):
                return
            bar.update(whole, completed=tally.done + tally.failures_now, detail=tally.line())
            if event.kind == "started" and name not in ones:
                ones[name] = bar.add_task(_quote_output(event.pair), total=None, detail="")
            if at:
                detail = f"{report.format_scale(at)}, {report.format_detail(at)}"
                bar.update(ones[name], total=at.total_units, completed=at.units, detail=detail)
                due[name] = time.monotonic() + report.BAR_SECONDS
            if name in ones and name not in tally.in_work:
                bar.remove_task(ones.pop(name))
                due.pop(name, None)

        yield move


def _show_batch_lines(tally: Tally, where: Any) -> ShowEvent:
    """A line every few seconds."""
    due = time.monotonic() + BATCH_LINE_SECONDS

    def move(event: "BatchEvent") -> None:
        nonlocal due
        if event.progress is None or time.monotonic() < due:
            return
        at = f"{report.format_scale(event.progress)}, {report.format_detail(event.progress)}"
        report.print_line(where, f"{tally.line()}; {_quote_output(event.pair)}: {at}")
        due = time.monotonic() + BATCH_LINE_SECONDS

    return move


def _quote_output(pair: "Pair") -> str:
    from styler.errors import quote_name

    return quote_name(pair.output)


def _print_opening(tally: Tally) -> None:
    now = tally.batch.state
    counts = {"pairs": len(tally.batch.pairs), "todo": tally.todo, "done": len(now.done), "failed": len(now.failed)}
    output.print_event({"event": "planned", "folder": str(tally.batch.out), **counts})


def _stream_events() -> ShowEvent:
    """Every event as a line of JSON; progress only every few seconds."""
    due = 0.0

    def tell(event: "BatchEvent") -> None:
        nonlocal due
        facts: dict[str, Any] = {"event": event.kind, "output": event.pair.output}
        if event.kind == "started":
            facts |= {"content": event.pair.content.path, "styles": [style.path for style in event.pair.styles]}
        if at := event.progress:
            if time.monotonic() < due:
                return
            due = time.monotonic() + BATCH_LINE_SECONDS
            facts |= {
                "scale": at.scale + 1,
                "scales": len(at.schedule),
                "step": at.iteration,
                "iterations": at.iterations,
            }
            facts |= {"units": at.units, "total_units": at.total_units, "eta": at.eta, "loss": at.loss}
        if event.kind in ("done", "failed", "stopped"):
            facts["seconds"] = round(event.seconds, 3)
        if event.text:
            facts["error" if event.kind == "failed" else "text"] = event.text
        output.print_event(facts)

    return tell


def print_summary(tally: Tally, code: int, *, stopped: bool, json: bool, quiet: bool) -> None:
    """Say how it went, and list what failed."""
    skipped = len(tally.batch.state.done)
    if json:
        output.print_event(
            {
                "event": "finished",
                **{"done": tally.done, "failed": len(tally.failures), "skipped": skipped, "left": tally.left},
                "seconds": round(tally.seconds, 3),
                "failures": [{"output": name, "error": sentence} for name, sentence in tally.failures],
                "exit_code": code,
            }
        )
    for line in [] if quiet else _summarize(tally, skipped, stopped=stopped):
        report.print_error(line)
    listed = [] if quiet else tally.failures
    for name, sentence in listed[:MAX_FAILURES_LISTED]:
        report.print_error(f"failed: {name}: {sentence}")
    if len(listed) > MAX_FAILURES_LISTED:
        report.print_error(f"{len(listed) - MAX_FAILURES_LISTED} more failed; --status lists them all.")


def _summarize(tally: Tally, skipped: int, *, stopped: bool) -> list[str]:
    each = f" ({tally.seconds / tally.done:.1f} s each)" if tally.done else ""
    lines = [
        f"{tally.done} done, {len(tally.failures)} failed, {skipped} skipped in {format_duration(tally.seconds)}{each}."
    ]
    if stopped or tally.left:
        why = "Stopped" if stopped else "Stopped since so many failed"
        lines.append(f"{why}; {tally.left} left. The same command goes on from there.")
    if before := len(tally.batch.state.failed):
        verb, which = ("is", "it") if before == 1 else ("are", "them")
        lines.append(f"{before} of the failures {verb} of an earlier run; --retry-failed tries {which} again.")
    elif tally.failures and not stopped:
        lines.append("The same command with --retry-failed tries again what failed.")
    return lines


def format_duration(seconds: float) -> str:
    """`12 m 03 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} m {rest:02} s" if hours else f"{minutes} m {rest:02} s"


def print_status(out: Path, *, json: bool) -> int:
    """Say how the batch in a folder stands.

    Raises:
        NothingMatched: there is none.
    """
    from styler.batch import manifest
    from styler.errors import quote_name

    past = manifest.read_manifest(out)
    if not past.runs:
        raise NothingMatched(f"There is no batch in {quote_name(out)}; give the folder that it was told with -o.")
    states = {name: entry["state"] for name, entry in past.entries.items()}
    there = {name for name in states if (out / name).is_file()}
    done = sum(state != manifest.FAILED and name in there for name, state in states.items())
    gone = sum(state == manifest.DONE and name not in there for name, state in states.items())
    failures = {name: past.entries[name]["error"] for name, state in states.items() if state == manifest.FAILED}
    left = max(0, past.runs[-1]["pairs"] - done - len(failures))
    facts = {"done": done, "failed": len(failures), "left": left, "gone": gone}
    if json:
        listed = [{"output": name, "error": sentence} for name, sentence in failures.items()]
        output.print_document({"folder": str(out), **facts, "last_run": past.runs[-1]["time"], "failures": listed})
    else:
        also = f" ({gone} that were done are no longer there)" if gone else ""
        total = f"{done} done, {len(failures)} failed, {left} left{also}; the last run began {past.runs[-1]['time']}."
        output.print_lines([total, *(f"failed: {quote_name(name)}: {sentence}" for name, sentence in failures.items())])
    return 3 if failures else 0


BYTES_PER_PIXEL = {"png": 2.4, "jpg": 0.9, "webp": 0.7, "avif": 0.6, "tiff": 2.6}
"""Of a pixel of a painting in a file, about; twice as many at 16 bit."""


def print_plan(batch: "BatchPlan", read: "Callable[[str], Picture]", where: EngineOptions, *, json: bool) -> int:
    """Say what would be done; return the exit code."""
    found = _forecast_first(batch, read, where)
    workers = max(1, len(where.listed))
    request, todo = batch.request, batch.state.todo
    pixel = BYTES_PER_PIXEL[request.format] * (request.bit_depth // 8)
    disk = math.prod(found.size) * pixel * len(todo) if found else None
    free = shutil.disk_usage(
        next(it for it in (batch.out.absolute(), *batch.out.absolute().parents) if it.exists())
    ).free
    if json:
        output.print_document(_plan_to_json(batch, found, disk, free, workers))
    else:
        output.print_lines(_format_plan(batch, found, disk, free, where))
    return 0


def _forecast_first(batch: "BatchPlan", read: "Callable[[str], Picture]", where: EngineOptions) -> "Forecast | None":
    """Of the first picture that can be read, on the first device; None if there is none."""
    options = batch.request.options
    if where.listed:
        options = options.replace(device=where.listed[0])
    start = None if options.init in INIT_CHOICES else read(options.init)
    for pair in batch.state.todo:
        try:
            content, styles = read(pair.content.path), [read(style.path) for style in pair.styles]
        except ImageError as problem:
            report.print_error(f"error: {problem}")
            continue
        return run.make_forecast(options, content, styles, start)
    return None


def _format_plan(
    batch: "BatchPlan", found: "Forecast | None", disk: float | None, free: int, where: EngineOptions
) -> list[str]:
    from styler.errors import quote_name

    now = batch.state
    rows = [("Pictures", f"{len(now.todo)} to paint, {len(now.done)} done, {len(now.failed)} failed before")]
    if found and disk is not None:
        width, height = found.size
        workers = max(1, len(where.listed))
        total, each = report.format_clock(found.seconds * len(now.todo) / workers), report.format_clock(found.seconds)
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
    return ["A dry run: nothing is painted or written.", *output.format_columns(rows), *plan]


def _plan_to_json(
    batch: "BatchPlan", found: "Forecast | None", disk: float | None, free: int, workers: int
) -> dict[str, Any]:
    now = batch.state
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
        "first": run.forecast_to_json(found, batch.request.options) if found else None,
        "estimated_seconds": found.seconds * len(now.todo) / workers if found else None,
        "estimated_disk_bytes": None if disk is None else round(disk),
        "free_disk_bytes": free,
    }
