"""Who waits for the painter: their place, how long it may take, and whether there is room for more.

Gradio has no public way to ask its queue.
"""

from typing import Any

import gradio as gr

from ui import show
from ui.studio import Studio

PAINTER = "painter"
"""What all heavy events share: one of them runs at a time."""
IDLE = 0.02
"""Seconds between two looks at an empty queue; stock Gradio looks a thousand times a second, at 5 % of a core."""
SESSIONS = 100
"""Whose components Gradio remembers, at 0.2 MB each; the one that did nothing for longest is forgotten first, and loses
nothing, since pictures and settings are not kept there."""
FULL = "The queue is full; try again in a few minutes."


def open_queue(page: gr.Blocks, most: int) -> None:
    """Give the page a queue for so many."""
    page.queue(max_size=most, default_concurrency_limit=4, api_open=False)
    queue: Any = page._queue
    queue.sleep_when_free = IDLE
    page.state_session_capacity = SESSIONS
    queue.compute_analytics_summary = _no_summary


def _no_summary(_records: Any) -> None:
    """In place of the statistics that Gradio works out after every event, for a page that is switched off here."""


def is_full(page: gr.Blocks) -> bool:
    """Whether nobody else can wait."""
    queue: Any = page._queue
    return queue.max_size is not None and len(queue) >= queue.max_size


def ahead(page: gr.Blocks, session: str | None) -> int | None:
    """How many wait before somebody's first piece of work; None if none of theirs waits."""
    queue: Any = page._queue
    waiting = queue.event_queue_per_concurrency_id.get(PAINTER)
    sessions = [event.session_hash for event in waiting.queue] if waiting else []
    return sessions.index(session) if session in sessions else None


def sentence(studio: Studio, before: int) -> str:
    """What somebody is told who waits behind the work in hand and `before` others."""
    seconds = studio.pace.wait(before)
    place = "You are next" if before == 0 else f"You are number {before + 1} in the queue"
    return f"{place}; your turn comes in about {show.duration(seconds)}." if seconds is not None else f"{place}."
