"""What the page shows in HTML: the picture, where the work stands, what went wrong, the losses. All text is escaped."""

import base64
import io
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from styler import library, provenance
from styler.engine.result import Pixels, Progress
from styler.provenance import Record
from ui.session import FinishedPicture

if TYPE_CHECKING:
    from ui.batch_view import BatchRow, BatchView


LIVE_SIDE = 1024
"""Long side of a live picture, in pixels; the finished one has all of them."""
THUMBNAIL_SIDE = 160


def encode_data_url(pixels: Pixels, long_side: int = LIVE_SIDE, quality: int = 80) -> str:
    """Pixels as a small JPEG in a data address."""
    picture = Image.fromarray((np.asarray(pixels) * 255).round().clip(0, 255).astype(np.uint8))
    picture.thumbnail((long_side, long_side), reducing_gap=2.0)
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def encode_file_url(path: Path, long_side: int = THUMBNAIL_SIDE) -> str:
    """A file of our own as a small JPEG in a data address."""
    with Image.open(path) as picture:
        return encode_data_url(np.asarray(picture.convert("RGB"), np.float32) / 255, long_side)


def render_frame(source: str, width: int, height: int, alt: str, kind: str = "") -> str:
    """The picture in its frame, which has the final proportions."""
    return (
        f'<figure class="frame {kind}" style="--ratio: {width / height:.4f}">'
        f'<img src="{source}" alt="{escape(alt)}" width="{width}" height="{height}"></figure>'
    )


def render_live_view(progress: Progress) -> str:
    """The picture as it is now."""
    pixels = progress.live_view()
    end = progress.schedule[-1] if progress.schedule else None
    width, height = (end.width, end.height) if end else (pixels.shape[1], pixels.shape[0])
    return render_frame(encode_data_url(pixels), width, height, "The picture as it is now", "working")


def render_progress(progress: Progress) -> str:
    """Where the work stands, as a bar and a line."""
    share = 100 * progress.units / progress.total_units if progress.total_units else 0
    width, height = progress.size
    left = "" if progress.eta is None else f" · {format_duration(progress.eta)} left"
    scale = f"scale {progress.scale + 1} of {len(progress.schedule)}, {width}×{height}"
    line = f"{scale} · iteration {progress.iteration} of {progress.iterations} · loss {progress.loss:.3g}"
    return _render_bar(f"{line} · {format_duration(progress.seconds)}{left}", share)


def render_waiting(text: str) -> str:
    """Before the first step."""
    return _render_bar(text, None)


def render_message(text: str) -> str:
    """A quiet sentence."""
    return f'<p class="said" role="status">{escape(text)}</p>'


def render_error(text: str) -> str:
    """What went wrong, in one sentence."""
    return f'<p class="failed" role="alert">{escape(text)}</p>'


def format_duration(seconds: float) -> str:
    """`12 s`, `3 min 5 s`, `2 h 10 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def render_summary(painted: FinishedPicture) -> str:
    """One line on what was used, which copies the command, and what was done differently."""
    record = painted.record
    options = record["options"]
    styles = " + ".join(style.stem for style in painted.order.styles)
    ended = "stopped · " if record["stopped"] else ""
    line = (
        f"{styles} · {options['preset']} · strength {options['strength']:g} · {record['width']}×{record['height']} px"
        f" · seed {options['seed']} · {ended}{format_duration(record['seconds'])}"
    )
    notes = "".join(f'<p class="said">{escape(note)}</p>' for note in painted.notes)
    button = f'<button type="button" class="copies" data-copy="{escape(format_page_command(record))}" title="Copy the command">'
    return f'<p class="used">{escape(line)} {button}copy the command</button></p>{notes}'


def format_page_command(record: Record) -> str:
    """The command that makes the picture."""
    return provenance.format_command(record)


def render_thumbnails(pictures: Iterable[tuple[str, str]]) -> str:
    """A row of small pictures: their addresses and names."""
    items = "".join(
        f'<img src="{source}" alt="{escape(name)}" title="{escape(name)}" width="56" height="56">'
        for source, name in pictures
    )
    return f'<div class="thumbs">{items}</div>' if items else ""


def render_batch_status(pile: "BatchView", *, ended: bool) -> str:
    """How a batch stands, as a bar and a line, or in the end as a sentence."""
    total, done, bad, left = len(pile.rows), pile.count("done"), pile.count("failed"), pile.count("left")
    line = f"{done} of {total} done" + (f", {bad} failed" if bad else "") + (f", {left} not painted" if left else "")
    if ended:
        return render_message(f"{line}.")
    share = sum(1.0 if row.state in {"done", "failed"} else row.share for row in pile.rows.values())
    rest = "" if pile.left is None else f" · about {format_duration(pile.left)} left"
    return _render_bar(f"{line}{rest}", 100 * share / total)


ROW_STATES = {"waiting": "waiting", "done": "done", "left": "not painted"}


def render_batch_rows(found: Iterable["BatchRow"]) -> str:
    """A line for every picture of a batch."""
    lines = []
    for row in found:
        state = ROW_STATES.get(row.state, f"painting {100 * row.share:.0f} %" if row.state == "painting" else row.why)
        name = f"{escape(row.content)} <span>×</span> {escape(Path(row.style).stem)}"
        lines.append(f'<li class="{row.state}"><b>{name}</b> <span class="state">{escape(state)}</span></li>')
    return f'<ol class="rows">{"".join(lines)}</ol>' if lines else ""


def render_credit(names: Iterable[str]) -> str:
    """What the bundled paintings are, and whose."""
    known = library.read_credits()
    lines = "<br>".join(escape(known[name]) for name in names if name in known)
    return f'<p class="credit">{lines}</p>' if lines else ""


def render_losses(curve: Sequence[tuple[int, dict[str, float]]]) -> str:
    """A chart of the loss and its terms, each on a scale of its own logarithm, drawn as SVG."""
    names = [name for name in (curve[-1][1] if curve else {}) if any(terms.get(name, 0) > 0 for _, terms in curve)]
    if not names or curve[-1][0] < 2:
        return render_message("There is no loss to show.")
    points = {name: [(count, terms[name]) for count, terms in curve if terms.get(name, 0) > 0] for name in names}
    levels = np.log10([value for each in points.values() for _, value in each])
    low, high = float(np.floor(levels.min())), float(np.ceil(levels.max()))
    end, span = curve[-1][0], max(1.0, high - low)

    def at(count: int, value: float) -> str:
        return f"{48 + 540 * count / end:.1f},{10 + 220 * (high - np.log10(value)) / span:.1f}"

    lines, key = [], []
    for index, name in enumerate(names):
        path = " ".join(at(*point) for point in points[name])
        kind = f"line-{index % 8}" + (" total" if name == "total" else "")
        lines.append(f'<polyline class="{kind}" points="{path}"/>')
        key.append(f'<li class="{kind}">{escape(name)} <b>{points[name][-1][1]:.3g}</b></li>')
    grid = "".join(
        f'<line x1="48" x2="588" y1="{y:.1f}" y2="{y:.1f}"/><text x="42" y="{y + 4:.1f}">1e{level:.0f}</text>'
        for level in np.arange(low, high + 1)
        for y in [10 + 220 * (high - level) / span]
    )
    axis = f'<text class="end" x="588" y="248">{end} iterations</text>'
    return (
        '<figure class="chart"><svg viewBox="0 0 600 256" role="img" aria-label="The losses as they fell">'
        f"<g>{grid}{axis}</g>{''.join(lines)}</svg><ul>{''.join(key)}</ul></figure>"
    )


def _render_bar(text: str, share: float | None) -> str:
    value = f' aria-valuenow="{share:.0f}"' if share is not None else ""
    kind, width = ("bar", f"{share:.1f}%") if share is not None else ("bar endless", "30%")
    return (
        f'<div class="{kind}" role="progressbar" aria-label="Painting" aria-valuemin="0" aria-valuemax="100"{value}>'
        f'<i style="width: {width}"></i></div><p class="line">{escape(text)}</p>'
    )


UI_FOLDER = Path(__file__).parent
FIGURE_SIDE = 320
"""Pixels of the pictures that explain."""
INVITATION_PAIR = ("bridge", "starry-night")
"""What the picture that invites was made of."""


@cache
def render_about() -> str:
    """The text with its picture."""
    items = "".join(f"<li>{escape(credit)}</li>" for credit in library.read_credits().values())
    text = (UI_FOLDER / "about.html").read_text(encoding="utf-8")
    return text.replace("{figure}", _render_figure()).replace("{credits}", items)


def _render_figure() -> str:
    """Photo and painting become the picture."""
    photo, painting = library.list_contents()[INVITATION_PAIR[0]], library.list_styles()[INVITATION_PAIR[1]]
    cells = [
        _render_cell(photo, "A photo of a bridge at night", "what is where?"),
        '<span aria-hidden="true">+</span>',
        _render_cell(painting, "The Starry Night by Vincent van Gogh", "which colours and strokes?"),
        '<span aria-hidden="true">→</span>',
        _render_cell(UI_FOLDER / "invitation.jpg", "The bridge, painted like The Starry Night", "both"),
    ]
    return f'<div class="how">{"".join(cells)}</div>'


def _render_cell(path: Path, alt: str, caption: str) -> str:
    image = f'<img src="{encode_file_url(path, FIGURE_SIDE)}" alt="{escape(alt)}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
