"""What happens on the Batch tab: many photos in one or more paintings, row by row."""

from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from styler import library, provenance
from styler.errors import StylerError, UsageError
from styler.options import list_options, resolve_options
from ui import batch_view, controls, render
from ui.batch_view import BatchView
from ui.layout import MAX_STYLES, BatchLayout, PageLayout, render_invitation
from ui.queue import INSTANT_EVENT, QUEUE_FULL, QUEUED_EVENT, count_ahead, describe_wait
from ui.session import FinishedPicture, PaintRequest, Session, Upload
from ui.studio import Studio

BATCH_KIND = "batch"
"""A tab's batch is a visit of its own: stopping one stops nothing else."""
MAX_OWN_STYLES = 4
BATCH_FAILED = "That went wrong on the server, which is a bug in styler; try once more, or with fewer pictures."


Changes = dict[Any, Any]
"""From components to what becomes of them."""


def wire_batch(page: gr.Blocks, studio: Studio, parts: BatchLayout) -> None:
    """Paint all, Stop, and the place of those who wait."""
    outputs = [parts.status, parts.stop, parts.archive, parts.gallery, parts.rows, parts.tick]

    def begun(request: gr.Request) -> Changes:
        visit = studio.visits.of(request.session_hash, BATCH_KIND)
        visit.is_discarded, visit.is_waiting = False, True
        return {
            parts.status: render.render_waiting("Waiting for its turn …"),
            parts.stop: gr.update(visible=True, interactive=True),
            parts.archive: gr.update(visible=False),
            parts.tick: gr.Timer(active=True),
        }

    async def painting(request: gr.Request, *values: Any) -> AsyncIterator[Changes]:
        visit = studio.visits.of(request.session_hash, BATCH_KIND)
        async with aclosing(studio.bench.steps(run_batch_request(studio, parts, visit, values), visit.halt)) as steps:
            async for changes in steps:
                yield changes or {parts.status: gr.skip()}

    def failed(request: gr.Request) -> Changes:
        visit = studio.visits.of(request.session_hash, BATCH_KIND)
        return show_batch_idle(parts, render.render_error(QUEUE_FULL if visit.is_waiting else BATCH_FAILED))

    def waits(request: gr.Request) -> Changes:
        left = studio.visits.of(request.session_hash, BATCH_KIND).is_discarded
        before = None if left else count_ahead(page, request.session_hash)
        return {parts.status: gr.skip() if before is None else render.render_waiting(describe_wait(studio, before))}

    def stop(request: gr.Request) -> Changes:
        visit = studio.visits.of(request.session_hash, BATCH_KIND)
        visit.discard()
        sentence = "Stopping …" if visit.is_painting else "Stopped before its turn."
        return {parts.status: render.render_waiting(sentence), parts.stop: gr.update(interactive=False)}

    inputs = [parts.contents, parts.styles, parts.own, *(parts.options[name] for name in controls.BATCH_OPTIONS)]
    click = parts.paint.click(begun, None, outputs, **INSTANT_EVENT)
    click.then(painting, inputs, outputs, **QUEUED_EVENT).failure(failed, None, outputs, **INSTANT_EVENT)
    parts.stop.click(stop, None, [parts.status, parts.stop], **INSTANT_EVENT)
    parts.tick.tick(waits, None, parts.status, **INSTANT_EVENT)


def choose_batch_inputs(
    contents: Sequence[str] | None, styles: Sequence[str] | None, own: Sequence[str] | None
) -> tuple[list[Upload], list[Upload]]:
    """The photos and the paintings that are chosen.

    Raises:
        UsageError: there are too many paintings of one's own.
    """
    if len(own or ()) > MAX_OWN_STYLES:
        raise UsageError(f"There are {len(own or ())} paintings of your own; choose {MAX_OWN_STYLES} at most.")
    bundled = [library.list_styles()[name] for name in styles or ()]
    photos = [Upload(Path(path), Path(path).name) for path in contents or ()]
    return photos, [Upload(path, path.name) for path in (*bundled, *map(Path, own or ()))]


def run_batch_request(
    studio: Studio, parts: BatchLayout, visit: Session, values: Sequence[Any]
) -> Generator[Changes, None, None]:
    """The batch, from what the controls say to the archive; or a sentence on what went wrong."""
    visit.is_waiting = False
    if visit.is_discarded:  # while it waited for its turn
        yield show_batch_idle(parts, render.render_message("Stopped before its turn."))
        return
    yield {
        parts.tick: gr.Timer(active=False),
        parts.status: render.render_waiting("Reading the pictures …"),
        parts.gallery: gr.update(value=None, visible=False),
        parts.rows: "",
    }
    seen = 0
    try:
        photos, paintings = choose_batch_inputs(*values[:3])
        for now in batch_view.paint_batch(
            studio, visit, photos, paintings, controls.options_from_batch_values(values[3:])
        ):
            changes: Changes = {
                parts.status: render.render_batch_status(now, ended=False),
                parts.rows: render.render_batch_rows(now.rows.values()),
            }
            if len(now.views) > seen:
                seen = len(now.views)
                changes[parts.gallery] = gr.update(value=[(str(path), name) for path, name in now.views], visible=True)
            yield changes
        yield show_batch_end(parts, now)
    except StylerError as problem:
        yield show_batch_idle(parts, render.render_error(str(problem)))


def show_batch_end(parts: BatchLayout, heap: BatchView) -> Changes:
    """What can be taken home."""
    archive = gr.update(value=str(heap.archive), visible=True) if heap.archive else gr.update(visible=False)
    return {
        **show_batch_idle(parts, render.render_batch_status(heap, ended=True)),
        parts.rows: render.render_batch_rows(heap.rows.values()),
        parts.archive: archive,
    }


def show_batch_idle(parts: BatchLayout, sentence: str) -> Changes:
    """Nothing is being painted, and a sentence says why."""
    return {parts.status: sentence, parts.stop: gr.update(visible=False), parts.tick: gr.Timer(active=False)}


def list_inputs(parts: PageLayout) -> list[Any]:
    """The components whose values an order is made of, in order."""
    first = [parts.content, parts.sample, parts.style, parts.own, parts.also]
    return [*first, *parts.weights, *(parts.options[name] for name in controls.PAGE_OPTIONS)]


def select_styles(style: str | None, own: Sequence[str] | None, also: Sequence[str] | None) -> tuple[Upload, ...]:
    """The paintings that are chosen: one's own, or the bundled one, and those it is mixed with.

    Raises:
        UsageError: there is none, or there are too many.
    """
    mine = [Upload(Path(path), Path(path).name) for path in own or ()]
    names = [style] if style and not mine else []
    names += [name for name in also or () if name not in names]
    found = (*mine, *(Upload(library.list_styles()[name], library.list_styles()[name].name) for name in names))
    if not found:
        raise UsageError("Choose a painting, or upload one of your own.")
    if len(found) > MAX_STYLES:
        raise UsageError(f"There are {len(found)} paintings; choose {MAX_STYLES} at most.")
    return found


def select_content(content: Upload | None, sample: str | None) -> Upload:
    """The photo that is chosen.

    Raises:
        UsageError: there is none.
    """
    if content:
        return content
    if not sample:
        raise UsageError("Choose a photo first: drop one on the page, or take one of ours.")
    return Upload(library.list_contents()[sample], library.list_contents()[sample].name)


def make_request(values: Sequence[Any]) -> PaintRequest:
    """What the controls ask for; `values` are those of `inputs`.

    Raises:
        UsageError: something is missing, or out of its range.
    """
    content, sample, style, own, also, *rest = values
    styles = select_styles(style, own, also)
    weights = tuple(float(weight) for weight in rest[: len(styles)]) if len(styles) > 1 else ()
    options = controls.options_from_values(rest[MAX_STYLES:], weights)
    return PaintRequest(content=select_content(content, sample), styles=styles, options=options)


def show_waiting(parts: PageLayout) -> Changes:
    """The click has been heard."""
    return {
        parts.status: render.render_waiting("Waiting for its turn …"),
        parts.running: gr.update(visible=True),
        parts.done: gr.update(visible=False),
        parts.keep: gr.update(interactive=False),
        parts.used: "",
        parts.tick: gr.Timer(active=True),
    }


def show_idle(parts: PageLayout, sentence: str, visit: Session | None = None) -> Changes:
    """Nothing is being painted, and a sentence says why; the last picture, if any, can still be had."""
    has_picture = bool(visit and visit.painted)
    return {
        parts.status: sentence,
        parts.running: gr.update(visible=False),
        parts.done: gr.update(visible=has_picture),
        parts.used: render.render_summary(visit.painted[visit.shown]) if visit and has_picture else "",
        parts.tick: gr.Timer(active=False),
    }


def show_discarded(parts: PageLayout, visit: Session) -> Changes:
    """As it was before: the last picture if there is one, or the photo."""
    if visit.painted:
        return {
            **show_finished(parts, visit, len(visit.painted) - 1),
            parts.status: render.render_message("Discarded."),
        }
    photo = gr.update(value=visit.frame or render_invitation(), visible=True)
    return {
        **show_idle(parts, render.render_message("Discarded.")),
        parts.stage: photo,
        parts.slider: gr.update(visible=False),
    }


def paint_picture(
    studio: Studio, parts: PageLayout, visit: Session, wanted: PaintRequest
) -> Generator[Changes, None, None]:
    """Paint: the live picture with its line, then the finished one; or a sentence on what went wrong."""
    waiting = "Reading the pictures …" if studio.is_ready else "Loading the network …"
    yield {parts.status: render.render_waiting(waiting), parts.keep: gr.update(interactive=False)}
    is_first = True
    try:
        for news in studio.paint(visit, wanted):
            if isinstance(news, FinishedPicture):
                yield show_finished(parts, visit, len(visit.painted) - 1)
                return
            changes: Changes = {parts.stage: render.render_live_view(news), parts.status: render.render_progress(news)}
            if is_first:
                changes |= {
                    parts.stage: gr.update(value=render.render_live_view(news), visible=True),
                    parts.slider: gr.update(visible=False),
                    parts.keep: gr.update(interactive=True),
                }
            is_first = False
            yield changes
        yield show_discarded(parts, visit)
    except StylerError as problem:
        yield show_idle(parts, render.render_error(str(problem)), visit)


def show_finished(parts: PageLayout, visit: Session, index: int) -> Changes:
    """A picture of this visit, to look at and take home."""
    painted, visit.shown = visit.painted[index], index
    ended = "Stopped; this is the best of it." if painted.record["stopped"] else "Done."
    return {
        parts.stage: gr.update(visible=False),
        parts.slider: gr.update(value=(str(painted.before), str(painted.jpeg)), visible=True),
        parts.status: render.render_message(f"{ended} Drag the line to see what was there before."),
        parts.running: gr.update(visible=False),
        parts.done: gr.update(visible=True),
        parts.png: gr.update(value=str(painted.png)),
        parts.jpeg: gr.update(value=str(painted.jpeg)),
        parts.used: render.render_summary(painted),
        parts.tick: gr.Timer(active=False),
        parts.deeper: gr.update(visible=True),
        **{button: gr.update(visible=False) for button in parts.deep.values()},
        parts.chart: gr.update(visible=True),
        parts.losses: render.render_losses(painted.curve),
        parts.history: gr.update(
            value=[(str(each.jpeg), f"{number}") for number, each in enumerate(visit.painted, start=1)],
            visible=len(visit.painted) > 1,
            selected_index=None,
        ),
    }


def continue_request(visit: Session) -> PaintRequest:
    """The picture that is shown once more, from where it stands, at its full size alone.

    By L-BFGS, which only ever goes downhill: Adam would first undo what is fine already.

    Raises:
        UsageError: there is none.
    """
    last = _current_picture(visit)
    side = max(last.record["width"], last.record["height"])
    lowest = int(list_options()["first_size"].low or 1)
    options = last.order.options.replace(first_size=max(lowest, side), optimizer="lbfgs", sketch=0.0)
    return replace(last.order, options=options, start=last.png)


def retry_request(visit: Session) -> PaintRequest:
    """The picture that is shown with the next seed.

    Raises:
        UsageError: there is none.
    """
    last = _current_picture(visit)
    highest = int(list_options()["seed"].high or 0)
    seed = last.order.options.seed + 1 if last.order.options.seed < highest else 0
    return replace(last.order, options=last.order.options.replace(seed=seed))


def make_deep_files(studio: Studio, parts: PageLayout, visit: Session) -> Changes:
    """The picture that is shown in 16 bit, to take home."""
    try:
        files = {kind: studio.deep(_current_picture(visit), kind) for kind in parts.deep}
    except StylerError as problem:
        return {parts.status: render.render_error(str(problem))}
    shown: Changes = {parts.deep[kind]: gr.update(value=str(path), visible=True) for kind, path in files.items()}
    return {**shown, parts.deeper: gr.update(visible=False)}


def _current_picture(visit: Session) -> FinishedPicture:
    if not visit.painted:
        raise UsageError("There is no picture yet to go on from; paint one first.")
    return visit.painted[visit.shown]


def show_content(
    studio: Studio, parts: PageLayout, visit: Session, content: Upload | None, sample: str | None
) -> Changes:
    """The photo that was chosen, upright in its frame; or why it cannot be read."""
    shown = {parts.slider: gr.update(visible=False), parts.done: gr.update(visible=False), parts.used: ""}
    visit.frame = ""
    if not content and not sample:
        return {
            parts.stage: gr.update(value=render_invitation(), visible=True),
            parts.status: render.render_message(""),
            **shown,
        }
    try:
        photo = select_content(content, sample)
        visit.uses(photo)
        picture = studio.picture(photo)
    except StylerError as problem:
        return {parts.content: None, parts.status: render.render_error(str(problem))}
    frame = render.render_frame(
        render.encode_data_url(picture.pixels), picture.width, picture.height, f"Your photo, {photo.name}"
    )
    visit.frame = frame
    sentence = " ".join([f"{picture.width}×{picture.height} pixels.", *picture.warnings])
    return {parts.stage: gr.update(value=frame, visible=True), parts.status: render.render_message(sentence), **shown}


def show_styles(
    studio: Studio,
    parts: PageLayout,
    visit: Session,
    style: str | None,
    own: Sequence[str] | None,
    also: Sequence[str] | None,
) -> Changes:
    """Show one's own paintings, whose the others are, and a weight for each as soon as there are two."""
    try:
        styles = select_styles(style, own, also) if style or own or also else ()
        visit.uses(*styles)
        mine = [
            (render.encode_data_url(studio.picture(each).pixels, render.THUMBNAIL_SIDE), each.name)
            for each in styles[: len(own or ())]
        ]
    except StylerError as problem:
        return {parts.status: render.render_error(str(problem))}
    changes: Changes = {
        parts.own_shown: render.render_thumbnails(mine),
        parts.credit: render.render_credit(style.name for style in styles),
    }
    for index, weight in enumerate(parts.weights):
        name = styles[index].name if index < len(styles) else ""
        changes[weight] = gr.update(visible=len(styles) > 1 and bool(name), label=f"How much of {name}")
    return changes


def load_settings(studio: Studio, parts: PageLayout, visit: Session, source: str | None) -> Changes:
    """The settings of a picture that styler made."""
    if not source:
        return {parts.status: gr.skip()}
    name = Path(source).name
    visit.uses(Upload(Path(source), name))
    try:
        record = studio.settings(Upload(Path(source), name))
        options = resolve_options(("picture", provenance.settings_from_record(record))).options
    except StylerError as problem:
        return {parts.status: render.render_error(str(problem))}
    values = dict(zip(controls.PAGE_OPTIONS, controls.values_from_options(options), strict=True))
    changes: Changes = {parts.options[field]: value for field, value in values.items()}
    return {
        **changes,
        parts.status: render.render_message(f"The settings of {name} are set; choose the photo and the painting."),
    }
