"""Run a batch: submit its pictures to an engine, write and record the results, and report everything as events.

`stylize_folder` is the entry point for programs. Does not know the command line.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from styler import images, library, provenance
from styler.batch import discover
from styler.batch.manifest import DONE, FAILED, PRECISION, RUN, WRITING, Manifest, ManifestError, read_manifest
from styler.batch.names import Pair
from styler.batch.plan import EXTENSION_FORMATS, BatchPlan, BatchRequest, hash_settings, plan_batch
from styler.batch.ray import ClusterConfig, RayEngine
from styler.batch.report import save_thumbnail, write_index
from styler.batch.states import StateKeeper
from styler.batch.stores import DiskStatsStore
from styler.batch.worker import CLOSE_SECONDS, EncodedPicture, LocalEngine, PaintTask, WorkerConfig, WorkerReport
from styler.engine.painter import Painter
from styler.engine.result import Progress
from styler.engine.styles import StatsStore
from styler.errors import StylerError, UsageError
from styler.images import Picture
from styler.options import INIT_CHOICES, Options

POLL_SECONDS = 0.2
"""Seconds between two checks of `stop` while the engine reports nothing."""

Engine = LocalEngine | RayEngine
WritePicture = Callable[[Callable[[], Path | None], Path, Callable[[str], bytes]], Path | None]
"""Calls its first argument, which writes a picture to a path.

If that fails, it may encode the picture in another format, save it elsewhere, and raise an error that says where.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchContext:
    """How pictures are read, written and painted."""

    read: Callable[[Path], Picture] = images.read_image
    """Reads a file on this machine."""
    decode: Callable[..., Picture] = images.read_image
    """Decodes bytes, with their path or URL as `name`; on a cluster it is pickled and runs on every machine."""
    write: WritePicture = lambda write, _path, _encode: write()
    devices: tuple[str, ...] = ()
    """A device for each worker, such as `cuda:0`, `cuda:1`; empty for one worker on the device of the options."""
    painter: Painter | None = None
    """A loaded painter for the one worker, which fits the options; None to load what the options name."""
    cluster: ClusterConfig | None = None
    """The Ray cluster to use instead of this process."""
    stats_store: StatsStore | None = field(default_factory=DiskStatsStore)
    """Where style statistics are kept between runs; on a cluster, each machine has its own store."""


@dataclass(frozen=True, slots=True, eq=False)
class BatchEvent:
    """Something that happened to a picture."""

    kind: str
    """`started`, `progress`, `note`, `done`, `failed` or `stopped`; on a cluster a picture can start repeatedly."""
    pair: Pair
    progress: Progress | None = None
    text: str = ""
    """The error of a failure, or the note."""
    seconds: float = 0.0
    """Time since the picture started, once it has ended."""


@dataclass(slots=True, eq=False)
class _OpenPicture:
    """A picture that was submitted and is not yet written."""

    pair: Pair
    facts: dict[str, Any]
    """Fields of its lines in the manifest."""
    started: float = field(default_factory=time.perf_counter)

    def make_event(self, kind: str, text: str = "") -> BatchEvent:
        """Return the event that ends it."""
        return BatchEvent(kind, self.pair, text=text, seconds=time.perf_counter() - self.started)


def run_batch(
    plan: BatchPlan, manifest: Manifest, context: BatchContext, stop: threading.Event, limit: int | None = None
) -> Iterator[BatchEvent]:
    """Paint the pictures of a plan and yield everything that happens.

    Events of one picture are in order; those of the next picture can come before it is `done`, since it is encoded and
    written in the meantime. Closing the generator has the same effect as `stop`.

    Args:
        plan: the pictures.
        manifest: the open manifest.
        context: how pictures are read, written and painted.
        stop: once set, nothing is started, and pictures in progress are discarded; checked between convolutions.
        limit: number of failures that ends the batch; what fails afterwards is not recorded, and the next run tries
            it again.

    Raises:
        StylerError: the network cannot be loaded, the cluster cannot be reached, or the manifest cannot be written.
    """
    for pair in plan.state.unrecorded:
        manifest.add(DONE, output=pair.output, seconds=0.0)
    if not plan.state.todo:
        return
    manifest.add(
        RUN,
        version=provenance.get_version(),
        settings=hash_settings(plan.settings),
        options=plan.settings,
        pairs=len(plan.pairs),
        todo=len(plan.state.todo),
    )
    for folder in {(plan.out / pair.output).parent for pair in plan.state.todo}:
        images.remove_stale_files(folder)
    run = _BatchRun(plan, manifest, context, _start_engine(plan, context), limit)
    finish_encoded = False
    try:
        yield from run.paint(stop)
        finish_encoded = True
    except GeneratorExit:
        finish_encoded = True
        raise
    finally:
        run.close(finish_encoded=finish_encoded)


def _start_engine(plan: BatchPlan, context: BatchContext) -> Engine:
    init = plan.request.options.init
    start = None if init in INIT_CHOICES else _read_picture(context, init, None)
    config = WorkerConfig(request=plan.request, start=start)
    if context.cluster is None:
        return LocalEngine(
            config, partial(_read_picture, context), context.stats_store, context.devices, context.painter
        )
    paths = [picture.path for pair in plan.state.todo for picture in (pair.content, *pair.styles)]
    paths += [path for pair in plan.state.todo for _, path in pair.masks]
    if any(path.startswith(discover.MEMORY_SCHEME) for path in paths):
        raise UsageError("memory:// files are not visible to Ray workers; use files, or omit --engine ray.")
    return RayEngine(config, context.decode, context.cluster, keep_stats=context.stats_store is not None)


def _read_picture(context: BatchContext, path: str, data: bytes | None) -> Picture:
    """Read the picture at a path or URL; from its bytes if they are given."""
    if data is None and discover.is_url(path):
        data = discover.load_url(path)
    return context.read(Path(path)) if data is None else context.decode(data, name=path)


class _Writer:
    """A thread that writes one picture after another.

    It is a daemon: a write that hangs, as on a network drive that is gone, must not keep the program from ending.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._is_cancelled = threading.Event()
        self._thread = threading.Thread(target=self._run, name="styler-writer", daemon=True)
        self._thread.start()

    def submit(self, call: Callable[[], Any]) -> "Future[Any]":
        """Queue a call; the future has its result."""
        future: Future[Any] = Future()
        self._calls.put((call, future))
        return future

    def close(self, *, finish: bool) -> None:
        """End the thread; with `finish` after all calls, otherwise after the current one if that ends in time."""
        if not finish:
            self._is_cancelled.set()
        self._calls.put(None)
        self._thread.join(None if finish else CLOSE_SECONDS)

    def _run(self) -> None:
        for call, future in iter(self._calls.get, None):
            if self._is_cancelled.is_set():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - raised in the thread that reads the future
                future.set_exception(error)


class _BatchRun:
    """The pictures in progress between an engine and the output folder, and the thread that writes them."""

    def __init__(
        self, plan: BatchPlan, manifest: Manifest, context: BatchContext, engine: Engine, limit: int | None
    ) -> None:
        self._plan, self._manifest, self._context, self._engine, self._limit = plan, manifest, context, engine, limit
        self._failures = 0
        self._settings = hash_settings(plan.settings)
        self._open: dict[int, _OpenPicture] = {}
        self._writer = _Writer()
        self._writes: deque[Future[tuple[int, BatchEvent | None]]] = deque()

    def paint(self, stop: threading.Event) -> Iterator[BatchEvent]:
        """Yield everything that happens until all pictures have ended."""
        waiting = deque(enumerate(self._plan.state.todo))
        while True:
            if stop.is_set() or self._is_over:
                self._engine.stop()
                waiting.clear()
            while waiting and len(self._open) < self._engine.slots and not stop.is_set() and not self._is_over:
                yield from self._submit(*waiting.popleft())
            if not self._open:
                return
            if report := self._engine.poll(POLL_SECONDS):
                yield from self._handle_report(report)
            while self._writes and self._writes[0].done():
                yield from self._end_picture(*self._writes.popleft().result())

    @property
    def _is_over(self) -> bool:
        """Whether the limit of failures is reached."""
        return self._limit is not None and self._failures >= self._limit

    def close(self, *, finish_encoded: bool) -> None:
        """Close the engine; with `finish_encoded`, write the pictures that it has encoded."""
        for report in self._engine.close():
            if finish_encoded and report.encoded and report.number in self._open:
                self._writer.submit(partial(self._finish, report))
        self._writer.close(finish=finish_encoded)

    def _submit(self, number: int, pair: Pair) -> Iterator[BatchEvent]:
        """Submit a picture to the engine, if its file can be written."""
        files = self._plan.files
        facts: dict[str, Any] = {
            "output": pair.output,
            "settings": self._settings,
            "content": dict(files.describe(pair.content.path)),
            "styles": [dict(files.describe(style.path)) for style in pair.styles],
        }
        if pair.masks:
            facts["masks"] = [dict(files.describe(path)) for _, path in pair.masks]
        self._open[number] = _OpenPicture(pair, facts)
        try:
            images.check_output(self._plan.out / pair.output, overwrite=self._plan.request.overwrite)
        except StylerError as problem:
            yield BatchEvent("started", pair)
            yield from self._end_picture(number, self._open[number].make_event("failed", str(problem)))
            return
        styles = tuple(style.path for style in pair.styles)
        picture = "" if self._context.cluster else str(self._plan.out / pair.output)
        self._engine.submit(PaintTask(number, pair.content.path, styles, pair.masks, picture=picture))

    def _handle_report(self, report: WorkerReport) -> Iterator[BatchEvent]:
        """Yield the event of a report; a final one goes to the writer first."""
        picture = self._open[report.number]
        if report.kind == "started":
            picture.started = time.perf_counter()
            self._record_precision()
        if report.kind in ("started", "progress", "note"):
            yield BatchEvent(report.kind, picture.pair, report.progress, report.text)
            return
        write = self._writer.submit(partial(self._finish, report))
        write.add_done_callback(lambda _write: self._engine.wake())
        self._writes.append(write)

    def _record_precision(self) -> None:
        """Record what the engine has chosen, so that a resumed batch does not choose again."""
        known = self._manifest.history.precisions
        if self._plan.request.options.precision == "auto" and known.get(self._settings) != self._engine.precision:
            self._manifest.add(PRECISION, settings=self._settings, precision=self._engine.precision)

    def _end_picture(self, number: int, event: BatchEvent | None) -> Iterator[BatchEvent]:
        """Yield the last event of a picture, if it started; record a failure."""
        picture = self._open.pop(number)
        if event and event.kind == "failed":
            if self._is_over:  # left to the next run
                event = BatchEvent("stopped", picture.pair, seconds=event.seconds)
            else:
                self._failures += 1
                self._record_failure(picture, event)
        if event:
            yield event

    def _finish(self, report: WorkerReport) -> tuple[int, BatchEvent | None]:
        """Write a picture and its lines in the manifest; runs in the thread of the writer.

        Raises:
            ManifestError: the manifest cannot be written.
        """
        picture = self._open[report.number]
        inputs = [picture.facts["content"], *picture.facts["styles"], *picture.facts.get("masks", [])]
        for facts, sha256 in zip(inputs, report.hashes, strict=False):
            facts["sha256"] = sha256
        if not report.encoded:
            return report.number, None if report.kind == "unstarted" else picture.make_event(report.kind, report.text)
        try:
            self._write(picture, report.encoded)
        except ManifestError:
            raise
        except StylerError as problem:
            return report.number, picture.make_event("failed", str(problem))
        event = picture.make_event("done")
        self._manifest.add(DONE, output=picture.pair.output, seconds=round(event.seconds, 3))
        return report.number, event

    def _record_failure(self, picture: _OpenPicture, event: BatchEvent) -> None:
        try:
            self._manifest.add(FAILED, **picture.facts, error=event.text, seconds=round(event.seconds, 3))
        except ManifestError as problem:
            raise ManifestError(f"{event.text} {problem}") from problem

    def _write(self, picture: _OpenPicture, encoded: EncodedPicture) -> None:
        """Write a picture after its hash, so that the next run recognizes it if this one is killed in between."""
        out, request = self._plan.out, self._plan.request
        path = out / picture.pair.output

        def write() -> Path:
            for sha256, thumbnail in encoded.thumbnails.items():
                save_thumbnail(out, sha256, thumbnail)
            self._manifest.add(WRITING, **picture.facts, sha256=encoded.sha256)
            return images.write_file(path, encoded.data, overwrite=request.overwrite)

        self._context.write(write, path, partial(_reencode, encoded.data, EXTENSION_FORMATS[request.format]))
        StateKeeper(path).remove()


def _reencode(data: bytes, current: str, wanted: str) -> bytes:
    """Return the bytes of a picture in another format, a key of `images.FORMATS`."""
    if wanted == current:
        return data
    picture, text, dpi = images.read_image(data), images.read_text(data), round(images.read_size(data).dpi)
    return images.encode_image(picture.pixels, alpha=picture.alpha, format=wanted, text=text, dpi=dpi)


def stylize_folder(
    contents: str | Path | Sequence[str | Path],
    styles: str | Path | Sequence[str | Path],
    out: str | Path,
    options: Options | None = None,
    *,
    stop: threading.Event | None = None,
    context: BatchContext | None = None,
    **fields: Any,
) -> Iterator[BatchEvent]:
    """Paint every content in every style and yield everything that happens; skip what earlier runs finished.

    A picture that fails is reported and does not end the batch. The caller must ensure that nothing else writes to
    the folder.

    Args:
        contents: a file, a folder, a pattern, `@list.txt`, a URL, or the name of a bundled picture; or several.
        styles: the paintings, in the same forms.
        out: the output folder.
        options: all settings; `Options()` by default.
        stop: once set, nothing is started, and pictures in progress are discarded.
        context: how pictures are read, written and painted.
        fields: other fields of `BatchRequest`: `rules`, `zipped`, `blended`, `template`, `format`, `overwrite`, …

    Raises:
        StylerError: there is nothing to paint, or the request is invalid.
    """
    names = [[it] if isinstance(it, str | Path) else it for it in (contents, styles)]
    request = BatchRequest(
        contents=tuple(map(str, names[0])),
        styles=tuple(map(str, names[1])),
        out=Path(out),
        options=options or Options(),
        **fields,
    )
    history = read_manifest(request.out)
    plan = plan_batch(request, history, library.find_content, library.find_style)
    with Manifest(request.out, history) as manifest:
        yield from run_batch(plan, manifest, context or BatchContext(), stop or threading.Event())
        if request.index:
            write_index(plan, manifest)
