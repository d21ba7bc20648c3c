"""Paint one picture after another on one device: from the paths of its inputs to the bytes of its file.

A worker is a pipeline of three threads. While the device paints one picture, the next one is read and the last one is
encoded. `LocalEngine` runs a worker for each device of this process; `ray` runs one in each process of a cluster.
Knows neither the manifest nor the output folder: everything that happens is reported in objects that can be pickled.
"""

import hashlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from styler import images
from styler.batch.plan import EXTENSION_FORMATS, BatchRequest, apply_masks
from styler.batch.report import make_thumbnail
from styler.batch.states import StateKeeper
from styler.engine.device import name_precision
from styler.engine.memory.measure import release_memory
from styler.engine.painter import Painter
from styler.engine.result import Progress, Result
from styler.engine.styles import StatsStore
from styler.errors import DeviceError, OutOfMemory, ResumeError, StylerError, explain_failure, quote_name
from styler.images import Picture
from styler.options import Options
from styler.schedule import compute_result_size
from styler.vgg.weights import Weights

PICTURES_PER_WORKER = 2
"""Pictures that a worker holds at once: one on the device, and one that is being read or encoded."""
CLOSE_SECONDS = 5.0
"""Longest wait for the threads when an engine is closed; they check `stop` between convolutions."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WorkerConfig:
    """Settings shared by all pictures of a worker."""

    request: BatchRequest
    start: Picture | None = None
    """The picture that `options.init` names, if it names a file."""

    @property
    def options(self) -> Options:
        """The options of every picture."""
        return self.request.options

    def replace_options(self, **changes: Any) -> "WorkerConfig":
        """Return the same settings with some options changed."""
        return replace(self, request=replace(self.request, options=self.options.replace(**changes)))


@dataclass(frozen=True, slots=True)
class PaintTask:
    """One picture to paint."""

    number: int
    content: str
    """Path or URL, like those of the styles."""
    styles: tuple[str, ...]
    masks: tuple[tuple[str, str], ...] = ()
    """The masks that are pictures: their names in the options, and their paths or URLs."""
    data: Mapping[str, bytes] = field(default_factory=dict)
    """Bytes of the inputs that the worker cannot read itself, by path."""
    picture: str = ""
    """Path of the picture, beside which the state of the painting is saved; empty for no saving."""
    precision: str = "auto"
    """That of the batch, whatever this worker would choose; `auto` if the options of the worker say it."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPicture:
    """The bytes of a finished picture."""

    data: bytes
    sha256: str
    thumbnails: Mapping[str, bytes]
    """JPEG thumbnails of the inputs and of the picture itself, by the SHA-256 of the file they show."""


@dataclass(frozen=True, slots=True, eq=False)
class WorkerReport:
    """One event in the life of a picture."""

    number: int
    kind: str
    """`started`, `progress` or `note`; finally `encoded`, `failed`, `stopped`, or `unstarted` if it never started."""
    text: str = ""
    progress: Progress | None = None
    encoded: EncodedPicture | None = None
    hashes: tuple[str, ...] = ()
    """In the final report: SHA-256 of the content, of each style and of each mask, as far as they could be read."""


SendReport = Callable[[WorkerReport], None]
ReadPicture = Callable[[str, bytes | None], Picture]
"""Reads the picture at a path or URL; from its bytes if they are given."""


@dataclass(slots=True, eq=False)
class _PictureJob:
    """A picture on its way through the stages of a worker."""

    task: PaintTask
    send: SendReport
    content: Picture = field(init=False)
    styles: list[Picture] = field(default_factory=list)
    masks: dict[str, Picture] = field(default_factory=dict)
    """By path."""
    result: Result | None = None
    final: WorkerReport | None = None
    """The last report; the remaining stages skip a picture that has one."""
    finished: "Future[WorkerReport]" = field(default_factory=Future)

    def report(self, kind: str, text: str = "", progress: Progress | None = None) -> None:
        """Report an event before the final one."""
        self.send(WorkerReport(self.task.number, kind, text, progress))

    def end(self, kind: str, text: str = "", encoded: EncodedPicture | None = None) -> None:
        """Set the final report."""
        hashes = tuple(picture.sha256 for picture in self.list_pictures()) if self.styles else ()
        self.final = WorkerReport(self.task.number, kind, text, encoded=encoded, hashes=hashes)

    def list_pictures(self) -> list[Picture]:
        """Return the content, the styles and the masks."""
        return [self.content, *self.styles, *self.masks.values()]

    def attempt(self, stage: "Callable[[_PictureJob], None]") -> None:
        """Run a stage, unless the picture has ended; any error ends only this picture."""
        if self.final:
            return
        try:
            stage(self)
        except StylerError as problem:
            self.end("failed", str(problem))
        except Exception as bug:  # noqa: BLE001 - reported as a failure of this picture
            name = quote_name(Path(self.task.content).name)
            self.end(
                "failed",
                explain_failure(bug)
                or f"{type(bug).__name__}: {bug}. This is a bug in styler; paint {name} by itself with "
                "'styler run --debug' to see where.",
            )


_JobQueue = queue.SimpleQueue[_PictureJob | None]


class Worker:
    """A pipeline that paints pictures on one device, in the order in which they are submitted.

    One thread does all of the PyTorch work, loading included. Every thread that calls PyTorch gets its own OpenMP
    helper threads, and helpers in excess of the cores sleep between parallel loops instead of spinning: with several
    such threads, a batch took 2.42 times as long as separate runs. The threads are daemons, since executors of
    `concurrent.futures` are joined when the program ends, and a step that hangs would keep it from ending.

    Args:
        config: settings shared by all pictures.
        read: reads the inputs.
        stop: once set, nothing is started, and the picture in progress is discarded.
        stats_store: stores style statistics on disk; None for none.
        weights: of the network, if already loaded.
        painter: a painter to use as it is, with its cached statistics; nothing else may use it at the same time.

    Raises:
        StylerError: the network cannot be loaded, or lacks a layer that the options name.
    """

    def __init__(
        self,
        config: WorkerConfig,
        read: ReadPicture,
        stop: threading.Event,
        stats_store: StatsStore | None,
        weights: Weights | None = None,
        painter: Painter | None = None,
    ) -> None:
        self.config = config
        self.open: set[int] = set()
        """Numbers of the pictures that were submitted and are not finished."""
        self._read_picture, self._stop, self._stats_store, self._weights = read, stop, stats_store, weights
        self._painters: dict[str, Painter] = {}
        self.precision = config.options.precision
        """The precision that the options give, once the network is loaded."""
        self._styles: tuple[tuple[str, ...], list[Picture]] = ((), [])
        self._to_read, self._to_paint, self._to_encode = _JobQueue(), _JobQueue(), _JobQueue()
        loaded: Future[None] = Future()
        self._threads = [
            threading.Thread(target=self._load_and_paint, args=(loaded, painter), daemon=True),
            threading.Thread(target=_run_stage, args=(self._to_read, self._read, self._to_paint), daemon=True),
            threading.Thread(target=_run_stage, args=(self._to_encode, self._finish), daemon=True),
        ]
        self._threads[0].start()
        loaded.result()  # an error here would be the error of every picture
        for thread in self._threads[1:]:
            thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether any thread is still running."""
        return any(thread.is_alive() for thread in self._threads)

    def submit(self, task: PaintTask, send: SendReport) -> "Future[WorkerReport]":
        """Queue a picture; the future holds its final report, and `send` is called with all others."""
        job = _PictureJob(task, send)
        self.open.add(task.number)
        self._to_read.put(job)
        return job.finished

    def close(self) -> None:
        """End the threads after the pictures that were submitted."""
        self._to_read.put(None)

    def _load_and_paint(self, loaded: "Future[None]", given: Painter | None) -> None:
        """Load the network, then paint; only this thread calls PyTorch."""
        options = self.config.options
        try:
            if given:
                given.load_networks(options)
                self._painters = {"auto": given, name_precision(given.precision): given}
            painter = self._get_painter(options)
            painter.load_networks(options)
            self.precision = name_precision(painter.precision)
            self._painters[self.precision] = painter
        except BaseException as problem:  # noqa: BLE001 - raised in the thread that makes the worker
            loaded.set_exception(problem)
            return
        loaded.set_result(None)
        _run_stage(self._to_paint, self._paint, self._to_encode)

    def _get_painter(self, options: Options) -> Painter:
        """Return the painter of a precision."""
        if options.precision not in self._painters:
            self._painters[options.precision] = painter = Painter.of(options, self._weights)
            painter.use_store(self._stats_store)
        return self._painters[options.precision]

    def _read(self, job: _PictureJob) -> None:
        if not self._stop.is_set():
            job.attempt(self._read_inputs)

    def _read_inputs(self, job: _PictureJob) -> None:
        """Read the content and the masks, and the styles unless they are those of the previous picture."""
        task = job.task
        job.content = self._read_picture(task.content, task.data.get(task.content))
        if self._styles[0] != task.styles:
            self._styles = (task.styles, [self._read_picture(path, task.data.get(path)) for path in task.styles])
        job.styles = self._styles[1]
        for _, path in task.masks:
            job.masks[path] = self._read_picture(path, task.data.get(path))

    def _paint(self, job: _PictureJob) -> None:
        if self._stop.is_set():
            job.end("unstarted")
            return
        job.report("started")
        job.attempt(self._paint_or_retry)

    def _paint_or_retry(self, job: _PictureJob) -> None:
        """Paint, and once more with other options if that may help."""
        options = apply_masks(self.config.options, job.task.masks)
        if job.task.precision != "auto":
            options = options.replace(precision=job.task.precision)
        for warning in (warning for picture in job.list_pictures() for warning in picture.warnings):
            job.report("note", warning)
        size = compute_result_size(options, job.content.width, job.content.height)
        images.check_sides(EXTENSION_FORMATS[self.config.request.format], size)
        try:
            job.result = self._stream(job, options)
        except DeviceError as problem:
            fallback = _find_fallback(problem, options, self._get_painter(options))
            if fallback is None:
                raise
            job.report("note", f"{problem} Trying again with {fallback[1]}.")
            job.result = self._stream(job, fallback[0])
        if job.result.stopped:
            job.end("stopped")

    def _stream(self, job: _PictureJob, options: Options) -> Result:
        """Paint a picture and report every iteration."""
        progress: Progress | None = None
        keeper = StateKeeper(Path(job.task.picture)) if job.task.picture else None
        for progress in self._resume(job, options, keeper):
            if progress.result is None:
                if keeper and not self._stop.is_set() and (problem := keeper.update(progress)):
                    job.report("note", problem)
                job.report("progress", progress=progress)
        assert progress is not None
        assert progress.result is not None
        for note in progress.result.notes:
            job.report("note", note)
        return progress.result

    def _resume(self, job: _PictureJob, options: Options, keeper: StateKeeper | None) -> Iterator[Progress]:
        """Paint from the state that an earlier run left, or from the beginning if there is none that can be used."""
        replay, start = self.config.request.replay, self.config.start
        painter, masks = self._get_painter(options), job.masks
        stream = partial(painter.stream, job.content, [*job.styles], options, self._stop, replay, start, masks)
        if keeper:
            try:
                yield from stream(None, keeper.load())
            except ResumeError as error:
                job.report("note", f"{keeper.explain(error, {})} It begins anew.")
            else:
                return
        yield from stream()

    def _finish(self, job: _PictureJob) -> None:
        job.attempt(self._encode)
        assert job.final is not None
        self.open.discard(job.task.number)
        job.finished.set_result(job.final)

    def _encode(self, job: _PictureJob) -> None:
        request, result = self.config.request, job.result
        assert result is not None
        data = result.encode(
            format=EXTENSION_FORMATS[request.format],
            bit_depth=request.bit_depth,
            settings=request.embed_record,
            keep_metadata=request.keep_metadata,
        )
        sha256 = hashlib.sha256(data).hexdigest()
        thumbnails = {}
        if request.index:
            thumbnails = {picture.sha256: make_thumbnail(picture.pixels) for picture in (job.content, *job.styles)}
            thumbnails[sha256] = make_thumbnail(result.pixels)
        job.end("encoded", encoded=EncodedPicture(data, sha256, thumbnails))


def _run_stage(source: _JobQueue, stage: Callable[[_PictureJob], None], target: _JobQueue | None = None) -> None:
    """Run a stage for every picture of a queue and pass each on, until None arrives."""
    for job in iter(source.get, None):
        stage(job)
        if target:
            target.put(job)
        del job  # an idle stage holds no pixels
    if target:
        target.put(None)


def _find_fallback(problem: DeviceError, options: Options, painter: Painter) -> tuple[Options, str] | None:
    """Return options with which a failed picture may succeed, and their description; None if there are none."""
    if isinstance(problem, OutOfMemory):
        release_memory(painter.device)
        return (options.replace(checkpoint="on"), "checkpointing") if options.checkpoint == "auto" else None
    if str(painter.precision) != "torch.float32":
        return options.replace(precision="fp32"), "precision fp32"
    return None


class LocalEngine:
    """Workers in this process, one for each device.

    A worker waits after every report until the next call of `poll`, so that a `stop` that the caller sets in response
    to a report takes effect before the next iteration. All workers share one Python interpreter; where it is the
    bottleneck (many fast GPUs and small pictures), `ray` has a process for each.

    Args:
        config: settings shared by all pictures.
        read: reads the inputs.
        stats_store: stores style statistics on disk; None for none.
        devices: a device for each worker; empty for the one that the options name.
        painter: the painter of a single worker; None to load one for each.

    Raises:
        StylerError: a device is absent, or the network cannot be loaded.
    """

    def __init__(
        self,
        config: WorkerConfig,
        read: ReadPicture,
        stats_store: StatsStore | None,
        devices: Sequence[str] = (),
        painter: Painter | None = None,
    ) -> None:
        self._inbox: queue.SimpleQueue[tuple[WorkerReport, threading.Event] | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._handled = threading.Event()
        """Set once the last report has been handled; its worker waits for it."""

        devices = devices or [config.options.device]
        self._workers: list[Worker] = []
        self.precision = config.options.precision
        """That of all pictures; the first worker chooses it if the options do not."""
        for device in devices:
            own = _adapt_config(config, device, len(devices)).replace_options(precision=self.precision)
            self._workers.append(Worker(own, read, self._stop, stats_store, painter=painter))
            self.precision = self._workers[0].precision
        self.slots = PICTURES_PER_WORKER * len(self._workers)

    def submit(self, task: PaintTask) -> None:
        """Queue a picture for the worker that has the fewest."""
        worker = min(self._workers, key=lambda worker: len(worker.open))
        worker.submit(task, self._send).add_done_callback(
            lambda finished: self._inbox.put((finished.result(), threading.Event()))
        )

    def poll(self, seconds: float) -> WorkerReport | None:
        """Let the worker of the last report continue, and return the next report; None if none comes in time."""
        self._handled.set()
        try:
            message = self._inbox.get(timeout=seconds)
        except queue.Empty:
            return None
        if message is None:
            return None
        report, self._handled = message
        return report

    def wake(self) -> None:
        """Make `poll` return; can be called from any thread."""
        self._inbox.put(None)

    def stop(self) -> None:
        """Start no more pictures and discard those in progress."""
        self._stop.set()

    def close(self) -> list[WorkerReport]:
        """Stop, wait for the threads, and return the reports that were not polled."""
        self.stop()
        for worker in self._workers:
            worker.close()
        reports = []
        deadline = time.monotonic() + CLOSE_SECONDS
        while (
            any(worker.is_alive for worker in self._workers) and time.monotonic() < deadline
        ) or not self._inbox.empty():
            if report := self.poll(0.02):
                reports.append(report)
        return reports

    def _send(self, report: WorkerReport) -> None:
        handled = threading.Event()
        self._inbox.put((report, handled))
        if not self._stop.is_set():  # nothing is polled once the engine is closed
            handled.wait()


def _adapt_config(config: WorkerConfig, device: str, workers: int) -> WorkerConfig:
    """Return the settings for a device; several workers on the CPU share its cores."""
    threads = config.options.threads
    if device == "cpu" and workers > 1 and not threads:
        threads = max(1, (os.cpu_count() or 1) // workers)
    return config.replace_options(device=device, threads=threads)
