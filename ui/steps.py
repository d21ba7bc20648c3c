"""Work in steps, for a server: made in the painter's own thread, and ended at once when nobody waits for it any more.

A step can take seconds. Whoever cancels, closes the tab or loses the connection shall not have to wait for its end, nor
shall the next visitor: `stop` is set while the step is under way, and the engine looks at it between convolutions.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

News = TypeVar("News")

BEAT = 0.25
"""Seconds without news after which `None` is yielded, so that the server can see whether anybody is still there."""


class Bench:
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
                    while not (await asyncio.wait({step}, timeout=BEAT))[0]:
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
