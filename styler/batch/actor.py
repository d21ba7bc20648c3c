"""An actor of Ray: the worker that `local` has too, in a process of its own, perhaps on another machine.

What it has to say is kept until the driver looks. Loads no Ray.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from styler import environment
from styler.batch import places
from styler.batch.shelf import DiskShelf
from styler.batch.worker import Orders, Report, Task, Worker
from styler.engine.painter import Painter
from styler.engine.result import Pixels, Progress
from styler.errors import DeviceError
from styler.images import Picture
from styler.options import Options
from styler.vgg.weights import Weights

LOOK = 1.0
"""Seconds between two reports of progress, and between two looks."""


class Actor:
    """A worker in a process of Ray's, which can be started again and then knows nothing."""

    def __init__(self) -> None:
        environment.prepare_process()  # what the process inherits is not all of it
        self._halt, self._lock = threading.Event(), threading.Lock()
        self._said: list[Report] = []
        self._due = 0.0
        self._worker: Worker | None = None

    def ready(self, orders: Orders, decode: Callable[..., Picture], weights: Weights, *, shelve: bool) -> int:
        """Get the network onto the device.

        Args:
            orders: what all pictures share.
            decode: from bytes, called `name`, to a picture.
            weights: of the network.
            shelve: whether statistics of styles are kept on this machine.

        Returns:
            The number of the process.

        Raises:
            StylerError: the device is absent.
        """

        def painter(options: Options) -> Painter:
            made = Painter.of(options, weights)
            made.remember(DiskShelf() if shelve else None)
            return made

        def read(path: str, data: bytes | None) -> Picture:
            return decode(places.load(path) if data is None else data, name=path)

        with self._lock:
            if self._worker is None:
                self._worker = Worker(orders, read, painter, self._halt)
        return os.getpid()

    def paint(
        self, number: int, content: str, styles: tuple[str, ...], names: tuple[str, ...], *data: bytes
    ) -> tuple[list[Report], Report] | None:
        """Make one picture.

        Args:
            number: of the picture.
            content: its path or URL.
            styles: likewise.
            names: those of them whose bytes come along.
            data: the bytes.

        Returns:
            What was said of it and not yet looked at, and the last report; None if this process was started again and
            has to be made ready first.
        """
        if self._worker is None:
            return None
        task = Task(number, content, styles, dict(zip(names, data, strict=True)))
        last = self._worker.paint(task, self._worker.ticket(), self._tell)
        with self._lock:
            mine = [report for report in self._said if report.number == number]
            self._said = [report for report in self._said if report.number != number]
        return mine, last

    def look(self) -> list[Report]:
        """What was said since the last look."""
        with self._lock:
            said, self._said = self._said, []
        return said

    def stop(self) -> None:
        """Begin nothing new, and drop what is in work."""
        self._halt.set()

    def _tell(self, report: Report) -> None:
        if report.progress:
            if time.monotonic() < self._due:
                return
            self._due = time.monotonic() + LOOK
            report = replace(report, progress=sendable(report.progress))
        with self._lock:
            self._said.append(report)


def sendable(progress: Progress) -> Progress:
    """A report that another process can read: losses as numbers, and without a preview."""
    return replace(progress, terms={name: torch.tensor(loss) for name, loss in progress.losses.items()}, view=_unseen)


def _unseen() -> Pixels:
    raise DeviceError("There is no preview of a picture that is painted by another machine; wait until it is done.")
