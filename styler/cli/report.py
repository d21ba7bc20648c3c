"""What a person sees on stderr while a picture is painted: a bar, or lines where there is no terminal, and the log.

Reading a loss waits for the device, so it is read no oftener than it is shown.
"""

import io
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from styler.options import Options, ResolvedOptions

if TYPE_CHECKING:
    from styler.engine.result import Progress, Result
    from styler.images import Picture
    from styler.schedule import Schedule

ShowProgress = Callable[["Progress"], None]
Say = Callable[[str], None]

BAR_SECONDS = 0.1
"""Between two updates of the bar."""
LINE_SECONDS = 5.0
"""Between two lines where there is no terminal."""


class _SafeStderr(io.TextIOBase):
    """Stderr; that it cannot be written, or that nobody reads it, is no reason to lose a picture."""

    def __init__(self) -> None:
        self.stream = getattr(sys.stderr, "rich_proxied_file", sys.stderr)  # a bar takes the place of the true one

    def write(self, text: str) -> int:
        with self._giving_up():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._giving_up():
            self.stream.flush()

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())  # or Python tries again when it ends

    def isatty(self) -> bool:
        return bool(self.stream.isatty())

    def fileno(self) -> int:
        return int(self.stream.fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override] # a plain attribute there, which is the same to its readers
        return self.stream.encoding or "utf-8"


def make_console() -> Console:
    """Stderr, for text that is neither wrapped nor decorated."""
    return Console(file=_SafeStderr(), markup=False, highlight=False, emoji=False)  # type: ignore[arg-type] # it will do


def print_line(where: Console, text: str) -> None:
    """One line on stderr, above the bar if there is one."""
    where.print(text, soft_wrap=True)


def print_error(text: str) -> None:
    """One line on stderr that no name can break: whatever cannot be printed is escaped.

    Its kind, as in `error: …`, is coloured where the terminal and the environment want colours.
    """
    line = Text("styler: " + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text))
    for kind, color in (("error:", "red"), ("warning:", "yellow")):
        if text.startswith(kind):
            line.stylize(color, len("styler: "), len("styler: ") + len(kind))
    make_console().print(line, soft_wrap=True)


def print_warning(text: str) -> None:
    """A warning on stderr."""
    print_error(f"warning: {text}")


@contextmanager
def log_time(log: Say, what: str) -> Iterator[None]:
    """Log how long something took."""
    began = time.perf_counter()
    yield
    log(f"{what} in {time.perf_counter() - began:.2f} s.")


@contextmanager
def show_progress(where: Console, *, quiet: bool) -> Iterator[ShowProgress]:
    """Give what is to be called with every report of a painting; until the first it is said that something loads."""
    if quiet:
        yield lambda _progress: None
    elif sys.stderr.isatty() and not where.is_dumb_terminal:
        with _show_bar(where) as show:
            yield show
    else:
        yield _show_lines(where)


@contextmanager
def _show_bar(where: Console) -> Iterator[ShowProgress]:
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(bar_width=30),
        rich.TextColumn("{task.fields[detail]}", markup=False),
    )
    with rich.Progress(*columns, console=where, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("Loading the network", total=None, detail="")
        due = 0.0

        def show(progress: "Progress") -> None:
            nonlocal due
            if time.monotonic() < due or progress.result:
                return
            bar.update(
                task,
                description=format_scale(progress),
                total=progress.total_units,
                completed=progress.units,
                detail=format_detail(progress),
            )
            due = time.monotonic() + BAR_SECONDS

        yield show


def _show_lines(where: Console) -> ShowProgress:
    """A line at the first step of every scale, and every few seconds."""
    due, last = 0.0, -1

    def show(progress: "Progress") -> None:
        nonlocal due, last
        if progress.result or (time.monotonic() < due and progress.scale == last):
            return
        print_line(where, f"{format_scale(progress)}, {format_detail(progress)}")
        due, last = time.monotonic() + LINE_SECONDS, progress.scale

    return show


def format_scale(progress: "Progress") -> str:
    """`2 of 3: 256×192`."""
    width, height = progress.size
    return f"Scale {progress.scale + 1} of {len(progress.schedule)}: {width}×{height}"


def format_detail(progress: "Progress") -> str:
    """`step 34 of 80, loss 0.0123, 1:20 left`."""
    left = "" if progress.eta is None else f", {format_clock(progress.eta)} left"
    return f"step {progress.iteration} of {progress.iterations}, loss {progress.loss:.4g}{left}"


def format_clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_decisions(
    resolved: ResolvedOptions, content: "Picture", styles: "Iterable[Picture]", output: str | Path
) -> list[str]:
    """What is known before the network is loaded, in lines."""
    from styler.errors import quote_name

    values = resolved.options.to_dict()
    chosen = [f"{name} {values[name]} ({origin})" for name, origin in resolved.origins.items() if origin != "default"]
    sizes = ", ".join(f"{style.width}×{style.height}" for style in styles)
    return [
        f"Content {content.width}×{content.height}, style {sizes}; the picture goes to {quote_name(output)}.",
        "Settings: " + (", ".join(chosen) or "the defaults") + ".",
    ]


def format_schedule(scales: "Schedule", options: Options | None = None) -> str:
    """The plan in a line; with options that change it on the way, what they do to it."""
    from styler.schedule import count_units

    if not scales:
        return "Plan: nothing to paint at strength 0."
    if options and options.time:
        parts = ", ".join(f"{s.width}×{s.height}" for s in scales)
        return f"Plan: {parts}, as many steps as fit into {format_clock(options.time)}."
    parts = ", ".join(
        f"{s.width}×{s.height} {s.iterations} steps of {s.optimizer}{format_manner(s.sketch, s.half_size_copies)}"
        for s in scales
    )
    steps = sum(s.iterations for s in scales)
    most = "at most " if options and options.patience else ""
    return f"Plan: {parts}; {most}{steps} evaluations, the work of {count_units(scales):.1f} at the final size."


def format_manner(sketch: bool, octaves: int) -> str:
    """Who looks at a scale, and in how many octaves, where it is not the backbone in one."""
    return " by the slim network" * sketch + (f" in {octaves + 1} octaves" if octaves else "")


def schedule_to_json(plan: "Schedule") -> list[dict[str, Any]]:
    """The plan for a program."""
    names = ("width", "height", "iterations", "optimizer", "sketch", "half_size_copies")
    return [{name: getattr(scale, name) for name in names} for scale in plan]


def result_to_json(result: "Result") -> dict[str, Any]:
    """How a painting went, for a program."""
    height, width = result.pixels.shape[:2]
    return {
        "width": width,
        "height": height,
        "options": result.options.to_dict(),
        "schedule": schedule_to_json(result.schedule),
        "iterations": result.iterations,
        "units": result.units,
        "losses": result.losses,
        "seconds": result.seconds,
        "scale_seconds": result.scale_seconds,
        "stopped": result.stopped,
        "device": result.device,
        "precision": result.precision,
        "threads": result.threads,
        "weights_sha256": result.weights_sha256,
        "notes": result.notes,
    }


def format_timings(result: "Result") -> list[str]:
    """How long each scale took, in lines."""
    return [
        f"{done.width}×{done.height}: {done.iterations} steps in {seconds:.1f} s, {seconds / done.iterations:.3f} s each."
        for done, seconds in zip(result.schedule, result.scale_seconds, strict=True)
    ]


def format_summary(result: "Result") -> list[str]:
    """How a painting went, in lines."""
    lines = []
    if result.losses:
        lines.append("Losses: " + ", ".join(f"{name} {value:.4g}" for name, value in result.losses.items()) + ".")
    threads = f"{result.threads} thread" + "s" * (result.threads != 1)
    return [*lines, f"Painted in {result.seconds:.1f} s with {threads}; network {result.weights_sha256[:12]}."]
