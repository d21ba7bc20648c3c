"""The work behind the page: uploads are decoded in a child, and the one painter makes one picture after another.

Does not know Gradio.
"""

import threading
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from styler import images, library, provenance
from styler.engine.painter import Painter
from styler.engine.result import Progress, Result
from styler.errors import StylerError, quote_name
from styler.images import Picture
from styler.images.child import Decoder
from styler.options import Options
from styler.provenance import Record
from ui.queue import PainterThread
from ui.session import FinishedPicture, PaintRequest, Session, Sessions, Upload

MAX_PIXELS = 50_000_000
"""Of an upload."""
LIVE_PAUSE = 0.2
"""Seconds between two live pictures."""
MAX_CHART_POINTS = 400
"""Of the chart at most."""
WARMUP_PAIR = ((library.list_contents, "astronaut"), (library.list_styles, "starry-night"))
"""What is painted to warm up."""


@dataclass(slots=True, eq=False)
class WaitEstimate:
    """How long work takes here, for those who wait."""

    mean: float | None = None
    """Seconds of a piece of work, lately."""
    end: float | None = None
    """When the one in hand will end, on the monotonic clock."""

    def expect(self, seconds: float | None) -> None:
        """So much is left of the work in hand."""
        self.end = None if seconds is None else time.monotonic() + seconds

    def took(self, seconds: float) -> None:
        """A piece of work is done."""
        self.mean = seconds if self.mean is None else 0.5 * self.mean + 0.5 * seconds

    def wait(self, ahead: int) -> float | None:
        """Seconds until somebody's turn, behind the work in hand and `ahead` others; None if nobody can tell."""
        left = 0.0 if self.end is None else max(0.0, self.end - time.monotonic())
        if self.end is None or (ahead and self.mean is None):
            return None
        return left + ahead * (self.mean or 0.0)


class Studio:
    """What all visitors share: the painter, the decoding child, the bench, and the visits."""

    def __init__(self, max_pixels: int = MAX_PIXELS) -> None:
        self.visits = Sessions()
        self.decoder = Decoder()
        self.bench = PainterThread()
        self.pace = WaitEstimate()
        self.max_pixels = max_pixels
        self.trouble: StylerError | None = None
        """Why there is no painter."""
        self._painter: Painter | None = None
        self._loading = threading.Lock()

    @property
    def is_ready(self) -> bool:
        """Whether the weights are in memory."""
        return self._painter is not None

    def painter(self) -> Painter:
        """The painter, loaded by whoever comes first.

        Raises:
            StylerError: the weights or the device are not there.
        """
        with self._loading:
            if self._painter is None:
                painter = Painter.of(Options())
                painter.features(Options())
                self._painter = painter
            return self._painter

    def warm(self) -> None:
        """Load the painter before anybody asks, in its own thread; what goes wrong is told to who asks.

        A small painting goes through it, in the style that is chosen at first, so that nobody's first picture waits.
        """

        def work() -> None:
            try:
                painter = self.painter()
                content, style = (images.read_image(found()[name]) for found, name in WARMUP_PAIR)
                for _ in painter.stream(content, style, Options().replace(iterations=1, size=Options().first_size)):
                    pass
            except StylerError as problem:
                self.trouble = problem

        self.bench.thread.submit(work).result()

    def close(self) -> None:
        """End all work and remove all files."""
        self.visits.close()
        self.decoder.close()

    def picture(self, upload: Upload) -> Picture:
        """An upload, decoded.

        Raises:
            ImageError: it is no picture, or too large; the sentence calls it as its owner does.
        """
        return self.decoder.read(self._bytes(upload), name=upload.name, max_pixels=self.max_pixels)

    def settings(self, upload: Upload) -> Record:
        """What made the picture.

        Raises:
            ImageError: nothing is stored in it.
        """
        texts = self.decoder.read_text(self._bytes(upload), name=upload.name)
        return provenance.find_record(texts, quote_name(upload.name))

    def paint(self, visit: Session, order: PaintRequest) -> Generator[Progress | FinishedPicture, None, None]:
        """Paint, reporting a few times a second; the last is the picture, unless it was discarded before it began.

        Raises:
            StylerError: a picture cannot be read, a setting does not fit, or memory is short.
        """
        stop, began = visit.begin(), time.monotonic()
        visit.uses(order.content, *order.styles)
        try:
            content, styles = self.picture(order.content), [self.picture(style) for style in order.styles]
            options = order.options.replace(init=str(order.start)) if order.start else order.options
            painter = self.painter()
            due, curve, last = 0.0, [], None
            for last in painter.stream(content, [*styles], options, stop):
                curve.append((last.total_iterations, last.terms))
                if last.result is None and time.monotonic() >= due:
                    self.pace.expect(last.eta)
                    yield last
                    due = time.monotonic() + LIVE_PAUSE
            assert last is not None
            assert last.result is not None
            if not visit.is_discarded:
                kept = curve[:: 1 + len(curve) // MAX_CHART_POINTS]
                terms = tuple((count, {name: float(term) for name, term in terms.items()}) for count, terms in kept)
                self.pace.took(time.monotonic() - began)
                yield _keep_picture(visit, order, last.result, content, terms)
        finally:
            stop.set()  # closed half-way: nothing of it goes on
            visit.is_painting = False
            self.pace.expect(None)

    def deep(self, painted: FinishedPicture, kind: str) -> Path:
        """Return the picture in 16 bits, as `png` or `tiff`; it is encoded when it is first requested."""
        path = painted.png.with_name(f"{painted.png.stem}.16bit.{kind}")
        if not path.exists():
            painted.result.save(path, overwrite=True, bit_depth=16)
        return path

    def _bytes(self, upload: Upload) -> bytes:
        with suppress(FileNotFoundError):
            return upload.path.read_bytes()
        raise StylerError(f"{quote_name(upload.name)} is no longer on the server; choose it once more.")


def _keep_picture(
    visit: Session,
    order: PaintRequest,
    result: Result,
    content: Picture,
    curve: tuple[tuple[int, dict[str, float]], ...],
) -> FinishedPicture:
    """The picture written to the visitor's folder, in the forms that the page offers."""
    height, width = result.pixels.shape[:2]
    folder = visit.next_folder()
    np.save(folder / "pixels.npy", result.pixels)
    name = f"{order.content.stem}.{'+'.join(style.stem for style in order.styles)}"
    painted = FinishedPicture(
        order=order,
        record=provenance.make_record(result),
        png=result.save(folder / f"{name}.png"),
        jpeg=result.save(folder / f"{name}.jpg"),
        before=_save_photo(content, folder / "photo.jpg", (width, height)),
        curve=curve,
        notes=(*result.notes, *content.warnings),
        result=replace(result, pixels=np.load(folder / "pixels.npy", mmap_mode="r")),
    )
    visit.painted.append(painted)
    return painted


def _save_photo(content: Picture, path: Path, size: tuple[int, int]) -> Path:
    """The photo as a JPEG of the result's size."""
    whole = Image.fromarray((content.pixels * 255).round().clip(0, 255).astype(np.uint8))
    whole.resize(size, Image.Resampling.LANCZOS).save(path, "JPEG", quality=92, subsampling=0)
    return path
