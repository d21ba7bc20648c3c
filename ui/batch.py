"""What happens on the Batch tab: many photos in one or more paintings, row by row."""

from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr

from styler import library
from styler.errors import StylerError, UsageError
from ui import controls, line, pile, show
from ui.batch_parts import Parts
from ui.handlers import Changes
from ui.pile import Pile
from ui.studio import Studio
from ui.visits import Upload, Visit
from ui.wires import HEAVY, LIGHT

KIND = "batch"
"""A tab's batch is a visit of its own: stopping one stops nothing else."""
MOST_OWN = 4
BROKE = "That went wrong on the server, which is a bug in styler; try once more, or with fewer pictures."


def wire(page: gr.Blocks, studio: Studio, parts: Parts) -> None:
    """Paint all, Stop, and the place of those who wait."""
    outputs = [parts.status, parts.stop, parts.archive, parts.gallery, parts.rows, parts.tick]

    def begun(request: gr.Request) -> Changes:
        visit = studio.visits.of(request.session_hash, KIND)
        visit.is_discarded, visit.is_waiting = False, True
        return {
            parts.status: show.waiting("Waiting for its turn …"),
            parts.stop: gr.update(visible=True, interactive=True),
            parts.archive: gr.update(visible=False),
            parts.tick: gr.Timer(active=True),
        }

    async def painting(request: gr.Request, *values: Any) -> AsyncIterator[Changes]:
        visit = studio.visits.of(request.session_hash, KIND)
        async with aclosing(studio.bench.steps(work(studio, parts, visit, values), visit.halt)) as steps:
            async for changes in steps:
                yield changes or {parts.status: gr.skip()}

    def failed(request: gr.Request) -> Changes:
        visit = studio.visits.of(request.session_hash, KIND)
        return idle(parts, show.failed(line.FULL if visit.is_waiting else BROKE))

    def waits(request: gr.Request) -> Changes:
        left = studio.visits.of(request.session_hash, KIND).is_discarded
        before = None if left else line.ahead(page, request.session_hash)
        return {parts.status: gr.skip() if before is None else show.waiting(line.sentence(studio, before))}

    def stop(request: gr.Request) -> Changes:
        visit = studio.visits.of(request.session_hash, KIND)
        visit.discard()
        sentence = "Stopping …" if visit.is_painting else "Stopped before its turn."
        return {parts.status: show.waiting(sentence), parts.stop: gr.update(interactive=False)}

    inputs = [parts.contents, parts.styles, parts.own, *(parts.options[name] for name in controls.BATCH)]
    click = parts.paint.click(begun, None, outputs, **LIGHT)
    click.then(painting, inputs, outputs, **HEAVY).failure(failed, None, outputs, **LIGHT)
    parts.stop.click(stop, None, [parts.status, parts.stop], **LIGHT)
    parts.tick.tick(waits, None, parts.status, **LIGHT)


def asked(
    contents: Sequence[str] | None, styles: Sequence[str] | None, own: Sequence[str] | None
) -> tuple[list[Upload], list[Upload]]:
    """The photos and the paintings that are chosen.

    Raises:
        UsageError: there are too many paintings of one's own.
    """
    if len(own or ()) > MOST_OWN:
        raise UsageError(f"There are {len(own or ())} paintings of your own; choose {MOST_OWN} at most.")
    bundled = [library.list_styles()[name] for name in styles or ()]
    photos = [Upload(Path(path), Path(path).name) for path in contents or ()]
    return photos, [Upload(path, path.name) for path in (*bundled, *map(Path, own or ()))]


def work(studio: Studio, parts: Parts, visit: Visit, values: Sequence[Any]) -> Generator[Changes, None, None]:
    """The batch, from what the controls say to the archive; or a sentence on what went wrong."""
    visit.is_waiting = False
    if visit.is_discarded:  # while it waited for its turn
        yield idle(parts, show.said("Stopped before its turn."))
        return
    yield {
        parts.tick: gr.Timer(active=False),
        parts.status: show.waiting("Reading the pictures …"),
        parts.gallery: gr.update(value=None, visible=False),
        parts.rows: "",
    }
    seen = 0
    try:
        photos, paintings = asked(*values[:3])
        for now in pile.paint(studio, visit, photos, paintings, controls.options_of_batch(values[3:])):
            changes: Changes = {parts.status: show.heap(now, ended=False), parts.rows: show.rows(now.rows.values())}
            if len(now.views) > seen:
                seen = len(now.views)
                changes[parts.gallery] = gr.update(value=[(str(path), name) for path, name in now.views], visible=True)
            yield changes
        yield ended(parts, now)
    except StylerError as problem:
        yield idle(parts, show.failed(str(problem)))


def ended(parts: Parts, heap: Pile) -> Changes:
    """What can be taken home."""
    archive = gr.update(value=str(heap.archive), visible=True) if heap.archive else gr.update(visible=False)
    return {
        **idle(parts, show.heap(heap, ended=True)),
        parts.rows: show.rows(heap.rows.values()),
        parts.archive: archive,
    }


def idle(parts: Parts, sentence: str) -> Changes:
    """Nothing is being painted, and a sentence says why."""
    return {parts.status: sentence, parts.stop: gr.update(visible=False), parts.tick: gr.Timer(active=False)}
