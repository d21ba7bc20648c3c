"""The HTML of the page: pictures in frames, progress, messages, and the chart of the losses. All text is escaped."""

import base64
import io
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from styler import images, library, provenance
from styler.engine.result import Pixels, Progress
from styler.errors import StylerError
from styler.options import PRECISION_NAMES, PRESETS, format_duration, format_estimate
from ui import controls
from ui.areas.choice import describe_protection, describe_styles
from ui.batch_view import BatchRow, BatchView
from ui.session import FinishedPicture, LossHistory

UI_FOLDER = Path(__file__).parent
LIVE_SIDE = 1024
"""Long side of a live view, in pixels; the finished picture has all of its pixels."""
THUMBNAIL_SIDE = 160
FIGURE_SIDE = 320
"""Long side of the pictures on the About tab, in pixels."""
INVITATION = UI_FOLDER / "invitation.jpg"
"""A picture painted from the bundled pair below; it is shown before anything is chosen."""
INVITATION_PAIR = ("bridge", "starry-night")
INVITATION_TEXT = "A photo of a bridge, painted like The Starry Night"
KEYS = (
    ("Ctrl + Enter", "Paint"),
    ("Esc", "Stop and keep"),
    ("← →", "The pictures of this session, one after another"),
    ("B", "Before and after; hold it to see the photo for a moment"),
    ("F", "Full screen"),
    ("?", "This list"),
)
"""What keys do on the page. Cmd works like Ctrl."""
LOUPE_ICON = "M10.5 4a6.5 6.5 0 1 1 0 13a6.5 6.5 0 1 1 0-13M15.5 15.5L21 21M10.5 8v5M8 10.5h5"
SCREEN_ICON = "M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5"
ROW_STATES = {"waiting": "waiting", "done": "done", "left": "not painted"}
LINE_COLORS = (
    *("#c2571a", "#3d8496", "#a07c27", "#8d65a8", "#5d9050", "#b5587a", "#6d80b0", "#8f8578", "#2a9d8f"),
    *("#d64550", "#4a6fd1", "#b08968", "#7a8c1f"),
)
"""Colors of the lines in the chart, readable on light and dark; the first is the color of the total."""

_refusals = itertools.count(1)


def encode_data_url(pixels: Pixels, long_side: int = LIVE_SIDE) -> str:
    """Return pixels as a small JPEG in a `data:` URL."""
    picture = Image.fromarray(images.to_uint8(np.asarray(pixels)))
    picture.thumbnail((long_side, long_side), reducing_gap=2.0)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def encode_file_url(path: Path, long_side: int = THUMBNAIL_SIDE) -> str:
    """Return a bundled picture as a small JPEG in a `data:` URL."""
    with Image.open(path) as picture:
        return encode_data_url(np.asarray(picture.convert("RGB"), np.float32) / 255, long_side)


def encode_output_url(path: Path) -> str:
    """Return the address of a file that a session made, relative to the page."""
    return f"gradio_api/file={quote(path.as_posix())}"


def render_frame(source: str, width: int, height: int, alt: str, kind: str = "") -> str:
    """Return a picture in a frame that keeps its proportions while the picture loads.

    The picture is decoded before it is drawn: otherwise the frame would be empty for a moment at every live view. The
    invitation is another element, so that Gradio does not reuse it for the photo, whose frame would seem to jump.
    """
    tag = "div" if kind == "invitation" else "figure"
    return (
        f'<{tag} class="frame {kind}" style="--ratio: {width / height:.4f}">'
        f'<img src="{source}" alt="{escape(alt)}" width="{width}" height="{height}" decoding="sync"></{tag}>'
    )


def render_comparison(pictures: Sequence[FinishedPicture], index: int) -> str:
    """Return a finished picture over its photo, with a line between them that can be moved.

    The attributes are for the scripts of the page: the number of the picture in its session, from 1, its strength, its
    files, and all pictures of the session, with which it can be compared.

    Args:
        pictures: those of the session.
        index: of the picture that is shown.
    """
    picture = pictures[index]
    width, height = picture.record["width"], picture.record["height"]
    size = f'width="{width}" height="{height}" draggable="false" decoding="sync"'
    photo = encode_output_url(picture.photo)
    data = {
        "picture": index + 1,
        "pictures": json.dumps([encode_output_url(each.jpeg) for each in pictures]),
        "name": picture.png.stem,
        "png": encode_output_url(picture.png),
        "photo": photo,
        "strength": f"{picture.record['options']['strength']:g}",
    }
    attributes = " ".join(f'data-{name}="{escape(str(value))}"' for name, value in data.items())
    return (
        f'<div class="view" {attributes}>'
        f'<figure class="frame compare" id="slider" style="--ratio: {width / height:.4f}">'
        f'<img src="{photo}" alt="The photo" {size} class="before">'
        f'<img src="{encode_output_url(picture.jpeg)}" alt="The painted picture" {size} class="after">'
        '<input type="range" min="0" max="100" value="50" aria-label="Line between the photo and the painted picture">'
        '<div class="corner">'
        f"{_render_icon('loupe', 'Magnifier', 'Magnifier: the actual pixels', LOUPE_ICON, 'false')}"
        f"{_render_icon('screen', 'Full screen', 'Full screen (Esc to leave)', SCREEN_ICON)}"
        '</div></figure><div class="lens" hidden></div></div>'
    )


def _render_icon(kind: str, label: str, hint: str, path: str, pressed: str = "") -> str:
    """Return a button with an icon, which can stay pressed if `pressed` says whether it is."""
    state = f' aria-pressed="{pressed}"' if pressed else ""
    return (
        f'<button type="button" class="{kind}" aria-label="{label}" title="{hint}"{state}>'
        '<svg viewBox="0 0 24 24" width="22" fill="none" stroke="currentColor" stroke-width="2" aria-hidden="true">'
        f'<path d="{path}"/></svg></button>'
    )


def render_tools() -> str:
    """Return the controls that compare and blend the picture on the stage; the scripts of the page fill them."""
    return (
        '<div class="tools" role="group" aria-label="Compare and blend">'
        '<div class="mixing"><label>Blend <input type="range" id="blend" min="0" max="100" value="100"'
        ' title="How much of the painting is blended with the photo"></label><span class="percent">100</span></div>'
        '<div class="ways">'
        '<div class="pair"><label hidden>Compare with <select id="compare-with"></select></label>'
        '<button type="button" class="quiet" id="side" aria-pressed="false">Side by side</button></div>'
        '<div class="blending"><button type="button" class="quiet" id="repaint-blend">Repaint at strength '
        '<span>50</span></button><button type="button" class="quiet" id="save-blend">Download this blend</button>'
        '</div></div><p class="said" role="status"></p></div>'
    )


def render_tell() -> str:
    """Return the question whether the browser should tell when a picture is done."""
    return '<label class="tell" hidden><input type="checkbox" id="tell"> Tell me when it is done</label>'


def render_keys() -> str:
    """Return the list of keys, and the button that shows it."""
    rows = "".join(f"<tr><th><kbd>{escape(key)}</kbd></th><td>{escape(text)}</td></tr>" for key, text in KEYS)
    return (
        '<button type="button" id="list-keys" aria-label="Keys" title="Keys (?)">?</button>'
        '<dialog id="keys" aria-labelledby="keys-title"><h2 id="keys-title">Keys</h2>'
        f'<table>{rows}</table><form method="dialog"><button class="quiet">Close</button></form></dialog>'
    )


@cache
def render_invitation() -> str:
    """Return the picture that is shown before anything is chosen."""
    with Image.open(INVITATION) as picture:
        size = picture.size
    return render_frame(encode_file_url(INVITATION, LIVE_SIDE), *size, INVITATION_TEXT, "invitation")


def render_refusal(problem: str) -> str:
    """Return why a photo is refused, in the place of the photo."""
    return f'<div class="frame refused" role="alert"><p>{escape(problem)}</p></div>'


def render_refusal_note(problem: str) -> str:
    """Return why a photo is refused while the one before it stays; each has another number, for the scripts."""
    return f'<p class="failed" role="alert" data-refusal="{next(_refusals)}">{escape(problem)}</p>'


def render_live_view(progress: Progress) -> str:
    """Return the current picture in the frame of the final one."""
    pixels = progress.live_view()
    height, width = pixels.shape[:2]
    if progress.schedule:
        width, height = progress.schedule[-1].width, progress.schedule[-1].height
    return render_frame(encode_data_url(pixels), width, height, "The picture in progress", "working")


def render_progress(progress: Progress) -> str:
    """Return the progress as a bar and a status line."""
    percent = 100 * progress.units / progress.total_units if progress.total_units else 0
    width, height = progress.size
    left = "" if progress.eta is None else f" · {format_estimate(progress.eta)} left"
    scale = f"scale {progress.scale + 1} of {len(progress.schedule)}, {width}×{height}"
    line = f"{scale} · iteration {progress.iteration} of {progress.iterations} · loss {progress.loss:.3g}"
    return render_bar(f"{line} · {format_duration(progress.seconds)}{left}", percent)


def render_bar(text: str, percent: float | None = None) -> str:
    """Return a progress bar with a line of text; without a percentage, the bar only shows activity."""
    value = f' aria-valuenow="{percent:.0f}"' if percent is not None else ""
    kind, width = ("bar", f"{percent:.1f}%") if percent is not None else ("bar endless", "30%")
    return (
        f'<div class="{kind}" role="progressbar" aria-label="Painting" aria-valuemin="0" aria-valuemax="100"{value}>'
        f'<i style="width: {width}"></i></div><p class="line">{escape(text)}</p>'
    )


def render_times(times: Mapping[str, float | None], sizes: Mapping[str, float | None] | None = None) -> str:
    """Return what shows below each preset and size how long it is expected to take, and a line for screen readers.

    Args:
        times: expected seconds by preset; None if unknown, which leaves the space below that preset empty.
        sizes: the same for named sizes, by their values.
    """
    rules, known = "", {}
    names = {str(size): word for word, size in controls.SIZES.items()}
    for elem_id, words, given in (("preset", {name: name for name in PRESETS}, times), ("sizes", names, sizes or {})):
        for value, word in words.items():
            if math.isfinite(seconds := given.get(value) or math.nan):
                known[word] = text = format_estimate(seconds)
                rules += f'#option-{elem_id} label:has([value="{value}"]) {{ --time: "{text}"; }}'
    line = ", ".join(f"{word} {text}" for word, text in known.items())
    return f"<style>{rules}</style><p>Expected time: {line}</p>" if known else ""


def render_message(text: str, line_hint: str = "") -> str:
    """Return a message in the status line, with a hint that shows while two pictures lie over each other."""
    hint = f' <span class="line-hint">{escape(line_hint)}</span>' if line_hint else ""
    return f'<p class="message" role="status">{escape(text)}{hint}</p>'


def render_error(problem: StylerError | str) -> str:
    """Return an error message."""
    return f'<p class="failed" role="alert">{escape(str(problem))}</p>'


def render_summary(picture: FinishedPicture) -> str:
    """Return a line with the main settings, a button that copies the command, and the notes."""
    record = picture.record
    options = record["options"]
    size, strength = f"{record['width']}×{record['height']}", f"{options['strength']:g}"
    line = f"{describe_styles(picture.request)} · {options['preset']} · strength {strength} · {size} px"
    if kept := describe_protection(record):
        line += f" · {kept}"
    if any(record["trims"]):
        line += " · trimmed"
    stopped = "stopped · " if record["stopped"] else ""
    precision = PRECISION_NAMES[record["precision"]]
    line += f" · seed {options['seed']} · {precision} · {stopped}{format_duration(record['seconds'])}"
    command = escape(provenance.format_command(record))
    button = (
        f'<button type="button" class="copies" data-copy="{command}" title="Copy the command">copy the command</button>'
    )
    notes = "".join(f'<p class="message">{escape(note)}</p>' for note in picture.notes)
    return f'<p class="summary">{escape(line)} {button}</p>{notes}'


def render_thumbnails(pictures: Iterable[tuple[str, str, Pixels | None]]) -> str:
    """Return a row of uploaded paintings, given by address, name and preview; a click shows the preview large."""
    items = "".join(
        f'<button type="button" data-own="{number}" aria-label="Preview {escape(name)}" title="{escape(name)}">'
        f'<img src="{source if preview is None else encode_data_url(preview, THUMBNAIL_SIDE)}" alt=""></button>'
        for number, (source, name, preview) in enumerate(pictures)
    )
    return f'<div class="thumbs">{items}</div>' if items else ""


def render_tile(index: int, preview: Pixels) -> str:
    """Return the style rule that shows a preview on the button of a bundled painting, by its index."""
    source = encode_data_url(preview, THUMBNAIL_SIDE)
    button = f"#style label:nth-of-type({index + 1})"
    return f'<style>{button} {{ background-image: url("{source}") !important; animation: turn .5s; }}</style>'


def render_wall_note(done: int, total: int) -> str:
    """Return how many previews are finished; nothing when all are."""
    return f'<p class="message">Your photo in each painting: {done} of {total}</p>' if done < total else ""


def render_batch_status(view: BatchView, *, is_finished: bool) -> str:
    """Return the counts of a batch as a message if it is finished, else with a bar."""
    total, done, failed, left = len(view.rows), view.count("done"), view.count("failed"), view.count("left")
    line = (
        f"{done} of {total} done" + (f", {failed} failed" if failed else "") + (f", {left} not painted" if left else "")
    )
    if is_finished:
        return render_message(f"{line}.")
    share = sum(1.0 if row.state in {"done", "failed"} else row.share for row in view.rows.values())
    eta = "" if view.seconds_left is None else f" · {format_estimate(view.seconds_left)} left"
    return render_bar(f"{line}{eta}", 100 * share / total)


def render_batch_rows(rows: Iterable[BatchRow]) -> str:
    """Return a list with one line for each picture of a batch."""
    lines = []
    for row in rows:
        painting = f"painting, {100 * row.share:.0f}%" if row.state == "painting" else row.error
        state = escape(ROW_STATES.get(row.state, painting))
        name = f"{escape(row.content)} <span>×</span> {escape(Path(row.style).stem)}"
        lines.append(f'<li class="{row.state}"><b>{name}</b> <span class="state">{state}</span></li>')
    return f'<ol class="rows">{"".join(lines)}</ol>' if lines else ""


def render_credit(names: Iterable[str]) -> str:
    """Return the credits of those styles that come with styler."""
    credits_ = library.read_credits()
    lines = "<br>".join(escape(credits_[name]) for name in names if name in credits_)
    return f'<p class="credit">{lines}</p>' if lines else ""


def make_losses_plot(losses: LossHistory) -> dict[str, Any]:
    """Return the properties of a `gr.LinePlot` that shows the logarithm of every term of the loss."""
    rows = [
        [iteration, round(math.log10(value), 4), term, float(f"{value:.3g}")]
        for term in _choose_colors(losses)
        for iteration, terms in losses
        if (value := terms.get(term, 0.0)) > 0
    ]
    columns = {"iteration": "quantitative", "log10": "quantitative", "term": "nominal", "loss": "quantitative"}
    plot = {"columns": [*columns], "data": rows, "datatypes": columns, "mark": "line"}
    return {"value": plot, "color_map": _choose_colors(losses)}


def render_loss_legend(losses: LossHistory) -> str:
    """Return the terms of the loss with their colors and last values."""
    items = "".join(
        f'<li style="border-color: {color}">{escape(term)} <b>{losses[-1][1][term]:.3g}</b></li>'
        for term, color in _choose_colors(losses).items()
    )
    return f'<ul class="legend">{items}</ul>' if items else render_message("There are no losses to show.")


def _choose_colors(losses: LossHistory) -> dict[str, str]:
    """Return a color for every term of the loss that was ever above 0, the total first."""
    terms = sorted(losses[-1][1] if losses else (), key=lambda term: term != "total")
    used = [term for term in terms if any(values.get(term, 0.0) > 0 for _, values in losses)]
    return {term: LINE_COLORS[index % len(LINE_COLORS)] for index, term in enumerate(used)}


@cache
def render_about() -> str:
    """Return the About tab."""
    text = (UI_FOLDER / "about.html").read_text(encoding="utf-8")
    return text.format(
        photo=encode_file_url(library.list_contents()[INVITATION_PAIR[0]], FIGURE_SIDE),
        painting=encode_file_url(library.list_styles()[INVITATION_PAIR[1]], FIGURE_SIDE),
        result=encode_file_url(INVITATION, FIGURE_SIDE),
        credits="".join(f"<li>{_render_code(credit)}</li>" for credit in library.read_credits().values()),
    )


def _render_code(text: str) -> str:
    """Return a text in which backquotes mark code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
