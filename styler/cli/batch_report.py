"""What a person and a program are told of a batch: progress on stderr, events on stdout, the summary, the status."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from styler.cli import answers, report
from styler.errors import NothingMatched

if TYPE_CHECKING:
    from styler.batch.plan import BatchPlan, Pair
    from styler.batch.runner import BatchEvent
    from styler.engine.result import Progress

Tell = Callable[["BatchEvent"], None]

LINE_SECONDS = 10.0
"""Between two lines where there is no terminal, and between two events of progress."""
LISTED = 20
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
        self.failures = [(pair.output, sentence) for pair, sentence in self.batch.standing.failed]

    @property
    def todo(self) -> int:
        """Pictures of this run."""
        return len(self.batch.standing.todo)

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
        left = "" if eta is None else f", {report.clock(eta)} left"
        return f"{self.done} of {self.todo} done{failed}{left}"


@contextmanager
def shown(tally: Tally, *, progress: bool, json: bool) -> Iterator[Tell]:
    """Give what is to be called with every event."""
    where = report.console()
    if json:
        _opening(tally)
    with _progress(tally, where, wanted=progress) as move:
        stream = _streamed() if json else None

        def tell(event: "BatchEvent") -> None:
            move(event)
            if event.kind == "failed":
                report.complain(f"error: {event.text}")
            if event.kind == "note" and progress:
                report.say(where, f"styler: note: {_told(event.pair)}: {event.text}")
            if stream:
                stream(event)

        yield tell


@contextmanager
def _progress(tally: Tally, where: Any, *, wanted: bool) -> Iterator[Tell]:
    if not wanted:
        yield lambda _event: None
    elif sys.stderr.isatty() and not where.is_dumb_terminal:
        with _bars(tally, where) as move:
            yield move
    else:
        yield _lines(tally, where)


@contextmanager
def _bars(tally: Tally, where: Any) -> Iterator[Tell]:
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
                ones[name] = bar.add_task(_told(event.pair), total=None, detail="")
            if at:
                detail = f"{report.scale(at)}, {report.detail(at)}"
                bar.update(ones[name], total=at.total_units, completed=at.units, detail=detail)
                due[name] = time.monotonic() + report.BAR_SECONDS
            if name in ones and name not in tally.in_work:
                bar.remove_task(ones.pop(name))
                due.pop(name, None)

        yield move


def _lines(tally: Tally, where: Any) -> Tell:
    """A line every few seconds."""
    due = time.monotonic() + LINE_SECONDS

    def move(event: "BatchEvent") -> None:
        nonlocal due
        if event.progress is None or time.monotonic() < due:
            return
        at = f"{report.scale(event.progress)}, {report.detail(event.progress)}"
        report.say(where, f"{tally.line()}; {_told(event.pair)}: {at}")
        due = time.monotonic() + LINE_SECONDS

    return move


def _told(pair: "Pair") -> str:
    from styler.errors import quote_name

    return quote_name(pair.output)


def _opening(tally: Tally) -> None:
    now = tally.batch.standing
    counts = {"pairs": len(tally.batch.pairs), "todo": tally.todo, "done": len(now.done), "failed": len(now.failed)}
    answers.event({"event": "planned", "folder": str(tally.batch.out), **counts})


def _streamed() -> Tell:
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
            due = time.monotonic() + LINE_SECONDS
            facts |= {"scale": at.scale + 1, "scales": len(at.plan), "step": at.step, "steps": at.steps}
            facts |= {"units": at.units, "total_units": at.total_units, "eta": at.eta, "loss": at.loss}
        if event.kind in ("done", "failed", "stopped"):
            facts["seconds"] = round(event.seconds, 3)
        if event.text:
            facts["error" if event.kind == "failed" else "text"] = event.text
        answers.event(facts)

    return tell


def summary(tally: Tally, code: int, *, stopped: bool, json: bool, quiet: bool) -> None:
    """Say how it went, and list what failed."""
    skipped = len(tally.batch.standing.done)
    if json:
        answers.event(
            {
                "event": "finished",
                **{"done": tally.done, "failed": len(tally.failures), "skipped": skipped, "left": tally.left},
                "seconds": round(tally.seconds, 3),
                "failures": [{"output": name, "error": sentence} for name, sentence in tally.failures],
                "exit_code": code,
            }
        )
    for line in [] if quiet else _sentences(tally, skipped, stopped=stopped):
        report.complain(line)
    listed = [] if quiet else tally.failures
    for name, sentence in listed[:LISTED]:
        report.complain(f"failed: {name}: {sentence}")
    if len(listed) > LISTED:
        report.complain(f"{len(listed) - LISTED} more failed; --status lists them all.")


def _sentences(tally: Tally, skipped: int, *, stopped: bool) -> list[str]:
    each = f" ({tally.seconds / tally.done:.1f} s each)" if tally.done else ""
    lines = [f"{tally.done} done, {len(tally.failures)} failed, {skipped} skipped in {duration(tally.seconds)}{each}."]
    if stopped or tally.left:
        why = "Stopped" if stopped else "Stopped since so many failed"
        lines.append(f"{why}; {tally.left} left. The same command goes on from there.")
    if before := len(tally.batch.standing.failed):
        verb, which = ("is", "it") if before == 1 else ("are", "them")
        lines.append(f"{before} of the failures {verb} of an earlier run; --retry-failed tries {which} again.")
    elif tally.failures and not stopped:
        lines.append("The same command with --retry-failed tries again what failed.")
    return lines


def duration(seconds: float) -> str:
    """`12 m 03 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} m {rest:02} s" if hours else f"{minutes} m {rest:02} s"


def status(out: Path, *, json: bool) -> int:
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
        answers.document({"folder": str(out), **facts, "last_run": past.runs[-1]["time"], "failures": listed})
    else:
        also = f" ({gone} that were done are no longer there)" if gone else ""
        total = f"{done} done, {len(failures)} failed, {left} left{also}; the last run began {past.runs[-1]['time']}."
        answers.lines([total, *(f"failed: {quote_name(name)}: {sentence}" for name, sentence in failures.items())])
    return 3 if failures else 0
