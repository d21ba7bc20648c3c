"""Standard error: errors and warnings, the log, and the progress of one picture as a bar or, without a terminal, lines.

Reading a loss waits for the device, so it is not read more often than it is shown.
"""

import dataclasses
import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.text import Text

from styler.cli.flags import ReportOptions
from styler.cli.output import discard_output
from styler.errors import quote_name
from styler.options import Options, ResolvedOptions, format_duration, format_value
from styler.regions import specs

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from styler.engine.result import Progress, Result
    from styler.images import Picture
    from styler.provenance import MaskRecord
    from styler.regions.resolve import MaskEntry
    from styler.schedule import Schedule

MIN_WIDTH, DEFAULT_WIDTH = 20, 80
"""Columns that a terminal has at least, and those of one that claims fewer."""
BAR_SECONDS = 0.1
"""Time between two updates of a bar."""
LINE_SECONDS = 5.0
"""Time between two lines of progress."""

OPTIMIZERS = {"lbfgs": "L-BFGS", "adam": "Adam"}
"""Names of the optimizers in messages."""


class _SafeStderr(io.TextIOBase):
    """Standard error, except that write errors are ignored: they must not cause the loss of a picture."""

    def __init__(self) -> None:
        self.stream = getattr(sys.stderr, "rich_proxied_file", sys.stderr)  # a bar replaces `sys.stderr`

    def write(self, text: str) -> int:
        with self._ignore_errors():
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._ignore_errors():
            self.stream.flush()

    @contextmanager
    def _ignore_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            discard_output(self.stream)

    def isatty(self) -> bool:
        return bool(self.stream.isatty())

    def fileno(self) -> int:
        return int(self.stream.fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override] # a plain attribute in the base class
        return self.stream.encoding or "utf-8"


def make_console() -> Console:
    """Return a console on standard error that neither wraps nor decorates text."""
    console = Console(file=_SafeStderr(), markup=False, highlight=False, emoji=False)  # type: ignore[arg-type] # a subset of IO
    if console.width < MIN_WIDTH:  # some programs set COLUMNS to 0, and rich prints nothing then
        console.width = DEFAULT_WIDTH
    return console


def print_line(console: Console, text: str) -> None:
    """Print one line on standard error, above the bars if there are any."""
    console.print(text, soft_wrap=True)


def print_error(text: str) -> None:
    """Print one line on standard error, escaping characters that cannot be printed.

    The prefix `error:` or `warning:` is colored where the terminal and the environment allow it.
    """
    line = Text("styler: " + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text))
    for prefix, color in (("error:", "red"), ("warning:", "yellow")):
        if text.startswith(prefix):
            line.stylize(color, len("styler: "), len("styler: ") + len(prefix))
    make_console().print(line, soft_wrap=True)


def print_warning(text: str) -> None:
    """Print a warning on standard error."""
    print_error(f"warning: {text}")


class Logger:
    """The log of a command, as detailed as its flags ask for."""

    def __init__(self, options: ReportOptions) -> None:
        self.options = options
        self.console = make_console()

    def warn(self, warnings: Iterable[str]) -> None:
        """Print warnings, unless --quiet is given."""
        for warning in [] if self.options.quiet else warnings:
            print_warning(warning)

    def note(self, notes: Iterable[str]) -> None:
        """Print notes, unless --quiet is given."""
        for text in [] if self.options.quiet else notes:
            print_line(self.console, f"styler: note: {text}")

    def info(self, lines: Iterable[str]) -> None:
        """Print settings and results, if --verbose is given."""
        for line in lines if self.options.verbose or self.options.debug else []:
            print_line(self.console, line)

    def debug(self, lines: Iterable[str]) -> None:
        """Print timings, if --verbose is given twice."""
        for line in lines if self.options.verbose > 1 or self.options.debug else []:
            print_line(self.console, line)

    @contextmanager
    def time(self, action: str) -> Iterator[None]:
        """Log how long the block took."""
        start = time.perf_counter()
        yield
        self.debug([f"{action} in {time.perf_counter() - start:.2f} s."])


@dataclass(slots=True, eq=False)
class Interval:
    """A minimum time between two outputs."""

    seconds: float
    end: float = 0.0

    def is_over(self) -> bool:
        """Return whether the time has passed since the last `restart`."""
        return time.monotonic() >= self.end

    def restart(self) -> None:
        """Start the interval again."""
        self.end = time.monotonic() + self.seconds


def can_draw_bars(console: Console) -> bool:
    """Return whether standard error is a terminal that can redraw lines."""
    return sys.stderr.isatty() and not console.is_dumb_terminal


@contextmanager
def draw_bars(console: Console) -> Iterator["Bars"]:
    """Draw progress bars, each with a description and a detail, until the block ends."""
    from rich import progress as rich

    columns = (
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(bar_width=30),
        rich.TextColumn("{task.fields[detail]}", markup=False),
    )
    with rich.Progress(*columns, console=console, transient=True, redirect_stdout=False) as bars:
        yield bars


def update_bar(bars: "Bars", task: "TaskID", progress: "Progress", name: str = "") -> None:
    """Update the bar of a picture; the name is given where there are several pictures."""
    description = name or format_scale(progress)
    detail = format_progress(progress) if name else format_iteration(progress)
    bars.update(task, description=description, total=progress.total_units, completed=progress.units, detail=detail)


@contextmanager
def show_progress(console: Console, *, is_shown: bool) -> Iterator[Callable[["Progress"], None]]:
    """Yield a function to call with every `Progress` of a picture; the bar begins while the network is loaded."""
    interval, scale = Interval(BAR_SECONDS if can_draw_bars(console) else LINE_SECONDS), -1
    if not is_shown:
        yield lambda _progress: None
    elif can_draw_bars(console):
        with draw_bars(console) as bars:
            task = bars.add_task("Loading the network", total=None, detail="")

            def update(progress: "Progress") -> None:
                if interval.is_over() and not progress.result:
                    update_bar(bars, task, progress)
                    interval.restart()

            yield update
    else:

        def print_progress(progress: "Progress") -> None:
            nonlocal scale
            if not progress.result and (interval.is_over() or progress.scale != scale):
                print_line(console, format_progress(progress))
                interval.restart()
                scale = progress.scale

        yield print_progress


def format_progress(progress: "Progress") -> str:
    """Format progress: `Scale 2 of 3: 256×192, iteration 34 of 80, loss 0.0123, 1 min 20 s left`."""
    return f"{format_scale(progress)}, {format_iteration(progress)}"


def format_scale(progress: "Progress") -> str:
    """Format the current scale: `Scale 2 of 3: 256×192`."""
    width, height = progress.size
    return f"Scale {progress.scale + 1} of {len(progress.schedule)}: {width}×{height}"


def format_iteration(progress: "Progress") -> str:
    """Format the current iteration: `iteration 34 of 80, loss 0.0123, 1 min 20 s left`."""
    left = "" if progress.eta is None else f", {format_duration(progress.eta)} left"
    return f"iteration {progress.iteration} of {progress.iterations}, loss {progress.loss:.4g}{left}"


def format_count(number: int, noun: str, plural: str = "") -> str:
    """Format a number with its noun: `1 link`, `2 links`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def format_settings(
    resolved: ResolvedOptions, content: "Picture", styles: "Sequence[Picture]", output: str
) -> list[str]:
    """Format the inputs, the output and all options that are not defaults as lines of the log."""
    sizes = ", ".join(f"{style.width}×{style.height}" for style in styles)
    return [
        f"Content {content.width}×{content.height}, style {sizes}; output {quote_name(output)}.",
        format_changes(resolved),
    ]


def format_changes(resolved: ResolvedOptions) -> str:
    """Format all options that are not defaults as a line of the log."""
    values = [
        f"{name} {format_value(getattr(resolved.options, name))} ({origin})"
        for name, origin in resolved.origins.items()
        if origin != "default"
    ]
    return f"Settings: {', '.join(values) or 'all defaults'}."


def format_schedule(schedule: "Schedule", options: Options | None = None) -> str:
    """Format a schedule as a sentence: `128×96, 64 iterations of L-BFGS; 256×192, 40 iterations of Adam.`.

    Args:
        options: given unless the schedule is replayed; a time budget or early stopping may change the schedule.
    """
    from styler.schedule import count_units

    if not schedule:
        return "nothing to paint at strength 0."
    if options and options.time:
        sizes = ", ".join(f"{scale.width}×{scale.height}" for scale in schedule)
        return f"{sizes}, with as many iterations as fit into {format_duration(options.time)}."
    scales = [
        f"{scale.width}×{scale.height}, {format_count(scale.iterations, 'iteration')} of "
        f"{format_method(scale.optimizer, sketch=scale.sketch, copies=scale.half_size_copies)}"
        for scale in schedule
    ]
    total = format_count(sum(scale.iterations for scale in schedule), "iteration")
    most = "at most " if options and options.patience else ""
    return f"{'; '.join(scales)}. In total {most}{total}, equivalent to {count_units(schedule):.1f} at the final size."


def format_method(optimizer: str, *, sketch: bool, copies: int) -> str:
    """Format how a scale is painted: `Adam`, `Adam with the slim network`, `Adam, with 1 half-size copy`."""
    network = " with the slim network" if sketch else ""
    also = f", with {format_count(copies, 'half-size copy', 'half-size copies')}" if copies else ""
    return f"{OPTIMIZERS[optimizer]}{network}{also}"


def schedule_to_json(schedule: "Schedule") -> list[dict[str, Any]]:
    """Convert a schedule for JSON."""
    names = ("width", "height", "iterations", "optimizer", "sketch", "half_size_copies")
    return [{name: getattr(scale, name) for name in names} for scale in schedule]


def result_to_json(result: "Result") -> dict[str, Any]:
    """Convert everything about a result but its pixels for JSON."""
    height, width = result.pixels.shape[:2]
    names = ("iterations", "units", "losses", "seconds", "scale_seconds", "stopped", "device", "precision", "threads")
    return {
        "width": width,
        "height": height,
        "options": result.options.to_dict(),
        "schedule": schedule_to_json(result.schedule),
        "masks": masks_to_json(result.masks),
        **{name: getattr(result, name) for name in (*names, "weights_sha256", "trims", "notes")},
    }


def masks_to_json(masks: "Iterable[MaskEntry]") -> "list[MaskRecord]":
    """Convert masks for JSON."""
    return [cast("MaskRecord", dataclasses.asdict(mask)) for mask in masks]


def format_masks(masks: "Iterable[MaskRecord]", options: Options, style_count: int) -> list[str]:
    """Format what each mask covers and what it is for as sentences.

    Args:
        masks: all that are used.
        options: name them.
        style_count: number of styles, of which the last are those of the regions.
    """
    amounts: dict[str, float] = {}
    for each in map(specs.parse_protection, options.protect):
        amounts[each.mask] = max(each.amount, amounts.get(each.mask, 0.0))
    first = style_count - len(options.regions) + 1
    styles = {name: number for number, name in enumerate(options.regions, start=first)}
    sentences = []
    for mask in masks:
        name, share = mask["name"], _format_share(mask["coverage"])
        is_plural = name == "faces"
        parts = [f"{'cover' if is_plural else 'covers'} {share} of the photo"]
        if name in styles:
            parts.append(f"{'take' if is_plural else 'takes'} style {styles[name]}")
        if name in amounts:
            parts.append(f"{'are' if is_plural else 'is'} protected ({amounts[name]:g} of 100)")
        if is_plural and not options.protect:
            parts.append("are gently protected; --protect none paints them, too")
        known = {"faces": "Faces", "subject": "The subject", "background": "The background"}
        verbs = f"{', '.join(parts[:-1])} and {parts[-1]}" if parts[1:] else parts[0]
        sentences.append(f"{known.get(name, f'The mask {quote_name(name)}')} {verbs}.")
    return sentences


def _format_share(share: float) -> str:
    return "less than 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def format_losses(losses: Mapping[str, float]) -> str:
    """Format losses by name."""
    return ", ".join(f"{name} {value:.4g}" for name, value in losses.items())


def format_timings(result: "Result") -> list[str]:
    """Format the time of each scale as lines of the log."""
    return [
        f"{scale.width}×{scale.height}: {format_count(scale.iterations, 'iteration')} in {seconds:.1f} s, "
        f"{seconds / scale.iterations:.3f} s each."
        for scale, seconds in zip(result.schedule, result.scale_seconds, strict=True)
    ]


def format_summary(result: "Result") -> list[str]:
    """Format the losses, the time and the network of a result as lines of the log."""
    lines = [f"Losses: {format_losses(result.losses)}."] if result.losses else []
    threads = format_count(result.threads, "thread")
    return [*lines, f"Painted in {result.seconds:.1f} s with {threads}; weights {result.weights_sha256[:12]}."]
