"""The endpoints for programs, with the fields of `Options` as parameters.

`/stylize` paints one picture per call, `/preview` small trial pictures of many paintings.
"""

import dataclasses
import inspect
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, cast

import gradio as gr
from gradio.events import api

from styler import library
from styler.errors import StylerError, UsageError
from styler.options import Options, list_options
from styler.regions.specs import BUILT_IN_MASKS
from ui import controls, wall
from ui.areas import choice
from ui.controls import MAX_STYLES
from ui.queue import NOBODY, PAINTER, Place, hide_event
from ui.session import FinishedPicture, PaintRequest, Session, Upload, WallRound, name_visitor
from ui.studio import Studio

BUNDLE_OPTIONS = {
    name for bundles in controls.OPTION_BUNDLES.values() for bundle in bundles.values() for name in bundle.values
}
"""Options that follow from the preset and the look unless they are given."""
AREA_OPTIONS = {
    "protect": "parts of the photo that are kept: a list of MASK or MASK=AMOUNT from 0 to 100 (70 by default), or text "
    "with commas; none for nothing; by default, faces are kept gently",
    "regions": "masks of regions; each takes one of the last styles, in order, and the rest of the photo the others",
}
"""Options of parts of the photo, with their help: a program can name no files."""
API_OPTIONS = tuple(
    name for name in list_options() if name in {"paper", "style_weights", *AREA_OPTIONS, *controls.PAGE_OPTIONS}
)
FileAnswer = dict[str, Any]
"""A file, as Gradio's clients expect it."""
REQUEST = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request)
MAX_MASKS = 8
"""Masks in one call."""
MASKS_HELP = (
    f"masks: up to {MAX_MASKS} pictures whose white, or whose opaque part, is inside; 'protect' and 'regions' name "
    f"them mask1, mask2 and so on, and those that styler finds {', '.join(BUILT_IN_MASKS)}."
)
MAX_PREVIEWS = 50
"""Paintings in one call of `/preview`."""
CONTENT_HELP = "content: the photo: a file, or the name of a bundled one."
STYLIZE_HELP = (
    "Repaint a photo in the style of a painting; returns a PNG with its settings inside.",
    CONTENT_HELP,
    "style: the painting: a file, or the name of a bundled one.",
    f"styles: up to {MAX_STYLES - 1} more paintings, blended with the first, and then those of the regions.",
)
PREVIEW_HELP = (
    "Show a photo in the style of every painting; returns a list of PNGs of about 128 pixels, in the same order. They "
    "are painted while nobody paints a picture, of the whole photo. 'size', 'paper', 'dpi', 'fit', 'preset', "
    "'style_weights' and 'regions' do not matter.",
    CONTENT_HELP,
    f"styles: up to {MAX_PREVIEWS} paintings, each a file or the name of a bundled one; all bundled ones by default.",
)


def wire_api(studio: Studio) -> None:
    """Add the endpoints, inside open `gr.Blocks`."""
    stylize, preview = make_endpoint(studio), make_preview_endpoint(studio)
    api(stylize, api_name="stylize", api_description=describe_endpoint(STYLIZE_HELP), **PAINTER)
    if studio.has_previews:
        api(preview, api_name="preview", api_description=describe_endpoint(PREVIEW_HELP), **PAINTER)


def describe_endpoint(lines: Iterable[str]) -> str:
    """Return the description of an endpoint and of every parameter, in the words of the option."""
    lines = [*lines]
    for name in API_OPTIONS:
        follows = " Follows the preset and the look unless given." if name in BUNDLE_OPTIONS else ""
        hint = f"{AREA_OPTIONS[name]}." if name in AREA_OPTIONS else controls.make_hint(name)
        lines.append(f"{name}: {hint}{follows}")
    return "\n".join([*lines, MASKS_HELP])


def make_endpoint(studio: Studio) -> Callable[..., AsyncIterator[FileAnswer | None]]:
    """Return the function of the endpoint, whose signature is made from the fields of `Options`."""
    numbers = itertools.count()

    async def stylize(request: gr.Request, *values: Any) -> AsyncIterator[FileAnswer | None]:
        hide_event()
        try:
            paint_request = parse_request(studio, *values)
            seconds = studio.estimate_photo(paint_request.content, paint_request.options)
            # Calls in one step get a new session each from Gradio, so they count as one visitor.
            key = NOBODY if "/call/" in request.url.path else name_visitor(request.session_hash)
            kind = f"api{next(numbers)}"  # a client may make several calls at once
            with studio.sessions.open_temporary(request.session_hash, kind) as session:
                work = _paint(studio, session, paint_request)
                async with aclosing(studio.thread.run(work, session.discard_work, key, seconds)) as answers:
                    async for answer in answers:
                        yield None if isinstance(answer, Place) else answer
        except StylerError as problem:
            raise gr.Error(str(problem), print_exception=False) from problem

    return _sign(stylize, _make_parameters(studio.options), gr.FileData)


def make_preview_endpoint(studio: Studio) -> Callable[..., AsyncIterator[list[FileAnswer] | None]]:
    """Return the function of the endpoint for previews."""
    numbers = itertools.count()

    async def preview(request: gr.Request, *values: Any) -> AsyncIterator[list[FileAnswer] | None]:
        hide_event()
        try:
            photo, styles, options, masks = parse_preview_request(studio, *values)
            files: dict[Path, FileAnswer] = {}
            with studio.sessions.open_temporary(request.session_hash, f"preview{next(numbers)}") as session:
                current = wall.begin_round(session, photo, list(dict.fromkeys(styles)), options, masks)
                folder, key = session.make_folder(), name_visitor(request.session_hash)
                begin = partial(_paint_previews, studio, session, current, folder)
                async with aclosing(wall.run_wall(studio, session, current, key, begin)) as items:
                    async for item in items:
                        files |= item or {}
                        yield None
            yield [files[style.path] for style in styles]
        except StylerError as problem:
            raise gr.Error(str(problem), print_exception=False) from problem

    picture = gr.FileData | str
    content, styles, *options = _make_parameters(studio.options)[1:]
    styles = styles.replace(name="styles", default=None, annotation=list[picture] | None)
    return _sign(preview, [REQUEST, content, styles, *options[1:]], list[gr.FileData])


def _sign(function: Any, parameters: list[inspect.Parameter], returned: Any) -> Callable[..., Any]:
    """Return a function with a signature, from which Gradio makes the endpoint."""
    function.__signature__ = inspect.Signature(parameters, return_annotation=returned)
    function.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": returned}
    return cast("Callable[..., Any]", function)


def _make_parameters(defaults: Options) -> list[inspect.Parameter]:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    picture = gr.FileData | str
    parameters = [
        REQUEST,
        inspect.Parameter("content", kind, annotation=picture),
        inspect.Parameter("style", kind, annotation=picture),
        inspect.Parameter("styles", kind, default=None, annotation=list[picture] | None),
    ]
    for field in dataclasses.fields(Options):
        if field.name not in API_OPTIONS:
            continue
        if field.name in AREA_OPTIONS:
            text = controls.to_control_value(getattr(defaults, field.name))
            parameters.append(inspect.Parameter(field.name, kind, default=text, annotation=list[str] | str))
            continue
        annotation: Any = field.type if field.type in (bool, int, float) else int | str if field.name == "size" else str
        default = controls.to_control_value(getattr(defaults, field.name))
        if field.name in BUNDLE_OPTIONS:
            annotation, default = annotation | None, None
        parameters.append(inspect.Parameter(field.name, kind, default=default, annotation=annotation))
    return [*parameters, inspect.Parameter("masks", kind, default=None, annotation=list[gr.FileData] | None)]


def parse_request(studio: Studio, content: Any, style: Any, styles: Any, *values: Any) -> PaintRequest:
    """Return the request that a call makes.

    Args:
        studio: its uploads are the only files that a call can name.
        content: an uploaded file as a dict, or the name of a bundled picture.
        style: an uploaded file as a dict, or the name of a bundled picture.
        styles: a list of further styles, or None.
        values: in the order of `API_OPTIONS`, and at the end the list of masks, or None.

    Raises:
        UsageError: a picture is missing, or a setting is out of range.
    """
    more = styles or []
    if not isinstance(more, list) or len(more) >= MAX_STYLES:
        raise UsageError(f"styles is not a list of up to {MAX_STYLES - 1} more paintings; give one.")
    masks = _parse_masks(studio, values[-1])
    options = _parse_options(studio, values[:-1], masks)
    uploads = tuple(_resolve_upload(studio, each, library.list_styles(), "style") for each in (style, *more))
    photo = _resolve_upload(studio, content, library.list_contents(), "content")
    return PaintRequest(content=photo, styles=uploads, options=options, masks=masks)


def parse_preview_request(
    studio: Studio, content: Any, styles: Any, *values: Any
) -> tuple[Upload, list[Upload], Options, dict[str, Upload]]:
    """Return the photo, the paintings, the options and the masks of a call of `/preview`.

    Raises:
        UsageError: a picture is missing, or a setting is out of range.
    """
    given = [*library.list_styles()] if styles is None else styles
    if not isinstance(given, list) or not 0 < len(given) <= MAX_PREVIEWS:
        raise UsageError(f"styles is not a list of 1 to {MAX_PREVIEWS} paintings; give one.")
    uploads = [_resolve_upload(studio, each, library.list_styles(), "styles") for each in given]
    photo = _resolve_upload(studio, content, library.list_contents(), "content")
    masks = _parse_masks(studio, values[-1])
    return photo, uploads, _parse_options(studio, values[:-1], masks), masks


def _parse_masks(studio: Studio, values: Any) -> dict[str, Upload]:
    """Return the uploaded masks of a call by the names that options can mention: `mask1` and so on.

    Raises:
        UsageError: one is not an uploaded file, or there are too many.
    """
    given = values or []
    if not isinstance(given, list) or len(given) > MAX_MASKS:
        raise UsageError(f"masks is not a list of up to {MAX_MASKS} uploaded files; give one.")
    return {f"mask{number}": _resolve_upload(studio, each, {}, "masks") for number, each in enumerate(given, start=1)}


def _parse_options(studio: Studio, values: Iterable[Any], masks: Mapping[str, Upload]) -> Options:
    """Return the options of a call, whose values are in the order of `API_OPTIONS`.

    Raises:
        OptionError: a setting is out of range, or there is no such mask.
    """
    settings = {
        name: controls.parse_value(name, ",".join(map(str, value)) if isinstance(value, list) else value)
        for name, value in zip(API_OPTIONS, values, strict=True)
        if value not in (None, "", [])
    }
    controls.check_names(settings)
    options = controls.override_defaults(studio.options, settings)
    choice.check_masks(options, masks)
    return options


def _resolve_upload(studio: Studio, value: Any, bundled: Mapping[str, Path], parameter: str) -> Upload:
    """Return an uploaded file or a bundled picture, but never another file of the server.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(value, str) and value in bundled:
        return Upload.from_path(bundled[value])
    path = value.get("path") if isinstance(value, dict) else None
    if isinstance(path, str) and "\0" not in path:
        resolved = Path(path).resolve()
        if resolved.is_relative_to(studio.sessions.uploads.resolve()):
            name = value.get("orig_name")
            return Upload(resolved, name if isinstance(name, str) and name else resolved.name)
    if not bundled:
        raise UsageError(f"{parameter} has something else than an uploaded file; upload each and give the list.")
    raise UsageError(f"{parameter} is neither an uploaded file nor one of {', '.join(bundled)}; give one of these.")


def _paint(studio: Studio, session: Session, request: PaintRequest) -> Generator[FileAnswer | None, None, None]:
    """Yield None while the picture is being painted, then its file."""
    for item in studio.paint(session, request):
        yield _describe_file(item.png) if isinstance(item, FinishedPicture) else None


def _paint_previews(
    studio: Studio, session: Session, current: WallRound, folder: Path, stop: threading.Event
) -> Generator[dict[Path, FileAnswer], None, None]:
    """Yield the file of each preview, by the file of its painting."""
    painted = wall.paint_wall(studio, session, current, stop)
    for number, (style, preview) in enumerate(painted, start=len(session.previews)):
        path = preview.result.save(folder / f"{number}-{style.stem}.png")
        yield {style.path: _describe_file(path)}


def _describe_file(path: Path) -> FileAnswer:
    return {"path": str(path), "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}
