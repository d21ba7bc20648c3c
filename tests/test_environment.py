"""Settings of the process: what PyTorch finds, and what the allocator keeps."""

import os
import subprocess
import sys

import pytest

from styler import environment

HELD = """
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


def held(keep: bool, **more: str) -> list[float]:
    """Megabytes of 200 that the process still has after it has freed them, and after it has returned them."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", HELD.format(keep=keep)], env=ours | more, check=True, capture_output=True, text=True
    )
    return [float(line) for line in done.stdout.split()]


@pytest.fixture
def gnu() -> None:
    if environment._find_malloc_function("mallopt") is None:
        pytest.skip("this system's allocator is not GNU's")


def test_freed_memory_stays_at_hand_until_it_is_returned(gnu: None) -> None:
    freed, returned = held(keep=True)
    assert freed > 190
    assert returned < 20


def test_freed_memory_is_returned_at_once_where_it_is_short(gnu: None) -> None:
    assert max(held(keep=False)) < 20


def test_what_a_user_has_told_the_allocator_counts(gnu: None) -> None:
    assert max(held(keep=True, MALLOC_MMAP_THRESHOLD_="131072")) < 20


def test_a_users_own_spin_count_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    environment.prepare_process()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
