"""The engine of one machine: a worker for each device, each on two threads of this process.

The device works while the next picture is decoded and the last one encoded. A worker waits after every report until it
has been dealt with, so that whoever listens and says stop is heard before the next step, and so that no more than two
pictures a worker are painted and not yet written, whatever kills the program.

Threads share one interpreter, which is busy with Python for a small part of a step alone; where it is the narrow place
(many fast GPUs and small pictures), `ray` has a process for each.
"""

import os
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from styler.batch.worker import AT_ONCE, Orders, Read, Report, Task, Worker
from styler.engine.painter import Painter
from styler.engine.targets import StatsStore
from styler.options import Options

PATIENCE = 5.0
"""Seconds that ending waits for threads, which look between convolutions whether they shall."""


@dataclass(frozen=True, slots=True, eq=False)
class _Said:
    """A report, and what its worker waits for."""

    report: Report
    heard: threading.Event = field(default_factory=threading.Event)


class Local:
    """The workers of this process.

    Args:
        orders: what all pictures share.
        read: reads a picture.
        shelf: where statistics of styles are kept.
        chosen: a device for each worker; that of the options when empty.

    Raises:
        StylerError: a device is absent, or the network cannot be loaded.
    """

    def __init__(self, orders: Orders, read: Read, shelf: StatsStore | None, chosen: Sequence[str] = ()) -> None:
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._inbox: queue.SimpleQueue[_Said | None] = queue.SimpleQueue()
        self._halt = threading.Event()
        self._last: _Said | None = None
        self._settled: dict[int, threading.Event] = {}

        def painter(options: Options) -> Painter:
            made = Painter.of(options)
            made.remember(shelf)
            return made

        every = [_on(orders, device, len(chosen)) for device in chosen or [orders.options.device]]
        self._workers = [Worker(own, read, painter, self._halt) for own in every]
        self.slots = AT_ONCE * len(self._workers)
        self._threads = [
            threading.Thread(target=self._serve, args=(worker, door), daemon=True)
            for worker, door in ((worker, threading.Lock()) for worker in self._workers)
            for _ in range(AT_ONCE)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Task) -> None:
        """Have a picture made."""
        self._settled[task.number] = threading.Event()
        self._tasks.put(task)

    def poll(self, seconds: float) -> Report | None:
        """The next report, if one comes in time; the worker of the last one goes on."""
        self._go_on()
        try:
            self._last = self._inbox.get(timeout=seconds)
        except queue.Empty:
            return None
        return self._last.report if self._last else None

    def wake(self) -> None:
        """Have `poll` return, from another thread."""
        self._inbox.put(None)

    def settled(self, number: int) -> None:
        """Say that a picture is dealt with, so that its thread may take another."""
        self._settled.pop(number).set()

    def stop(self) -> None:
        """Begin nothing new, and drop what is in work."""
        self._halt.set()

    def close(self) -> list[Report]:
        """Stop, and end the threads; what they had still to say of pictures that are done."""
        self.stop()
        self._go_on()
        found: list[Report] = []
        end = time.monotonic() + PATIENCE
        for _ in self._threads:
            self._tasks.put(None)
        while any(thread.is_alive() for thread in self._threads) and time.monotonic() < end:
            for event in [*self._settled.values()]:
                event.set()
            report = self.poll(0.02)
            found += [report] if report else []
        while not self._inbox.empty():
            said = self._inbox.get()
            found += [said.report] if said else []
        for worker in self._workers:
            worker.close()
        return found

    def _go_on(self) -> None:
        if self._last:
            self._last.heard.set()
            self._last = None

    def _serve(self, worker: Worker, door: threading.Lock) -> None:
        """Make one picture after another, until there is None."""
        while True:
            with door:  # so that tickets are in the order of tasks
                task = self._tasks.get()
                if task is None:
                    return
                ticket = worker.ticket()
            settled = self._settled[task.number]
            report = worker.paint(task, ticket, self._tell)
            self._inbox.put(_Said(report))
            settled.wait()

    def _tell(self, report: Report) -> None:
        said = _Said(report)
        self._inbox.put(said)
        said.heard.wait()


def _on(orders: Orders, device: str, workers: int) -> Orders:
    """The orders for a device; workers on the CPU share its cores."""
    options = orders.options.replace(device=device)
    if device == "cpu" and workers > 1 and not options.threads:
        options = options.replace(threads=max(1, (os.cpu_count() or 1) // workers))
    return replace(orders, options=options)
