"""The environment of PyTorch, and the memory that the allocator keeps."""

import os
import subprocess
import sys

import pytest

from styler import environment

PROGRAM = """
from styler import environment
environment.prepare_process()
import psutil, torch
environment.keep_memory({keep})
def megabytes():
    return psutil.Process().memory_info().rss / 1e6
before = megabytes()
maps = [torch.ones(50_000_000 // 4) for _ in range(4)]
del maps
print(megabytes() - before)
environment.return_memory()
print(megabytes() - before)
"""


def measure_kept(keep: bool, **variables: str) -> list[float]:
    """Return how many of 200 megabytes a process keeps after freeing them, and after `return_memory`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(keep=keep)],
        env=inherited | variables,
        check=True,
        capture_output=True,
        text=True,
    )
    return [float(line) for line in process.stdout.split()]


@pytest.fixture
def gnu() -> None:
    if environment._find_malloc_function("mallopt") is None:
        pytest.skip("the allocator of this system is not glibc's")


def test_freed_memory_is_kept_until_it_is_returned(gnu: None) -> None:
    freed, returned = measure_kept(keep=True)
    assert freed > 190
    assert returned < 20


def test_freed_memory_is_returned_at_once_on_request(gnu: None) -> None:
    assert max(measure_kept(keep=False)) < 20


def test_a_users_own_allocator_settings_are_respected(gnu: None) -> None:
    assert max(measure_kept(keep=True, MALLOC_MMAP_THRESHOLD_="131072")) < 20


def test_a_users_own_spin_count_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    environment.prepare_process()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
