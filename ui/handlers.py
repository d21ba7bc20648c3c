"""What happens on the page, without the page: from what the controls hold to what the components become.

Every failure is one sentence in the status line, and leaves the photo and the settings where they are.
"""

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from styler import library, provenance
from styler.errors import StylerError, UsageError
from styler.options import list_options, resolve_options
from ui import controls, show
from ui.parts import MOST_STYLES, Parts, invitation
from ui.studio import Studio
from ui.visits import Order, Painted, Upload, Visit

Changes = dict[Any, Any]
"""From components to what becomes of them."""


def inputs(parts: Parts) -> list[Any]:
    """The components whose values an order is made of, in order."""
    first = [parts.content, parts.sample, parts.style, parts.own, parts.also]
    return [*first, *parts.weights, *(parts.options[name] for name in controls.NAMES)]


def chosen_styles(style: str | None, own: Sequence[str] | None, also: Sequence[str] | None) -> tuple[Upload, ...]:
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
    if len(found) > MOST_STYLES:
        raise UsageError(f"There are {len(found)} paintings; choose {MOST_STYLES} at most.")
    return found


def chosen_content(content: Upload | None, sample: str | None) -> Upload:
    """The photo that is chosen.

    Raises:
        UsageError: there is none.
    """
    if content:
        return content
    if not sample:
        raise UsageError("Choose a photo first: drop one on the page, or take one of ours.")
    return Upload(library.list_contents()[sample], library.list_contents()[sample].name)


def order(values: Sequence[Any]) -> Order:
    """What the controls ask for; `values` are those of `inputs`.

    Raises:
        UsageError: something is missing, or out of its range.
    """
    content, sample, style, own, also, *rest = values
    styles = chosen_styles(style, own, also)
    weights = tuple(float(weight) for weight in rest[: len(styles)]) if len(styles) > 1 else ()
    options = controls.options_of(rest[MOST_STYLES:], weights)
    return Order(content=chosen_content(content, sample), styles=styles, options=options)


def begun(parts: Parts) -> Changes:
    """The click has been heard."""
    return {
        parts.status: show.waiting("Waiting for its turn …"),
        parts.running: gr.update(visible=True),
        parts.done: gr.update(visible=False),
        parts.keep: gr.update(interactive=False),
        parts.used: "",
        parts.tick: gr.Timer(active=True),
    }


def idle(parts: Parts, sentence: str, visit: Visit | None = None) -> Changes:
    """Nothing is being painted, and a sentence says why; the last picture, if any, can still be had."""
    has_picture = bool(visit and visit.painted)
    return {
        parts.status: sentence,
        parts.running: gr.update(visible=False),
        parts.done: gr.update(visible=has_picture),
        parts.used: show.used(visit.painted[visit.shown]) if visit and has_picture else "",
        parts.tick: gr.Timer(active=False),
    }


def discarded(parts: Parts, visit: Visit) -> Changes:
    """As it was before: the last picture if there is one, or the photo."""
    if visit.painted:
        return {**finished(parts, visit, len(visit.painted) - 1), parts.status: show.said("Discarded.")}
    photo = gr.update(value=visit.frame or invitation(), visible=True)
    return {**idle(parts, show.said("Discarded.")), parts.stage: photo, parts.slider: gr.update(visible=False)}


def paint(studio: Studio, parts: Parts, visit: Visit, wanted: Order) -> Generator[Changes, None, None]:
    """Paint: the live picture with its line, then the finished one; or a sentence on what went wrong."""
    waiting = "Reading the pictures …" if studio.is_ready else "Loading the network …"
    yield {parts.status: show.waiting(waiting), parts.keep: gr.update(interactive=False)}
    is_first = True
    try:
        for news in studio.paint(visit, wanted):
            if isinstance(news, Painted):
                yield finished(parts, visit, len(visit.painted) - 1)
                return
            changes: Changes = {parts.stage: show.live(news), parts.status: show.status(news)}
            if is_first:
                changes |= {
                    parts.stage: gr.update(value=show.live(news), visible=True),
                    parts.slider: gr.update(visible=False),
                    parts.keep: gr.update(interactive=True),
                }
            is_first = False
            yield changes
        yield discarded(parts, visit)
    except StylerError as problem:
        yield idle(parts, show.failed(str(problem)), visit)


def finished(parts: Parts, visit: Visit, index: int) -> Changes:
    """A picture of this visit, to look at and take home."""
    painted, visit.shown = visit.painted[index], index
    ended = "Stopped; this is the best of it." if painted.record["stopped"] else "Done."
    return {
        parts.stage: gr.update(visible=False),
        parts.slider: gr.update(value=(str(painted.before), str(painted.jpeg)), visible=True),
        parts.status: show.said(f"{ended} Drag the line to see what was there before."),
        parts.running: gr.update(visible=False),
        parts.done: gr.update(visible=True),
        parts.png: gr.update(value=str(painted.png)),
        parts.jpeg: gr.update(value=str(painted.jpeg)),
        parts.used: show.used(painted),
        parts.tick: gr.Timer(active=False),
        parts.deeper: gr.update(visible=True),
        **{button: gr.update(visible=False) for button in parts.deep.values()},
        parts.chart: gr.update(visible=True),
        parts.losses: show.losses(painted.curve),
        parts.history: gr.update(
            value=[(str(each.jpeg), f"{number}") for number, each in enumerate(visit.painted, start=1)],
            visible=len(visit.painted) > 1,
            selected_index=None,
        ),
    }


def further(visit: Visit) -> Order:
    """The picture that is shown once more, from where it stands, at its full size alone.

    By L-BFGS, which only ever goes downhill: Adam would first undo what is fine already.

    Raises:
        UsageError: there is none.
    """
    last = _in_view(visit)
    side = max(last.record["width"], last.record["height"])
    lowest = int(list_options()["first_size"].low or 1)
    options = last.order.options.replace(first_size=max(lowest, side), optimizer="lbfgs", sketch=0.0)
    return replace(last.order, options=options, start=last.png)


def once_more(visit: Visit) -> Order:
    """The picture that is shown with the next seed.

    Raises:
        UsageError: there is none.
    """
    last = _in_view(visit)
    highest = int(list_options()["seed"].high or 0)
    seed = last.order.options.seed + 1 if last.order.options.seed < highest else 0
    return replace(last.order, options=last.order.options.replace(seed=seed))


def deep(studio: Studio, parts: Parts, visit: Visit) -> Changes:
    """The picture that is shown in 16 bit, to take home."""
    try:
        files = {kind: studio.deep(_in_view(visit), kind) for kind in parts.deep}
    except StylerError as problem:
        return {parts.status: show.failed(str(problem))}
    shown: Changes = {parts.deep[kind]: gr.update(value=str(path), visible=True) for kind, path in files.items()}
    return {**shown, parts.deeper: gr.update(visible=False)}


def _in_view(visit: Visit) -> Painted:
    if not visit.painted:
        raise UsageError("There is no picture yet to go on from; paint one first.")
    return visit.painted[visit.shown]


def look(studio: Studio, parts: Parts, visit: Visit, content: Upload | None, sample: str | None) -> Changes:
    """The photo that was chosen, upright in its frame; or why it cannot be read."""
    shown = {parts.slider: gr.update(visible=False), parts.done: gr.update(visible=False), parts.used: ""}
    visit.frame = ""
    if not content and not sample:
        return {parts.stage: gr.update(value=invitation(), visible=True), parts.status: show.said(""), **shown}
    try:
        photo = chosen_content(content, sample)
        visit.uses(photo)
        picture = studio.picture(photo)
    except StylerError as problem:
        return {parts.content: None, parts.status: show.failed(str(problem))}
    frame = show.stage(show.address(picture.pixels), picture.width, picture.height, f"Your photo, {photo.name}")
    visit.frame = frame
    sentence = " ".join([f"{picture.width}×{picture.height} pixels.", *picture.warnings])
    return {parts.stage: gr.update(value=frame, visible=True), parts.status: show.said(sentence), **shown}


def choose_styles(
    studio: Studio,
    parts: Parts,
    visit: Visit,
    style: str | None,
    own: Sequence[str] | None,
    also: Sequence[str] | None,
) -> Changes:
    """Show one's own paintings, whose the others are, and a weight for each as soon as there are two."""
    try:
        styles = chosen_styles(style, own, also) if style or own or also else ()
        visit.uses(*styles)
        mine = [(show.address(studio.picture(each).pixels, show.THUMB), each.name) for each in styles[: len(own or ())]]
    except StylerError as problem:
        return {parts.status: show.failed(str(problem))}
    changes: Changes = {parts.own_shown: show.thumbs(mine), parts.credit: show.credit(style.name for style in styles)}
    for index, weight in enumerate(parts.weights):
        name = styles[index].name if index < len(styles) else ""
        changes[weight] = gr.update(visible=len(styles) > 1 and bool(name), label=f"How much of {name}")
    return changes


def take_settings(studio: Studio, parts: Parts, visit: Visit, source: str | None) -> Changes:
    """The settings of a picture that styler made."""
    if not source:
        return {parts.status: gr.skip()}
    name = Path(source).name
    visit.uses(Upload(Path(source), name))
    try:
        record = studio.settings(Upload(Path(source), name))
        options = resolve_options(("picture", provenance.settings_from_record(record))).options
    except StylerError as problem:
        return {parts.status: show.failed(str(problem))}
    values = dict(zip(controls.NAMES, controls.of_options(options), strict=True))
    changes: Changes = {parts.options[field]: value for field, value in values.items()}
    return {**changes, parts.status: show.said(f"The settings of {name} are set; choose the photo and the painting.")}
