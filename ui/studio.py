"""What all visitors share: the sessions, the child process that decodes uploads, and the painter with its thread.

Does not know Gradio.
"""

import threading
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styler import images, library, provenance
from styler.engine.device import name_precision
from styler.engine.painter import Painter
from styler.engine.result import Progress, Result
from styler.errors import StylerError, quote_name
from styler.images import Picture
from styler.images.child import Decoder
from styler.options import Options, list_options
from styler.provenance import Record
from styler.vgg import registry, weights
from ui.queue import PainterThread, WaitEstimate
from ui.session import FinishedPicture, LossHistory, PaintRequest, Session, Sessions, Upload

MAX_PIXELS = 50_000_000
"""Limit on the pixels of an upload."""
LIVE_PAUSE = 0.2
"""Seconds between two live views."""
LISTED_SIDE = 240
"""Long side of a picture in the list of pictures, in pixels."""
MAX_CHART_POINTS = 200
"""Limit on the points of each line in the chart of the losses."""
SERVER_OPTIONS = tuple(name for name, spec in list_options().items() if spec.group == "Machine")
"""Options that a visitor cannot change."""
WARMUP_PAIR = ("astronaut", "starry-night")
"""Bundled content and style that are painted before the first request; the style is the page's default."""


def list_backbones() -> tuple[str, ...]:
    """Return the feature networks that can be used without fetching or opening another file."""
    return (*weights.SHA256, *filter(registry.is_cached, registry.FROM_TORCHVISION), *registry.list_imported())


class Studio:
    """The sessions, the decoder, the painter and the expected wait.

    Args:
        options: defaults of the page and of `/stylize`.
        max_pixels: limit on the pixels of an upload.
    """

    def __init__(self, options: Options | None = None, max_pixels: int = MAX_PIXELS) -> None:
        self.options = options or Options()
        self.sessions = Sessions()
        self.thread = PainterThread()
        self.wait_estimate = WaitEstimate()
        self.load_error: StylerError | None = None
        """Why the painter could not be loaded."""
        self._decoder = Decoder()
        self._max_pixels = max_pixels
        self._painter: Painter | None = None
        self._load_lock = threading.Lock()
        self._closed = threading.Event()

    @property
    def is_ready(self) -> bool:
        """Whether the weights are loaded."""
        return self._painter is not None

    def warm_up(self) -> None:
        """Load the weights and paint a small picture, so that the first request does not wait; keep any error."""

        def work() -> None:
            try:
                painter = self.load_painter()
                content = images.read_image(library.list_contents()[WARMUP_PAIR[0]])
                style = images.read_image(library.list_styles()[WARMUP_PAIR[1]])
                short = self.options.replace(iterations=1, size=Options().first_size)
                for _ in painter.stream(content, style, short, self._closed):
                    pass
            except StylerError as problem:
                self.load_error = problem

        self.thread.executor.submit(work).result()

    def use_machine(self, options: Options) -> Options:
        """Return options of a visitor with the server's own device and precision, and its network unless named."""
        names = SERVER_OPTIONS if options.backbone in list_backbones() else (*SERVER_OPTIONS, "backbone")
        return options.replace(**{name: getattr(self.options, name) for name in names})

    def get_machine_options(self) -> Options:
        """Return the server's own options, with the precision that `auto` has chosen once the weights are loaded."""
        painter = self._painter
        return self.options.replace(precision=name_precision(painter.precision)) if painter else self.options

    def close(self) -> None:
        """Stop all work and remove all files."""
        self._closed.set()
        self.sessions.close()
        self._decoder.close()

    def read_picture(self, upload: Upload) -> Picture:
        """Decode an upload in the child process.

        Raises:
            ImageError: it is not an image, or it is too large; the message has the name that its owner gave it.
        """
        return self._decoder.read(_read_bytes(upload), name=upload.name, max_pixels=self._max_pixels)

    def read_record(self, upload: Upload) -> Record:
        """Read the record that styler stored in a picture.

        Raises:
            ImageError: the picture has none.
        """
        texts = self._decoder.read_text(_read_bytes(upload), name=upload.name)
        return provenance.find_record(texts, quote_name(upload.name))

    def paint(self, session: Session, request: PaintRequest) -> Generator[Progress | FinishedPicture, None, None]:
        """Paint a picture and yield its progress a few times a second, and at the end the picture unless discarded.

        Raises:
            StylerError: a picture cannot be read, a setting is invalid, or memory ran out.
        """
        stop, began = session.begin_work(), time.monotonic()
        session.add_uploads(request.content, *request.styles)
        try:
            content, *styles = [self.read_picture(upload) for upload in (request.content, *request.styles)]
            options = self.use_machine(request.options)
            options = options.replace(init=str(request.start)) if request.start else options
            due, losses, progress = 0.0, [], None
            for progress in self.load_painter().stream(content, [*styles], options, stop):
                losses.append((progress.total_iterations, progress.terms))
                if progress.result is None and time.monotonic() >= due:
                    self.wait_estimate.set_remaining(progress.eta)
                    yield progress
                    due = time.monotonic() + LIVE_PAUSE
            assert progress is not None
            assert progress.result is not None
            if not session.is_discarded:
                points = losses[:: 1 + len(losses) // MAX_CHART_POINTS]
                history = tuple((count, {name: float(term) for name, term in terms.items()}) for count, terms in points)
                self.wait_estimate.add_duration(time.monotonic() - began)
                yield _save_picture(session, request, progress.result, content, history)
        finally:
            stop.set()  # if this generator is closed early, the painter also stops
            session.is_painting = False
            self.wait_estimate.set_remaining(None)

    def load_painter(self) -> Painter:
        """Return the painter; the first call loads the weights.

        Raises:
            StylerError: the weights or the device are missing.
        """
        with self._load_lock:
            if self._painter is None:
                painter = Painter.of(self.options)
                painter.features(self.options)
                self._painter = painter
            return self._painter


def make_deep_file(picture: FinishedPicture, suffix: str) -> Path:
    """Return the picture in 16 bits, as `png` or `tiff`; it is encoded when it is first requested."""
    path = picture.png.with_name(f"{picture.png.stem}.16bit.{suffix}")
    return path if path.exists() else picture.result.save(path, overwrite=True, bit_depth=16)


def _read_bytes(upload: Upload) -> bytes:
    with suppress(FileNotFoundError):
        return upload.path.read_bytes()
    raise StylerError(f"{quote_name(upload.name)} is no longer on the server; upload it again.")


def _save_picture(
    session: Session, request: PaintRequest, result: Result, content: Picture, losses: LossHistory
) -> FinishedPicture:
    """Write a result to the session's folder in the formats that the page offers."""
    height, width = result.pixels.shape[:2]
    folder = session.make_folder()
    name = f"{request.content.stem}.{'+'.join(style.stem for style in request.styles)}"
    photo = Image.fromarray(images.to_uint8(content.pixels)).resize((width, height), Image.Resampling.LANCZOS)
    photo.save(folder / "photo.jpg", "JPEG", quality=92, subsampling=0)
    thumbnail = Image.fromarray(images.to_uint8(result.pixels))
    thumbnail.thumbnail((LISTED_SIDE, LISTED_SIDE), reducing_gap=2.0)
    thumbnail.save(folder / "thumbnail.jpg", "JPEG", quality=85)
    picture = FinishedPicture(
        request=request,
        record=provenance.make_record(result),
        png=result.save(folder / f"{name}.png"),
        jpeg=result.save(folder / f"{name}.jpg"),
        photo=folder / "photo.jpg",
        thumbnail=folder / "thumbnail.jpg",
        losses=losses,
        notes=(*result.notes, *content.warnings),
        result=replace(
            result,
            pixels=_move_to_disk(result.pixels, folder / "pixels.npy"),
            alpha=None if result.alpha is None else _move_to_disk(result.alpha, folder / "alpha.npy"),
        ),
    )
    session.pictures.append(picture)
    return picture


def _move_to_disk(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """Save an array and return it memory-mapped."""
    np.save(path, array)
    mapped: NDArray[Any] = np.load(path, mmap_mode="r")
    return mapped
