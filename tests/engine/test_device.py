"""Devices are chosen by name without fallback, and free memory is measured."""

from pathlib import Path

import psutil
import pytest
import torch

from styler.engine import device
from styler.engine.device import (
    choose_device,
    choose_precision,
    describe_device,
    is_out_of_memory,
    measure_free_memory,
    prepare_device,
    release_memory,
)
from styler.errors import DeviceError

CPU = torch.device("cpu")


@pytest.fixture
def nothing_but_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_auto_is_the_cpu_without_accelerators(nothing_but_a_cpu: None) -> None:
    assert choose_device("auto") == CPU
    assert choose_device(" CPU ") == CPU


def test_auto_prefers_cuda_to_mps(monkeypatch: pytest.MonkeyPatch, two_gpus: None) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("mps")
    assert choose_device("mps") == torch.device("mps")


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1", "mps"])
def test_an_unavailable_device_is_an_error(nothing_but_a_cpu: None, name: str) -> None:
    with pytest.raises(DeviceError, match="--device cpu"):
        choose_device(name)


def test_gpus_are_counted_from_0(two_gpus: None) -> None:
    assert choose_device("cuda") == torch.device("cuda", 0)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(DeviceError, match="no GPU 2; this machine has 2"):
        choose_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "cuda:1.0", "cpu:0", "mps:0", "cuda:0:1", "cuda:²"])
def test_an_unknown_device_is_an_error_that_lists_the_choices(two_gpus: None, name: str) -> None:
    with pytest.raises(DeviceError, match=r"auto, cpu, cuda, cuda:N or mps") as caught:
        choose_device(name)
    assert f"'{name}'" in str(caught.value)


def test_auto_precision_is_single_on_a_cpu_and_half_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision(CPU, "auto") is torch.float32
    assert choose_precision(torch.device("mps"), "auto") is torch.float16
    for supported, expected in ((True, torch.bfloat16), (False, torch.float16)):

        def told(including_emulation: bool = True, supported: bool = supported) -> bool:
            return supported and not including_emulation

        monkeypatch.setattr(torch.cuda, "is_bf16_supported", told)
        assert choose_precision(torch.device("cuda"), "auto") is expected


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_an_explicit_precision_is_used_on_every_device(name: str, dtype: torch.dtype) -> None:
    for kind in ("cpu", "cuda", "mps"):
        assert choose_precision(torch.device(kind), name) is dtype


def test_free_memory_is_at_most_the_memory_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "CGROUP_LIMITS", ())
    actual = measure_free_memory(CPU)
    assert 0 < actual <= psutil.virtual_memory().total


@pytest.mark.parametrize(("limit", "used", "expected"), [("3000\n", "1000\n", 2000), ("500", "100", 400)])
def test_free_memory_respects_the_control_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str, used: str, expected: int
) -> None:
    (tmp_path / "max").write_text(limit)
    (tmp_path / "current").write_text(used)
    monkeypatch.setattr(device, "CGROUP_LIMITS", ((str(tmp_path / "max"), str(tmp_path / "current")),))
    assert measure_free_memory(CPU) == expected


def test_a_control_group_without_limit_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "max").write_text("max\n")
    absent = str(tmp_path / "absent")
    monkeypatch.setattr(device, "CGROUP_LIMITS", ((str(tmp_path / "max"), absent), (absent, absent)))
    assert measure_free_memory(CPU) > 1_000_000


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


def test_a_cpu_needs_no_preparation() -> None:
    before = torch.backends.cudnn.benchmark
    prepare_device(CPU)
    release_memory(CPU)
    assert torch.backends.cudnn.benchmark == before
    assert describe_device(CPU) == "cpu"
