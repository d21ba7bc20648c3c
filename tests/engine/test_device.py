"""Devices are chosen by name without fallback, and free memory is measured."""

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from styler.engine.device import choose_device, describe_device, isolate_steps, prepare_torch
from styler.engine.memory.measure import release_memory
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


# What a step of work finds of PyTorch's settings


def read_settings() -> dict[str, object]:
    """Return the settings of PyTorch that `prepare_torch` changes."""
    cudnn = torch.backends.cudnn
    return {
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "cudnn": (cudnn.benchmark, cudnn.deterministic),
    }


def read_products() -> list[str]:
    """Return the precisions of matrix products in float32."""
    backends: Any = torch.backends
    return [
        each.fp32_precision
        for each in (backends.mkldnn.matmul, backends.mkldnn.conv, backends.cudnn.conv, backends.cuda.matmul)
    ]


def test_matrix_products_are_exact_inside_a_step() -> None:
    try:
        torch.set_float32_matmul_precision("medium")
        before = read_products()
        with prepare_torch(CPU):
            assert read_products() == ["ieee"] * 4
        assert read_products() == before
        assert "ieee" not in (before[0], before[3])
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@contextmanager
def change_all() -> Iterator[None]:
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    flags = (cudnn.benchmark, cudnn.deterministic)
    cudnn.benchmark, cudnn.deterministic = True, False
    torch.set_num_threads(2)
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
            yield
    finally:
        torch.set_num_threads(threads)
        cudnn.benchmark, cudnn.deterministic = flags


def test_a_new_thread_does_not_begin_with_the_number_of_threads_of_a_step_elsewhere() -> None:
    """PyTorch would give it the number that was set last, in any thread, which changes the last bits."""
    found: list[int] = []

    def work() -> None:
        with prepare_torch(CPU):
            found.append(torch.get_num_threads())
        with prepare_torch(CPU, 1):
            found.append(torch.get_num_threads())
        found.append(torch.get_num_threads())

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with prepare_torch(CPU, 1):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert found == [3, 1, 3]


CUDA = torch.device("cuda", 0)
NEEDED = {"gradients": True, "inference": False, "autocast": False, "device": CPU}


def test_a_step_has_its_own_settings_and_leaves_those_of_the_caller() -> None:
    with change_all():
        before = read_settings()
        with prepare_torch(CUDA, threads=1):
            assert read_settings() == {**NEEDED, "threads": 1, "cudnn": (False, True)}
        assert read_settings() == before
        with pytest.raises(ValueError, match="inside"), prepare_torch(CUDA, threads=1):
            raise ValueError("inside")
        assert read_settings() == before
        with prepare_torch(CPU):
            assert read_settings() == {**NEEDED, "threads": 2, "cudnn": (False, True)}


def test_nothing_stays_changed_between_two_steps() -> None:
    inside: list[dict[str, object]] = []

    def work() -> Generator[int]:
        try:
            for number in range(3):
                inside.append(read_settings())
                yield number
        finally:
            inside.append({})

    with change_all():
        before = read_settings()
        steps = isolate_steps(work(), CUDA, 1)
        for _ in steps:
            assert read_settings() == before
    steps = isolate_steps(work(), CUDA, 1)
    next(steps)
    steps.close()
    expected = {**NEEDED, "threads": 1, "cudnn": (False, True)}
    assert inside == [expected] * 3 + [{}, expected, {}]


def test_threads_that_paint_at_once_share_the_flags_of_cudnn() -> None:
    """The first sets them and the last restores them, in whichever order they end."""
    cudnn = torch.backends.cudnn
    with change_all():
        first, second = prepare_torch(CUDA), prepare_torch(CUDA)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
        second.__exit__(None, None, None)
        assert (cudnn.benchmark, cudnn.deterministic) == (True, False)


def test_a_cpu_needs_no_preparation() -> None:
    release_memory(CPU)
    assert describe_device(CPU) == "cpu"
