"""What all visitors share: the sessions, the child process that decodes uploads, and the painter with its thread.

Does not know Gradio.
"""

import threading
import time
from bisect import bisect
from collections import OrderedDict
from collections.abc import Collection, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from styler import images, library, provenance
from styler.engine import targets
from styler.engine.device import name_precision
from styler.engine.memory.estimate import Demand
from styler.engine.memory.measure import measure_usable_memory
from styler.engine.memory.plan import plan_memory
from styler.engine.painter import Painter
from styler.engine.result import Progress
from styler.errors import OutOfMemory, StylerError, UsageError, quote_name
from styler.images import Picture
from styler.images.child import Decoder
from styler.options import PRESETS, Options, format_duration, list_options, resolve_options
from styler.provenance import Record
from styler.regions.read import read_mask
from styler.regions.specs import BUILT_IN_MASKS
from styler.schedule import Scale, Schedule, build_schedule, compute_result_size
from styler.vgg import arch, registry, weights
from styler.vgg.model import Features
from ui.areas.choice import check_masks, drop_file_masks, shrink_mask
from ui.queue import PainterThread
from ui.session import FinishedPicture, PaintRequest, Session, Sessions, Upload

MAX_PIXELS = 64_000_000
"""Limit on the pixels of an upload: those of the largest cameras that people carry."""
DECODER_BYTES = 2_000_000_000
"""Limit on the memory of the process that decodes them; 8192×6144 pixels of 16 bits take 1.5 GB."""
LIVE_PAUSE = 0.2
"""Seconds between two live views."""
MAX_CHART_POINTS = 200
"""Limit on the points of each line in the chart of the losses."""
SERVER_OPTIONS = tuple(name for name, spec in list_options().items() if spec.group == "Machine")
"""Options that a visitor cannot change."""
UNKNOWN_SIZE = (1, 1)
"""Width and height of a photo that was not read yet: a square has the most pixels for its long side."""
MAX_SIZES = 1000
"""Photos whose size is remembered."""
KEPT_BYTES = 200_000_000
"""Limit on the pictures that are kept decoded: the bundled paintings, which have half of it, and the last photos."""
MAX_SHOWN_MASKS = 64
"""Shown masks of recent photos that are kept."""
FIXED_SECONDS = 0.5
"""Seconds of reading and saving a picture, until they are measured."""
SIZE_CLASSES = (190**2, 380**2)
"""Pixels at which another class of sizes begins: one for the scale of 128 pixels, one for 256, one for larger ones."""
TYPICAL_RATES = {(False, 0): 1.4, (False, 1): 1.2, (False, 2): 1.0, (True, 0): 1.8, (True, 1): 1.7, (True, 2): 1.5}
"""Seconds per cost, by the slim network or not and by class of sizes, relative to the full network at large sizes:
measured on two cores with AMX. They matter only until pictures of a class are finished."""
NEW_SHARE, MAX_FACTOR = 0.3, 3.0
"""Share of a new value in a moving average, and how many times the average it counts at most."""
WARMUP_ITERATIONS = 3
"""Iterations of the first painting; the first one is slower than all others."""
WARMUP_PAIR = ("bridge", "starry-night")
"""Bundled content and style that are painted before the first request: the pair that the page invites to paint."""


def list_backbones() -> tuple[str, ...]:
    """Return the feature networks that can be used without fetching or opening another file."""
    return (*weights.SHA256, *filter(registry.is_cached, registry.FROM_TORCHVISION), *registry.list_imported())


class WorkEstimate:
    """How long a schedule will take, learned from those of finished pictures.

    The seconds of an iteration, relative to its cost, depend on the network and on the size of the picture. They are
    averaged for both networks in a few classes of sizes.
    """

    def __init__(self) -> None:
        self.fixed_seconds = FIXED_SECONDS
        """Of reading and saving the pictures."""
        self._rates: dict[tuple[bool, int], float] = {}  # seconds per cost, by network and class of size
        self._guess: float | None = None

    def guess_rate(self, scale: Scale, seconds: float) -> None:
        """Record how long one iteration took; the fastest is used until a picture is finished."""
        rate = seconds / scale.cost / TYPICAL_RATES[_classify(scale)]
        self._guess = rate if self._guess is None else min(rate, self._guess)

    def add_schedule(
        self, schedule: Schedule, scale_seconds: Sequence[float], total_seconds: float, work: Sequence[float] = ()
    ) -> None:
        """Record how long each scale of a finished picture took, and all of it with reading and saving."""
        self.add_rates(schedule, scale_seconds, work)
        self.fixed_seconds = _average(self.fixed_seconds, max(0.01, total_seconds - sum(scale_seconds)))

    def add_rates(self, schedule: Schedule, scale_seconds: Sequence[float], work: Sequence[float] = ()) -> None:
        """Record how long each scale of a finished picture took, without those that were there already.

        Args:
            schedule: of the picture.
            scale_seconds: of each scale; 0 if it was there already.
            work: of each scale; by default that of scales that are painted as a whole.
        """
        for scale, seconds, amount in zip(schedule, scale_seconds, work or map(_count_work, schedule), strict=True):
            if seconds:
                key = _classify(scale)
                self._rates[key] = _average(self._rates.get(key), seconds / amount)

    def estimate_seconds(self, schedule: Schedule, work: Sequence[float] = ()) -> float | None:
        """Return the seconds that a schedule will take with reading and saving; None if nothing is known yet.

        Args:
            schedule: of the picture.
            work: as in `add_rates`.
        """
        if schedule and not self._rates and self._guess is None:
            return None
        scales = zip(schedule, work or map(_count_work, schedule), strict=True)
        return self.fixed_seconds + sum(self._find_rate(scale) * amount for scale, amount in scales)

    def _find_rate(self, scale: Scale) -> float:
        """Return the seconds per cost, derived from those of the most similar class if there are none of its own."""
        sketch, size = wanted = _classify(scale)
        keys = sorted(self._rates, key=lambda key: (key[0] != sketch, abs(key[1] - size)))
        typical = self._rates[keys[0]] / TYPICAL_RATES[keys[0]] if keys else self._guess or 0.0
        return typical * TYPICAL_RATES[wanted]


class Studio:
    """The sessions, the decoder, the painter, and how long its work takes.

    Args:
        options: defaults of the page and of `/stylize`.
        max_pixels: limit on the pixels of an upload.
        has_previews: whether visitors see their photo in every painting before they choose.
        max_seconds: limit on the seconds of one painting; 0 for none.
    """

    def __init__(
        self,
        options: Options | None = None,
        max_pixels: int = MAX_PIXELS,
        *,
        has_previews: bool = True,
        max_seconds: int = 0,
    ) -> None:
        self.options = drop_file_masks(options or Options())
        self.has_previews, self.max_seconds = has_previews, max_seconds
        self.sessions = Sessions()
        self.thread = PainterThread()
        self.mask_thread = ThreadPoolExecutor(1, thread_name_prefix="masks")
        """Finds the masks that visitors look at, also while somebody paints."""
        self.work_estimate = WorkEstimate()
        self.load_error: StylerError | None = None
        """Why the painter could not be loaded."""
        self._decoder = Decoder(memory=DECODER_BYTES, kept=KEPT_BYTES)
        self._max_pixels = max_pixels
        self._painter: Painter | None = None
        self._features: Features | None = None
        self._usable_memory = 0
        self._sizes: dict[Path, tuple[int, int]] = {}  # width and height of the photos that were read
        self._shown_masks: OrderedDict[tuple[Path, str], NDArray[np.uint8] | None] = OrderedDict()
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
                short = self.options.replace(iterations=WARMUP_ITERATIONS, size=Options().first_size)
                before = time.monotonic()
                for progress in painter.stream(content, style, short, self._closed):
                    if progress.iteration > 1 and progress.result is None:
                        self.work_estimate.guess_rate(progress.schedule[progress.scale], time.monotonic() - before)
                    before = time.monotonic()
                for preview in painter.previews(content, style, self.options, self._closed):
                    self.work_estimate.add_rates(preview.result.schedule, preview.result.scale_seconds)
                for name in BUILT_IN_MASKS:  # loads the networks that find them
                    painter.find_mask(content, name)
                bundled = map(Upload.from_path, library.list_styles().values())
                for _ in painter.analyze_styles(map(self.read_picture, bundled), self.options):
                    if self._closed.is_set() or self.thread.is_busy:
                        break
            except StylerError as problem:
                self.load_error = problem

        self.thread.executor.submit(work).result()

    def use_machine(self, options: Options, masks: Collection[str] = ()) -> Options:
        """Return options of a visitor as the painter gets them: with the server's own device, precision and network.

        This is the one place that all options of visitors pass. The network stays if it is one that visitors can name.

        Args:
            options: of the visitor.
            masks: the names of the masks that came with them.

        Raises:
            OptionError: they name a mask that is neither built in nor given, which could be a file of the server.
        """
        check_masks(options, masks)
        return self._replace_machine(options)

    def _replace_machine(self, options: Options) -> Options:
        names = SERVER_OPTIONS if options.backbone in list_backbones() else (*SERVER_OPTIONS, "backbone")
        return options.replace(**{name: getattr(self.options, name) for name in names})

    def get_machine_options(self) -> Options:
        """Return the server's own options, with the precision that `auto` has chosen once the weights are loaded."""
        painter = self._painter
        return self.options.replace(precision=name_precision(painter.precision)) if painter else self.options

    def close(self) -> None:
        """Stop all work and remove all files."""
        self._closed.set()
        self.mask_thread.shutdown(cancel_futures=True)
        self.sessions.close()
        self._decoder.close()

    def read_picture(self, upload: Upload) -> Picture:
        """Decode an upload in the child process.

        Raises:
            ImageError: it is not an image, or it is too large; the message has the name that its owner gave it.
        """
        picture = self._decoder.read(_read_bytes(upload), name=upload.name, max_pixels=self._max_pixels)
        self._sizes[upload.path] = picture.width, picture.height
        if len(self._sizes) > MAX_SIZES:
            self._sizes.pop(next(iter(self._sizes)), None)
        return picture

    def expect_previews(self, photo: Picture) -> None:
        """Begin to look for faces in a photo that has just been chosen: they are protected by default.

        The previews wait for them; what fails here fails there again, with a message.
        """
        if self.has_previews and self.is_ready:
            self.mask_thread.submit(self.load_painter().find_mask, photo, "faces")

    def read_mask(self, upload: Upload) -> Tensor:
        """Decode a mask in the child process, (1, 1, H, W) in [0, 1] at its own size.

        Raises:
            ImageError: it is not an image, it is too large, or it is empty.
        """
        picture = self.read_picture(upload)
        return read_mask(picture, upload.name, picture.width, picture.height)

    def read_masks(self, masks: Mapping[str, Upload]) -> dict[str, Tensor]:
        """Decode the masks of a request as `read_mask` does."""
        return {name: self.read_mask(upload) for name, upload in masks.items()}

    def find_mask(self, photo: Upload, name: str) -> NDArray[np.uint8] | None:
        """Return a built-in mask of a photo as it is shown, (H, W) in 0 to 255; None if there is nothing of the kind.

        Raises:
            StylerError: the photo cannot be read, or the network is missing or damaged.
        """
        key = (photo.path, name)
        if key in self._shown_masks:
            self._shown_masks.move_to_end(key)
            return self._shown_masks[key]
        values = self.load_painter().find_mask(self.read_picture(photo), name)
        self._shown_masks[key] = mask = None if values is None else shrink_mask(values)
        while len(self._shown_masks) > MAX_SHOWN_MASKS:
            self._shown_masks.popitem(last=False)
        return mask

    def get_size(self, photo: Upload) -> tuple[int, int]:
        """Return width and height of a photo, or the proportions of a square if it was not read."""
        return self._sizes.get(photo.path, UNKNOWN_SIZE)

    def read_record(self, upload: Upload) -> Record:
        """Read the record that styler stored in a picture.

        Raises:
            ImageError: the picture has none.
        """
        texts = self._decoder.read_text(_read_bytes(upload), name=upload.name)
        return provenance.find_record(texts, quote_name(upload.name))

    def paint(self, session: Session, request: PaintRequest) -> Generator[Progress | FinishedPicture, None, None]:
        """Paint a picture and yield its progress a few times a second, and at the end the picture unless discarded.

        At the limit of the server it stops with the best picture so far.

        Raises:
            StylerError: a picture cannot be read, a setting is invalid, it would take too long, or memory ran out.
        """
        stop, began = session.begin_work(), time.monotonic()
        session.add_uploads(request.content, *request.styles, *request.masks.values())
        is_over = threading.Event()
        limit = self._make_limit(stop, is_over)
        try:
            content, *styles = [self.read_picture(upload) for upload in (request.content, *request.styles)]
            self.check_request(request.options, content.width, content.height)
            limit.start()
            if not stop.is_set():  # else others may have their turn already
                seconds = self.estimate_seconds(request.options, content.width, content.height)
                self.thread.expect_duration(seconds)
            options, masks = self.use_machine(request.options, request.masks), self.read_masks(request.masks)
            options = options.replace(init=str(request.start)) if request.start else options
            due, losses, progress, reading = 0.0, [], None, time.monotonic() - began
            for progress in self.load_painter().stream(content, [*styles], options, stop, masks=masks):
                losses.append((progress.total_iterations, progress.terms))
                if progress.result is None and time.monotonic() >= due:
                    left = None if progress.eta is None else progress.eta + self.work_estimate.fixed_seconds
                    self.thread.expect_end(left)
                    yield progress
                    due = time.monotonic() + LIVE_PAUSE
            assert progress is not None
            assert progress.result is not None
            began = time.monotonic() - progress.result.seconds - reading  # with those of a preview that it went on from
            if not session.is_discarded:
                points = losses[:: 1 + len(losses) // MAX_CHART_POINTS]
                history = tuple((count, {name: float(term) for name, term in terms.items()}) for count, terms in points)
                result = progress.result
                if result.stopped and is_over.is_set():
                    note = f"It was stopped after {format_duration(self.max_seconds)}, the limit of this server."
                    result = replace(result, notes=(*result.notes, note))
                picture = session.save_picture(request, result, content, history)
                total, work = time.monotonic() - began, list[float]()
                with suppress(OutOfMemory):  # other memory was free when it was painted
                    work = self._list_work(options, result.schedule, content.width, content.height)
                self.work_estimate.add_schedule(result.schedule, result.scale_seconds, total, work)
                yield picture
        finally:
            stop.set()  # if this generator is closed early, the painter also stops
            limit.cancel()
            session.is_painting = False
            self.thread.expect_end(None)

    def _make_limit(self, stop: threading.Event, is_over: threading.Event) -> threading.Timer:
        """Return a timer that sets both events when a painting has reached the limit of the server."""

        def end() -> None:
            if not stop.is_set():
                is_over.set()
                stop.set()

        timer = threading.Timer(self.max_seconds or threading.TIMEOUT_MAX, end)
        timer.daemon = True
        return timer

    def check_request(self, options: Options, width: int, height: int) -> None:
        """Refuse a painting that would take too long, or would be too large for a format that the page offers.

        Raises:
            StylerError: it would.
        """
        self.check_time(options, width, height)
        images.check_sides("jpeg", compute_result_size(options, width, height))

    def check_time(self, options: Options, width: int, height: int) -> None:
        """Refuse a painting that would take longer than the server allows.

        Args:
            options: of the visitor.
            width: of the photo, in pixels.
            height: of the photo, in pixels.

        Raises:
            UsageError: it would.
        """
        seconds = self.estimate_seconds(options, width, height)
        if self.max_seconds and seconds is not None and seconds > self.max_seconds:
            raise UsageError(
                f"This picture would take about {format_duration(seconds)}, and this server paints at most "
                f"{format_duration(self.max_seconds)}; choose a smaller size or a quicker preset."
            )

    def estimate_seconds(self, options: Options, width: int, height: int) -> float | None:
        """Return how long a picture will take with the options of a visitor; None if that is unknown or impossible.

        Args:
            options: those of the machine are replaced by the server's own.
            width: of the photo, in pixels.
            height: of the photo, in pixels.
        """
        if self._painter is None:
            return None
        try:
            options = self._replace_machine(options)
            schedule = build_schedule(options, width, height, self._find_min_side(options))
            work = self._list_work(options, schedule, width, height)
        except StylerError:
            return None
        return options.time if options.time and schedule else self.work_estimate.estimate_seconds(schedule, work)

    def _list_work(self, options: Options, schedule: Schedule, width: int, height: int) -> list[float]:
        """Return the work of each scale, with its matching and its tiles; those are planned for an idle server.

        Raises:
            OutOfMemory: the picture does not fit.
        """
        assert self._features is not None
        planned = options.replace(memory=self._usable_memory)
        return _plan_work(self._features, planned, schedule, compute_result_size(options, width, height), width, height)

    def estimate_times(self, options: Options, width: int, height: int) -> dict[str, float | None]:
        """Return how long a picture will take with each preset; all but that of the options set their own values."""
        server = {name: getattr(self.options, name) for name in list_options()}
        changed = {"preset", "iterations", *(name for bundle in PRESETS.values() for name in bundle.values)}
        times = {}
        for preset in PRESETS:
            chosen = {"preset": preset, "look": options.look}
            changes = {name: value for name, value in chosen.items() if value != server[name]}
            values = resolve_options(("server", server), ("visitor", changes)).options
            whole = options.replace(**{name: getattr(values, name) for name in changed})
            times[preset] = self.estimate_seconds(options if preset == options.preset else whole, width, height)
        return times

    def estimate_photo(self, photo: Upload, options: Options) -> float | None:
        """Return how long a photo will take, also if it was not read yet; None if that is unknown or impossible."""
        size = self._sizes.get(photo.path, None if options.size == "original" else UNKNOWN_SIZE)
        return None if size is None else self.estimate_seconds(options, *size)

    def _find_min_side(self, options: Options) -> int:
        """Return the shortest side that the network accepts, without building it for the layers of the options.

        Raises:
            OptionError: the network has no such layer.
        """
        assert self._features is not None
        network = self._features.network
        layers = targets.resolve_layers(options, network)
        return max(conv.stride for conv in arch.list_convolutions_until(network, layers))

    def load_painter(self) -> Painter:
        """Return the painter; the first call loads the weights.

        Raises:
            StylerError: the weights or the device are missing.
        """
        with self._load_lock:
            if self._painter is None:
                painter = Painter.of(self.options)
                self._features = painter.features(self.options)
                self._usable_memory = int(measure_usable_memory(painter.device, self.options))
                self._painter = painter
            return self._painter


def _classify(scale: Scale) -> tuple[bool, int]:
    """Return the network of a scale and the class of its size."""
    return scale.sketch, bisect(SIZE_CLASSES, scale.width * scale.height)


def _count_work(scale: Scale) -> float:
    """Return the cost of a scale; to begin it costs about as much as an iteration."""
    return (scale.iterations + 1) * scale.cost


@lru_cache(256)  # a change of the settings asks for the same work again and again
def _plan_work(
    features: Features, options: Options, schedule: Schedule, size: tuple[int, int], width: int, height: int
) -> list[float]:
    """Return the work of each scale of a result of a size, for a photo of a width and height.

    Raises:
        OutOfMemory: the picture does not fit.
    """
    photo = (width, height)  # the sizes of the paintings matter little
    demand = Demand(features=features, size=size, styles=[photo], options=options, photo=photo)
    return [*map(plan_memory(demand, schedule).count_scale_work, schedule)]


def _average(average: float | None, value: float) -> float:
    """Return a moving average after a further value, of which a single exceptional one does not count in full."""
    if average is None:
        return value
    return average + NEW_SHARE * (min(max(value, average / MAX_FACTOR), average * MAX_FACTOR) - average)


def _read_bytes(upload: Upload) -> bytes:
    with suppress(FileNotFoundError):
        return upload.path.read_bytes()
    raise StylerError(f"{quote_name(upload.name)} is no longer on the server; upload it again.")
