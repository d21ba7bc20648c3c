"""The page: which component triggers which handler, and the theme, style sheet and script."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import routes
from jinja2 import ChoiceLoader, DictLoader, FileSystemLoader

from ui import api, controls, handlers, render, wall
from ui.areas.events import AreaHandlers
from ui.layout import BatchLayout, PageLayout, build_layout, make_pictures_css
from ui.queue import INSTANT_EVENT, QUEUED_EVENT, WALL_EVENT, Place, QueueFull, hide_event, open_queue
from ui.session import Session, name_visitor
from ui.studio import Studio

PAGE_FOLDER = Path(__file__).parent
SCRIPTS = (
    *("shared", "language", "files", "leaving", "notices"),
    *("sharing", "loupe", "compare", "blend", "keys", "done", "wall", "board", "column"),
)
"""The scripts of the page, in order: the first is used by all others."""
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
MONO_FONTS = ("ui-monospace", "Menlo", "Consolas", "monospace")
REPEATED_REPORTS = 4
"""Reports that also say what the first one says: a browser that is busy draws only the last of several."""
BATCH = "batch"
"""The kind of session that a batch has, so that stopping one tab does not stop the other."""


def build_page(studio: Studio, queue: int = 32) -> gr.Blocks:
    """Build the page of a studio.

    Args:
        studio: the sessions and the painter behind the page.
        queue: limit on the requests that wait.
    """
    page: gr.Blocks
    gr.set_static_paths([studio.sessions.outputs])  # served in place: a copy would outlive its session
    with gr.Blocks(title="styler", analytics_enabled=False, fill_width=True) as page:
        layout, batch_layout = build_layout(studio.options)
        paint_tab = handlers.PaintHandlers(studio, layout)
        _wire_painting(paint_tab)
        _wire_inputs(paint_tab)
        _wire_results(paint_tab)
        _wire_batch(handlers.BatchHandlers(studio, batch_layout))
        api.wire_api(studio)

        async def remove_session(request: gr.Request) -> None:
            studio.thread.forget(name_visitor(request.session_hash))
            await asyncio.to_thread(studio.sessions.remove, request.session_hash)

        page.unload(remove_session)
    for each in page.fns.values():
        # For each item of any event, the browser updates all components that show Gradio's progress, hidden or not.
        each.show_progress_on = [layout.status]
    studio.thread.max_waiting = queue
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
    """Return the style sheet and the scripts of the page, as elements of its head.

    Gradio adds the same style sheet again, after its own, but only when the page is built: it would jump.
    """
    texts = [(PAGE_FOLDER / "scripts" / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    style = (PAGE_FOLDER / "style.css").read_text(encoding="utf-8")
    return f"<style>{style}</style><script>{''.join(texts)}</script>"


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
    tab: handlers.PaintHandlers | handlers.BatchHandlers,
    confirm: Callable[..., handlers.Changes],
    handler: Callable[..., Generator[handlers.Changes, None, None]],
    estimate: Callable[..., float | None],
    kind: str = "",
) -> Callable[..., AsyncIterator[handlers.Changes]]:
    """Return a Gradio event like that of `_bind`, which runs a generator on the painter's thread in its turn.

    It confirms the click first, and does nothing while this visitor's picture is painted.
    """
    studio = tab.studio
    # Of what the work reports, only its last item changes this.
    ending = tab.layout.stop_button if isinstance(tab.layout, BatchLayout) else tab.layout.running_row

    def is_stopping(session: Session) -> bool:
        return session.is_painting and session.stop.is_set() and (kind == BATCH or not session.is_discarded)

    async def event(request: gr.Request, *values: Any) -> AsyncIterator[handlers.Changes]:
        hide_event()
        session, key = studio.sessions.get(request.session_hash, kind), name_visitor(request.session_hash)
        if session.is_painting:
            yield gr.skip()
            return
        confirmed = await asyncio.to_thread(confirm, session, *values)
        seconds, reports = await asyncio.to_thread(estimate, session, *values), 0
        try:
            work = handler(session, *values)
            async with aclosing(studio.thread.run(work, session.stop_work, key, seconds)) as items:
                async for item in items:
                    if isinstance(item, Place) and session.is_discarded:
                        break
                    repeated = confirmed if reports < REPEATED_REPORTS else {}
                    if isinstance(item, Place):
                        yield {**repeated, tab.layout.status: render.render_bar(item.describe())}
                    elif is_stopping(session) and ending not in (item or {}):  # a report would hide this
                        stopping = {tab.layout.status: render.render_bar(tab.stopping)}
                        yield {**(item or {}), **stopping, tab.layout.stop_button: gr.update(interactive=False)}
                    else:
                        reports += bool(item)
                        yield {**repeated, **item} if item else gr.skip()
                else:
                    return
        except QueueFull:
            pass
        yield tab.show_failure(session)

    return event


def _wire_painting(tab: handlers.PaintHandlers) -> None:
    """Wire Paint, Paint this, Continue, Try again, Repaint, Stop and keep, and Discard."""
    studio, layout = tab.studio, tab.layout
    strength = "() => Number(document.querySelector('#repaint').dataset.strength)"
    outputs = [layout.stop_button, layout.options["seed"], *_list_result_outputs(layout)]
    fields: list[Any] = [layout.options[name] for name in controls.PAGE_OPTIONS]
    events: list[Any] = []
    for button, confirm, make, inputs, more_outputs, script in (
        (layout.paint_button, tab.show_waiting, handlers.make_request, handlers.list_inputs(layout), [], None),
        (layout.sample_button, tab.show_sample, tab.request_sample, fields, _list_choices(layout), None),
        (layout.continue_button, tab.show_waiting, handlers.continue_request, [], [], None),
        (layout.retry_button, tab.show_waiting, handlers.retry_request, [], [], None),
        (layout.repaint_button, tab.show_waiting, handlers.repaint_request, [layout.repaint_strength], [], strength),
    ):
        event = _bind_queued(tab, confirm, partial(tab.paint, make), partial(tab.estimate, make))
        painting = button.click(event, inputs, [*outputs, *more_outputs], js=script, **QUEUED_EVENT)
        painting.failure(_bind(studio, tab.show_failure), None, outputs, **INSTANT_EVENT)
        events.append(painting)
    layout.repaint_button.click(None, None, layout.options["strength"], js=strength)
    _wire_stop(tab)
    layout.discard_button.click(_bind(studio, tab.discard), None, outputs, cancels=events, **INSTANT_EVENT)


def _wire_stop(tab: handlers.PaintHandlers | handlers.BatchHandlers, kind: str = "") -> None:
    """Wire Stop; the browser confirms it by itself, as the server's answer can come after the finished picture."""
    shown = {tab.layout.status: render.render_bar(tab.stopping), tab.layout.stop_button: gr.update(interactive=False)}
    script = f"() => {json.dumps([*shown.values()])}"
    click = tab.layout.stop_button.click(None, None, [*shown], js=script, **INSTANT_EVENT)
    click.then(_bind(tab.studio, tab.stop, kind), None, None, **INSTANT_EVENT)


def _list_result_outputs(layout: PageLayout) -> list[Any]:
    """Return the components that show a result."""
    return [
        *(layout.stage, layout.status, layout.running_row, layout.finished_row, layout.summary),
        *(layout.png, layout.jpeg, layout.deep_button, *layout.deep_files.values(), layout.history),
        *(layout.losses_panel, layout.losses_plot, layout.losses_legend),
    ]


def _list_choices(layout: PageLayout) -> list[Any]:
    """Return the components that show the photo, the paintings and the preset, with the options that it sets."""
    names = ("preset", *controls.list_bundle_options("preset"))
    return [
        *(layout.content, layout.sample, layout.style, layout.own_styles, layout.mixed_styles),
        *(layout.protect, layout.region, layout.area_note),
        *(layout.own_thumbnails, layout.credit, *layout.style_weights),
        *(layout.options[name] for name in names),
    ]


def _wire_sizes(layout: PageLayout | BatchLayout) -> None:
    """Wire the named sizes, in the browser alone; a size that was typed comes back when its field does."""
    field: Any = layout.options["size"]
    choose = f"""(choice, size) => {{
        const kept = document.querySelector("#{field.elem_id}").dataset;
        if (choice === "{controls.OWN_SIZE}") return kept.size ?? size;
        if (!{json.dumps([*map(str, controls.SIZES.values())])}.includes(size)) kept.size = size;
        return choice;
    }}"""
    layout.sizes.input(None, [layout.sizes, field], field, js=choose, **INSTANT_EVENT)


def _wire_inputs(tab: handlers.PaintHandlers) -> None:
    """Wire the photo, the paintings and their previews, the presets and looks, and the settings from a picture."""
    studio, layout = tab.studio, tab.layout
    show_content, show_styles = _bind(studio, tab.show_content), _bind(studio, tab.show_styles)
    contents, outputs = [layout.content, layout.sample], _list_stage_outputs(layout)
    styles: list[Any] = [layout.style, layout.own_styles, layout.mixed_styles]
    areas: list[Any] = [layout.protect, layout.region]
    style_outputs = [*styles[:2], layout.own_thumbnails, layout.credit, layout.status, *layout.style_weights]
    shown = []
    for trigger, cleared, handler, inputs, changed in (
        (layout.content.upload, layout.sample, show_content, contents, outputs),
        (layout.content.clear, layout.sample, show_content, contents, outputs),
        (layout.sample.input, layout.content, show_content, contents, outputs),
        (layout.style.input, layout.own_styles, show_styles, styles, style_outputs),
    ):
        clearing = trigger(None, None, cleared, js="() => null", **INSTANT_EVENT)
        shown.append(clearing.then(handler, inputs, changed, **INSTANT_EVENT))
        if changed is outputs:
            shown[-1].then(_bind(studio, AreaHandlers.forget_drawing), areas, areas, **INSTANT_EVENT)
    refuse, reason = _bind(studio, tab.refuse_photo), "() => document.querySelector('#refuse').dataset.reason"
    shown.append(layout.refuse_button.click(refuse, layout.refusal, outputs, js=reason, **INSTANT_EVENT))
    own = layout.own_styles
    triggers = [own.upload, own.clear, own.delete, layout.mixed_styles.input]
    shown.append(gr.on(triggers, show_styles, styles, style_outputs, **INSTANT_EVENT))

    fields: list[Any] = [layout.options[name] for name in controls.PAGE_OPTIONS]
    for kind in controls.OPTION_BUNDLES:
        radio: Any = layout.options[kind]
        changed = [layout.options[name] for name in controls.list_bundle_options(kind)]
        radio.input(partial(controls.apply_bundle, kind, defaults=studio.options), fields, changed, **INSTANT_EVENT)
    _wire_sizes(layout)
    areas = [*areas, layout.protect_amount, layout.area_note]
    changed = [*fields, *areas, layout.sizes, *layout.style_weights, layout.status]
    load = layout.settings_file.upload
    shown.append(load(_bind(studio, tab.load_settings), layout.settings_file, changed, **INSTANT_EVENT))
    shown.append(_wire_areas(AreaHandlers(tab)))
    _wire_wall(wall.WallHandlers(tab), shown)


def _wire_wall(walls: wall.WallHandlers, shown: list[Any]) -> None:
    """Wire the previews: a round of them begins after each of the events in `shown`, and when the settings change."""
    studio, layout = walls.tab.studio, walls.tab.layout
    stage = _list_stage_outputs(layout)[2:]

    async def event(request: gr.Request, *values: Any) -> AsyncIterator[handlers.Changes]:
        hide_event()
        session, key = studio.sessions.get(request.session_hash), name_visitor(request.session_hash)
        begun = walls.begin(session, *values)
        yield begun
        if (current := session.wall) is None:
            return
        items, reports = wall.run_wall(studio, session, current, key, partial(walls.paint, session, current)), 0
        async with aclosing(items):
            async for item in items:
                begun = {block: change for block, change in begun.items() if block not in (item or {})}
                repeated = begun if reports < REPEATED_REPORTS else {}
                reports += 1
                yield {**repeated, **(item or {})} or gr.skip()
        yield walls.show_tiles(session, current) or gr.skip()  # one that came as the round was interrupted was lost
        yield gr.skip()  # Gradio repeats the last item at the end, when another photo may be shown already

    outputs = [
        layout.times,
        layout.limit_note,
        layout.paint_button,
        *layout.tiles,
        layout.own_thumbnails,
        layout.wall_note,
        *stage,
    ]
    inputs = handlers.list_inputs(layout)
    for dependency in shown:
        dependency.then(event, inputs, outputs, **WALL_EVENT)
    layout.refresh_button.click(event, inputs, outputs, **WALL_EVENT)
    tile = "() => document.querySelector('#show-preview').dataset.tile"
    shown_tile = {**INSTANT_EVENT, "trigger_mode": "multiple"}
    layout.tile_button.click(_bind(studio, walls.choose), layout.tile_choice, stage, js=tile, **shown_tile)


def _wire_areas(tab: AreaHandlers) -> Any:
    """Wire what is protected, what is drawn, and the part that takes another painting; return the event of a drawing.

    The other controls change previews like any setting does.
    """
    studio, layout = tab.tab.studio, tab.tab.layout

    def bind(handler: Callable[..., handlers.Changes]) -> Callable[..., Any]:
        """Return an event that runs where masks are found, so that none waits for the others of the page."""

        async def event(request: gr.Request, *values: Any) -> handlers.Changes:
            session = studio.sessions.get(request.session_hash)
            work = partial(handler, session, *values)
            return await asyncio.get_running_loop().run_in_executor(studio.mask_thread, work)

        return event

    photo, chosen = [layout.content, layout.sample], [layout.protect, layout.region]
    shown = [*_list_stage_outputs(layout)[2:], layout.area_note, layout.board, *chosen]
    latest = {**INSTANT_EVENT, "trigger_mode": "always_last"}
    layout.protect.input(bind(tab.choose_chips), [*photo, layout.protect], shown, **latest)
    layout.region.input(bind(tab.choose_region), [*photo, *chosen], shown, **latest)
    board_outputs = [layout.board, layout.area_note]
    layout.draw_button.click(bind(tab.open_board), photo, board_outputs, **INSTANT_EVENT)
    inputs, outputs = [*photo, *chosen, layout.drawn], [*shown, layout.drawn]
    return layout.drawn.upload(bind(tab.take_drawing), inputs, outputs, **INSTANT_EVENT)


def _list_stage_outputs(layout: PageLayout) -> list[Any]:
    """Return the components of the photo, and those that show something else than a finished picture."""
    stage = [layout.stage, layout.finished_row, layout.summary, layout.status, layout.history]
    return [layout.content, layout.sample, *stage]


def _wire_results(tab: handlers.PaintHandlers) -> None:
    """Wire the history and the 16-bit files."""
    studio, layout = tab.studio, tab.layout

    def select(request: gr.Request, event: gr.SelectData) -> handlers.Changes:
        return tab.select(studio.sessions.get(request.session_hash), event.index)

    outputs = _list_result_outputs(layout)
    layout.history.select(select, None, outputs, trigger_mode="multiple", **INSTANT_EVENT)  # keys are fast
    outputs = [*layout.deep_files.values(), layout.deep_button, layout.status]
    layout.deep_button.click(_bind(studio, tab.make_deep_files), None, outputs, **INSTANT_EVENT)


def _wire_batch(tab: handlers.BatchHandlers) -> None:
    """Wire Paint all and Stop."""
    studio, layout = tab.studio, tab.layout
    bind = partial(_bind, studio, kind=BATCH)
    inputs = [layout.contents, layout.styles, layout.own_styles, *layout.options.values()]
    outputs = [layout.status, layout.stop_button, layout.archive, layout.gallery, layout.rows]
    event = _bind_queued(tab, tab.show_waiting, tab.paint, tab.estimate, BATCH)
    painting = layout.paint_button.click(event, inputs, outputs, **QUEUED_EVENT)
    painting.failure(bind(tab.show_failure), None, outputs, **INSTANT_EVENT)
    _wire_stop(tab, BATCH)
    _wire_sizes(layout)
