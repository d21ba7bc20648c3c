"""The line in front of the one painter: whose turn it is, how long the others wait, and the thread that paints.

Gradio runs all events that paint at once; they wait here. It has no public interface to its own queue, so what is set
there is private to it.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from styler.errors import StylerError
from styler.options import format_duration

if TYPE_CHECKING:
    import gradio as gr

PAINTER: dict[str, Any] = {"concurrency_id": "painter", "concurrency_limit": None}
"""Concurrency of all heavy events: Gradio runs all of them, and `PainterThread` does their work one by one."""
PRIVATE_EVENT: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
QUEUED_EVENT = {**PRIVATE_EVENT, **PAINTER}
"""Settings of events that paint."""
WALL_EVENT = {
    **PRIVATE_EVENT,
    **{"concurrency_id": "wall", "concurrency_limit": None},
    "trigger_mode": "multiple",  # a new round ends the one before
}
"""Settings of the events that paint previews while nobody paints."""
INSTANT_EVENT = {**PRIVATE_EVENT, "queue": False}
"""Settings of all other events."""
IDLE_SECONDS = 0.02
"""Seconds between two checks of an empty queue; stock Gradio checks a thousand times a second, at 5% of a core."""
MAX_GRADIO_SESSIONS = 32
"""Sessions whose components Gradio remembers, at 0.2 MB each; beyond it, the one that was idle longest is dropped. That
loses nothing: pictures and settings are not kept there."""
TASK_MARK, HIDDEN_MARK = "<gradio-sep>", "<own-sep>"
"""What is before the id of the event in the name of Gradio's task, and in that of a task that is hidden from it."""
QUEUE_FULL = "The queue is full; try again in a few minutes."
INVALID_VALUES = "The values do not fit the page; reload it and try again."
MAX_UNREAD = 500
"""Messages that a visitor may leave unread, at up to 0.1 MB each, before the work is stopped: two minutes' worth."""
MAX_EVENTS = 200
"""Events that Gradio runs in addition to those that may wait here."""
HEARTBEAT_SECONDS = 0.25
"""Seconds without an item after which `None` is yielded, so that the server notices when the visitor has gone."""
HOLD_SECONDS = 1.0
"""Seconds for which previews wait for a visitor who has clicked Paint to enter the line."""
PLACE_SECONDS = 1.0
"""Seconds between two reports to a visitor who waits."""
MAX_WAITING = 32
"""Limit on the pieces of work that wait, unless the server sets another."""
MAX_ACCOUNTS = 1000
"""Visitors whose painting time is remembered."""
NOBODY = "nobody"
"""The common visitor of all calls that name no session."""
WAIT_MARGIN = 1.1
"""What is told is longer than what is expected by this factor: people mind a late start more than an early one."""
MAX_DELAY, DELAY_SECONDS = 1.2, 1.0
"""Nobody is let in before a visitor whose wait would then be longer than this factor times the wait told first, plus so
many seconds."""
RAISE_SECONDS = 2.0
"""The wait shown becomes longer only if it was too short by so many seconds and by a tenth."""

Yielded = TypeVar("Yielded")


def open_queue(page: "gr.Blocks", max_size: int) -> None:
    """Let Gradio run all events of the page at once, `max_size` waiting ones and others, and refuse a flood of them."""
    page.queue(max_size=max_size + MAX_EVENTS, default_concurrency_limit=4, api_open=False)
    queue: Any = page._queue
    queue.max_thread_count = max_size + MAX_EVENTS  # despite its name, the number of events that it runs at once
    queue.sleep_when_free = IDLE_SECONDS
    page.state_session_capacity = MAX_GRADIO_SESSIONS
    queue.compute_analytics_summary = lambda _records: None  # computed after every event, for a page that is disabled
    queue.send_message = _limit_unread(queue)
    page.preprocess_data = _refuse_values(page.preprocess_data)  # type: ignore[method-assign]
    page.postprocess_data = _skip_unchanged(page.postprocess_data)  # type: ignore[method-assign]


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


def _skip_unchanged(postprocess: Callable[..., Any]) -> Callable[..., Any]:
    """Return `postprocess`, except that components of which an event says nothing cost nothing.

    Gradio builds each of them again, with the schema of its API, for every item of the event; that took half a core.
    """

    async def postprocess_data(event: Any, changes: Any, state: Any) -> Any:
        import gradio as gr

        is_nothing = changes == gr.skip()
        if not is_nothing and not (isinstance(changes, dict) and changes and set(changes) <= set(event.outputs)):
            return await postprocess(event, changes, state)
        changed = copy(event)
        changed.outputs = [] if is_nothing else [*changes]
        values = await postprocess(changed, changes, state) if changed.outputs else []
        known = dict(zip((block._id for block in changed.outputs), values, strict=True))
        return [known.get(block._id, gr.skip()) for block in event.outputs]

    return postprocess_data


def hide_event() -> None:
    """Hide the current event from Gradio, which would cancel it together with any other of its kind and session."""
    task = asyncio.current_task()
    assert task is not None
    task.set_name(task.get_name().replace(TASK_MARK, HIDDEN_MARK))


def show_event(event_id: Any) -> None:
    """Let Gradio find a hidden event, which is about to be canceled."""
    for task in asyncio.all_tasks():
        if task.get_name().endswith(f"{HIDDEN_MARK}{event_id}"):
            task.set_name(task.get_name().replace(HIDDEN_MARK, TASK_MARK))


class QueueFull(StylerError):
    """No further work can wait."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a visitor in the line."""

    ahead: int
    """Pieces of work before this one, without the current one."""
    seconds: float | None
    """Expected wait; None if it is unknown."""

    def describe(self) -> str:
        """Return a sentence on the place and the expected wait."""
        place = "You are next" if self.ahead == 0 else f"You are number {self.ahead + 1} in the queue"
        if self.seconds is None:
            return f"{place}."
        if self.seconds < 0.5:
            return f"{place}; painting starts in a moment."
        return f"{place}; painting starts in about {format_duration(round(self.seconds)).replace('.0', '')}."


@dataclass(slots=True, eq=False)
class _Ticket:
    """A piece of work that waits or is being done."""

    work: Generator[Any, Any, Any]
    stop: Callable[[], None]
    turn: "asyncio.Future[None]"
    """Done when it may begin."""
    key: str
    """Of the visitor."""
    is_idle: bool = False
    """Whether it gives way to all that are not."""
    seconds: float | None = None
    """Expected duration; None if it is unknown."""
    rank: float = 0.0
    """Seconds that its visitor has painted, and those of the visitor's earlier tickets; the least goes first."""
    began: float = 0.0
    latest: float | None = None
    """When it begins at the latest if nobody is let in before it who breaks what was told; None if nothing was."""
    shown: float | None = None
    """When it begins by what the visitor was told last."""
    is_ended: bool = False
    """Whether its visitor has gone."""


class PainterThread:
    """The one thread that paints, since all visitors share one device; it does one piece of work at a time.

    All methods are called on the thread of one event loop, except `expect_duration` and `expect_end`.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="painter")
        self.max_waiting = MAX_WAITING
        """Limit on the pieces of work that wait."""
        self._clock = clock
        self._current: _Ticket | None = None
        self._end: float | None = None  # of the current work, as it expects itself
        self._waiting: list[_Ticket] = []  # in order
        self._idle: list[_Ticket] = []
        self._hold: asyncio.TimerHandle | None = None  # until it ends, nothing idle begins
        self._painted: OrderedDict[str, float] = OrderedDict()  # seconds by visitor; the last is the most recent
        self._mean: float | None = None  # duration of work

    @property
    def is_busy(self) -> bool:
        """Whether anybody paints or waits."""
        return bool(self._waiting) or (self._current is not None and not self._current.is_idle)

    @property
    def is_full(self) -> bool:
        """Whether no further work can wait."""
        return len(self._waiting) >= self.max_waiting

    def expect_duration(self, seconds: float | None) -> None:
        """Correct how long the current work takes as a whole, once it has read its pictures; None changes nothing."""
        ticket = self._current
        if ticket is not None and seconds is not None:
            ticket.seconds = seconds

    def expect_end(self, seconds: float | None) -> None:
        """Record how long the current work will still take, as it expects itself; None if that is unknown."""
        self._end = None if seconds is None else self._clock() + seconds

    async def run(
        self,
        work: Generator[Yielded, Any, Any],
        stop: Callable[[], None],
        key: str = NOBODY,
        seconds: float | None = None,
    ) -> AsyncGenerator[Yielded | Place | None, None]:
        """Wait for the turn of `work`, then yield everything that it yields.

        While it waits, its place is yielded once a second; while it works, `None` whenever a step takes long.
        Closing or canceling this generator removes work that waits; it calls `stop` for work that has begun and returns
        at once. The current step then ends on the thread, which closes `work` before it begins anything else.

        Args:
            work: is advanced on the painter's thread.
            stop: lets the current step end early; called at the end in any case if the work has begun.
            key: of the visitor; who has painted least goes first.
            seconds: expected duration of the work; None if it is unknown.

        Raises:
            QueueFull: too many wait already.
        """
        ticket = self._enter(work, stop, key, seconds)
        async with aclosing(self._serve(ticket)) as items:
            async for item in items:
                yield item

    async def run_when_idle(
        self, work: Generator[Yielded, Any, Any], stop: Callable[[], None], key: str = NOBODY
    ) -> AsyncGenerator[Yielded | None, None]:
        """Yield everything that `work` yields, but only while nobody paints or waits; yield `None` in between.

        As soon as somebody wants to paint, `stop` is called, `work` is closed before the painting begins, and this
        generator ends. Several pieces of such work are done one after another.

        Args:
            work: is advanced on the painter's thread.
            stop: lets the current step end early; called at the end in any case if the work has begun.
            key: of the visitor.
        """
        ticket = _Ticket(work, stop, asyncio.get_running_loop().create_future(), key, is_idle=True)
        self._idle.append(ticket)
        self._advance()
        async with aclosing(self._serve(ticket)) as items:
            async for item in items:
                yield item

    def announce(self) -> None:
        """Interrupt what is done while nobody paints, since somebody is about to enter the line.

        The processor then also answers that visitor's browser sooner. If nobody comes, it goes on after `HOLD_SECONDS`.
        """
        if self._hold:
            self._hold.cancel()
        self._hold = asyncio.get_running_loop().call_later(HOLD_SECONDS, self._end_hold)
        self._interrupt_idle()

    def _end_hold(self) -> None:
        if self._hold:
            self._hold.cancel()
        self._hold = None
        self._advance()

    def forget(self, key: str) -> None:
        """Remove what a visitor who has left is waiting for, and the account of the visitor's painting time."""
        if key == NOBODY:  # others are still there
            return
        self._painted.pop(key, None)
        for line in (self._waiting, self._idle):
            for ticket in [each for each in line if each.key == key]:
                line.remove(ticket)
                ticket.turn.set_result(None)  # it wakes up and finds that it has no turn
        if self._current is not None and self._current.key == key:
            self._interrupt_idle()
            self._advance()
        if self._current is not None and self._current.key == key:
            self._current.is_ended = True

    async def _serve(self, ticket: _Ticket) -> AsyncGenerator[Any, None]:
        """Wait for the turn of a ticket, then do its work step by step."""
        loop, step = asyncio.get_running_loop(), None
        try:
            while not ticket.turn.done():
                yield None if ticket.is_idle else self._tell_place(ticket)
                await asyncio.wait({ticket.turn}, timeout=PLACE_SECONDS)
            while self._has_turn(ticket):
                step = loop.run_in_executor(self.executor, _take_next, ticket.work)
                while not (await asyncio.wait({step}, timeout=HEARTBEAT_SECONDS))[0]:
                    yield None
                if not self._has_turn(ticket):
                    return
                if not (items := step.result()):
                    self._count_duration(ticket)
                    return
                yield items[0]
        finally:
            if step is not None:
                ticket.stop()
                if not step.cancel():
                    step.exception()  # mark it as retrieved: it was raised above if anyone is still listening
                self.executor.submit(ticket.work.close)
            self._leave(ticket)

    def _enter(
        self, work: Generator[Yielded, Any, Any], stop: Callable[[], None], key: str, seconds: float | None
    ) -> _Ticket:
        """Put a ticket in the line, interrupt what is done while nobody paints, and let the first begin."""
        if self.is_busy and self.is_full:
            raise QueueFull(QUEUE_FULL)
        ticket = _Ticket(work, stop, asyncio.get_running_loop().create_future(), key, seconds=seconds)
        own = [each for each in (self._current, *self._waiting) if each and each.key == key and not each.is_idle]
        ticket.rank = self._painted.get(key, 0.0) + sum(self._expect_duration(each) or 0.0 for each in own)
        self._waiting.insert(self._find_place(ticket), ticket)
        self._interrupt_idle()
        self._end_hold()
        if not ticket.turn.done():
            self._tell_place(ticket)  # now: the next one may come before the visitor asks
        return ticket

    def _find_place(self, ticket: _Ticket) -> int:
        """Return the index in the line for a new ticket: before those with a higher rank who still begin in time."""
        starts, seconds, index = self._expect_starts(), self._expect_duration(ticket), len(self._waiting)
        while index and seconds is not None:
            ahead, start = self._waiting[index - 1], starts[index - 1]
            if ahead.rank <= ticket.rank or start is None or ahead.latest is None or start + seconds > ahead.latest:
                break
            index -= 1
        return index

    def _tell_place(self, ticket: _Ticket) -> Place:
        """Return what a visitor who waits is told now, which does not become longer without reason."""
        index, now = self._waiting.index(ticket), self._clock()
        start = self._expect_starts()[index]
        if start is None:
            return Place(index, None)
        expected = now + WAIT_MARGIN * max(0.0, start - now)
        tolerance = max(RAISE_SECONDS, 0.1 * (expected - now))
        if ticket.shown is None or not ticket.shown <= expected <= ticket.shown + tolerance:
            ticket.shown = expected
        wait = max(0.0, ticket.shown - now)
        if ticket.latest is None:
            ticket.latest = now + MAX_DELAY * wait + DELAY_SECONDS
        return Place(index, wait)

    def _expect_starts(self) -> list[float | None]:
        """Return when each waiting ticket is expected to begin, on the clock; None from the first unknown one on."""
        end, starts = self._expect_end(), []
        for ticket in self._waiting:
            starts.append(end)
            seconds = self._expect_duration(ticket)
            end = None if end is None or seconds is None else end + seconds
        return starts

    def _expect_end(self) -> float | None:
        """Return when the current work is expected to end, on the clock; None if that is unknown.

        What the work expects itself is unreliable at first: it knows only its smallest scale.
        """
        now, ticket, own = self._clock(), self._current, self._end
        if ticket is None or ticket.is_idle:
            return now
        seconds = self._expect_duration(ticket)
        if not seconds:
            return own if own is None else max(now, own)
        earlier = ticket.began + seconds
        share = min(1.0, (now - ticket.began) / seconds)
        return max(now, earlier if own is None else share * own + (1 - share) * earlier)

    def _expect_duration(self, ticket: _Ticket) -> float | None:
        return self._mean if ticket.seconds is None else ticket.seconds

    def _advance(self) -> None:
        """Let the first ticket begin if nothing is being done."""
        line = self._waiting or ([] if self._hold else self._idle)
        if self._current is None and line:
            self._current = line.pop(0)
            self._current.began, self._end = self._clock(), None
            self._current.turn.set_result(None)

    def _interrupt_idle(self) -> None:
        """End what is done while nobody paints; the thread closes it before it begins anything else."""
        ticket = self._current
        if ticket is not None and ticket.is_idle:
            self._current = None
            ticket.stop()
            self.executor.submit(ticket.work.close)

    def _has_turn(self, ticket: _Ticket) -> bool:
        """Return whether a ticket may go on: its visitor is still there, and nobody else needs the painter."""
        return ticket is self._current and not ticket.is_ended

    def _leave(self, ticket: _Ticket) -> None:
        """Remove a ticket, add its time to the account of its visitor, and let the next one begin."""
        for line in (self._waiting, self._idle):
            if ticket in line:
                line.remove(ticket)
        if ticket is not self._current:
            return
        if not ticket.is_idle and not ticket.is_ended:
            self._painted[ticket.key] = self._painted.pop(ticket.key, 0.0) + self._clock() - ticket.began
            while len(self._painted) > MAX_ACCOUNTS:
                self._painted.popitem(last=False)
        self._current = None
        self._advance()

    def _count_duration(self, ticket: _Ticket) -> None:
        """Let the next work of unknown duration be expected to take as long as finished work did."""
        seconds = self._clock() - ticket.began
        if not ticket.is_idle:
            self._mean = seconds if self._mean is None else 0.5 * (self._mean + seconds)


def _take_next(work: Generator[Yielded, Any, Any]) -> tuple[Yielded] | tuple[()]:
    """Return the next item in a tuple, or an empty tuple at the end: a future cannot hold a StopIteration."""
    for item in work:
        return (item,)
    return ()
