"""Settings of the process that make CPUs faster without changing any result; PyTorch reads some of them when it loads.

Whoever is about to load torch calls `prepare` first; what the user has set stays as it is. Loads nothing itself.
"""

import ctypes
import os
from collections.abc import Mapping
from typing import Any

ENVIRONMENT_SETTINGS = {
    # OpenMP's threads spin while they wait: painting becomes several times slower as soon as another program takes a
    # core. Going to sleep at once can make it half as slow again where waking up is slow, so they spin for an instant.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "1500",
}

MALLOC_OPTIONS = {
    "MALLOC_ARENA_MAX": -8,
    "MALLOC_MMAP_MAX_": -4,
    "MALLOC_MMAP_THRESHOLD_": -3,
    "MALLOC_TRIM_THRESHOLD_": -1,
}
"""Parameters of the GNU allocator, by the variables with which a user sets them: their numbers in malloc.h."""
KEEP_FREED = {"MALLOC_MMAP_MAX_": 0, "MALLOC_TRIM_THRESHOLD_": 2**31 - 1}
RETURN_FREED = {"MALLOC_MMAP_MAX_": 65536, "MALLOC_MMAP_THRESHOLD_": 2**25, "MALLOC_TRIM_THRESHOLD_": 2**26}
"""As it is by itself once large blocks have been freed."""


def prepare_process() -> None:
    """Put the settings into the environment, unless they are there, and have all threads allocate from one heap."""
    own_policy = (
        os.environ.get("OMP_WAIT_POLICY", ENVIRONMENT_SETTINGS["OMP_WAIT_POLICY"])
        != ENVIRONMENT_SETTINGS["OMP_WAIT_POLICY"]
    )
    for name, setting in ENVIRONMENT_SETTINGS.items():
        if not (own_policy and name == "GOMP_SPINCOUNT"):  # which would count for more than the policy
            os.environ.setdefault(name, setting)
    _set_malloc_options({"MALLOC_ARENA_MAX": 1})  # the heaps of threads are too small for the largest maps


def keep_memory(keep: bool) -> None:
    """Whether freed memory, up to 2 GB, stays at hand for what is allocated next.

    Activations are large and live for an instant. By itself the GNU allocator takes each from the system and gives it
    back at once, and the system clears every page anew: a tenth of the time. What is kept is cut up in time, which
    takes up to half as much again.
    """
    _set_malloc_options(KEEP_FREED if keep else RETURN_FREED)
    if not keep:
        return_memory()


def return_memory() -> None:
    """Give freed memory that stays at hand back to the system."""
    if trim := _find_malloc_function("malloc_trim"):
        trim(0)


def _set_malloc_options(parameters: Mapping[str, int]) -> None:
    """Set parameters, unless the user has set any."""
    if not any(name in os.environ for name in MALLOC_OPTIONS) and (mallopt := _find_malloc_function("mallopt")):
        for name, value in parameters.items():
            mallopt(MALLOC_OPTIONS[name], value)


def _find_malloc_function(name: str) -> Any:
    """A function of the C library's allocator; None if it has none of that name, as on all systems but GNU's."""
    return getattr(ctypes.CDLL(None), name, None) if os.name == "posix" else None
