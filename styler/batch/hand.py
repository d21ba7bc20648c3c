"""One thread for all that PyTorch computes, whoever asks for it."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future


class Hand:
    """A thread that does one thing after another for others, who wait for it.

    All that PyTorch computes for a worker is done by one: every thread that computes gets helpers of its own from
    OpenMP, and once there are more of them than cores they no longer spin between two loops but sleep, which makes
    painting half as slow again.
    """

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[tuple[Callable[[], None], Future[None]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, daemon=True).start()

    def do(self, part: Callable[[], None]) -> None:
        """Have something done, and wait for it; what goes wrong is raised here."""
        done: Future[None] = Future()
        self._asked.put((part, done))
        done.result()

    def rest(self) -> None:
        """End, after what has been asked for."""
        self._asked.put(None)

    def _serve(self) -> None:
        while (asked := self._asked.get()) is not None:
            part, done = asked
            try:
                part()
            except BaseException as error:  # noqa: BLE001 - it is raised where somebody waits
                done.set_exception(error)
            else:
                done.set_result(None)
            del asked, part, done  # nothing is kept while there is nothing to do
