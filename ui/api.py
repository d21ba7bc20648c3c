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
from ui.line import PAINTER
from ui.parts import MOST_STYLES
from ui.studio import Studio
from ui.visits import Order, Painted, Upload, Visit

NAME = "stylize"
FOLLOWING = {name for bundles in (PRESETS, LOOKS) for bundle in bundles.values() for name in bundle.values}
"""Options that follow from preset and look unless they are given."""
OPTIONS = tuple(name for name in list_options() if name in {"style_weights", *controls.NAMES})
Answer = dict[str, Any]


def wire(studio: Studio) -> None:
    """Offer the endpoint, inside open `gr.Blocks`."""
    api(
        endpoint(studio),
        api_name=NAME,
        api_description=description(),
        concurrency_id=PAINTER,
        concurrency_limit=1,
    )


def description() -> str:
    """What the endpoint does, and every parameter in the words of the option."""
    lines = [
        "Repaint a photo in the manner of a painting; returns a PNG with its settings inside.",
        "content: the photo, a file, or the name of one that comes with styler.",
        "style: the painting, likewise.",
        f"styles: up to {MOST_STYLES - 1} further paintings, likewise, blended with the first.",
    ]
    for name in OPTIONS:
        follows = " Follows preset and look unless given." if name in FOLLOWING else ""
        lines.append(f"{name}: {controls.explanation(name)}{follows}")
    return "\n".join(lines)


def endpoint(studio: Studio) -> Callable[..., AsyncIterator[Answer | None]]:
    """The function behind it, whose signature is made from the fields of `Options`."""

    async def stylize(request: gr.Request, *values: Any) -> AsyncIterator[Answer | None]:
        try:
            wanted = order(studio, *values)
            with studio.visits.brief(request.session_hash, "api") as visit:
                async with aclosing(studio.bench.steps(_work(studio, visit, wanted), visit.halt)) as steps:
                    async for answer in steps:
                        yield answer
        except StylerError as problem:
            raise gr.Error(str(problem), print_exception=False) from problem

    parameters = _parameters()
    stylize.__signature__ = inspect.Signature(parameters, return_annotation=gr.FileData)  # type: ignore[attr-defined]
    stylize.__annotations__ = {it.name: it.annotation for it in parameters} | {"return": gr.FileData}
    return stylize


def _parameters() -> list[inspect.Parameter]:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    picture = gr.FileData | str
    first = [
        inspect.Parameter("request", kind, annotation=gr.Request),
        inspect.Parameter("content", kind, annotation=picture),
        inspect.Parameter("style", kind, annotation=picture),
        inspect.Parameter("styles", kind, default=None, annotation=list[picture] | None),
    ]
    for field in dataclasses.fields(Options):
        follows = field.name in FOLLOWING
        wanted: Any = field.type if field.type in (int, float) else int | str if field.name == "size" else str
        default = None if follows else controls.shown(field.default)
        if field.name in OPTIONS:
            first.append(
                inspect.Parameter(field.name, kind, default=default, annotation=wanted | None if follows else wanted)
            )
    return first


def order(studio: Studio, content: Any, style: Any, styles: Any, *values: Any) -> Order:
    """What a call asks for; `values` are in the order of `OPTIONS`.

    Raises:
        UsageError: a picture is not there, or a setting is out of its range.
    """
    more = styles or []
    if not isinstance(more, list) or len(more) >= MOST_STYLES:
        raise UsageError(f"styles is no list of up to {MOST_STYLES - 1} further paintings; give one.")
    given = {name: value for name, value in zip(OPTIONS, values, strict=True) if value not in (None, "")}
    if given.get("init", INIT_CHOICES[0]) not in INIT_CHOICES:  # a path would be read on the server
        raise UsageError(f"init is '{given['init']}'; it can be {', '.join(INIT_CHOICES)}.")
    options = Options.of(**{name: _typed(name, value) for name, value in given.items()})
    paintings = [_upload(studio, it, library.list_styles(), "style") for it in (style, *more)]
    return Order(
        content=_upload(studio, content, library.list_contents(), "content"), styles=tuple(paintings), options=options
    )


def _typed(name: str, value: Any) -> Any:
    """A value as the option takes it: lists may come as text, as they stand in a flag."""
    return config.parse_value(name, value) if isinstance(value, str) and name in list_options() else value


def _upload(studio: Studio, given: Any, named: Mapping[str, Path], what: str) -> Upload:
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


def _work(studio: Studio, visit: Visit, wanted: Order) -> Generator[Answer | None, None, None]:
    for news in studio.paint(visit, wanted):
        if isinstance(news, Painted):
            yield {"path": str(news.png), "orig_name": news.png.name, "meta": {"_type": "gradio.FileData"}}
        else:
            yield None
