"""What `styler batch` prints: progress on standard error, events on standard output, summary, status and dry run."""

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from styler import schedule
from styler.cli import output, report, run
from styler.cli.flags import EngineOptions, ReportOptions
from styler.errors import ImageError, NothingMatched, OutputError, quote_name
from styler.options import INIT_CHOICES, format_duration, format_estimate

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from styler.batch.names import Pair
    from styler.batch.plan import BatchPlan
    from styler.batch.runner import BatchEvent
    from styler.cli.run import Forecast
    from styler.engine.result import Progress
    from styler.images import Picture


ShowEvent = Callable[["BatchEvent"], None]

BATCH_LINE_SECONDS = 10.0
"""Time between two lines of progress without a terminal, and between two progress events."""
MAX_FAILURES_LISTED = 20
"""Failures that the summary lists; the manifest has all of them."""


@dataclass(slots=True, eq=False)
class Tally:
    """The state of a batch, counted from its events."""

    plan: "BatchPlan"
    done: int = 0
    failures: "list[tuple[str, str]]" = field(default_factory=list)
    """Names of pictures that failed and their errors, including those of earlier runs."""
    new_failures: int = 0
    start: float = field(default_factory=time.monotonic)
    in_progress: "dict[str, Progress | None]" = field(default_factory=dict)
    """Last progress of every picture that was started, by name."""

    def __post_init__(self) -> None:
        self.failures = [(pair.output, error) for pair, error in self.plan.state.failed]

    @property
    def todo(self) -> int:
        """Number of pictures that this run paints."""
        return len(self.plan.state.todo)

    @property
    def left(self) -> int:
        """Number of pictures of this run that are neither done nor failed."""
        return self.todo - self.done - self.new_failures

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self.start

    def count(self, event: "BatchEvent") -> None:
        """Count an event."""
        if event.kind in ("started", "progress"):
            self.in_progress[event.pair.output] = event.progress
        elif event.kind != "note":
            self.in_progress.pop(event.pair.output, None)
        self.done += event.kind == "done"
        if event.kind == "failed":
            self.new_failures += 1
            self.failures.append((event.pair.output, event.text))

    def estimate_seconds_left(self) -> float | None:
        """Return the estimated seconds left; None at the beginning."""
        shares = [min(1.0, it.units / it.total_units) for it in self.in_progress.values() if it and it.total_units]
        finished = self.done + self.new_failures + sum(shares)
        return self.seconds / finished * (self.todo - finished) if finished > 0.05 else None

    def format(self) -> str:
        """Format the counts: `3 of 12 done, 1 failed, 2 min 10 s left`."""
        seconds = self.estimate_seconds_left()
        failed = f", {self.new_failures} failed" if self.new_failures else ""
        left = "" if seconds is None else f", {format_duration(seconds)} left"
        return f"{self.done} of {self.todo} done{failed}{left}"


@contextmanager
def show_events(tally: Tally, log: report.Logger) -> Iterator[ShowEvent]:
    """Yield a function that prints every event that it is called with, as the flags request."""
    print_json = _make_event_printer() if log.options.json else None
    if print_json:
        plan, state = tally.plan, tally.plan.state
        counts = {"todo": tally.todo, "done": len(state.done), "failed": len(state.failed)}
        output.print_event({"event": "planned", "folder": str(plan.out), "pairs": len(plan.pairs), **counts})
    with _show_progress(tally, log) as show:

        def show_event(event: "BatchEvent") -> None:
            show(event)
            if event.kind == "failed":
                report.print_error(f"error: {event.text}")
            if event.kind == "note" and log.options.shows_progress:
                log.note([f"{quote_name(event.pair.output)}: {event.text}"])
            if print_json:
                print_json(event)

        yield show_event


@contextmanager
def _show_progress(tally: Tally, log: report.Logger) -> Iterator[ShowEvent]:
    if not log.options.shows_progress:
        yield lambda _event: None
    elif report.can_draw_bars(log.console):
        with report.draw_bars(log.console) as bars:
            yield _make_bars(tally, bars)
    else:
        yield _make_line_printer(tally, log)


def _make_bars(tally: Tally, bars: "Bars") -> ShowEvent:
    """Return a function that updates a bar for the batch and one for every picture in progress."""
    total = bars.add_task("All", total=max(1, tally.todo), detail=tally.format())
    loading = bars.add_task("Loading the network", total=None, detail="")
    tasks: dict[str, tuple[TaskID, report.Interval]] = {}

    def update(event: "BatchEvent") -> None:
        name, label = event.pair.output, quote_name(event.pair.output)
        bars.update(loading, visible=False)
        if event.kind == "started" and name not in tasks:
            tasks[name] = bars.add_task(label, total=None, detail=""), report.Interval(report.BAR_SECONDS)
        if event.progress and not tasks[name][1].is_over():
            return
        bars.update(total, completed=tally.done + tally.new_failures, detail=tally.format())
        if event.progress:
            task, interval = tasks[name]
            report.update_bar(bars, task, event.progress, label)
            interval.restart()
        if name in tasks and name not in tally.in_progress:
            bars.remove_task(tasks.pop(name)[0])

    return update


def _make_line_printer(tally: Tally, log: report.Logger) -> ShowEvent:
    """Return a function that prints a line every few seconds."""
    interval = report.Interval(BATCH_LINE_SECONDS)
    interval.restart()

    def print_progress(event: "BatchEvent") -> None:
        if event.progress and interval.is_over():
            progress = report.format_progress(event.progress)
            report.print_line(log.console, f"{tally.format()}; {quote_name(event.pair.output)}: {progress}")
            interval.restart()

    return print_progress


def _make_event_printer() -> ShowEvent:
    """Return a function that prints every event as a line of JSON, and progress only every few seconds."""
    interval = report.Interval(BATCH_LINE_SECONDS)

    def print_json(event: "BatchEvent") -> None:
        content: dict[str, Any] = {"event": event.kind, "output": event.pair.output}
        if event.kind == "started":
            content |= {"content": event.pair.content.path, "styles": [style.path for style in event.pair.styles]}
        if progress := event.progress:
            if not interval.is_over():
                return
            interval.restart()
            content |= {"scale": progress.scale + 1, "scales": len(progress.schedule)}
            names = ("iteration", "iterations", "units", "total_units", "eta", "loss")
            content |= {name: getattr(progress, name) for name in names}
        if event.kind in ("done", "failed", "stopped"):
            content["seconds"] = round(event.seconds, 3)
        if event.text:
            content["error" if event.kind == "failed" else "text"] = event.text
        output.print_event(content)

    return print_json


def print_summary(tally: Tally, code: int, *, is_stopped: bool, options: ReportOptions) -> None:
    """Print the counts and the failures."""
    skipped = len(tally.plan.state.done)
    if options.json:
        output.print_event(
            {
                "event": "finished",
                **{"done": tally.done, "failed": len(tally.failures), "skipped": skipped, "left": tally.left},
                "seconds": round(tally.seconds, 3),
                "failures": _failures_to_json(tally.failures),
                "exit_code": code,
            }
        )
    if options.quiet:
        return
    for line in _format_summary(tally, skipped, is_stopped=is_stopped):
        report.print_error(line)
    for name, error in tally.failures[:MAX_FAILURES_LISTED]:
        report.print_error(f"failed: {name}: {error}")
    if len(tally.failures) > MAX_FAILURES_LISTED:
        report.print_error(f"{len(tally.failures) - MAX_FAILURES_LISTED} more failed; list all of them with --status.")


def _failures_to_json(failures: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"output": name, "error": error} for name, error in failures]


def _format_summary(tally: Tally, skipped: int, *, is_stopped: bool) -> list[str]:
    each = f" ({format_duration(tally.seconds / tally.done)} each)" if tally.done else ""
    counts = f"{tally.done} done, {len(tally.failures)} failed, {skipped} skipped"
    lines = [f"{counts} in {format_duration(tally.seconds)}{each}."]
    if is_stopped or tally.left:
        reason = "Stopped" if is_stopped else "Stopped because of failures"
        lines.append(f"{reason}; {tally.left} left. Run the same command again to resume.")
    if earlier := len(tally.plan.state.failed):
        failures = "1 failure is" if earlier == 1 else f"{earlier} failures are"
        lines.append(f"{failures} from an earlier run; retry with --retry-failed.")
    elif tally.failures and not is_stopped:
        lines.append("Add --retry-failed to the same command to retry what failed.")
    return lines


def print_status(out: Path, *, json: bool) -> int:
    """Print the status of the batch in a folder, and return the exit code.

    Raises:
        NothingMatched: there is no batch in the folder.
    """
    from styler.batch import manifest

    history = manifest.read_manifest(out)
    if not history.runs:
        raise NothingMatched(f"There is no batch in {quote_name(out)}; name the folder that was given with -o.")
    states = {name: entry["state"] for name, entry in history.entries.items()}
    existing = {name for name in states if (out / name).is_file()}
    done = sum(state != manifest.FAILED and name in existing for name, state in states.items())
    gone = sum(state == manifest.DONE and name not in existing for name, state in states.items())
    failures = [(name, history.entries[name]["error"]) for name, state in states.items() if state == manifest.FAILED]
    last = history.runs[-1]
    counts = {"done": done, "failed": len(failures), "left": max(0, last["pairs"] - done - len(failures)), "gone": gone}
    if json:
        output.print_document(
            {"folder": str(out), **counts, "last_run": last["time"], "failures": _failures_to_json(failures)}
        )
    else:
        missing = f" ({report.format_count(gone, 'finished picture')} missing)" if gone else ""
        total = f"{done} done, {len(failures)} failed, {counts['left']} left{missing}"
        lines = [f"failed: {quote_name(name)}: {error}" for name, error in failures]
        output.print_lines([f"{total}; the last run started at {last['time']}.", *lines])
    return 3 if failures else 0


BYTES_PER_PIXEL = {"png": 2.4, "jpeg": 0.9, "webp": 0.7, "avif": 0.6, "tiff": 2.6}
"""Typical size of a painting's file by format, at 8 bits; twice as much at 16 bits."""


def print_plan(plan: "BatchPlan", read: "Callable[[str], Picture]", engine: EngineOptions, *, json: bool) -> int:
    """Print what would be painted and what it would cost; return the exit code.

    Every picture is taken to be as large as the first, and to take as long: as those that were painted with the same
    settings, otherwise as estimated from one iteration of the first.
    """
    from styler.batch.plan import EXTENSION_FORMATS

    request, state = plan.request, plan.state
    forecast = _forecast_first(plan, read, engine)
    pixel_bytes = BYTES_PER_PIXEL[EXTENSION_FORMATS[request.format]] * (request.bit_depth // 8)
    workers = max(1, len(engine.device_names))
    each = plan.picture_seconds or (forecast.seconds if forecast else None)
    seconds = each * len(state.todo) / workers if forecast and each is not None else None
    hourly = 3600 * workers / each if forecast and each else None
    disk = round(math.prod(forecast.size) * len(state.todo) * pixel_bytes) if forecast else None
    folder = plan.out.absolute()
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    if not json:
        rows = [("Pictures", format_state(plan))]
        if forecast and seconds is not None and disk is not None:
            rows += _format_forecast(forecast, seconds, plan, engine)
            rows += [("Speed", f"about {hourly:,.{0 if hourly > 10 else 1}f} pictures per hour")] if hourly else []
            rows += [("Disk", f"about {disk / 1e6:.1f} MB of {free / 1e9:.1f} GB free")]
        output.print_lines(["Dry run: nothing is painted or written.", *output.format_columns(rows)])
        output.print_lines(_format_pair(pair, plan.out) for pair in state.todo)
        return 0
    todo = [
        {"content": pair.content.path, "styles": [style.path for style in pair.styles], "output": pair.output}
        for pair in state.todo
    ]
    output.print_document(
        {
            "dry_run": True,
            "folder": str(plan.out),
            "todo": todo,
            "done": len(state.done),
            "failed": len(state.failed),
            "first": run.forecast_to_json(forecast, request.options) if forecast else None,
            "estimated_seconds": seconds,
            "estimated_pictures_per_hour": hourly,
            "estimated_disk_bytes": disk,
            "free_disk_bytes": free,
        }
    )
    return 0


def _forecast_first(plan: "BatchPlan", read: "Callable[[str], Picture]", engine: EngineOptions) -> "Forecast | None":
    """Return a forecast of the first picture that can be read, on the first device; None if there is none."""
    from styler import images
    from styler.batch.plan import EXTENSION_FORMATS, apply_masks

    options = plan.request.options
    if engine.device_names:
        options = options.replace(device=engine.device_names[0])
    start = None if options.init in INIT_CHOICES else read(options.init)
    for pair in plan.state.todo:
        try:
            content, styles = read(pair.content.path), [read(style.path) for style in pair.styles]
            masks = {path: read(path) for _, path in pair.masks}
            size = schedule.compute_result_size(options, content.width, content.height)
            images.check_sides(EXTENSION_FORMATS[plan.request.format], size)
        except (ImageError, OutputError) as error:
            report.print_error(f"error: {error}")
            continue
        return run.make_forecast(apply_masks(options, pair.masks), content, styles, start, masks=masks)
    return None


def format_state(plan: "BatchPlan") -> str:
    """Format the counts before a run: `3 to paint, 2 done, 1 failed in an earlier run`."""
    state = plan.state
    failed = f", {len(state.failed)} failed in an earlier run" if state.failed else ""
    return f"{len(state.todo)} to paint, {len(state.done)} done{failed}"


def _format_forecast(
    forecast: "Forecast", seconds: float, plan: "BatchPlan", engine: EngineOptions
) -> list[tuple[str, str]]:
    workers = f", with {len(engine.device_names)} workers" if len(engine.device_names) > 1 else ""
    cluster = "; the workers of the cluster share this time" if engine.engine == "ray" else ""
    if plan.picture_seconds:
        each = f"{format_duration(plan.picture_seconds)} each, like those that were painted with these settings"
    else:
        each = f"{format_duration(forecast.seconds)} each, if all are like the first one"
    return [
        ("Size", f"{forecast.size[0]}×{forecast.size[1]}, like the first one"),
        ("Device", f"{forecast.device}, precision {forecast.precision}"),
        *([("Memory", run.format_memory(forecast, forecast.plan))] if forecast.plan else []),
        ("Time", f"{format_estimate(seconds)}, {each}{workers}{cluster}"),
    ]


def _format_pair(pair: "Pair", out: Path) -> str:
    inputs = " × ".join(quote_name(picture.path) for picture in (pair.content, *pair.styles))
    return f"{inputs} → {quote_name(os.fspath(out / pair.output))}"
