"""The page: which component triggers which handler, and the theme, style sheet and script."""

from collections.abc import AsyncIterator, Callable, Generator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import routes
from jinja2 import ChoiceLoader, DictLoader, FileSystemLoader

from ui import api, controls, handlers, render
from ui.layout import BatchLayout, PageLayout, build_layout, make_pictures_css
from ui.queue import INSTANT_EVENT, QUEUED_EVENT, count_ahead, open_queue
from ui.studio import Studio

PAGE_FOLDER = Path(__file__).parent
SCRIPTS = (
    *("shared", "language", "files", "leaving", "notices"),
    *("sharing", "loupe", "compare", "blend", "keys", "done"),
)
"""The scripts of the page, in order: the first is used by all others."""
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO_FONTS = ("ui-monospace", "Menlo", "Consolas", "monospace")
BATCH = "batch"
"""The kind of session that a batch has, so that stopping one tab does not stop the other."""


def build_page(studio: Studio, queue: int = 32) -> gr.Blocks:
    """Build the page of a studio.

    Args:
        studio: the sessions and the painter behind the page.
        queue: limit on the events that wait.
    """
    page: gr.Blocks
    gr.set_static_paths([studio.sessions.outputs])  # served in place: a copy would outlive its session
    with gr.Blocks(title="styler", analytics_enabled=False, fill_width=True) as page:
        layout, batch_layout = build_layout(studio.options)
        paint_tab = handlers.PaintHandlers(studio, layout)
        _wire_painting(page, paint_tab)
        _wire_inputs(paint_tab)
        _wire_results(paint_tab)
        _wire_batch(page, handlers.BatchHandlers(studio, batch_layout))
        api.wire_api(studio)

        def remove_session(request: gr.Request) -> None:
            studio.sessions.remove(request.session_hash)

        page.unload(remove_session)
    open_queue(page, queue)
    return page


def make_theme() -> gr.themes.Base:
    """Return a theme of warm grays, one accent color and system fonts, which needs nothing from other servers."""
    return gr.themes.Base(
        primary_hue="orange",
        neutral_hue="stone",
        font=[gr.themes.Font(name) for name in SYSTEM_FONTS],
        font_mono=[gr.themes.Font(name) for name in MONO_FONTS],
        radius_size="md",
        spacing_size="md",
    )


def make_css() -> str:
    """Return the style sheet of the page."""
    return (PAGE_FOLDER / "style.css").read_text(encoding="utf-8") + make_pictures_css()


def make_head() -> str:
    """Return the scripts of the page, as an element of its head."""
    texts = [(PAGE_FOLDER / "scripts" / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return f"<script>{''.join(texts)}</script>"


def install_head(head: str) -> None:
    """Put elements at the beginning of the head of Gradio's page.

    Gradio's own parameter `head` adds them only after its scripts have run, whose listeners would then come first.
    """
    folder, name, first = Path(gr.__file__).parent / "templates", "frontend/index.html", '<meta charset="utf-8" />'
    text = (folder / name).read_text(encoding="utf-8")
    assert text.count(first) == 1, "Gradio's page begins in another way"
    ours = DictLoader({name: text.replace(first, f"{first}{{% raw %}}{head}{{% endraw %}}")})
    routes.templates.env.loader = ChoiceLoader([ours, FileSystemLoader(folder)])


def _bind(studio: Studio, handler: Callable[..., Any], kind: str = "") -> Callable[..., Any]:
    """Return a Gradio event that calls a handler with the session of the browser tab and the values of the inputs."""

    def event(request: gr.Request, *values: Any) -> Any:
        return handler(studio.sessions.get(request.session_hash, kind), *values)

    return event


def _bind_queued(
    studio: Studio, handler: Callable[..., Generator[handlers.Changes, None, None]], kind: str = ""
) -> Callable[..., AsyncIterator[handlers.Changes]]:
    """Return a Gradio event like that of `_bind`, which runs a generator on the painter's thread."""

    async def event(request: gr.Request, *values: Any) -> AsyncIterator[handlers.Changes]:
        session = studio.sessions.get(request.session_hash, kind)
        async with aclosing(studio.thread.run(handler(session, *values), session.stop_work)) as items:
            async for changes in items:
                yield changes or gr.skip()

    return event


def _wire_painting(page: gr.Blocks, tab: handlers.PaintHandlers) -> None:
    """Wire Paint, Continue, Try again, Repaint, Stop and keep, Discard, and the place in the queue."""
    studio, layout = tab.studio, tab.layout
    strength = "() => Number(document.querySelector('#repaint').dataset.strength)"
    outputs = [layout.stop_button, layout.options["seed"], *_list_result_outputs(layout)]
    events = []
    for button, make, inputs, script in (
        (layout.paint_button, handlers.make_request, handlers.list_inputs(layout), None),
        (layout.continue_button, handlers.continue_request, [], None),
        (layout.retry_button, handlers.retry_request, [], None),
        (layout.repaint_button, handlers.repaint_request, [layout.repaint_strength], strength),
    ):
        click = button.click(_bind(studio, tab.show_waiting), None, outputs, **INSTANT_EVENT)
        event = _bind_queued(studio, partial(tab.paint, make))
        painting = click.then(event, inputs, outputs, js=script, show_progress_on=layout.status, **QUEUED_EVENT)
        painting.failure(_bind(studio, tab.show_failure), None, outputs, **INSTANT_EVENT)
        events.append(painting)
    layout.repaint_button.click(None, None, layout.options["strength"], js=strength)
    layout.stop_button.click(_bind(studio, tab.stop), None, outputs, **INSTANT_EVENT)
    layout.discard_button.click(_bind(studio, tab.discard), None, outputs, cancels=events, **INSTANT_EVENT)
    _wire_timer(page, studio, layout)


def _list_result_outputs(layout: PageLayout) -> list[Any]:
    """Return the components that show a result."""
    return [
        *(layout.stage, layout.status, layout.running_row, layout.finished_row, layout.summary),
        *(layout.png, layout.jpeg, layout.deep_button, *layout.deep_files.values(), layout.history, layout.timer),
        *(layout.losses_panel, layout.losses_plot, layout.losses_legend),
    ]


def _wire_timer(page: gr.Blocks, studio: Studio, layout: PageLayout | BatchLayout, kind: str = "") -> None:
    """Wire the timer that shows the place in the queue."""

    def show_place(request: gr.Request) -> Any:
        session = studio.sessions.get(request.session_hash, kind)
        ahead = None if session.is_discarded else count_ahead(page, request.session_hash)
        return gr.skip() if ahead is None else render.render_bar(studio.wait_estimate.describe_wait(ahead))

    layout.timer.tick(show_place, None, layout.status, **INSTANT_EVENT)


def _wire_inputs(tab: handlers.PaintHandlers) -> None:
    """Wire the photo, the paintings, the presets and looks, and the settings from a picture."""
    studio, layout = tab.studio, tab.layout
    show_content, show_styles = _bind(studio, tab.show_content), _bind(studio, tab.show_styles)
    contents = [layout.content, layout.sample]
    outputs: list[Any] = [layout.content, layout.sample, layout.stage, layout.finished_row]
    outputs += [layout.summary, layout.status, layout.history]
    styles = [layout.style, layout.own_styles, layout.mixed_styles]
    style_outputs = [layout.own_styles, layout.own_thumbnails, layout.credit, layout.status, *layout.style_weights]
    for trigger, cleared, handler, inputs, changed in (
        (layout.content.upload, layout.sample, show_content, contents, outputs),
        (layout.content.clear, layout.sample, show_content, contents, outputs),
        (layout.sample.input, layout.content, show_content, contents, outputs),
        (layout.style.input, layout.own_styles, show_styles, styles, style_outputs),
        (layout.own_styles.upload, layout.style, show_styles, styles, style_outputs),
    ):
        trigger(lambda: None, None, cleared, **INSTANT_EVENT).then(handler, inputs, changed, **INSTANT_EVENT)
    refuse, reason = _bind(studio, tab.refuse_photo), "() => document.querySelector('#refuse').dataset.reason"
    layout.refuse_button.click(refuse, layout.refusal, outputs, js=reason, **INSTANT_EVENT)
    triggers = [layout.own_styles.clear, layout.own_styles.delete, layout.mixed_styles.input]
    gr.on(triggers, show_styles, styles, style_outputs, **INSTANT_EVENT)

    fields: list[Any] = [layout.options[name] for name in controls.PAGE_OPTIONS]
    for kind in controls.OPTION_BUNDLES:
        radio: Any = layout.options[kind]
        radio.input(partial(controls.apply_bundle, kind, defaults=studio.options), fields, fields, **INSTANT_EVENT)
    load_settings = _bind(studio, tab.load_settings)
    layout.settings_file.upload(
        load_settings, layout.settings_file, [*fields, *layout.style_weights, layout.status], **INSTANT_EVENT
    )


def _wire_results(tab: handlers.PaintHandlers) -> None:
    """Wire the history and the 16-bit files."""
    studio, layout = tab.studio, tab.layout

    def select(request: gr.Request, event: gr.SelectData) -> handlers.Changes:
        return tab.select(studio.sessions.get(request.session_hash), event.index)

    outputs = _list_result_outputs(layout)
    layout.history.select(select, None, outputs, trigger_mode="multiple", **INSTANT_EVENT)  # keys are fast
    outputs = [*layout.deep_files.values(), layout.deep_button, layout.status]
    layout.deep_button.click(_bind(studio, tab.make_deep_files), None, outputs, **INSTANT_EVENT)


def _wire_batch(page: gr.Blocks, tab: handlers.BatchHandlers) -> None:
    """Wire Paint all, Stop, and the place in the queue."""
    studio, layout = tab.studio, tab.layout
    bind = partial(_bind, studio, kind=BATCH)
    inputs = [layout.contents, layout.styles, layout.own_styles, *layout.options.values()]
    outputs = [layout.status, layout.stop_button, layout.archive, layout.gallery, layout.rows, layout.timer]
    click = layout.paint_button.click(bind(tab.show_waiting), None, outputs, **INSTANT_EVENT)
    painting = click.then(_bind_queued(studio, tab.paint, BATCH), inputs, outputs, **QUEUED_EVENT)
    painting.failure(bind(tab.show_failure), None, outputs, **INSTANT_EVENT)
    layout.stop_button.click(bind(tab.stop), None, outputs, **INSTANT_EVENT)
    _wire_timer(page, studio, layout, BATCH)
