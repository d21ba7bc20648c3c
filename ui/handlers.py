"""Event handlers of the page: each maps a session and the values of components to changes of components.

Does not know how events are triggered or queued; that is in `app`.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import gradio as gr

from styler import library
from styler.errors import StylerError, UsageError
from styler.options import list_options, resolve_options
from ui import batch_view, controls, render
from ui.areas.choice import WHOLE, add_areas, chips_from_options
from ui.areas.drawing import render_chips_note
from ui.controls import MAX_STYLES
from ui.layout import BatchLayout, PageLayout
from ui.queue import QUEUE_FULL
from ui.session import FinishedPicture, PaintRequest, Session, Upload
from ui.studio import Studio

INTERNAL_ERROR = "Something went wrong on the server, which is a bug in styler. Your photo is still here; try again."
WAITING = "Waiting in the queue…"
NO_PHOTO = "No photo is chosen now."
AREA_INPUTS = 5
"""Inputs that say what is protected and which part takes another painting."""
STOPPED_WAITING = "Stopped before it began."

Changes = dict[Any, Any]
"""New values or properties, by component."""
MakeRequest = Callable[..., PaintRequest]
"""From the session and the values of the inputs to a request."""


def list_inputs(layout: PageLayout) -> list[Any]:
    """Return the components whose values `make_request` takes, in order."""
    first = [layout.content, layout.sample, layout.style, layout.own_styles, layout.mixed_styles]
    areas = [layout.protect, layout.protect_amount, layout.region, layout.region_style, layout.own_region_style]
    return [*first, *areas, *layout.style_weights, *(layout.options[name] for name in controls.PAGE_OPTIONS)]


def make_request(session: Session, *values: Any) -> PaintRequest:
    """Return the request that the controls describe.

    Args:
        session: of the tab; it has what was drawn on the photo.
        values: of the components in `list_inputs`.

    Raises:
        UsageError: something is missing or out of range.
    """
    content, sample, style, own_styles, mixed_styles, *rest = values
    areas, rest = rest[:AREA_INPUTS], rest[AREA_INPUTS:]
    styles = select_styles(style, own_styles, mixed_styles)
    weights = tuple(float(weight) for weight in rest[: len(styles)]) if len(styles) > 1 else ()
    options = controls.options_from_values(rest[MAX_STYLES:], weights)
    photo = select_content(content, sample)
    request = PaintRequest(content=photo, styles=styles, options=options)
    return add_areas(request, session.get_drawing(photo), *areas)


def continue_request(session: Session) -> PaintRequest:
    """Return a request that continues from the selected picture, at its full size alone.

    It uses L-BFGS, which never raises the loss: Adam would first undo some of what is already good.

    Raises:
        UsageError: there is no picture yet.
    """
    last = session.get_selected_picture()
    side = max(last.record["width"], last.record["height"])
    spec = list_options()["first_size"]
    first = min(max(int(spec.low or 1), side), int(spec.high or side))
    options = last.request.options.replace(first_size=first, optimizer="lbfgs", sketch=0.0)
    return replace(last.request, options=options, start=last.png)


def retry_request(session: Session) -> PaintRequest:
    """Return the request of the selected picture with the next seed.

    Raises:
        UsageError: there is no picture yet.
    """
    last = session.get_selected_picture().request
    highest = int(list_options()["seed"].high or 0)
    seed = last.options.seed + 1 if last.options.seed < highest else 0
    return replace(last, options=last.options.replace(seed=seed))


def repaint_request(session: Session, strength: float) -> PaintRequest:
    """Return the request of the selected picture with another strength.

    Raises:
        UsageError: there is no picture yet.
        OptionError: the strength is out of range.
    """
    last = session.get_selected_picture().request
    return replace(last, options=last.options.replace(strength=strength))


def select_content(content: Upload | None, sample: str | None) -> Upload:
    """Return the uploaded photo, or the sample.

    Raises:
        UsageError: there is neither.
    """
    if content:
        return content
    if not sample:
        raise UsageError("Choose a photo first: drop one on the page, or pick a sample.")
    return Upload.from_path(library.list_contents()[sample])


def select_styles(
    style: str | None, own_styles: Sequence[Upload] | None, mixed_styles: Sequence[str] | None
) -> tuple[Upload, ...]:
    """Return the uploaded paintings, or else the bundled one, and the bundled ones to mix in.

    Raises:
        UsageError: there is none, or there are too many.
    """
    names = [style] if style and not own_styles else []
    names += [name for name in mixed_styles or () if name not in names]
    styles = (*(own_styles or ()), *(Upload.from_path(library.list_styles()[name]) for name in names))
    if not styles:
        raise UsageError("Choose a painting, or upload one of your own.")
    if len(styles) > MAX_STYLES:
        raise UsageError(f"There are {len(styles)} paintings; choose {MAX_STYLES} at most.")
    return styles


def select_batch_inputs(
    contents: Sequence[Upload] | None, styles: Sequence[str] | None, own_styles: Sequence[Upload] | None
) -> tuple[list[Upload], list[Upload]]:
    """Return the photos and the paintings of a batch.

    Raises:
        UsageError: there are too many uploaded paintings.
    """
    own_styles = own_styles or ()
    if len(own_styles) > MAX_STYLES:
        raise UsageError(f"There are {len(own_styles)} paintings of your own; choose {MAX_STYLES} at most.")
    bundled = [Upload.from_path(library.list_styles()[name]) for name in styles or ()]
    return [*(contents or ())], [*bundled, *own_styles]


@dataclass(frozen=True, slots=True)
class PaintHandlers:
    """The events of the Paint tab."""

    studio: Studio
    layout: PageLayout
    stopping: ClassVar[str] = "Finishing…"
    """Confirms the click on Stop."""

    def show_content(self, session: Session, content: Upload | None, sample: str | None) -> Changes:
        """Show the chosen photo in its frame, or why it is refused; while painting, keep it for the next picture."""
        photo, text = None, ""
        if content or sample:
            try:
                photo = select_content(content, sample)
                session.add_uploads(photo)
                picture = self.studio.read_picture(photo)
            except StylerError as problem:
                return self.refuse_photo(session, str(problem))
        session.stop_previews()  # the previous photo's would delay this one's
        session.photo, session.photo_html, session.photo_url, session.shown_preview = photo, "", "", None
        if photo:
            self.studio.expect_previews(picture)
            source = render.encode_data_url(picture.pixels)
            session.photo_html = render.render_frame(source, picture.width, picture.height, f"Your photo, {photo.name}")
            session.photo_url = render.encode_data_url(picture.pixels, render.THUMBNAIL_SIDE)
            text = " ".join([f"{picture.width}×{picture.height} pixels.", *picture.warnings])
        return self.show_stage(session, session.photo_html or render.render_invitation(), text)

    def refuse_photo(self, session: Session, problem: str) -> Changes:
        """Say why a photo is refused: on the stage, unless there is a photo before it, which stays chosen."""
        layout, kept = self.layout, session.photo
        if session.is_painting:
            gr.Warning(problem, title="Refused")
        if kept is None:
            changes = self.show_stage(session, render.render_refusal(problem), NO_PHOTO)
        else:
            changes = {} if session.is_painting else {layout.status: render.render_refusal_note(problem)}
        sample = next((name for name, path in library.list_contents().items() if kept and path == kept.path), None)
        return {**changes, layout.content: None if sample else kept, layout.sample: sample}

    def show_stage(self, session: Session, stage: str, text: str) -> Changes:
        """Show what `stage` contains, unless a picture is being painted; the pictures painted before can be reached."""
        if session.is_painting:
            return {self.layout.stage: gr.skip()}
        session.is_mask_shown = False
        return {
            self.layout.stage: stage,
            self.layout.status: render.render_message(text),
            self.layout.finished_row: gr.update(visible=False),
            self.layout.summary: "",
            self.layout.history: gr.update(visible=bool(session.pictures)),
        }

    def show_styles(
        self, session: Session, style: str | None, own_styles: list[Upload] | None, mixed_styles: list[str] | None
    ) -> Changes:
        """Show uploaded paintings, the credits of bundled ones, and the weights if there is more than one.

        An uploaded painting that cannot be read is refused; the others stay.
        """
        layout = self.layout
        changes: Changes = {}
        read: dict[Path, tuple[str, str]] = {}
        for upload in own_styles or ():
            session.add_uploads(upload)
            try:
                pixels = self.studio.read_picture(upload).pixels
            except StylerError as problem:
                changes |= {layout.status: render.render_error(problem)}
                continue
            read[upload.path] = (render.encode_data_url(pixels, render.THUMBNAIL_SIDE), upload.name)
        if changes:
            changes[layout.own_styles] = [*map(str, read)] or None
        elif session.is_style_refused:  # what was said of it no longer holds
            changes[layout.status] = render.render_message("")
        session.is_style_refused = layout.own_styles in changes
        if read:  # who chooses another painting then clears these
            changes[layout.style] = style = None
        try:
            chosen = [Upload(path, name) for path, (_, name) in read.items()]
            styles = select_styles(style, chosen, mixed_styles) if style or chosen or mixed_styles else ()
        except StylerError as problem:
            return {**changes, layout.status: render.render_error(problem)}
        session.thumbnails = read
        changes[layout.own_thumbnails] = render.render_thumbnails(session.list_thumbnails())
        changes[layout.credit] = render.render_credit(style.name for style in styles)
        for index, slider in enumerate(layout.style_weights):
            name = styles[index].name if index < len(styles) else ""
            changes[slider] = gr.update(visible=len(styles) > 1 and bool(name), label=f"Weight of {name}")
        return changes

    def show_sample(self, session: Session, *values: Any) -> Changes:
        """Choose the pair of the invitation and the preset draft, and confirm the click; `request_sample` paints it.

        Args:
            session: of the tab.
            values: of the options, in the order of `PAGE_OPTIONS`.
        """
        layout, (photo, painting) = self.layout, render.INVITATION_PAIR
        drafted = self._draft(values)
        changed = ("preset", *controls.list_bundle_options("preset"))
        return {
            **self.show_styles(session, painting, None, None),
            **self.show_content(session, None, photo),
            **{layout.content: None, layout.sample: photo},
            **{layout.style: painting, layout.own_styles: None, layout.mixed_styles: []},
            **{layout.options[name]: drafted[name] for name in changed},
            **{layout.protect: [], layout.region: WHOLE, layout.area_note: render_chips_note([])},
            **self.show_waiting(session),
        }

    def request_sample(self, _session: Session, *values: Any) -> PaintRequest:
        """Return the request to paint a draft of the pair of the invitation, with the other options as they are.

        Raises:
            OptionError: a value is missing or out of range.
        """
        photo, painting = render.INVITATION_PAIR
        options = controls.options_from_values(self._draft(values).values())
        return PaintRequest(
            content=select_content(None, photo), styles=select_styles(painting, None, None), options=options
        )

    def _draft(self, values: Sequence[Any]) -> dict[str, Any]:
        """Return the values of the options by name after a choice of the preset draft."""
        current = {**dict(zip(controls.PAGE_OPTIONS, values, strict=True)), "preset": "draft"}
        chosen = controls.apply_bundle("preset", *current.values(), defaults=self.studio.options)
        return current | dict(zip(controls.list_bundle_options("preset"), chosen, strict=True))

    def load_settings(self, session: Session, uploads: list[Upload]) -> Changes:
        """Set the controls to the settings stored in a picture that styler made, and say which cannot be set."""
        layout = self.layout
        if not uploads:
            return {layout.status: gr.skip()}
        session.add_uploads(*uploads)
        try:
            record = self.studio.read_record(uploads[0])
            settings, notes = controls.adopt_settings(record, self.studio.get_machine_options())
            options = resolve_options(("picture", settings)).options
        except StylerError as problem:
            return {layout.status: render.render_error(problem)}
        names, values = controls.PAGE_OPTIONS, controls.values_from_options(options)
        changes: Changes = {layout.options[name]: value for name, value in zip(names, values, strict=True)}
        changes[layout.sizes] = controls.choose_size(options)
        chips, amount, region = chips_from_options(options)
        session.protected = tuple(chips)
        changes |= {layout.protect: chips, layout.protect_amount: amount, layout.region: region}
        changes[layout.area_note] = render_chips_note(chips)
        for index, slider in enumerate(layout.style_weights):
            changes[slider] = gr.update(value=options.style_weights[index] if index < len(options.style_weights) else 1)
        text = " ".join([f"The settings of {uploads[0].name} are set; choose a photo and a painting.", *notes])
        return {**changes, layout.status: render.render_message(text)}

    def show_waiting(self, session: Session, *_values: Any) -> Changes:
        """Confirm the click before the event enters the queue."""
        session.is_discarded, session.is_waiting = False, True
        return {
            self.layout.status: render.render_bar(WAITING),
            self.layout.running_row: gr.update(visible=True),
            self.layout.finished_row: gr.update(visible=False),
            self.layout.stop_button: gr.update(interactive=False),
            self.layout.summary: "",
        }

    def estimate(self, make: MakeRequest, session: Session, *values: Any) -> float | None:
        """Return the seconds that `paint` will take; None if that is unknown."""
        try:
            request = make(session, *values)
        except StylerError:
            return 0.0  # it will only say why
        return self.studio.estimate_photo(request.content, request.options)

    def paint(self, make: MakeRequest, session: Session, *values: Any) -> Generator[Changes, None, None]:
        """Paint: show the live view and the progress, then the finished picture, or why it failed."""
        layout = self.layout
        session.is_waiting = False
        try:
            request = make(session, *values)
            text = "Reading the pictures…" if self.studio.is_ready else "Loading the network…"
            yield {
                layout.options["seed"]: request.options.seed,
                layout.status: render.render_bar(text),
                layout.stop_button: gr.update(interactive=False),
            }
            for item in self.studio.paint(session, request):
                if isinstance(item, FinishedPicture):
                    yield self.show_finished(session, len(session.pictures) - 1)
                    return
                yield {
                    layout.stage: render.render_live_view(item),
                    layout.status: render.render_progress(item),
                    layout.stop_button: gr.update(interactive=True),
                }
            yield self.show_discarded(session)
        except StylerError as problem:
            yield self.show_idle(session, render.render_error(problem))

    def stop(self, session: Session) -> None:
        """Stop painting and keep the best picture so far."""
        session.stop_work()

    def discard(self, session: Session) -> Changes:
        """Stop painting, or waiting, and keep nothing."""
        session.discard_work()
        return self.show_discarded(session)

    def show_failure(self, session: Session) -> Changes:
        """Show why the event of `paint` ended without a message of its own."""
        if session.is_discarded:  # Gradio counts a canceled event as failed
            return self.show_discarded(session)
        return self.show_idle(session, render.render_error(QUEUE_FULL if session.is_waiting else INTERNAL_ERROR))

    def show_idle(self, session: Session, status: str) -> Changes:
        """Show that nothing is being painted, and the files of the selected picture if there is one."""
        has_picture = bool(session.pictures)
        return {
            self.layout.status: status,
            self.layout.running_row: gr.update(visible=False),
            self.layout.finished_row: gr.update(visible=has_picture),
            self.layout.summary: render.render_summary(session.get_selected_picture()) if has_picture else "",
        }

    def show_discarded(self, session: Session) -> Changes:
        """Show the last picture, or the photo if there is none."""
        message = render.render_message("Discarded.")
        if session.pictures:
            return {**self.show_finished(session, len(session.pictures) - 1), self.layout.status: message}
        return {**self.show_idle(session, message), self.layout.stage: session.photo_html or render.render_invitation()}

    def select(self, session: Session, index: int) -> Changes:
        """Show an earlier picture of the session."""
        if session.is_painting or not 0 <= index < len(session.pictures):
            return {self.layout.status: gr.skip()}
        return self.show_finished(session, index)

    def show_finished(self, session: Session, index: int) -> Changes:
        """Show a finished picture of the session with its files."""
        layout, picture, session.selected = self.layout, session.pictures[index], index
        session.is_mask_shown = False
        outcome = "Stopped; this is the best picture so far." if picture.record["stopped"] else "Done."
        return {
            **self.show_idle(session, render.render_message(outcome, "Drag the line to compare.")),
            layout.stage: render.render_comparison(session.pictures, index),
            layout.png: gr.update(value=str(picture.png)),
            layout.jpeg: gr.update(value=str(picture.jpeg)),
            layout.deep_button: gr.update(visible=True),
            **{button: gr.update(visible=False) for button in layout.deep_files.values()},
            layout.losses_panel: gr.update(visible=True),
            layout.losses_plot: gr.update(**render.make_losses_plot(picture.losses)),
            layout.losses_legend: render.render_loss_legend(picture.losses),
            layout.history: gr.update(
                value=[(str(each.thumbnail), f"{number}") for number, each in enumerate(session.pictures, start=1)],
                visible=len(session.pictures) > 1,
                selected_index=None,
            ),
        }

    def make_deep_files(self, session: Session) -> Changes:
        """Encode the selected picture in 16 bits and offer the files."""
        layout = self.layout
        try:
            picture = session.get_selected_picture()
            files = {
                button: gr.update(value=str(picture.make_deep_file(suffix)), visible=True)
                for suffix, button in layout.deep_files.items()
            }
        except StylerError as problem:
            return {layout.status: render.render_error(problem)}
        return {**files, layout.deep_button: gr.update(visible=False)}


@dataclass(frozen=True, slots=True)
class BatchHandlers:
    """The events of the Batch tab."""

    studio: Studio
    layout: BatchLayout
    stopping: ClassVar[str] = "Stopping…"
    """Confirms the click on Stop."""

    def show_waiting(self, session: Session, *_values: Any) -> Changes:
        """Confirm the click before the event enters the queue."""
        session.is_discarded, session.is_waiting = False, True
        return {
            self.layout.status: render.render_bar(WAITING),
            self.layout.stop_button: gr.update(visible=True, interactive=True),
            self.layout.archive: gr.update(visible=False),
        }

    def estimate(self, _session: Session, *values: Any) -> float | None:
        """Return the seconds that `paint` will take; None if that is unknown."""
        try:
            contents, styles = select_batch_inputs(*values[:3])
            options = controls.options_from_batch_values(values[3:], self.studio.options)
        except StylerError:
            return 0.0  # it will only say why
        times = [self.studio.estimate_photo(photo, options) for photo in contents]
        known = [seconds for seconds in times if seconds is not None]
        return len(styles) * sum(known) if len(known) == len(times) else None

    def paint(self, session: Session, *values: Any) -> Generator[Changes, None, None]:
        """Paint a batch: show its rows and its gallery, then the archive, or why it failed."""
        layout = self.layout
        session.is_waiting = False
        if session.is_discarded:  # while it waited in the queue
            yield self.show_idle(render.render_message(STOPPED_WAITING))
            return
        yield {
            layout.status: render.render_bar("Reading the pictures…"),
            layout.gallery: gr.update(value=None, visible=False),
            layout.rows: "",
        }
        shown = 0
        try:
            contents, styles = select_batch_inputs(*values[:3])
            options = controls.options_from_batch_values(values[3:], self.studio.options)
            for view in batch_view.paint_batch(self.studio, session, contents, styles, options):
                changes: Changes = {
                    layout.status: render.render_batch_status(view, is_finished=False),
                    layout.rows: render.render_batch_rows(view.rows.values()),
                }
                if len(view.gallery) > shown:
                    shown = len(view.gallery)
                    pictures = [(str(path), caption) for path, caption in view.gallery]
                    changes[layout.gallery] = gr.update(value=pictures, visible=True)
                yield changes
            yield {
                **self.show_idle(render.render_batch_status(view, is_finished=True)),
                layout.archive: gr.update(
                    value=str(view.archive) if view.archive else None, visible=bool(view.archive)
                ),
            }
        except StylerError as problem:
            yield self.show_idle(render.render_error(problem))

    def stop(self, session: Session) -> None:
        """Stop painting or waiting; finished pictures are kept."""
        session.discard_work()

    def show_failure(self, session: Session) -> Changes:
        """Show why the event of `paint` ended without a message of its own."""
        if session.is_discarded and session.is_waiting:
            return self.show_idle(render.render_message(STOPPED_WAITING))
        return self.show_idle(render.render_error(QUEUE_FULL if session.is_waiting else INTERNAL_ERROR))

    def show_idle(self, status: str) -> Changes:
        """Show that nothing is being painted."""
        return {self.layout.status: status, self.layout.stop_button: gr.update(visible=False)}
