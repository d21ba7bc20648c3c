"""One picture after another, from what is given to the bytes of its file: the work itself, the same on every engine.

A worker has one painter and takes two pictures at a time, on two threads: while one is on the device, the other is read
before its turn, or encoded after it. Turns are taken in the order in which the pictures came, and PyTorch is called
from a third thread alone. Knows no manifest and no place for the results; what happens is told as reports, which can be
sent to another process.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from styler import images
from styler.batch.hand import Hand
from styler.batch.report import make_thumbnail
from styler.batch.stats_store import DiskStatsStore
from styler.engine.device import release_memory
from styler.engine.painter import Painter
from styler.engine.result import Progress, Result
from styler.engine.targets import StatsStore
from styler.errors import DeviceError, OutOfMemory, StylerError
from styler.images import Picture
from styler.options import Options
from styler.schedule import Replay

PICTURES_PER_WORKER = 2
"""Pictures that a worker has in its hands: one on the device, and one before or after its turn."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WorkerConfig:
    """What all pictures of a run share."""

    options: Options
    kind: str
    """The format, a key of `images.FORMATS`."""
    bit_depth: int = 8
    replay: Replay | None = None
    settings: bool = True
    keep_metadata: bool = False
    small: bool = True
    """Whether small copies are made for the index."""
    start: Picture | None = None
    """The picture that `options.init` names, if it names a file."""


@dataclass(frozen=True, slots=True)
class PaintTask:
    """One picture to be made."""

    number: int
    content: str
    """A path or a URL, and what it is called."""
    styles: tuple[str, ...]
    data: Mapping[str, bytes] = field(default_factory=dict)
    """Bytes of those that are not to be read where the work is done, by path."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPicture:
    """A picture that is done, but for its place."""

    data: bytes
    sha256: str
    small: Mapping[str, bytes]
    """Small copies of its inputs and itself, JPEG, by the hash of what they show."""


@dataclass(frozen=True, slots=True, eq=False)
class WorkerReport:
    """What a worker tells of one picture."""

    number: int
    kind: str
    """`started`, `progress`, `note`; and at the end `made`, `failed`, `stopped`, or `left`, if it was never begun."""
    text: str = ""
    progress: Progress | None = None
    made: EncodedPicture | None = None
    hashes: tuple[str, ...] = ()
    """At the end, SHA-256 of the content and of each style, as far as they could be read."""


SendReport = Callable[[WorkerReport], None]
ReadPicture = Callable[[str, bytes | None], Picture]
"""From a path, or from bytes of that name, to a picture."""


class TurnQueue:
    """A place that is taken by one at a time, in the order of tickets."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._now = 0

    @contextmanager
    def taken(self, ticket: int) -> Iterator[None]:
        """Wait for the ticket's turn, and have the place until the block ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._now == ticket)
        try:
            yield
        finally:
            with self._changed:
                self._now += 1
                self._changed.notify_all()


class Worker:
    """Makes pictures with a painter of its own.

    Args:
        orders: what all pictures share.
        read: reads one.
        painters: makes a painter; a second one is made only where a loss was not a number.
        stop: once it is set nothing new is begun, and the picture in work is dropped.

    Raises:
        StylerError: the network cannot be loaded, or has not the layers that are asked for.
    """

    def __init__(
        self, orders: WorkerConfig, read: ReadPicture, painters: Callable[[Options], Painter], stop: threading.Event
    ) -> None:
        self.orders = orders
        self._read, self._make, self._stop = read, painters, stop
        self._painters: dict[str, Painter] = {}
        self._styles: tuple[tuple[str, ...], list[Picture]] = ((), [])
        self._reading, self._entering = threading.Lock(), threading.Lock()
        self._tickets, self._device, self._leaving = 0, TurnQueue(), TurnQueue()
        self._hand = Hand()
        self._hand.do(self._ready)  # what is wrong here is wrong for every picture

    def close(self) -> None:
        """Take no more."""
        self._hand.rest()

    def ticket(self) -> int:
        """The next place in the order; whoever takes one has to paint."""
        with self._entering:
            self._tickets += 1
            return self._tickets - 1

    def paint(self, task: PaintTask, ticket: int, tell: SendReport) -> WorkerReport:
        """Make one picture; nothing that goes wrong is raised.

        Args:
            task: the picture.
            ticket: its place in the order.
            tell: called with every report but the last, which is returned.
        """
        work = _PictureInWork(task, tell)
        work.attempt(lambda: self._inputs(work), needed=not self._stop.is_set())
        with self._device.taken(ticket):
            if self._stop.is_set():
                work.end = WorkerReport(task.number, "left")
            else:
                tell(WorkerReport(task.number, "started"))
                self._hand.do(lambda: work.attempt(lambda: self._painted(work)))
        with self._leaving.taken(ticket):
            work.attempt(lambda: self._finished(work))
        assert work.end is not None
        return work.end

    def _ready(self) -> None:
        self._painter(self.orders.options).ready(self.orders.options)

    def _painter(self, options: Options) -> Painter:
        if options.precision not in self._painters:
            self._painters[options.precision] = self._make(options)
        return self._painters[options.precision]

    def _inputs(self, work: "_PictureInWork") -> None:
        """Read the content, and the styles if they are others than before."""
        task = work.task
        work.content = self._read(task.content, task.data.get(task.content))
        with self._reading:
            if self._styles[0] != task.styles:
                self._styles = (task.styles, [self._read(path, task.data.get(path)) for path in task.styles])
            work.styles = self._styles[1]

    def _painted(self, work: "_PictureInWork") -> None:
        """Paint, once more where that can help."""
        options = self.orders.options
        for sentence in (warning for picture in (work.content, *work.styles) for warning in picture.warnings):
            work.note(sentence)
        try:
            work.result = self._streamed(work, options)
        except DeviceError as problem:
            second = _find_fallback(problem, options, self._painter(options))
            if second is None:
                raise
            work.note(f"{problem} Trying once more with {second[1]}.")
            work.result = self._streamed(work, second[0])
        if work.result.stopped:
            work.end = WorkerReport(work.task.number, "stopped")

    def _streamed(self, work: "_PictureInWork", options: Options) -> Result:
        """Every step of one painting as a report; returns the result."""
        orders, result = self.orders, None
        painting = self._painter(options).stream(
            work.content, [*work.styles], options, self._stop, orders.replay, orders.start
        )
        for progress in painting:
            result = progress.result
            if result is None:
                work.tell(WorkerReport(work.task.number, "progress", progress=progress))
        assert result is not None
        for sentence in result.notes:
            work.note(sentence)
        return result

    def _finished(self, work: "_PictureInWork") -> None:
        """Encode."""
        orders, result = self.orders, work.result
        assert result is not None
        data = result.encode(
            format=orders.kind,
            bit_depth=orders.bit_depth,
            settings=orders.settings,
            keep_metadata=orders.keep_metadata,
        )
        sha256 = hashlib.sha256(data).hexdigest()
        small = {}
        if orders.small:
            shown = {picture.sha256: picture.pixels for picture in (work.content, *work.styles)}
            small = {name: make_thumbnail(pixels) for name, pixels in {**shown, sha256: result.pixels}.items()}
        work.end = WorkerReport(work.task.number, "made", made=EncodedPicture(data, sha256, small), hashes=work.hashes)


@dataclass(slots=True, eq=False)
class _PictureInWork:
    """One picture in work."""

    task: PaintTask
    tell: SendReport
    content: Picture = field(init=False)
    styles: list[Picture] = field(default_factory=list)
    result: Result | None = None
    end: WorkerReport | None = None
    """The last report, once it is known."""

    @property
    def hashes(self) -> tuple[str, ...]:
        """Of what has been read."""
        return tuple(picture.sha256 for picture in (self.content, *self.styles)) if self.styles else ()

    def note(self, sentence: str) -> None:
        """Tell a sentence on it."""
        self.tell(WorkerReport(self.task.number, "note", sentence))

    def attempt(self, part: Callable[[], None], *, needed: bool = True) -> None:
        """Do a part of the work, unless its end is known; what goes wrong is its end."""
        if self.end or not needed:
            return
        try:
            part()
        except StylerError as problem:
            self.end = self._failed(str(problem))
        except Exception as bug:  # noqa: BLE001 - it costs this picture alone, and is told like every failure
            name = Path(self.task.content).name
            sentence = f"{type(bug).__name__}: {bug}. This is a bug in styler; paint {name!r} by itself with "
            self.end = self._failed(f"{sentence}'styler run --debug' to see where.")

    def _failed(self, sentence: str) -> WorkerReport:
        return WorkerReport(self.task.number, "failed", sentence, hashes=self.hashes)


def _find_fallback(problem: DeviceError, options: Options, painter: Painter) -> tuple[Options, str] | None:
    """Options under which a failed painting may succeed, in words too; None if there are none."""
    if isinstance(problem, OutOfMemory):
        release_memory(painter.device)
        return (options.replace(checkpoint="on"), "checkpointing") if options.checkpoint == "auto" else None
    if str(painter.precision) != "torch.float32":
        return options.replace(precision="fp32"), "precision fp32"
    return None


EncodeAs = Callable[[str], bytes]
KeepPicture = Callable[[Callable[[], Path | None], Path, EncodeAs], Path | None]
"""Calls what writes a picture; if that fails, may keep the picture elsewhere and fail with a sentence that says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """Where Ray's workers are."""

    address: str = "auto"
    """`auto`, a cluster that runs; `local`, one that is started on this machine and ended afterwards; or a URL."""
    cpus_per_worker: int | None = None
    """Processors of a worker; without it there is a worker for each GPU, or for each processor where there is none."""
    cpus: int | None = None
    """Processors of a cluster that is started; all of the machine when not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchContext:
    """How the pictures are read, painted and written."""

    read: Callable[[Path], Picture] = images.read_image
    """Reads a file on this machine."""
    decode: Callable[..., Picture] = images.read_image
    """Reads bytes, called `name`, on whatever machine; it can be sent there."""
    keep: KeepPicture = lambda write, _name, _encode: write()
    settings: bool = True
    """Whether what made it is written into a picture."""
    keep_metadata: bool = False
    small: bool = True
    """Whether small copies are kept for the index."""
    devices: tuple[str, ...] = ()
    """A worker for each, such as `cuda:0`, `cuda:1`; one worker on the options' device when empty."""
    cluster: ClusterConfig | None = None
    """Paint there instead, by Ray."""
    shelf: StatsStore | None = field(default_factory=DiskStatsStore)
    """Where statistics of styles outlive the run; on a cluster each machine has its own."""


class Engine(Protocol):
    """What has pictures made; a report is of one of them. See `local` and `ray`."""

    slots: int
    """Pictures that may be submitted and not yet settled."""

    def submit(self, task: PaintTask) -> None:
        """Have a picture made."""

    def poll(self, seconds: float) -> WorkerReport | None:
        """The next report, if one comes in time."""

    def wake(self) -> None:
        """Have `poll` return, from another thread."""

    def settled(self, number: int) -> None:
        """Say that a picture is dealt with."""

    def stop(self) -> None:
        """Begin nothing new, and drop what is in work."""

    def close(self) -> list[WorkerReport]:
        """Stop and end; what there was still to say."""
