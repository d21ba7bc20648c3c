"""Ctrl-C and SIGTERM: the first asks a painting to end and keep what it has, the second ends the program at once.

Before painting begins there is nothing to keep, so that the first ends the program too.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Raised wherever the main thread is when a signal ends the program at once; carries its exit code."""

    def __init__(self, number: int) -> None:
        super().__init__("Interrupted." if number == signal.SIGINT else "Terminated.")
        self.exit_code = 128 + number


@dataclass(slots=True, eq=False)
class SignalWatch:
    """What signals have come so far."""

    stop: threading.Event = field(default_factory=threading.Event)
    """Set by the first signal once painting has begun."""
    number: int = 0
    """The last signal; 0 when none came."""
    painting: bool = False

    @property
    def exit_code(self) -> int:
        """Of a program that ended because of the last signal."""
        return 128 + self.number

    def begin(self) -> None:
        """From here on the first signal asks for the end, and no longer makes it."""
        if self.number:  # its exception was lost in somebody's code
            raise Interrupted(self.number)
        self.painting = True

    def receive(self, number: int, _frame: FrameType | None = None) -> None:
        """The handler of the signals.

        Raises:
            Interrupted: the program is to end now.
        """
        first = not self.number
        self.number = number
        if not (self.painting and first):
            raise Interrupted(number)
        self.stop.set()


@contextmanager
def watch_signals() -> Iterator[SignalWatch]:
    """Watch for signals until the block ends, then leave their handlers as they were.

    Does nothing outside the main thread, and leaves alone a signal that whoever started us wants ignored.
    """
    watch = SignalWatch()
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                before[number] = signal.signal(number, watch.receive)
    hook = sys.unraisablehook

    def unheard(lost: Any) -> None:
        if not isinstance(lost.exc_value, Interrupted):  # raised where nothing can be: `begin` looks for it
            hook(lost)

    if before:
        sys.unraisablehook = unheard
    try:
        yield watch
    except Exception as error:
        if watch.number and not watch.painting:  # a module that was being loaded made another error of the interruption
            raise Interrupted(watch.number) from error
        raise
    finally:
        if before:
            sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
