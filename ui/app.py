"""The page: layout first, wiring last. Which component asks which handler, in what turn."""

from collections.abc import AsyncIterator, Callable, Generator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr

from styler.errors import StylerError
from ui import api, controls, handlers, render
from ui.handlers import Changes
from ui.layout import PageLayout, build_layout, make_pictures_css
from ui.queue import INSTANT_EVENT, QUEUE_FULL, QUEUED_EVENT, count_ahead, describe_wait, open_queue
from ui.session import PaintRequest, Session, Upload
from ui.studio import Studio

PAGE_FOLDER = Path(__file__).parent
PAINT_FAILED = "That went wrong on the server, which is a bug in styler; your photo is still there, so try once more."
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")

MakeRequest = Callable[[Session, tuple[Any, ...]], PaintRequest]


def build_page(studio: Studio, queue: int = 32) -> gr.Blocks:
    """The page on a studio, with room for so many who wait."""
    page: gr.Blocks
    gr.set_static_paths([studio.visits.made])  # served where they lie: a copy would outlive its visit
    with gr.Blocks(title="styler", analytics_enabled=False, fill_width=True) as page:
        parts, batch_parts = build_layout()
        _wire_painting(page, studio, parts)
        _wire_choices(studio, parts)
        _wire_keeping(studio, parts)
        handlers.wire_batch(page, studio, batch_parts)
        api.wire_api(studio)

        def leave(request: gr.Request) -> None:
            studio.visits.leave(request.session_hash)

        page.unload(leave)
    open_queue(page, queue)
    return page


def make_theme() -> gr.themes.Base:
    """Warm greys, one accent, the system's fonts: nothing is fetched from elsewhere."""
    fonts = [gr.themes.Font(name) for name in SYSTEM_FONTS]
    mono = [gr.themes.Font(name) for name in ("ui-monospace", "Menlo", "Consolas", "monospace")]
    return gr.themes.Base(
        primary_hue="orange",
        neutral_hue="stone",
        font=fonts,
        font_mono=mono,
        radius_size="md",
        spacing_size="md",
    )


def make_css() -> str:
    """The look of the page."""
    return (PAGE_FOLDER / "style.css").read_text(encoding="utf-8") + make_pictures_css()


def make_head() -> str:
    """The keys and the copying, as a script of our own."""
    return f"<script>{(PAGE_FOLDER / 'page.js').read_text(encoding='utf-8')}</script>"


def _wire_painting(page: gr.Blocks, studio: Studio, parts: PageLayout) -> None:
    """Paint, Continue, Try again; Stop and keep, Discard; and the place of those who wait."""
    outputs = [
        *(parts.stage, parts.slider, parts.status, parts.running, parts.keep, parts.done, parts.png, parts.jpeg),
        *(parts.used, parts.chart, parts.losses, parts.history, parts.tick, parts.deeper, *parts.deep.values()),
    ]
    seed, given = parts.options["seed"], handlers.list_inputs(parts)
    asked: tuple[tuple[gr.Button, MakeRequest, list[Any]], ...] = (
        (parts.paint, lambda _visit, values: handlers.make_request(values), given),
        (parts.onward, lambda visit, _values: handlers.continue_request(visit), []),
        (parts.again, lambda visit, _values: handlers.retry_request(visit), []),
    )

    def failed(request: gr.Request) -> Changes:
        visit = studio.visits.of(request.session_hash)
        if visit.is_discarded:  # Gradio calls that a failure, too
            return handlers.show_discarded(parts, visit)
        return handlers.show_idle(parts, render.render_error(QUEUE_FULL if visit.is_waiting else PAINT_FAILED), visit)

    def begun(request: gr.Request) -> Changes:
        studio.visits.of(request.session_hash).is_waiting = True
        return handlers.show_waiting(parts)

    def waits(request: gr.Request) -> Changes:
        before = count_ahead(page, request.session_hash)
        return {parts.status: gr.skip() if before is None else render.render_waiting(describe_wait(studio, before))}

    works = []
    for button, orders, inputs in asked:
        click = button.click(begun, None, outputs, **INSTANT_EVENT)
        work = click.then(
            _painting(studio, parts, orders), inputs, [*outputs, seed], show_progress_on=parts.status, **QUEUED_EVENT
        )
        work.failure(failed, None, outputs, **INSTANT_EVENT)
        works.append(work)
    parts.tick.tick(waits, None, parts.status, **INSTANT_EVENT)

    def keep(request: gr.Request) -> Changes:
        studio.visits.of(request.session_hash).stop.set()
        return {parts.status: render.render_waiting("Finishing …"), parts.keep: gr.update(interactive=False)}

    def discard(request: gr.Request) -> Changes:
        visit = studio.visits.of(request.session_hash)
        visit.discard()
        return handlers.show_discarded(parts, visit)

    parts.keep.click(keep, None, outputs, **INSTANT_EVENT)
    parts.discard.click(discard, None, outputs, cancels=works, **INSTANT_EVENT)


def _painting(studio: Studio, parts: PageLayout, orders: MakeRequest) -> Callable[..., AsyncIterator[Changes]]:
    """The event that paints what `orders` makes of the visit and the controls."""

    def work(visit: Session, values: tuple[Any, ...]) -> Generator[Changes, None, None]:
        visit.is_waiting = False
        try:
            wanted = orders(visit, values)
        except StylerError as problem:
            yield handlers.show_idle(parts, render.render_error(str(problem)), visit)
            return
        yield {parts.options["seed"]: wanted.options.seed, parts.tick: gr.Timer(active=False)}
        yield from handlers.paint_picture(studio, parts, visit, wanted)

    async def painting(request: gr.Request, *values: Any) -> AsyncIterator[Changes]:
        visit = studio.visits.of(request.session_hash)
        async with aclosing(studio.bench.steps(work(visit, values), visit.halt)) as steps:
            async for changes in steps:
                yield changes or {parts.status: gr.skip()}

    return painting


def _wire_choices(studio: Studio, parts: PageLayout) -> None:
    """The photo, the paintings, presets and looks, and settings from a picture."""
    seen = [parts.content, parts.stage, parts.slider, parts.done, parts.used, parts.status]

    def look(request: gr.Request, content: Upload | None, sample: str | None) -> Changes:
        return handlers.show_content(studio, parts, studio.visits.of(request.session_hash), content, sample)

    pair = [parts.content, parts.sample]
    for event in (parts.content.upload, parts.content.clear):
        event(lambda: None, None, parts.sample, **INSTANT_EVENT).then(look, pair, seen, **INSTANT_EVENT)
    parts.sample.input(lambda: None, None, parts.content, **INSTANT_EVENT).then(look, pair, seen, **INSTANT_EVENT)

    def styles(request: gr.Request, style: str | None, own: list[str] | None, also: list[str] | None) -> Changes:
        return handlers.show_styles(studio, parts, studio.visits.of(request.session_hash), style, own, also)

    paintings = [parts.style, parts.own, parts.also]
    shown = [parts.own_shown, parts.credit, parts.status, *parts.weights]
    parts.style.input(lambda: None, None, parts.own, **INSTANT_EVENT).then(styles, paintings, shown, **INSTANT_EVENT)
    parts.own.upload(lambda: None, None, parts.style, **INSTANT_EVENT).then(styles, paintings, shown, **INSTANT_EVENT)
    gr.on([parts.own.clear, parts.own.delete, parts.also.input], styles, paintings, shown, **INSTANT_EVENT)

    fields = [parts.options[name] for name in controls.PAGE_OPTIONS]
    for kind in controls.OPTION_BUNDLES:
        radio = parts.options[kind]
        assert isinstance(radio, gr.Radio)
        radio.input(_bundled(kind), fields, fields, **INSTANT_EVENT)

    def settings(request: gr.Request, source: str | None) -> Changes:
        return handlers.load_settings(studio, parts, studio.visits.of(request.session_hash), source)

    parts.source.upload(settings, parts.source, [*fields, parts.status], **INSTANT_EVENT)


def _bundled(kind: str) -> Callable[..., list[Any]]:
    """The event of choosing a preset or a look."""

    def chosen(*values: Any) -> list[Any]:
        return controls.apply_bundle(kind, values[controls.PAGE_OPTIONS.index(kind)], values)

    return chosen


def _wire_keeping(studio: Studio, parts: PageLayout) -> None:
    """An earlier picture of the visit, shown again; and 16 bit, made when it is asked for."""

    def select(request: gr.Request, event: gr.SelectData) -> Changes:
        visit = studio.visits.of(request.session_hash)
        if visit.is_painting or not 0 <= event.index < len(visit.painted):
            return {parts.status: gr.skip()}
        return handlers.show_finished(parts, visit, event.index)

    def deep(request: gr.Request) -> Changes:
        return handlers.make_deep_files(studio, parts, studio.visits.of(request.session_hash))

    downloads = [*parts.deep.values()]
    outputs = [
        *(parts.stage, parts.slider, parts.status, parts.running, parts.done, parts.png, parts.jpeg, parts.used),
        *(parts.chart, parts.losses, parts.history, parts.tick, parts.deeper, *downloads),
    ]
    parts.history.select(select, None, outputs, **INSTANT_EVENT)
    parts.deeper.click(deep, None, [*downloads, parts.deeper, parts.status], **INSTANT_EVENT)
