"""What the program finds on a machine: the settings of the process, and the folders of the user, if there are any.

The settings make CPUs faster without changing any result; some must be set before torch loads, and those that the user
has made are kept. Imports no heavy modules.
"""

import ctypes
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from styler.errors import StylerError

ENVIRONMENT_SETTINGS = {
    # Waiting OpenMP threads spin, so painting becomes several times slower as soon as another program uses a core.
    # Sleeping at once can make it 50% slower where waking up is slow, so they spin briefly.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "1500",
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


def prepare_process() -> None:
    """Set the environment variables that are not set, and let all threads allocate from one heap."""
    policy = os.environ.setdefault("OMP_WAIT_POLICY", ENVIRONMENT_SETTINGS["OMP_WAIT_POLICY"])
    if policy == ENVIRONMENT_SETTINGS["OMP_WAIT_POLICY"]:  # the spin count would override another policy
        os.environ.setdefault("GOMP_SPINCOUNT", ENVIRONMENT_SETTINGS["GOMP_SPINCOUNT"])
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ENVIRONMENT_SETTINGS["CUBLAS_WORKSPACE_CONFIG"])
    os.environ.setdefault("PATH", os.defpath)  # a service may have none, but packages look for programs in it
    _set_malloc_options({"MALLOC_ARENA_MAX": 1})  # the heaps of threads are too small for the largest feature maps


def keep_memory(keep: bool) -> None:
    """Set whether freed memory, up to 2 GB, is kept for later allocations.

    Activations are large and short-lived. By default the GNU allocator requests each from the system and returns it
    at once, and the system clears every page again, which takes a tenth of the time. Memory that is kept becomes
    fragmented, which takes up to 50% more of it.
    """
    _set_malloc_options(KEEP_FREED if keep else RETURN_FREED)
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
