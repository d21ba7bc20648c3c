"""The batch at work: tasks to an engine, its reports to the manifest and the disk, everything told as an event.

A picture that fails is recorded with its sentence, and the rest goes on. Here alone is the manifest written, and here
alone do pictures get their places, whatever engine paints them. Knows neither flags nor terminals; how pictures are
read, and where one goes that cannot be written, it is told.
"""

import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from styler import images, provenance
from styler.batch import ledger, places, thumbs
from styler.batch.ledger import Ledger
from styler.batch.pairs import Pair
from styler.batch.prepare import ENDINGS, Batch
from styler.batch.resume import digest
from styler.batch.tools import Cluster, Engine, Tools
from styler.batch.worker import Made, Orders, Report, Task
from styler.engine.result import Progress
from styler.errors import StylerError, UsageError
from styler.images import Picture
from styler.options import INIT_CHOICES

__all__ = ["Cluster", "Event", "Tools", "events"]

WAIT = 0.2
"""Seconds between two looks at `stop` while no engine has anything to say."""


@dataclass(frozen=True, slots=True, eq=False)
class Event:
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
class _Open:
    """A picture that an engine has in its hands."""

    pair: Pair
    facts: dict[str, Any]
    """What its lines in the manifest say."""
    began: float


def events(
    batch: Batch, book: Ledger, tools: Tools, stop: threading.Event, limit: int | None = None
) -> Iterator[Event]:
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
        book.add(ledger.DONE, output=pair.output, seconds=0.0)
    if not batch.standing.todo:
        return
    book.add(
        ledger.RUN,
        version=provenance.get_version(),
        settings=digest(batch.settings),
        options=batch.settings,
        pairs=len(batch.pairs),
        todo=len(batch.standing.todo),
    )
    for folder in {(batch.out / pair.output).parent for pair in batch.standing.todo}:
        images.remove_stale_files(folder)
    desk = _Desk(batch, book, tools, _engine(batch, tools), limit)
    told = False
    try:
        yield from desk.run(stop)
        told = True
    except GeneratorExit:
        told = True
        raise
    finally:
        desk.close(keep=told)


def _engine(batch: Batch, tools: Tools) -> Engine:
    request = batch.request
    init = request.options.init
    orders = Orders(
        options=request.options,
        kind=ENDINGS[request.format],
        bit_depth=request.bit_depth,
        repeat=request.repeat,
        settings=tools.settings,
        keep_metadata=tools.keep_metadata,
        small=tools.small,
        start=None if init in INIT_CHOICES else _read(tools, init, None),
    )
    if tools.cluster is None:
        from styler.batch.local import Local

        return Local(orders, partial(_read, tools), tools.shelf, tools.devices)
    if any(
        it.path.startswith(places.IN_PROCESS) for pair in batch.standing.todo for it in (pair.content, *pair.styles)
    ):
        raise UsageError("What is at memory:// no other process sees; give files, or do without --engine ray.")
    from styler.batch.ray import Ray

    return Ray(orders, tools.decode, tools.cluster, shelve=tools.shelf is not None)


def _read(tools: Tools, path: str, data: bytes | None) -> Picture:
    """A picture, wherever it is."""
    if data is None and places.is_url(path):
        data = places.load(path)
    return tools.read(Path(path)) if data is None else tools.decode(data, name=path)


class _Desk:
    """What stands between an engine and the folder: the pictures in its hands, and one thread that writes."""

    def __init__(self, batch: Batch, book: Ledger, tools: Tools, engine: Engine, limit: int | None) -> None:
        self._batch, self._book, self._tools, self._engine, self._limit = batch, book, tools, engine, limit
        self._failures = 0
        self._settings = digest(batch.settings)
        self._open: dict[int, _Open] = {}
        self._writer = ThreadPoolExecutor(1, "styler-writer")
        self._written: queue.SimpleQueue[tuple[int, Event | None] | BaseException] = queue.SimpleQueue()

    def run(self, stop: threading.Event) -> Iterator[Event]:
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
            if report := self._engine.poll(WAIT):
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

    def _submitted(self, number: int, pair: Pair) -> Iterator[Event]:
        """Give a picture to the engine, if there is a place for it."""
        files = self._batch.files
        facts = {
            "output": pair.output,
            "settings": self._settings,
            "content": dict(files.state(pair.content.path)),
            "styles": [dict(files.state(style.path)) for style in pair.styles],
        }
        self._open[number] = _Open(pair, facts, time.perf_counter())
        try:
            images.check_output(self._batch.out / pair.output, overwrite=self._batch.request.overwrite)
        except StylerError as problem:
            yield Event("started", pair)
            self._settle(Report(number, "failed", str(problem)), engaged=False)
            yield from self._settled(self._written.get())
            return
        self._engine.submit(Task(number, pair.content.path, tuple(style.path for style in pair.styles)))

    def _heard(self, report: Report) -> Iterator[Event]:
        """Tell what is in work; what has come to its end goes to the writer."""
        picture = self._open[report.number]
        if report.kind == "started":
            picture.began = time.perf_counter()
        if report.kind in ("started", "progress", "note"):
            yield Event(report.kind, picture.pair, report.progress, report.text)
        else:
            self._writer.submit(self._settle, report)

    def _settled(self, found: tuple[int, Event | None] | BaseException) -> Iterator[Event]:
        if isinstance(found, BaseException):
            raise found
        number, event = found
        picture = self._open.pop(number)
        if event and event.kind == "failed":
            if self._has_enough:  # it is left for another run
                yield Event("stopped", picture.pair, seconds=event.seconds)
                return
            self._failures += 1
            self._record_failure(picture, event)
        if event:
            yield event

    def _settle(self, report: Report, *, engaged: bool = True) -> None:
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

    def _ended(self, picture: _Open, report: Report) -> Event | None:
        for facts, sha256 in zip([picture.facts["content"], *picture.facts["styles"]], report.hashes, strict=False):
            facts["sha256"] = sha256
        problem = report.text
        if report.made:
            try:
                self._put(picture, report.made)
            except ledger.ManifestError:
                raise
            except StylerError as found:
                problem = str(found)
        seconds = time.perf_counter() - picture.began
        if report.kind == "left":
            return None
        if report.kind == "stopped":
            return Event("stopped", picture.pair, seconds=seconds)
        if problem:
            return Event("failed", picture.pair, text=problem, seconds=seconds)
        self._book.add(ledger.DONE, output=picture.pair.output, seconds=round(seconds, 3))
        return Event("done", picture.pair, seconds=seconds)

    def _record_failure(self, picture: _Open, event: Event) -> None:
        try:
            self._book.add(ledger.FAILED, **picture.facts, error=event.text, seconds=round(event.seconds, 3))
        except ledger.ManifestError as problem:
            raise ledger.ManifestError(f"{event.text} {problem}") from problem

    def _put(self, picture: _Open, made: Made) -> None:
        """Put the picture in its place, after its hash is in the manifest, so that a killed run's picture is known."""
        out, request = self._batch.out, self._batch.request
        place = out / picture.pair.output

        def write() -> Path:
            for sha256, data in made.small.items():
                thumbs.keep(out, sha256, data)
            self._book.add(ledger.WRITING, **picture.facts, sha256=made.sha256)
            return images.write_file(place, made.data, overwrite=request.overwrite)

        self._tools.keep(write, place, partial(_encoded, made.data, ENDINGS[request.format]))


def _encoded(data: bytes, kind: str, wanted: str) -> bytes:
    """A picture that is made in one format, in another."""
    if wanted == kind:
        return data
    picture = images.read_image(data)
    return images.encode_image(picture.pixels, alpha=picture.alpha, format=wanted, text=images.read_text(data))
