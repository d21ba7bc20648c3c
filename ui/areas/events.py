"""The events of the controls for parts of the photo: each shows on the stage what is meant."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from styler.errors import StylerError
from styler.regions.specs import NOTHING
from ui import render
from ui.areas import choice, drawing
from ui.handlers import Changes, PaintHandlers, select_content
from ui.session import Session, Upload

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class AreaHandlers:
    """What is protected, what is drawn, and which part takes another painting."""

    tab: PaintHandlers

    def choose_chips(
        self, session: Session, content: Upload | None, sample: str | None, chips: Sequence[str]
    ) -> Changes:
        """Show what a click on a chip protects; open the board if that is a drawing which is not there yet."""
        layout, settled = self.tab.layout, choice.settle_chips(session.protected, chips)
        changes = self._show(session, content, sample, settled, is_region=False)
        if choice.DRAWN in settled and not session.photo_html:
            settled = [chip for chip in settled if chip != choice.DRAWN]
        session.protected = tuple(settled)
        return changes if settled == [*chips] else {**changes, layout.protect: settled}

    def choose_region(
        self, session: Session, content: Upload | None, sample: str | None, chips: Sequence[str], region: str
    ) -> Changes:
        """Show the part that takes another painting; open the board if that is a drawing which is not there yet."""
        masks = [region] if region != choice.WHOLE else [*chips]
        changes = self._show(session, content, sample, masks, is_region=region != choice.WHOLE)
        if region == choice.DRAWN and not session.photo_html:
            changes[self.tab.layout.region] = choice.WHOLE
        return changes

    @staticmethod
    def forget_drawing(session: Session, chips: Sequence[str], region: str) -> tuple[Any, Any]:
        """Return what is chosen after a choice of a photo: no drawing, unless it was made on this photo."""
        is_kept = session.photo and session.get_drawing(session.photo)
        forgotten = choice.forget_drawing(chips, region)
        if is_kept or forgotten == ([*chips], region):
            return gr.skip(), gr.skip()  # what has been chosen since stays
        return forgotten

    def open_board(self, session: Session, content: Upload | None, sample: str | None) -> Changes:
        """Open the board with the photo on it."""
        if not session.photo_html or not (content or sample):
            return {self.tab.layout.area_note: drawing.render_note(drawing.NO_PHOTO_YET)}
        return {self.tab.layout.board: drawing.render_board(session.photo_html, next(_numbers))}

    def take_drawing(
        self,
        session: Session,
        content: Upload | None,
        sample: str | None,
        chips: Sequence[str],
        region: str,
        drawn: Sequence[Upload],
    ) -> Changes:
        """Keep what was drawn on the photo, and show it; it is protected if no part takes another painting."""
        layout = self.tab.layout
        if not drawn:
            return {layout.drawn: gr.skip()}
        session.add_uploads(*drawn)
        try:
            photo = select_content(content, sample)
            self.tab.studio.read_mask(drawn[0])
        except StylerError as problem:
            return {layout.drawn: None, layout.area_note: render.render_error(problem)}
        session.drawing = (photo.path, drawn[0])
        is_region = region == choice.DRAWN
        if not is_region and choice.DRAWN not in chips:
            chips = choice.settle_chips((NOTHING,), [*chips, choice.DRAWN])
        session.protected = tuple(chips)
        shown = [choice.DRAWN] if is_region else [*chips]
        changes = self._show(session, content, sample, shown, is_region=is_region)
        return {**changes, layout.drawn: None, layout.protect: [*chips]}

    def _show(
        self, session: Session, content: Upload | None, sample: str | None, masks: Sequence[str], *, is_region: bool
    ) -> Changes:
        """Show masks over the photo, and say which were not found."""
        layout = self.tab.layout
        names = [name for name in masks if name not in (NOTHING, choice.WHOLE)]
        if not names:
            return {**self._show_photo(session), layout.area_note: drawing.render_chips_note(masks)}
        if not session.photo_html or not (content or sample):
            return {layout.area_note: drawing.render_note(drawing.NO_PHOTO_YET)}
        photo = select_content(content, sample)
        changes: Changes = {}
        if choice.DRAWN in names and session.get_drawing(photo) is None:
            names.remove(choice.DRAWN)
            changes = self.open_board(session, content, sample)
        try:
            found = {name: self._load_mask(session, photo, name) for name in names}
        except StylerError as problem:
            return {**changes, **self._show_photo(session), layout.area_note: render.render_error(problem)}
        missing = [name for name, mask in found.items() if mask is None]
        shown = {name: mask for name, mask in found.items() if mask is not None}
        if not shown:
            text = drawing.explain_masks(missing, "", is_region=is_region)
            return {**changes, **self._show_photo(session), layout.area_note: drawing.render_note(text)}
        parts = choice.join_words(shown)
        url = drawing.encode_mask([*shown.values()])
        text = drawing.explain_masks(missing, parts, is_region=is_region)
        stage = self.tab.show_stage(session, drawing.render_masked(session.photo_html, url, parts), "")
        session.is_mask_shown = not session.is_painting
        return {**changes, **stage, layout.area_note: drawing.render_note(text, session.photo_url, url)}

    def _load_mask(self, session: Session, photo: Upload, name: str) -> NDArray[np.uint8] | None:
        if name != choice.DRAWN:
            return self.tab.studio.find_mask(photo, name)
        drawn = session.get_drawing(photo)
        return None if drawn is None else choice.shrink_mask(self.tab.studio.read_mask(drawn)[0, 0].numpy())

    def _show_photo(self, session: Session) -> Changes:
        """Show the photo without the masks over it; anything else stays on the stage."""
        if session.is_mask_shown and session.photo_html:
            return self.tab.show_stage(session, session.photo_html, "")
        return {self.tab.layout.stage: gr.skip()}
