"""The queue in front of the one painter: its place in line and expected wait, its limit, and the thread that paints.

Gradio has no public interface to its queue, so this module reads the private one.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from styler.options import format_duration

if TYPE_CHECKING:
    import gradio as gr

PAINTER = "painter"
"""Concurrency id of all heavy events: one of them runs at a time."""
PRIVATE_EVENT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
QUEUED_EVENT = {**PRIVATE_EVENT, "concurrency_id": PAINTER, "concurrency_limit": 1}
"""Settings of events that paint."""
INSTANT_EVENT = {**PRIVATE_EVENT, "queue": False}
"""Settings of all other events."""
IDLE_SECONDS = 0.02
"""Seconds between two checks of an empty queue; stock Gradio checks a thousand times a second, at 5% of a core."""
MAX_GRADIO_SESSIONS = 32
"""Sessions whose components Gradio remembers, at 0.2 MB each; beyond it, the one that was idle longest is dropped. That
loses nothing: pictures and settings are not kept there."""
QUEUE_FULL = "The queue is full; try again in a few minutes."
INVALID_VALUES = "The values do not fit the page; reload it and try again."
MAX_UNREAD = 500
"""Messages that a visitor may leave unread, at up to 0.1 MB each, before the work is stopped: two minutes' worth."""
SESSION_HASH = re.compile(r"[\w-]{1,64}")
HEARTBEAT_SECONDS = 0.25
"""Seconds without an item after which `None` is yielded, so that the server notices when the visitor has gone."""

Yielded = TypeVar("Yielded")


def open_queue(page: "gr.Blocks", max_size: int) -> None:
    """Give the page a queue with room for `max_size` waiting events."""
    page.queue(max_size=max_size, default_concurrency_limit=4, api_open=False)
    queue: Any = page._queue
    queue.sleep_when_free = IDLE_SECONDS
    page.state_session_capacity = MAX_GRADIO_SESSIONS
    queue.compute_analytics_summary = lambda _records: None  # computed after every event, for a page that is disabled
    queue.send_message = _limit_unread(queue)
    page.preprocess_data = _refuse_values(page.preprocess_data)  # type: ignore[method-assign]


def _limit_unread(queue: Any) -> Callable[..., None]:
    """Return `queue.send_message`, except that an event ends if its visitor does not read what it yields."""
    send = queue.send_message

    def send_message(event: Any, message: Any) -> None:
        unread = queue.pending_messages_per_session.get(event.session_hash)
        if unread is None or unread.qsize() > MAX_UNREAD:
            event.alive = False
            queue.pending_messages_per_session.pop(event.session_hash, None)
        send(event, message)

    return send_message


def _refuse_values(preprocess: Callable[..., Any]) -> Callable[..., Any]:
    """Return `preprocess`, except that values which do not fit their components are the visitor's error, not a bug."""

    async def preprocess_data(*arguments: Any, **settings: Any) -> Any:
        import gradio as gr

        try:
            return await preprocess(*arguments, **settings)
        except Exception as problem:
            raise gr.Error(INVALID_VALUES, print_exception=False) from problem

    return preprocess_data


def explain_event(page: "gr.Blocks", path: str, body: Any) -> str:
    """Return why a request cannot start an event of the page, or an empty text if it can.

    Args:
        page: its events are those that can be started.
        path: of the request; a call names the event there.
        body: of the request.
    """
    if not isinstance(body, dict) or not isinstance(body.get("data"), list):
        return "The request has no list 'data'; give the values of the event."
    name, index, session = path.rpartition("/call/")[2], body.get("fn_index"), body.get("session_hash")
    is_call = name != path
    named = (fn for fn in page.fns.values() if fn.api_name == name)
    event: Any = next(named, None) if is_call else page.fns.get(index) if type(index) is int else None
    if event is None or event.fn is None:
        return "The page has no such event; reload it."
    if not (is_call and session is None) and not (isinstance(session, str) and SESSION_HASH.fullmatch(session)):
        return "The request has no valid 'session_hash'; give up to 64 letters and digits."
    if len(body["data"]) != len(event.inputs):
        return f"The event takes {len(event.inputs)} values, not {len(body['data'])}; see 'styler ui' in the README."
    details = body.get("event_data")
    is_complete = isinstance(details, dict) and type(details.get("index")) is int and "value" in details
    if event.collects_event_data and not is_complete:
        return "The request does not say what was selected; reload the page."
    return "The page has no batched events; leave out 'batched'." if body.get("batched") else ""


def is_full(page: "gr.Blocks") -> bool:
    """Return whether no further event can wait."""
    queue: Any = page._queue
    return queue.max_size is not None and len(queue) >= queue.max_size


def count_ahead(page: "gr.Blocks", session_hash: str | None) -> int | None:
    """Return how many events wait before the first one of a session, or None if none of its events waits."""
    queue: Any = page._queue
    waiting = queue.event_queue_per_concurrency_id.get(PAINTER)
    hashes = [event.session_hash for event in waiting.queue] if waiting else []
    return hashes.index(session_hash) if session_hash in hashes else None


@dataclass(slots=True, eq=False)
class WaitEstimate:
    """The expected wait in the queue, computed from the duration of earlier work."""

    mean_duration: float | None = None
    """Moving average over finished work, in seconds."""
    current_end: float | None = None
    """When the current work is expected to end, on the monotonic clock."""

    def set_remaining(self, seconds: float | None) -> None:
        """Record how long the current work will still take; None if that is unknown."""
        self.current_end = None if seconds is None else time.monotonic() + seconds

    def add_duration(self, seconds: float) -> None:
        """Record the duration of finished work."""
        self.mean_duration = seconds if self.mean_duration is None else 0.5 * self.mean_duration + 0.5 * seconds

    def compute_wait(self, ahead: int) -> float | None:
        """Return the seconds to wait behind the current work and `ahead` others, or None if they are unknown."""
        if self.current_end is None or (ahead and self.mean_duration is None):
            return None
        return max(0.0, self.current_end - time.monotonic()) + ahead * (self.mean_duration or 0.0)

    def describe_wait(self, ahead: int) -> str:
        """Return a sentence on the place in the queue and the expected wait."""
        place = "You are next" if ahead == 0 else f"You are number {ahead + 1} in the queue"
        seconds = self.compute_wait(ahead)
        return f"{place}." if seconds is None else f"{place}; painting starts in about {format_duration(seconds)}."


class PainterThread:
    """The one thread that paints, since all visitors share one device; it does one piece of work at a time."""

    def __init__(self) -> None:
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="painter")
        self._lock = asyncio.Lock()

    async def run(
        self, work: Generator[Yielded, Any, Any], stop: Callable[[], None]
    ) -> AsyncGenerator[Yielded | None, None]:
        """Yield everything that `work` yields, and `None` in between whenever a step takes long.

        Closing or canceling this generator calls `stop` and returns at once. The current step then ends on the thread,
        which closes `work` before it begins anything else.
        """
        async with self._lock:
            loop, step = asyncio.get_running_loop(), None
            try:
                while True:
                    step = loop.run_in_executor(self.executor, _take_next, work)
                    while not (await asyncio.wait({step}, timeout=HEARTBEAT_SECONDS))[0]:
                        yield None
                    items = step.result()
                    if not items:
                        return
                    yield items[0]
            finally:
                stop()
                if step is not None and not step.cancel():
                    step.exception()  # mark it as retrieved: it was raised above if anyone is still listening
                self.executor.submit(work.close)


def _take_next(work: Generator[Yielded, Any, Any]) -> tuple[Yielded] | tuple[()]:
    """Return the next item in a tuple, or an empty tuple at the end: a future cannot hold a StopIteration."""
    for item in work:
        return (item,)
    return ()
