"""`/stylize` for programs: one picture for one call, with the options as parameters, named as in `Options`."""

import dataclasses
import inspect
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import api

from styler import config, library
from styler.errors import StylerError, UsageError
from styler.options import INIT_CHOICES, LOOKS, PRESETS, Options, list_options
from ui import controls
from ui.layout import MAX_STYLES
from ui.queue import PAINTER
from ui.session import FinishedPicture, PaintRequest, Session, Upload
from ui.studio import Studio

ENDPOINT_NAME = "stylize"
BUNDLE_OPTIONS = {name for bundles in (PRESETS, LOOKS) for bundle in bundles.values() for name in bundle.values}
"""Options that follow from preset and look unless they are given."""
API_OPTIONS = tuple(name for name in list_options() if name in {"style_weights", *controls.PAGE_OPTIONS})
Answer = dict[str, Any]


def wire_api(studio: Studio) -> None:
    """Offer the endpoint, inside open `gr.Blocks`."""
    api(
        make_endpoint(studio),
        api_name=ENDPOINT_NAME,
        api_description=describe_endpoint(),
        concurrency_id=PAINTER,
        concurrency_limit=1,
    )


def describe_endpoint() -> str:
    """What the endpoint does, and every parameter in the words of the option."""
    lines = [
        "Repaint a photo in the manner of a painting; returns a PNG with its settings inside.",
        "content: the photo, a file, or the name of one that comes with styler.",
        "style: the painting, likewise.",
        f"styles: up to {MAX_STYLES - 1} further paintings, likewise, blended with the first.",
    ]
    for name in API_OPTIONS:
        follows = " Follows preset and look unless given." if name in BUNDLE_OPTIONS else ""
        lines.append(f"{name}: {controls.make_hint(name)}{follows}")
    return "\n".join(lines)


def make_endpoint(studio: Studio) -> Callable[..., AsyncIterator[Answer | None]]:
    """The function behind it, whose signature is made from the fields of `Options`."""

    async def stylize(request: gr.Request, *values: Any) -> AsyncIterator[Answer | None]:
        try:
            wanted = parse_request(studio, *values)
            with studio.visits.brief(request.session_hash, "api") as visit:
                async with aclosing(studio.bench.steps(_run_request(studio, visit, wanted), visit.halt)) as steps:
                    async for answer in steps:
                        yield answer
        except StylerError as problem:
            raise gr.Error(str(problem), print_exception=False) from problem

    parameters = _make_parameters()
    stylize.__signature__ = inspect.Signature(parameters, return_annotation=gr.FileData)  # type: ignore[attr-defined]
    stylize.__annotations__ = {it.name: it.annotation for it in parameters} | {"return": gr.FileData}
    return stylize


def _make_parameters() -> list[inspect.Parameter]:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    picture = gr.FileData | str
    first = [
        inspect.Parameter("request", kind, annotation=gr.Request),
        inspect.Parameter("content", kind, annotation=picture),
        inspect.Parameter("style", kind, annotation=picture),
        inspect.Parameter("styles", kind, default=None, annotation=list[picture] | None),
    ]
    for field in dataclasses.fields(Options):
        follows = field.name in BUNDLE_OPTIONS
        wanted: Any = field.type if field.type in (int, float) else int | str if field.name == "size" else str
        default = None if follows else controls.to_control_value(field.default)
        if field.name in API_OPTIONS:
            first.append(
                inspect.Parameter(field.name, kind, default=default, annotation=wanted | None if follows else wanted)
            )
    return first


def parse_request(studio: Studio, content: Any, style: Any, styles: Any, *values: Any) -> PaintRequest:
    """What a call asks for; `values` are in the order of `OPTIONS`.

    Raises:
        UsageError: a picture is not there, or a setting is out of its range.
    """
    more = styles or []
    if not isinstance(more, list) or len(more) >= MAX_STYLES:
        raise UsageError(f"styles is no list of up to {MAX_STYLES - 1} further paintings; give one.")
    given = {name: value for name, value in zip(API_OPTIONS, values, strict=True) if value not in (None, "")}
    if given.get("init", INIT_CHOICES[0]) not in INIT_CHOICES:  # a path would be read on the server
        raise UsageError(f"init is '{given['init']}'; it can be {', '.join(INIT_CHOICES)}.")
    options = Options.of(**{name: _parse_api_value(name, value) for name, value in given.items()})
    paintings = [_resolve_upload(studio, it, library.list_styles(), "style") for it in (style, *more)]
    return PaintRequest(
        content=_resolve_upload(studio, content, library.list_contents(), "content"),
        styles=tuple(paintings),
        options=options,
    )


def _parse_api_value(name: str, value: Any) -> Any:
    """A value as the option takes it: lists may come as text, as they stand in a flag."""
    return config.parse_value(name, value) if isinstance(value, str) and name in list_options() else value


def _resolve_upload(studio: Studio, given: Any, named: Mapping[str, Path], what: str) -> Upload:
    """A file that was uploaded, or a picture that comes with styler; never another file of the server.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(given, str) and given in named:
        return Upload(named[given], named[given].name)
    path = given.get("path") if isinstance(given, dict) else None
    if isinstance(path, str) and "\0" not in path:
        place = Path(path).resolve()
        if place.is_relative_to(studio.visits.uploads.resolve()):
            name = given.get("orig_name")
            return Upload(place, name if isinstance(name, str) and name else place.name)
    raise UsageError(f"{what} is no uploaded file, and none of {', '.join(named)}; give one of these.")


def _run_request(studio: Studio, visit: Session, wanted: PaintRequest) -> Generator[Answer | None, None, None]:
    for news in studio.paint(visit, wanted):
        if isinstance(news, FinishedPicture):
            yield {"path": str(news.png), "orig_name": news.png.name, "meta": {"_type": "gradio.FileData"}}
        else:
            yield None
