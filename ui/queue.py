"""Who waits for the painter: their place, how long it may take, and whether there is room for more.

Gradio has no public way to ask its queue.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import gradio as gr

from ui import render

if TYPE_CHECKING:
    from ui.studio import Studio

PAINTER = "painter"
"""What all heavy events share: one of them runs at a time."""
IDLE_SECONDS = 0.02
"""Seconds between two looks at an empty queue; stock Gradio looks a thousand times a second, at 5 % of a core."""
MAX_GRADIO_SESSIONS = 100
"""Whose components Gradio remembers, at 0.2 MB each; the one that did nothing for longest is forgotten first, and loses
nothing, since pictures and settings are not kept there."""
QUEUE_FULL = "The queue is full; try again in a few minutes."


def open_queue(page: gr.Blocks, most: int) -> None:
    """Give the page a queue for so many."""
    page.queue(max_size=most, default_concurrency_limit=4, api_open=False)
    queue: Any = page._queue
    queue.sleep_when_free = IDLE_SECONDS
    page.state_session_capacity = MAX_GRADIO_SESSIONS
    queue.compute_analytics_summary = _no_summary


def _no_summary(_records: Any) -> None:
    """In place of the statistics that Gradio works out after every event, for a page that is switched off here."""


def is_full(page: gr.Blocks) -> bool:
    """Whether nobody else can wait."""
    queue: Any = page._queue
    return queue.max_size is not None and len(queue) >= queue.max_size


def count_ahead(page: gr.Blocks, session: str | None) -> int | None:
    """How many wait before somebody's first piece of work; None if none of theirs waits."""
    queue: Any = page._queue
    waiting = queue.event_queue_per_concurrency_id.get(PAINTER)
    sessions = [event.session_hash for event in waiting.queue] if waiting else []
    return sessions.index(session) if session in sessions else None


def describe_wait(studio: "Studio", before: int) -> str:
    """What somebody is told who waits behind the work in hand and `before` others."""
    seconds = studio.pace.wait(before)
    place = "You are next" if before == 0 else f"You are number {before + 1} in the queue"
    return (
        f"{place}; your turn comes in about {render.format_duration(seconds)}." if seconds is not None else f"{place}."
    )


QUEUED_EVENT: dict[str, Any] = {
    "concurrency_id": PAINTER,
    "concurrency_limit": 1,
    "show_progress": "hidden",
    "api_visibility": "private",
}
INSTANT_EVENT: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


News = TypeVar("News")

HEARTBEAT_SECONDS = 0.25
"""Seconds without news after which `None` is yielded, so that the server can see whether anybody is still there."""


class PainterThread:
    """Where the work is done: one thread, since one device is shared, and one piece of work at a time."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="painter")
        self._turn = asyncio.Lock()

    async def steps(
        self, work: Generator[News, Any, Any], stop: Callable[[], None]
    ) -> AsyncGenerator[News | None, None]:
        """Everything that `work` yields, with `None` in between while a step takes long.

        Closing or cancelling this calls `stop`, waits until the step under way has ended, and closes the work.
        """
        async with self._turn:
            loop, step = asyncio.get_running_loop(), None
            try:
                while True:
                    step = loop.run_in_executor(self.thread, _next, work)
                    while not (await asyncio.wait({step}, timeout=HEARTBEAT_SECONDS))[0]:
                        yield None
                    found = step.result()
                    if not found:
                        return
                    yield found[0]
            finally:
                stop()
                if step is not None:
                    await asyncio.wait({step})
                    step.exception()  # known by now to whoever is still there
                await loop.run_in_executor(self.thread, work.close)


def _next(work: Generator[News, Any, Any]) -> tuple[News] | tuple[()]:
    """The next news, or nothing at the end: a future cannot hold a StopIteration."""
    for news in work:
        return (news,)
    return ()
