"""Free memory is measured, also within the limits of control groups and processes."""

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from styler.engine.memory import measure
from styler.engine.memory.measure import is_out_of_memory, measure_free_memory

CPU = torch.device("cpu")


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the folder of control groups of a process that is in none yet, on a machine with much free memory."""
    monkeypatch.setattr(measure, "CGROUP_FOLDER", tmp_path / "cgroup")
    monkeypatch.setattr(measure, "CGROUP_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**12))
    return tmp_path / "cgroup"


def enter_group(groups: Path, lines: str) -> None:
    groups.with_name("membership").write_text(lines)


def make_group(folder: Path, limit: object, used: int, cached: int, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    limit_file, usage_file, cache = measure.CGROUP_FILES[version]
    (folder / limit_file).write_text(f"{limit}\n")
    (folder / usage_file).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 17\n{cache} {cached}\nactive_file 5\n")


def test_free_memory_is_at_most_the_memory_of_the_machine() -> None:
    assert 0 < measure_free_memory(CPU) <= psutil.virtual_memory().total


def test_the_pages_of_files_that_the_system_would_drop_are_free(groups: Path) -> None:
    enter_group(groups, "0::/work\n")
    make_group(groups / "work", 3000, 2500, 2000)
    assert measure_free_memory(CPU) == 3000 - (2500 - 2000)


@pytest.mark.parametrize("smallest", ["own", "parent", "root"])
def test_free_memory_respects_the_group_and_all_around_it(groups: Path, smallest: str) -> None:
    enter_group(groups, "0::/parent/own\n")
    for name, folder in (("own", groups / "parent" / "own"), ("parent", groups / "parent"), ("root", groups)):
        make_group(folder, 500 if name == smallest else "max" if name == "own" else 9000, 100, 0)
    assert measure_free_memory(CPU) == 400


def test_free_memory_respects_groups_of_version_1(groups: Path) -> None:
    enter_group(groups, "5:cpuset:/\n4:memory,hugetlb:/outer/inner\n1:name=systemd:/elsewhere\n0::/\n")
    make_group(groups / "memory" / "outer" / "inner", 9223372036854771712, 3000, 0, version=1)
    make_group(groups / "memory" / "outer", 8000, 4000, 1500, version=1)
    assert measure_free_memory(CPU) == 8000 - (4000 - 1500)


@pytest.mark.parametrize("path", ["/docker/0123abcd", "/../../somewhere", "/"])
def test_in_a_container_the_group_is_the_root(groups: Path, path: str) -> None:
    enter_group(groups, f"0::{path}\n")
    make_group(groups, 2000, 500, 100)
    assert measure_free_memory(CPU) == 1600


def test_groups_that_cannot_be_read_do_not_count(groups: Path) -> None:
    assert measure_free_memory(CPU) == 10**12  # no list of groups, as on macOS
    enter_group(groups, "0::/a\n")
    assert measure_free_memory(CPU) == 10**12
    make_group(groups / "a", "max", 10, 0)
    assert measure_free_memory(CPU) == 10**12
    make_group(groups / "a", "nonsense", 10, 0)
    assert measure_free_memory(CPU) == 10**12


def test_free_memory_is_never_negative(groups: Path) -> None:
    enter_group(groups, "0::/a\n")
    make_group(groups / "a", 1000, 5000, 0)
    assert measure_free_memory(CPU) == 0


@pytest.mark.skipif(os.name != "posix", reason="this system has no limits on processes")
@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_free_memory_respects_the_limits_of_the_process(groups: Path, kind: str) -> None:
    """`ulimit -v` and `ulimit -d`."""
    import resource

    number, used = getattr(resource, kind), psutil.Process().memory_info()
    before = resource.getrlimit(number)
    try:
        resource.setrlimit(number, (used.vms + 3 * 10**9, before[1]))
        assert 2.5e9 < measure_free_memory(CPU) < 3.5e9 + (kind == "RLIMIT_DATA") * used.vms
    finally:
        resource.setrlimit(number, before)


def test_out_of_memory_errors_are_recognized() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"))


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("out of memory"), OSError(12, "x")])
def test_other_errors_are_not_out_of_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)
