"""The environment of PyTorch, the memory that the allocator keeps, and the folders of the user."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from styler import config, environment
from styler.batch.stores import DiskStatsStore
from styler.errors import WeightsError
from styler.objective.moments import Moments
from styler.vgg import registry

PROGRAM = """
from styler import environment
environment.prepare_process()
import psutil, torch
environment.keep_memory({keep}, is_scarce={is_scarce})
def megabytes():
    return psutil.Process().memory_info().rss / 1e6
before = megabytes()
maps = [torch.ones({size} // 4) for _ in range(200_000_000 // {size})]
del maps{freed}
print(megabytes() - before)
environment.return_memory()
print(megabytes() - before)
"""


def measure_kept(
    keep: bool, *, is_scarce: bool = False, size: int = 50_000_000, freed: str = "", **variables: str
) -> list[float]:
    """Return how many of 200 megabytes, in blocks of a size, a process keeps after freeing them; after `return_memory`.

    With `freed`, such as `[::2]`, only some of the blocks are freed.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(keep=keep, is_scarce=is_scarce, size=size, freed=freed)],
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


def test_where_memory_is_scarce_nothing_is_kept_between_blocks_in_use(gnu: None) -> None:
    between: dict[str, Any] = {"size": 5_000_000, "freed": "[::2]"}
    usual, scarce = (measure_kept(keep=False, is_scarce=is_scarce, **between)[0] for is_scarce in (False, True))
    assert 90 < scarce < 120
    assert usual > 180


def test_a_users_own_allocator_settings_are_respected(gnu: None) -> None:
    assert max(measure_kept(keep=True, MALLOC_MMAP_THRESHOLD_="131072")) < 20


def test_a_users_own_spin_count_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    environment.prepare_process()
    assert os.environ["GOMP_SPINCOUNT"] == "7"


@pytest.mark.parametrize(
    ("name", "value"), [("CUBLAS_WORKSPACE_CONFIG", ":4096:8"), ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")]
)
def test_libraries_are_configured_unless_the_user_did(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Matrix products on CUDA are deterministic, and compiled kernels take little memory."""
    monkeypatch.delenv(name, raising=False)
    environment.prepare_process()
    assert os.environ[name] == value
    monkeypatch.setenv(name, "own")
    environment.prepare_process()
    assert os.environ[name] == "own"


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a user without a home, as in a container that runs with any user id."""

    def find_no_account(_uid: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    for name in ("HOME", "USERPROFILE", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", find_no_account)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows users always have a home")
def test_without_a_home_there_are_no_settings_no_cache_and_no_statistics(
    homeless: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert environment.find_config_folder() is None
    assert environment.find_cache_folder() is None
    assert config.list_config_paths() == (Path("styler.toml"),)
    assert registry.list_imported() == ()
    assert not registry.is_cached("vgg19")
    with pytest.raises(WeightsError, match=r"no home; set XDG_CACHE_HOME"):
        registry.load_backbone("vgg19")
    store = DiskStatsStore()
    moments = {"relu1_1": Moments(torch.zeros(2), torch.zeros(2, 2))}
    store.put("key", torch.device("cpu"), moments)
    assert store.get("key", torch.device("cpu")) is None
    assert [*tmp_path.iterdir()] == []


def test_older_versions_of_platformdirs_do_not_make_a_folder_named_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_args, **_named: Path("~/.cache/styler"))
    assert environment.find_cache_folder() is None


def test_a_service_without_a_path_gets_the_one_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PATH")
    environment.prepare_process()
    assert os.environ["PATH"] == os.defpath
