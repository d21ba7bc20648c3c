"""The engine of one machine: a worker for each device, each on two threads of this process.

The device works while the next picture is decoded and the last one encoded. A worker waits after every report until it
has been dealt with, so that whoever listens and says stop is heard before the next step, and so that no more than two
pictures a worker are painted and not yet written, whatever kills the program.

Threads share one interpreter, which is busy with Python for a small part of a step alone; where it is the narrow place
(many fast GPUs and small pictures), `ray` has a process for each.
"""

import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from styler import images, library, provenance
from styler.batch import discover, manifest
from styler.batch.discover import SelectionRules
from styler.batch.manifest import Manifest
from styler.batch.plan import EXTENSION_FORMATS, BatchPlan, BatchRequest, Pair, hash_settings, plan_batch
from styler.batch.report import save_thumbnail, write_index
from styler.batch.worker import (
    PICTURES_PER_WORKER,
    BatchContext,
    ClusterConfig,
    EncodedPicture,
    Engine,
    PaintTask,
    ReadPicture,
    Worker,
    WorkerConfig,
    WorkerReport,
)
from styler.engine.painter import Painter
from styler.engine.result import Progress
from styler.engine.targets import StatsStore
from styler.errors import StylerError, UsageError
from styler.images import Picture
from styler.options import INIT_CHOICES, Options

CLOSE_SECONDS = 5.0
"""Seconds that ending waits for threads, which look between convolutions whether they shall."""


@dataclass(frozen=True, slots=True, eq=False)
class _PendingReport:
    """A report, and what its worker waits for."""

    report: WorkerReport
    heard: threading.Event = field(default_factory=threading.Event)


class LocalEngine:
    """The workers of this process.

    Args:
        orders: what all pictures share.
        read: reads a picture.
        shelf: where statistics of styles are kept.
        chosen: a device for each worker; that of the options when empty.

    Raises:
        StylerError: a device is absent, or the network cannot be loaded.
    """

    def __init__(
        self, orders: WorkerConfig, read: ReadPicture, shelf: StatsStore | None, chosen: Sequence[str] = ()
    ) -> None:
        self._tasks: queue.SimpleQueue[PaintTask | None] = queue.SimpleQueue()
        self._inbox: queue.SimpleQueue[_PendingReport | None] = queue.SimpleQueue()
        self._halt = threading.Event()
        self._last: _PendingReport | None = None
        self._settled: dict[int, threading.Event] = {}

        def painter(options: Options) -> Painter:
            made = Painter.of(options)
            made.remember(shelf)
            return made

        every = [_config_for_device(orders, device, len(chosen)) for device in chosen or [orders.options.device]]
        self._workers = [Worker(own, read, painter, self._halt) for own in every]
        self.slots = PICTURES_PER_WORKER * len(self._workers)
        self._threads = [
            threading.Thread(target=self._serve, args=(worker, door), daemon=True)
            for worker, door in ((worker, threading.Lock()) for worker in self._workers)
            for _ in range(PICTURES_PER_WORKER)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, task: PaintTask) -> None:
        """Have a picture made."""
        self._settled[task.number] = threading.Event()
        self._tasks.put(task)

    def poll(self, seconds: float) -> WorkerReport | None:
        """The next report, if one comes in time; the worker of the last one goes on."""
        self._go_on()
        try:
            self._last = self._inbox.get(timeout=seconds)
        except queue.Empty:
            return None
        return self._last.report if self._last else None

    def wake(self) -> None:
        """Have `poll` return, from another thread."""
        self._inbox.put(None)

    def settled(self, number: int) -> None:
        """Say that a picture is dealt with, so that its thread may take another."""
        self._settled.pop(number).set()

    def stop(self) -> None:
        """Begin nothing new, and drop what is in work."""
        self._halt.set()

    def close(self) -> list[WorkerReport]:
        """Stop, and end the threads; what they had still to say of pictures that are done."""
        self.stop()
        self._go_on()
        found: list[WorkerReport] = []
        end = time.monotonic() + CLOSE_SECONDS
        for _ in self._threads:
            self._tasks.put(None)
        while any(thread.is_alive() for thread in self._threads) and time.monotonic() < end:
            for event in [*self._settled.values()]:
                event.set()
            report = self.poll(0.02)
            found += [report] if report else []
        while not self._inbox.empty():
            said = self._inbox.get()
            found += [said.report] if said else []
        for worker in self._workers:
            worker.close()
        return found

    def _go_on(self) -> None:
        if self._last:
            self._last.heard.set()
            self._last = None

    def _serve(self, worker: Worker, door: threading.Lock) -> None:
        """Make one picture after another, until there is None."""
        while True:
            with door:  # so that tickets are in the order of tasks
                task = self._tasks.get()
                if task is None:
                    return
                ticket = worker.ticket()
            settled = self._settled[task.number]
            report = worker.paint(task, ticket, self._tell)
            self._inbox.put(_PendingReport(report))
            settled.wait()

    def _tell(self, report: WorkerReport) -> None:
        said = _PendingReport(report)
        self._inbox.put(said)
        said.heard.wait()


def _config_for_device(orders: WorkerConfig, device: str, workers: int) -> WorkerConfig:
    """The orders for a device; workers on the CPU share its cores."""
    options = orders.options.replace(device=device)
    if device == "cpu" and workers > 1 and not options.threads:
        options = options.replace(threads=max(1, (os.cpu_count() or 1) // workers))
    return replace(orders, options=options)


__all__ = ["ClusterConfig", "BatchEvent", "BatchContext", "run_batch"]

POLL_SECONDS = 0.2
"""Seconds between two looks at `stop` while no engine has anything to say."""


@dataclass(frozen=True, slots=True, eq=False)
class BatchEvent:
    """Something that happened."""

    kind: str
    """`started`, `progress`, `done`, `failed` or `stopped`, all of one picture, or `note`, a sentence on it.

    On a cluster, a picture whose worker died is started again.
    """
    pair: Pair
    progress: Progress | None = None
    text: str = ""
    """Why it failed, or the note."""
    seconds: float = 0.0
    """That the picture took."""


@dataclass(slots=True, eq=False)
class _OpenPicture:
    """A picture that an engine has in its hands."""

    pair: Pair
    facts: dict[str, Any]
    """What its lines in the manifest say."""
    began: float


def run_batch(
    batch: BatchPlan, book: Manifest, tools: BatchContext, stop: threading.Event, limit: int | None = None
) -> Iterator[BatchEvent]:
    """Paint what is to be done, telling everything.

    Once `stop` is set, or so many have failed, nothing new is begun, and the picture in work is dropped. Closing the
    generator does the same. Events of one picture come in order; those of the next may come before it is `done`, since
    it is encoded and written meanwhile.

    Args:
        batch: what is to be done.
        book: the manifest, open.
        tools: how pictures are read, painted and written.
        stop: checked between convolutions.
        limit: failures after which it ends; what fails after that is not recorded, and tried again by the next run.

    Raises:
        StylerError: the network cannot be loaded, the cluster cannot be reached, or the manifest cannot be written.
    """
    for pair in batch.standing.found:
        book.add(manifest.DONE, output=pair.output, seconds=0.0)
    if not batch.standing.todo:
        return
    book.add(
        manifest.RUN,
        version=provenance.get_version(),
        settings=hash_settings(batch.settings),
        options=batch.settings,
        pairs=len(batch.pairs),
        todo=len(batch.standing.todo),
    )
    for folder in {(batch.out / pair.output).parent for pair in batch.standing.todo}:
        images.remove_stale_files(folder)
    desk = _BatchRun(batch, book, tools, _start_engine(batch, tools), limit)
    told = False
    try:
        yield from desk.run(stop)
        told = True
    except GeneratorExit:
        told = True
        raise
    finally:
        desk.close(keep=told)


def _start_engine(batch: BatchPlan, tools: BatchContext) -> Engine:
    request = batch.request
    init = request.options.init
    orders = WorkerConfig(
        options=request.options,
        kind=EXTENSION_FORMATS[request.format],
        bit_depth=request.bit_depth,
        replay=request.replay,
        settings=tools.settings,
        keep_metadata=tools.keep_metadata,
        small=tools.small,
        start=None if init in INIT_CHOICES else _read_picture(tools, init, None),
    )
    if tools.cluster is None:
        return LocalEngine(orders, partial(_read_picture, tools), tools.shelf, tools.devices)
    if any(
        it.path.startswith(discover.MEMORY_SCHEME)
        for pair in batch.standing.todo
        for it in (pair.content, *pair.styles)
    ):
        raise UsageError("What is at memory:// no other process sees; give files, or do without --engine ray.")
    from styler.batch.ray import RayEngine

    return RayEngine(orders, tools.decode, tools.cluster, shelve=tools.shelf is not None)


def _read_picture(tools: BatchContext, path: str, data: bytes | None) -> Picture:
    """A picture, wherever it is."""
    if data is None and discover.is_url(path):
        data = discover.load_url(path)
    return tools.read(Path(path)) if data is None else tools.decode(data, name=path)


class _BatchRun:
    """What stands between an engine and the folder: the pictures in its hands, and one thread that writes."""

    def __init__(
        self, batch: BatchPlan, book: Manifest, tools: BatchContext, engine: Engine, limit: int | None
    ) -> None:
        self._batch, self._book, self._tools, self._engine, self._limit = batch, book, tools, engine, limit
        self._failures = 0
        self._settings = hash_settings(batch.settings)
        self._open: dict[int, _OpenPicture] = {}
        self._writer = ThreadPoolExecutor(1, "styler-writer")
        self._written: queue.SimpleQueue[tuple[int, BatchEvent | None] | BaseException] = queue.SimpleQueue()

    def run(self, stop: threading.Event) -> Iterator[BatchEvent]:
        """Everything that happens, until all is done or stopped."""
        waiting = enumerate(self._batch.standing.todo)
        while True:
            if stop.is_set() or self._has_enough:
                self._engine.stop()
            while not stop.is_set() and not self._has_enough and len(self._open) < self._engine.slots:
                number, pair = next(waiting, (None, None))
                if number is None or pair is None:
                    break
                yield from self._submitted(number, pair)
            if not self._open:
                return
            if report := self._engine.poll(POLL_SECONDS):
                yield from self._heard(report)
            while not self._written.empty():
                yield from self._settled(self._written.get())

    @property
    def _has_enough(self) -> bool:
        return self._limit is not None and self._failures >= self._limit

    def close(self, *, keep: bool) -> None:
        """End the engine; what it has ready is written if somebody wants to keep it."""
        left = self._engine.close()
        for report in left if keep else []:
            if report.made and report.number in self._open:
                self._writer.submit(self._settle, report)
        self._writer.shutdown(wait=True, cancel_futures=not keep)

    def _submitted(self, number: int, pair: Pair) -> Iterator[BatchEvent]:
        """Give a picture to the engine, if there is a place for it."""
        files = self._batch.files
        facts = {
            "output": pair.output,
            "settings": self._settings,
            "content": dict(files.state(pair.content.path)),
            "styles": [dict(files.state(style.path)) for style in pair.styles],
        }
        self._open[number] = _OpenPicture(pair, facts, time.perf_counter())
        try:
            images.check_output(self._batch.out / pair.output, overwrite=self._batch.request.overwrite)
        except StylerError as problem:
            yield BatchEvent("started", pair)
            self._settle(WorkerReport(number, "failed", str(problem)), engaged=False)
            yield from self._settled(self._written.get())
            return
        self._engine.submit(PaintTask(number, pair.content.path, tuple(style.path for style in pair.styles)))

    def _heard(self, report: WorkerReport) -> Iterator[BatchEvent]:
        """Tell what is in work; what has come to its end goes to the writer."""
        picture = self._open[report.number]
        if report.kind == "started":
            picture.began = time.perf_counter()
        if report.kind in ("started", "progress", "note"):
            yield BatchEvent(report.kind, picture.pair, report.progress, report.text)
        else:
            self._writer.submit(self._settle, report)

    def _settled(self, found: tuple[int, BatchEvent | None] | BaseException) -> Iterator[BatchEvent]:
        if isinstance(found, BaseException):
            raise found
        number, event = found
        picture = self._open.pop(number)
        if event and event.kind == "failed":
            if self._has_enough:  # it is left for another run
                yield BatchEvent("stopped", picture.pair, seconds=event.seconds)
                return
            self._failures += 1
            self._record_failure(picture, event)
        if event:
            yield event

    def _settle(self, report: WorkerReport, *, engaged: bool = True) -> None:
        """Write a picture that is made, and its line; in the thread that writes."""
        picture = self._open[report.number]
        try:
            event = self._ended(picture, report)
        except BaseException as problem:  # noqa: BLE001 - raised again where the events are made
            self._written.put(problem)
        else:
            self._written.put((report.number, event))
        if engaged:
            self._engine.settled(report.number)
            self._engine.wake()

    def _ended(self, picture: _OpenPicture, report: WorkerReport) -> BatchEvent | None:
        for facts, sha256 in zip([picture.facts["content"], *picture.facts["styles"]], report.hashes, strict=False):
            facts["sha256"] = sha256
        problem = report.text
        if report.made:
            try:
                self._put(picture, report.made)
            except manifest.ManifestError:
                raise
            except StylerError as found:
                problem = str(found)
        seconds = time.perf_counter() - picture.began
        if report.kind == "left":
            return None
        if report.kind == "stopped":
            return BatchEvent("stopped", picture.pair, seconds=seconds)
        if problem:
            return BatchEvent("failed", picture.pair, text=problem, seconds=seconds)
        self._book.add(manifest.DONE, output=picture.pair.output, seconds=round(seconds, 3))
        return BatchEvent("done", picture.pair, seconds=seconds)

    def _record_failure(self, picture: _OpenPicture, event: BatchEvent) -> None:
        try:
            self._book.add(manifest.FAILED, **picture.facts, error=event.text, seconds=round(event.seconds, 3))
        except manifest.ManifestError as problem:
            raise manifest.ManifestError(f"{event.text} {problem}") from problem

    def _put(self, picture: _OpenPicture, made: EncodedPicture) -> None:
        """Put the picture in its place, after its hash is in the manifest, so that a killed run's picture is known."""
        out, request = self._batch.out, self._batch.request
        place = out / picture.pair.output

        def write() -> Path:
            for sha256, data in made.small.items():
                save_thumbnail(out, sha256, data)
            self._book.add(manifest.WRITING, **picture.facts, sha256=made.sha256)
            return images.write_file(place, made.data, overwrite=request.overwrite)

        self._tools.keep(write, place, partial(_reencode, made.data, EXTENSION_FORMATS[request.format]))


def _reencode(data: bytes, kind: str, wanted: str) -> bytes:
    """A picture that is made in one format, in another."""
    if wanted == kind:
        return data
    picture = images.read_image(data)
    return images.encode_image(picture.pixels, alpha=picture.alpha, format=wanted, text=images.read_text(data))


def stylize_folder(
    contents: str | Path,
    styles: str | Path,
    out: str | Path,
    options: Options | None = None,
    *,
    stop: threading.Event | None = None,
    tools: BatchContext | None = None,
    rules: SelectionRules | None = None,
    **more: Any,
) -> Iterator[BatchEvent]:
    """Paint every content in every style, telling everything that happens; what is done already is left out.

    A picture that fails is an event like others. Whoever calls sees to it that nobody else works in the folder.

    Args:
        contents: a file, a folder, a pattern, `@list.txt`, or the name of a picture that comes with styler.
        styles: likewise.
        out: the folder of the results.
        options: all settings; `Options()` when not given.
        stop: once it is set, the picture in work is dropped and nothing new is begun.
        tools: how pictures are read and written.
        rules: what is taken from folders.
        more: other fields of `prepare.Request`: `zipped`, `blended`, `template`, `format`, `overwrite`, `retry` …

    Raises:
        StylerError: nothing can be painted, or the request makes no sense.
    """
    request = BatchRequest(
        contents=str(contents),
        styles=str(styles),
        out=Path(out),
        options=options or Options(),
        rules=rules or SelectionRules(),
        **more,
    )
    past = manifest.read_manifest(request.out)
    batch = plan_batch(request, past, library.find_content, library.find_style)
    tools = tools or BatchContext()
    with manifest.Manifest(request.out, past) as book:
        yield from run_batch(batch, book, tools, stop or threading.Event())
        if tools.small:
            write_index(batch, book)
