"""What the program finds on a machine: the settings of the process, the folders of the user, if any, and signals.

The settings make CPUs faster without changing any result; some must be set before torch loads, and those that the user
has made are kept. Imports no heavy modules.

Ctrl-C, SIGTERM and SIGHUP: the first asks the run to stop and keep its picture, the second ends the program at once.
Before painting begins there is nothing to keep, so the first one ends the program too. A closed terminal and a used-up
CPU time are reported more than once, so only Ctrl-C and SIGTERM count as the second. SIGQUIT ends the program at once.
"""

import ctypes
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from styler.errors import StylerError

ENVIRONMENT_SETTINGS = {
    # Waiting OpenMP threads spin, so painting becomes several times slower as soon as another program uses a core.
    # Sleeping at once can make it 50% slower where waking up is slow, so they spin briefly.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "1500",
    # Compiled kernels for one shape of picture take 20 MB; by default those for about seven shapes are kept. An
    # iteration needs some hundred of them.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
    # The fixed buffers that NVIDIA's library of matrix products needs to be deterministic.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}

MALLOC_OPTIONS = {
    "MALLOC_ARENA_MAX": -8,
    "MALLOC_MMAP_MAX_": -4,
    "MALLOC_MMAP_THRESHOLD_": -3,
    "MALLOC_TRIM_THRESHOLD_": -1,
}
"""Parameters of the GNU allocator: the variables with which users set them, and their numbers in malloc.h."""
KEEP_FREED = {"MALLOC_MMAP_MAX_": 0, "MALLOC_TRIM_THRESHOLD_": 2**31 - 1}
RETURN_FREED = {"MALLOC_MMAP_MAX_": 65536, "MALLOC_MMAP_THRESHOLD_": 2**25, "MALLOC_TRIM_THRESHOLD_": 2**26}
"""The values that the allocator reaches by itself once large blocks have been freed."""
SPARE_FREED = {"MALLOC_MMAP_MAX_": 65536, "MALLOC_MMAP_THRESHOLD_": 2**20, "MALLOC_TRIM_THRESHOLD_": 2**20}
"""The same for blocks that are not so large: what would be left between those in use is more than what is in use."""


def prepare_process() -> None:
    """Set the environment variables that are not set, and let all threads allocate from one heap."""
    policy = os.environ.setdefault("OMP_WAIT_POLICY", ENVIRONMENT_SETTINGS["OMP_WAIT_POLICY"])
    if policy == ENVIRONMENT_SETTINGS["OMP_WAIT_POLICY"]:  # the spin count would override another policy
        os.environ.setdefault("GOMP_SPINCOUNT", ENVIRONMENT_SETTINGS["GOMP_SPINCOUNT"])
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "CUBLAS_WORKSPACE_CONFIG"):
        os.environ.setdefault(name, ENVIRONMENT_SETTINGS[name])
    os.environ.setdefault("PATH", os.defpath)  # a service may have none, but packages look for programs in it
    _set_malloc_options({"MALLOC_ARENA_MAX": 1})  # the heaps of threads are too small for the largest feature maps


def keep_memory(keep: bool, *, is_scarce: bool = False) -> None:
    """Set whether freed memory, up to 2 GB, is kept for later allocations; if it is scarce, nearly none is.

    Activations are large and short-lived. By default the GNU allocator requests each from the system and returns it
    at once, and the system clears every page again, which takes a tenth of the time, and in tiles a fifth. Memory that
    is kept becomes fragmented, which takes up to 80% more of it.
    """
    _set_malloc_options(KEEP_FREED if keep else SPARE_FREED if is_scarce else RETURN_FREED)
    if not keep:
        return_memory()


def return_memory() -> None:
    """Return freed memory to the system."""
    if trim := _find_malloc_function("malloc_trim"):
        trim(0)


def _set_malloc_options(parameters: Mapping[str, int]) -> None:
    """Set parameters, unless the user has set any."""
    if not any(name in os.environ for name in MALLOC_OPTIONS) and (mallopt := _find_malloc_function("mallopt")):
        for name, value in parameters.items():
            mallopt(MALLOC_OPTIONS[name], value)


def _find_malloc_function(name: str) -> Any:
    """Return a function of the C library's allocator; None if it does not exist, as on systems without glibc."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None


def check_working_folder() -> None:
    """Check that the working folder exists, without which libraries that PyTorch uses end the program.

    Raises:
        StylerError: it has been removed.
    """
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise StylerError("The working folder no longer exists; change to another one.") from error


def find_config_folder() -> Path | None:
    """Return the folder of the user's settings; None without a home, as for unknown users in containers."""
    from platformdirs import user_config_path

    return _find_folder(user_config_path)


def find_cache_folder() -> Path | None:
    """Return the folder of what can be made again; None without a home."""
    from platformdirs import user_cache_path

    return _find_folder(user_cache_path)


def _find_folder(locate: Callable[..., Path]) -> Path | None:
    try:
        folder = locate("styler", appauthor=False)
    except RuntimeError:  # HOME is not set, and the user has no account
        return None
    return folder if folder.is_absolute() else None  # older versions return `~/.cache`


def find_temporary_folder() -> Path:
    """Return the folder for temporary files.

    Raises:
        StylerError: none can be written.
    """
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise StylerError(
            "There is no folder for temporary files: /tmp and the working folder cannot be written; set TMPDIR to a "
            "writable folder."
        ) from error


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
