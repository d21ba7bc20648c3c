"""Work in several threads at once, stopped together. Knows nothing of what the work is."""

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

_Item = TypeVar("_Item")
_Done = TypeVar("_Done")


class Halt(threading.Event):
    """An event that is also set while another one is, and when the program ends."""

    def __init__(self, other: threading.Event | None) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        """Return whether this event or the other one is set, or the program waits for its threads to end."""
        is_other_set = self._other is not None and self._other.is_set()
        return super().is_set() or is_other_set or not threading.main_thread().is_alive()


def map_side_by_side(
    work: Callable[[_Item], Iterable[_Done]], items: Iterable[_Item], workers: int, halt: Halt
) -> Generator[tuple[int, _Done]]:
    """Do work for items in several threads, and yield the index of each with every result as soon as it is there.

    Each item is taken only when a thread is free for it. The first error ends all work, and so does closing this.
    Nothing is yielded once `halt` is set.

    Args:
        work: yields the results of an item; must end soon after `halt` is set.
        items: taken by one thread at a time.
        workers: number of threads.
        halt: ends all work once it is set.
    """
    numbered, lock = enumerate(items), threading.Lock()
    finished: queue.SimpleQueue[tuple[int, _Done] | Exception | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            while not halt.is_set():
                with lock:
                    index, item = next(numbered)
                for result in work(item):
                    finished.put((index, result))
        except StopIteration:
            return
        except Exception as error:  # noqa: BLE001 - raised again by the thread that waits for results
            finished.put(error)
        finally:
            finished.put(None)

    threads = [threading.Thread(target=run) for _ in range(workers)]
    try:
        for thread in threads:
            thread.start()
        while workers:
            ended = finished.get()
            if isinstance(ended, Exception):
                raise ended
            if ended is None:
                workers -= 1
            elif not halt.is_set():
                yield ended
    finally:
        halt.set()
        for thread in threads:
            thread.join()
