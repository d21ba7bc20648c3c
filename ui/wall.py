"""The wall: the visitor's photo in every painting, as small previews that are painted while nobody paints a picture.

Each preview replaces the thumbnail of its painting, and is shown large when that is clicked.
"""

import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styler import images, library
from styler.engine.painter import Preview
from styler.errors import StylerError
from styler.images import Picture
from styler.options import Options
from styler.regions.specs import parse_protection
from ui import controls, render
from ui.areas.choice import DRAWN, WHOLE, add_areas
from ui.controls import MAX_STYLES
from ui.handlers import AREA_INPUTS, Changes, PaintHandlers, select_content
from ui.session import PaintRequest, Session, Upload, WallRound
from ui.studio import Studio

COLORS_SIDE = 32
"""Long side, in pixels, of the copies whose colors are compared."""
MAX_SAMPLES = 512
"""Rows or columns of a large photo from which these copies are made."""
IGNORED_OPTIONS = (
    "size",
    "dpi",
    "fit",
    "preset",
    "time",
    "patience",
    "iterations",
    "taper",
    "sketch",
    "first_size",
    "multiscale",
    "regions",
)
"""Options that do not change a preview."""
PAINT, TOO_LONG = "Paint", "Takes too long"
"""What the button says that paints, if it can and if the server would refuse it."""
PREVIEW_TEXT = "A small preview of {}. Paint turns it into a whole picture."
PENDING_TEXT = "The preview of {} comes next; Paint does not wait for it."


def begin_round(
    session: Session,
    content: Upload,
    styles: Sequence[Upload],
    options: Options,
    masks: Mapping[str, Upload] | None = None,
) -> WallRound:
    """Begin a round of previews, which ends the one before, and forget the previews that no longer fit.

    Args:
        session: of the tab.
        content: the photo.
        styles: the paintings; the first one, which is chosen, is painted first.
        options: those of the next picture.
        masks: those that the options mention.
    """
    options = options.replace(**{name: getattr(Options(), name) for name in IGNORED_OPTIONS}, style_weights=())
    used = {parse_protection(text).mask for text in options.protect}
    masks = {name: mask for name, mask in (masks or {}).items() if name in used}
    key = (content.path, options, tuple(mask.path for mask in masks.values()))
    if key != session.preview_key:
        session.forget_previews()
        session.preview_key = key
    session.stop_previews()
    session.wall = WallRound(content, tuple(styles), options, masks)
    return session.wall


def list_missing(session: Session, wall: WallRound) -> list[Upload]:
    """Return the paintings that have no preview yet; none if another round has begun."""
    finished = session.previews.keys() - session.unfinished
    return [style for style in wall.styles if style.path not in finished] if session.wall is wall else []


def paint_wall(
    studio: Studio, session: Session, wall: WallRound, stop: threading.Event, *, openings: bool = False
) -> Generator[tuple[Upload, Preview], None, None]:
    """Paint the previews that are missing, keep them in `session.previews`, and yield each painting with its preview.

    With `openings`, each is also yielded before strokes are added.

    `stop` ends it within milliseconds, also before it has begun; what is missing then can be painted by another call.

    Raises:
        StylerError: a picture cannot be read, or memory ran out.
    """
    photo = studio.read_picture(wall.content)
    missing = list_missing(session, wall)
    chosen = wall.styles[0]
    styles = sorted(sort_by_colors(photo, missing), key=lambda style: style != chosen)

    def read() -> Iterator[Picture]:
        for style in styles:
            yield studio.read_picture(style)

    options, masks = studio.use_machine(wall.options, wall.masks), studio.read_masks(wall.masks)
    for preview in studio.load_painter().previews(photo, read(), options, stop, masks, openings=openings):
        if session.wall is not wall:
            return
        style = styles[preview.style]
        session.keep_preview(style.path, preview.pixels, is_finished=preview.finished is not None)
        if result := preview.finished:
            studio.work_estimate.add_rates(result.schedule, result.scale_seconds)
        yield style, preview


async def run_wall(
    studio: Studio,
    session: Session,
    wall: WallRound,
    key: str,
    begin: Callable[[threading.Event], Generator[Any, None, None]],
) -> AsyncGenerator[Any, None]:
    """Yield what a round of previews yields, as often as it is interrupted, and `None` in between.

    Args:
        studio: whose painter does the work while nobody paints a picture.
        session: of the tab or the call.
        wall: its round; this ends when another begins.
        key: of the visitor.
        begin: returns a generator that goes on with the previews that are missing, until its event is set.
    """
    while list_missing(session, wall):
        stop = wall.stop = threading.Event()
        async with aclosing(studio.thread.run_when_idle(begin(stop), stop.set, key)) as items:
            async for item in items:
                if session.wall is not wall:  # the item belongs to a photo or settings of before
                    return
                yield item


def sort_by_colors(photo: Picture, styles: Sequence[Upload]) -> list[Upload]:
    """Return paintings, those first whose colors are most like the photo's: their pictures tend to please most.

    A painting that is not a bundled one comes before all of those.
    """
    step = max(1, max(photo.width, photo.height) // MAX_SAMPLES)
    colors = _measure_colors(Image.fromarray(images.to_uint8(photo.pixels[::step, ::step])))
    bundled = _list_bundled()

    def measure_distance(style: Upload) -> float:
        return float(np.abs(_measure_file(style.path) - colors).sum()) if style.path in bundled else -1.0

    return sorted(styles, key=measure_distance)


def _measure_colors(picture: Image.Image) -> NDArray[np.float64]:
    """Return mean and standard deviation of the channels of a picture, (6,)."""
    small = picture.convert("RGB")
    small.thumbnail((COLORS_SIDE, COLORS_SIDE))
    colors = np.asarray(small, np.float64).reshape(-1, 3)
    return np.concatenate([colors.mean(0), colors.std(0)])


@cache
def _measure_file(path: Path) -> NDArray[np.float64]:
    with Image.open(path) as picture:
        return _measure_colors(picture)


@cache
def _list_bundled() -> frozenset[Path]:
    return frozenset(library.list_styles().values())


@dataclass(frozen=True, slots=True)
class WallHandlers:
    """The events of the wall, and of the times that the presets are expected to take."""

    tab: PaintHandlers

    def begin(self, session: Session, *values: Any) -> Changes:
        """Show the expected times for the photo and the settings, and begin a round of previews.

        Args:
            session: of the tab.
            values: of the components in `handlers.list_inputs`.
        """
        layout, studio = self.tab.layout, self.tab.studio
        content, sample, style, own_styles, _mixed_styles, *rest = values
        before = session.preview_key
        try:
            photo = select_content(content, sample)
            request = self._make_request(session, photo, *rest)
        except StylerError:  # there is no photo yet, or a field is wrong, which Paint explains
            session.stop_previews()
            session.forget_previews()
            enabled = {layout.limit_note: "", layout.paint_button: gr.update(value=PAINT, interactive=True)}
            return {layout.times: "", **enabled, **self._clear_tiles(session)}
        changes = self._show_times(request.options, *studio.get_size(photo))
        if studio.has_previews:
            bundled = {name: Upload.from_path(path) for name, path in library.list_styles().items()}
            own = [each for each in own_styles or () if each.path in session.thumbnails]  # the others were refused
            chosen = [*own, *([bundled.pop(style)] if style in bundled else [])]
            begin_round(session, photo, [*chosen, *bundled.values()], request.options, request.masks)
            if session.preview_key != before:
                changes |= self._clear_tiles(session)
                changes[layout.wall_note] = render.render_wall_note(0, len(chosen) + len(bundled))
            elif session.wall:
                changes |= self.show_tiles(session, session.wall)
        return changes

    def _show_times(self, options: Options, width: int, height: int) -> Changes:
        """Show the expected times, and on the button if the picture would take longer than the server allows."""
        layout, studio, problem = self.tab.layout, self.tab.studio, ""
        sizes = {}
        for size in map(str, controls.SIZES.values()):
            sizes[size] = studio.estimate_seconds(options.replace(**controls.parse_size(size)), width, height)
        try:
            studio.check_time(options, width, height)
        except StylerError as refusal:
            problem = str(refusal)
        times = render.render_times(studio.estimate_times(options, width, height), sizes)
        return {
            layout.times: times,
            layout.limit_note: render.render_error(problem) if problem else "",
            layout.paint_button: gr.update(value=TOO_LONG if problem else PAINT, interactive=not problem),
        }

    def _make_request(self, session: Session, photo: Upload, *values: Any) -> PaintRequest:
        """Return a request with the options and masks of previews, which have no regions.

        Args:
            session: of the tab.
            photo: without a drawing on it, none is protected yet.
            values: of the components in `handlers.list_inputs` after the paintings.

        Raises:
            OptionError: a value is missing or out of range.
        """
        (chips, amount), options = values[:2], controls.options_from_values(values[AREA_INPUTS + MAX_STYLES :])
        request, drawn = PaintRequest(content=photo, styles=(), options=options), session.get_drawing(photo)
        chips = [chip for chip in chips or () if chip != DRAWN or drawn]
        return add_areas(request, drawn, chips, amount, WHOLE, None, None)

    def paint(self, session: Session, wall: WallRound, stop: threading.Event) -> Generator[Changes, None, None]:
        """Paint the previews that are missing, and show each before it has strokes and again when it is finished."""
        try:
            for style, _preview in paint_wall(self.tab.studio, session, wall, stop, openings=True):
                changes = self._show_tile(session, style)
                if session.shown_preview == style.path:
                    changes |= self.show_preview(session, style)
                yield changes
        except StylerError as problem:
            yield {self.tab.layout.wall_note: render.render_error(f"There are no more previews: {problem}")}
            if session.wall is wall:
                session.stop_previews()

    def choose(self, session: Session, choice: str | None) -> Changes:
        """Show the preview of a painting whose tile was clicked: `bundled-` or `own-` with its number from 0."""
        own = [Upload(path, name) for path, (_, name) in session.thumbnails.items()]
        bundled = [Upload.from_path(path) for path in library.list_styles().values()]
        kind, _, number = (choice or "").partition("-")
        styles = {"own": own, "bundled": bundled}.get(kind, [])
        if not number.isdecimal() or int(number) >= len(styles):
            return {self.tab.layout.stage: gr.skip()}
        return self.show_preview(session, styles[int(number)])

    def show_preview(self, session: Session, style: Upload) -> Changes:
        """Show a preview large, or the photo until it is there; nothing while a picture is painted."""
        if session.is_painting or session.is_waiting or not session.photo_html or not self.tab.studio.has_previews:
            return {self.tab.layout.stage: gr.skip()}
        session.shown_preview = style.path
        pixels = session.previews.get(style.path)
        if pixels is None or session.wall is None:
            return self.tab.show_stage(session, session.photo_html, PENDING_TEXT.format(style.stem))
        width, height = self.tab.studio.get_size(session.wall.content)
        source, text = render.encode_data_url(pixels), PREVIEW_TEXT.format(style.stem)
        frame = render.render_frame(source, width, height, f"A preview in the style of {style.stem}", "preview")
        return self.tab.show_stage(session, frame, text)

    def show_tiles(self, session: Session, wall: WallRound) -> Changes:
        """Show all previews that are there, in case the page has missed one; nothing if another round has begun."""
        changes: Changes = {}
        for style in wall.styles if session.wall is wall else ():
            if style.path in session.previews:
                changes |= self._show_tile(session, style)
        return changes

    def _show_tile(self, session: Session, style: Upload) -> Changes:
        layout, names = self.tab.layout, {path: name for name, path in library.list_styles().items()}
        wall = session.wall
        done = len(session.previews) - len(session.unfinished)
        total = len(wall.styles) if wall else 0
        note = render.render_wall_note(done, total)
        if style.path in names:
            index = [*names].index(style.path)
            tile = render.render_tile(index, session.previews[style.path])
            return {layout.tiles[index]: tile, layout.wall_note: note}
        return {layout.own_thumbnails: render.render_thumbnails(session.list_thumbnails()), layout.wall_note: note}

    def _clear_tiles(self, session: Session) -> Changes:
        """Show the paintings themselves on all tiles."""
        layout = self.tab.layout
        own = render.render_thumbnails(session.list_thumbnails())
        return {**dict.fromkeys(layout.tiles, ""), layout.wall_note: "", layout.own_thumbnails: own}
