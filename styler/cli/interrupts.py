"""Ctrl-C, SIGTERM and SIGHUP: the first asks the run to stop and keep its picture, the second ends the program at once.

Before painting begins there is nothing to keep, so the first one ends the program too. A closed terminal and a used-up
CPU time are reported more than once, so only Ctrl-C and SIGTERM count as the second. SIGQUIT ends the program at once.
"""

import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

REQUESTS = {"SIGINT": "Interrupted.", "SIGTERM": "Terminated.", "SIGBREAK": "Interrupted."}
"""Signals with which somebody ends the program, and what it then says; SIGBREAK is Ctrl-Break on Windows."""
EVENTS = {"SIGHUP": "The terminal was closed.", "SIGXCPU": "The limit of CPU time is reached."}
"""Signals of events: one event can send several, shells and service managers send them along with SIGTERM."""


def find_signals(names: Iterable[str]) -> set[signal.Signals]:
    """Return the signals of these names that the system has."""
    return {getattr(signal, name) for name in names if hasattr(signal, name)}


class Interrupted(KeyboardInterrupt):
    """Raised in the main thread when a signal ends the program at once; carries the exit code."""

    def __init__(self, number: int) -> None:
        super().__init__((REQUESTS | EVENTS)[signal.Signals(number).name])
        self.exit_code = 128 + number


@dataclass(slots=True, eq=False)
class SignalWatch:
    """The signals received so far."""

    stop: threading.Event = field(default_factory=threading.Event)
    """Set by the first signal once painting has begun."""
    number: int = 0
    """The signal that ends the run; 0 if none was received."""
    is_painting: bool = False

    @property
    def exit_code(self) -> int:
        """Exit code of a program that ended because of the last signal."""
        return 128 + self.number

    def begin(self) -> None:
        """Note that painting begins: from now on the first signal sets `stop` instead of raising.

        Raises:
            Interrupted: an earlier signal's exception was lost, for example in an extension module.
        """
        if self.number:
            raise Interrupted(self.number)
        self.is_painting = True

    def receive(self, number: int, _frame: FrameType | None = None) -> None:
        """Handle a signal.

        Raises:
            Interrupted: the program must end now.
        """
        if self.number and number in find_signals(EVENTS):
            return
        is_second = self.number in find_signals(REQUESTS)
        self.number = number
        if is_second or not self.is_painting:
            raise Interrupted(number)
        self.stop.set()


@contextmanager
def watch_signals() -> Iterator[SignalWatch]:
    """Handle signals until the block ends, then restore the previous handlers.

    Does nothing outside the main thread, and leaves alone signals that the parent process had ignored.
    """
    watch = SignalWatch()
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in find_signals(REQUESTS | EVENTS):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                handlers[number] = signal.signal(number, watch.receive)
    hook = sys.unraisablehook

    def report_unraisable(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, Interrupted):  # lost in a finalizer; `begin` raises it again
            hook(unraisable)

    if handlers:
        sys.unraisablehook = report_unraisable
    try:
        yield watch
    except Exception as error:
        if watch.number and not watch.is_painting:  # a module that was being loaded raised an error of its own
            raise Interrupted(watch.number) from error
        raise
    finally:
        if handlers:
            sys.unraisablehook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler)
