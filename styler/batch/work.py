"""The batch at work: one picture after another through one painter, with everything that happens told as an event.

A picture that fails is recorded with its sentence, and the rest goes on. Knows neither flags nor terminals; how
pictures are read, and where one goes that cannot be written, it is told.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from styler import devices, finish, images
from styler.batch import ledger, thumbs
from styler.batch.ledger import Ledger, ManifestError
from styler.batch.pairs import Pair
from styler.batch.prepare import ENDINGS, Batch
from styler.batch.resume import digest
from styler.errors import DeviceError, OutOfMemory, StylerError
from styler.images import Picture
from styler.metadata import version
from styler.options import STARTS, Options
from styler.pipeline import Painter
from styler.progress import Progress, Result

Encode = Callable[[str], bytes]
Keep = Callable[[Callable[[], Path | None], Path, Encode], Path | None]
"""Calls what writes a picture; if that fails, may keep the picture elsewhere and fail with a sentence that says so."""


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """Something that happened."""

    kind: str
    """`started`, `progress`, `done`, `failed` or `stopped`, all of one picture, or `note`, a sentence on it."""
    pair: Pair
    progress: Progress | None = None
    text: str = ""
    """Why it failed, or the note."""
    seconds: float = 0.0
    """That the picture took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """How the engine reads, encodes and writes."""

    read: Callable[[Path], Picture] = images.read
    keep: Keep = lambda write, _name, _encode: write()
    settings: bool = True
    """Whether what made it is written into a picture."""
    keep_metadata: bool = False
    small: bool = True
    """Whether small copies are kept for the index."""


@dataclass(slots=True, eq=False)
class _Shop:
    """What the pictures of a run share."""

    batch: Batch
    ledger: Ledger
    tools: Tools
    stop: threading.Event
    painters: dict[str, Painter] = field(default_factory=dict)
    """By precision; a second one is made only where a loss was not a number."""
    styles: tuple[tuple[str, ...], list[Picture]] = ((), [])
    """The styles read last."""
    start: Picture | None = None

    def painter(self, options: Options) -> Painter:
        if options.precision not in self.painters:
            self.painters[options.precision] = Painter.of(options)
        return self.painters[options.precision]


def events(batch: Batch, book: Ledger, tools: Tools, stop: threading.Event) -> Iterator[Event]:
    """Paint what is to be done, telling everything.

    Once `stop` is set nothing new is begun, and the picture in work is dropped. Closing the generator does the same.

    Args:
        batch: what is to be done.
        book: the manifest, open.
        tools: how pictures are read, encoded and written.
        stop: checked between convolutions.

    Raises:
        StylerError: the network cannot be loaded, or the manifest cannot be written.
    """
    shop = _Shop(batch, book, tools, stop)
    settings, request = digest(batch.settings), batch.request
    for pair in batch.standing.found:
        book.add(ledger.DONE, output=pair.output, seconds=0.0)
    if not batch.standing.todo:
        return
    book.add(
        ledger.RUN,
        version=version(),
        settings=settings,
        options=batch.settings,
        pairs=len(batch.pairs),
        todo=len(batch.standing.todo),
    )
    for folder in {(batch.out / pair.output).parent for pair in batch.standing.todo}:
        images.sweep(folder)
    if request.options.init not in STARTS:
        shop.start = tools.read(Path(request.options.init))
    shop.painter(request.options).features(request.options)  # what is wrong with either is wrong for every picture
    for pair in batch.standing.todo:
        if stop.is_set():
            return
        yield from _one(shop, pair, settings)


def _one(shop: _Shop, pair: Pair, settings: str) -> Iterator[Event]:
    """One picture, from its inputs to its line in the manifest."""
    began = time.perf_counter()
    yield Event("started", pair)
    facts: dict[str, Any] = {"output": pair.output, "settings": settings, **_inputs(shop, pair)}
    try:
        images.check_output(shop.batch.out / pair.output, overwrite=shop.batch.request.overwrite)
        content = shop.tools.read(Path(pair.content.path))
        styles = _styles(shop, pair)
        facts["content"] |= {"sha256": content.sha256}
        for recorded, style in zip(facts["styles"], styles, strict=True):
            recorded["sha256"] = style.sha256
        result = yield from _painted(shop, pair, content, styles)
        if result.stopped:
            yield Event("stopped", pair, seconds=time.perf_counter() - began)
            return
        _write(shop, pair, result, content, styles, facts)
    except ManifestError:
        raise
    except StylerError as problem:
        yield from _failed(shop, pair, str(problem), facts, began)
        return
    except Exception as bug:  # noqa: BLE001 - it costs this picture alone, and is told like every failure
        sentence = f"{type(bug).__name__}: {bug}. This is a bug in styler; paint {pair.content.name!r} by itself with "
        yield from _failed(shop, pair, f"{sentence}'styler run --debug' to see where.", facts, began)
        return
    seconds = time.perf_counter() - began
    shop.ledger.add(ledger.DONE, output=pair.output, seconds=round(seconds, 3))
    yield Event("done", pair, seconds=seconds)


def _inputs(shop: _Shop, pair: Pair) -> dict[str, Any]:
    """What the files are like before they are read."""
    return {
        "content": dict(shop.batch.files.state(pair.content.path)),
        "styles": [dict(shop.batch.files.state(style.path)) for style in pair.styles],
    }


def _failed(shop: _Shop, pair: Pair, sentence: str, facts: dict[str, Any], began: float) -> Iterator[Event]:
    seconds = time.perf_counter() - began
    try:
        shop.ledger.add(ledger.FAILED, **facts, error=sentence, seconds=round(seconds, 3))
    except ManifestError as problem:
        raise ManifestError(f"{sentence} {problem}") from problem
    yield Event("failed", pair, text=sentence, seconds=seconds)


def _styles(shop: _Shop, pair: Pair) -> list[Picture]:
    """The styles, read again only when they are others than before."""
    paths = tuple(style.path for style in pair.styles)
    if shop.styles[0] != paths:
        shop.styles = (paths, [shop.tools.read(Path(path)) for path in paths])
    return shop.styles[1]


def _painted(shop: _Shop, pair: Pair, content: Picture, styles: list[Picture]) -> Generator[Event, None, Result]:
    """Paint, once more where that can help; returns the result."""
    options = shop.batch.request.options
    for sentence in (warning for picture in (content, *styles) for warning in picture.warnings):
        yield Event("note", pair, text=sentence)
    try:
        return (yield from _streamed(shop, pair, content, styles, options))
    except DeviceError as problem:
        second = _another_way(problem, options, shop.painter(options))
        if second is None:
            raise
        yield Event("note", pair, text=f"{problem} Trying once more with {second[1]}.")
    return (yield from _streamed(shop, pair, content, styles, second[0]))


def _streamed(
    shop: _Shop, pair: Pair, content: Picture, styles: list[Picture], options: Options
) -> Generator[Event, None, Result]:
    """Every step of one painting as an event; returns the result."""
    result: Result | None = None
    painter = shop.painter(options)
    for progress in painter.stream(content, [*styles], options, shop.stop, shop.batch.request.repeat, shop.start):
        result = progress.result
        if result is None:
            yield Event("progress", pair, progress=progress)
    assert result is not None
    for sentence in result.notes:
        yield Event("note", pair, text=sentence)
    return result


def _another_way(problem: DeviceError, options: Options, painter: Painter) -> tuple[Options, str] | None:
    """Options under which a failed painting may succeed, in words too; None if there are none."""
    if isinstance(problem, OutOfMemory):
        devices.release(painter.device)
        return (options.replace(checkpoint="on"), "checkpointing") if options.checkpoint == "auto" else None
    if str(painter.precision) != "torch.float32":
        return options.replace(precision="fp32"), "precision fp32"
    return None


def _write(
    shop: _Shop, pair: Pair, result: Result, content: Picture, styles: list[Picture], facts: dict[str, Any]
) -> None:
    """Put the picture in its place, after its hash is in the manifest, so that a killed run's picture is known."""
    request, place = shop.batch.request, shop.batch.out / pair.output

    encode = partial(_encoded, shop, result, content, styles)

    def write() -> Path:
        data = encode(ENDINGS[request.format])
        sha256 = hashlib.sha256(data).hexdigest()
        if shop.tools.small:
            for picture in (content, *styles):
                thumbs.keep(shop.batch.out, picture.sha256, picture.pixels)
            thumbs.keep(shop.batch.out, sha256, result.pixels)
        shop.ledger.add(ledger.WRITING, **facts, sha256=sha256)
        return images.write(place, data, overwrite=request.overwrite)

    shop.tools.keep(write, place, encode)


def _encoded(shop: _Shop, result: Result, content: Picture, styles: list[Picture], kind: str) -> bytes:
    tools = shop.tools
    return finish.encoded(
        result,
        content,
        styles,
        shop.start,
        kind=kind,
        bit_depth=shop.batch.request.bit_depth if kind == ENDINGS[shop.batch.request.format] else 8,
        settings=tools.settings,
        keep_metadata=tools.keep_metadata,
    )
