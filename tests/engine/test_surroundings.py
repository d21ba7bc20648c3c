"""A painter inside other programs: PyTorch's settings, threads, processes, and what stays in memory."""

import copy
import gc
import itertools
import multiprocessing
import pickle
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from styler.engine.device import prepare_torch
from styler.engine.painter import Painter, stylize
from styler.engine.styles import MAX_CACHE_BYTES, StyleCache
from styler.errors import DeviceError, UsageError
from styler.options import Options
from styler.vgg import registry
from styler.vgg.model import Features
from styler.vgg.weights import SLIM, Weights

Array = NDArray[Any]
FAST = Options(size=64, first_size=32, iterations=3, taper=0.6, device="cpu", keep_color=0.3, strength=60)
"""L-BFGS at 32 pixels, Adam at 64, and every term of the objective."""


# PyTorch's settings


@contextmanager
def use_double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def use_default_device(name: str) -> Iterator[None]:
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def use_deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(mode=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=False)


@contextmanager
def use_fast_products() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "gradients disabled": lambda: torch.set_grad_enabled(False),
    "float64 by default": use_double,
    "meta by default": lambda: use_default_device("meta"),
    "a numbered CPU by default": lambda: use_default_device("cpu:0"),
    "deterministic algorithms": use_deterministic,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "products in bfloat16": use_fast_products,
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
}
"""What programs around styler set: nodes of ComfyUI run in inference mode, scientific ones in float64."""


@pytest.mark.parametrize("name", SURROUNDINGS)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_pictures_are_the_same_in_all_surroundings(use_tiny: None, content: Array, style: Array, name: str) -> None:
    """The painter is made, and used, inside and outside, in every combination."""
    outside = Painter(device="cpu")
    expected = outside.stylize(content, style, FAST).pixels
    with SURROUNDINGS[name]():
        inside = Painter(device="cpu")
        assert np.array_equal(outside.stylize(content, style, FAST).pixels, expected)
        reports = [*inside.stream(content, style, FAST)]
        assert [*map(float, reports[0].losses.values())] == [*map(float, reports[0].terms.values())]
        reports[0].live_view()
    assert np.array_equal(inside.stylize(content, style, FAST).pixels, expected)
    assert np.array_equal(reports[-1].live_view(), expected)


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_weights_are_the_same_in_all_surroundings(name: str) -> None:
    expected = registry.load_backbone(SLIM)
    with SURROUNDINGS[name]():
        painter = Painter(SLIM, device="cpu")
    actual = painter.features(Options(backbone=SLIM))
    with prepare_torch(torch.device("cpu")):
        features = Features(expected, actual.layers, "mixed")
    for conv in features.convs:
        for ours, theirs in zip(actual.get_kernel(conv), features.get_kernel(conv), strict=True):
            assert torch.equal(ours, theirs)
            assert not ours.is_inference()


def test_weights_of_inference_mode_can_be_painted_with(tiny: Weights, content: Array, style: Array) -> None:
    with torch.inference_mode():
        kernels = {name: tensor.clone() for name, tensor in tiny.kernels.items()}
    assert kernels["conv1_1.weight"].is_inference()
    weights = Weights("tiny", tiny.sha256, kernels, {}, {"network": "tiny"})  # without constants, nothing is rescaled
    actual, expected = (
        Painter("tiny", "cpu", weights=each).stylize(content, style, FAST.replace(backbone="tiny"))
        for each in (weights, Weights("tiny", tiny.sha256, tiny.kernels, {}, {"network": "tiny"}))
    )
    assert np.array_equal(actual.pixels, expected.pixels)


def test_the_caller_keeps_its_settings_between_two_reports(painter: Painter, content: Array, style: Array) -> None:
    """A server steps the generator from several threads, and works in between."""
    threads = torch.get_num_threads()
    for make in SURROUNDINGS.values():
        with make():
            before = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_device())
            for _ in itertools.islice(painter.stream(content, style, FAST.replace(threads=threads + 1)), 3):
                assert before == (
                    torch.is_grad_enabled(),
                    torch.is_inference_mode_enabled(),
                    torch.get_default_device(),
                )
                assert torch.get_num_threads() == threads
                assert torch.is_autocast_enabled("cpu") == (make is SURROUNDINGS["autocast"])


# The painter's device


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"precision": "fp16"}, {"device": "cuda"}])
def test_options_for_another_device_or_precision_are_refused(
    painter: Painter, content: Array, style: Array, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    message = r"works on cpu in float32, but the options ask for (cpu in (b?float16)|cuda:0 in float32); .*Painter\.of"
    with pytest.raises(UsageError, match=message):
        painter.stylize(content, style, FAST.replace(**settings))


@pytest.mark.parametrize("settings", [{"precision": "fp32"}, {"device": "auto"}, {"device": " CPU"}])
def test_options_for_the_same_device_and_precision_are_accepted(
    painter: Painter, content: Array, style: Array, settings: dict[str, Any]
) -> None:
    assert painter.stylize(content, style, FAST.replace(**settings)).device == "cpu"


# Threads and processes


def test_threads_can_share_a_painter(painter: Painter, content: Array, style: Array) -> None:
    jobs = [
        FAST.replace(seed=seed, pooling=pooling) for seed, pooling in enumerate(("mixed", "max", "mixed", "average"))
    ]
    expected = [painter.stylize(content, style, options).pixels for options in jobs]
    shared, barrier = Painter(device="cpu"), threading.Barrier(4)

    def work(options: Options) -> Array:
        barrier.wait()
        return shared.stylize(content, style, options).pixels

    with ThreadPoolExecutor(4) as pool:
        actual = [*pool.map(work, jobs)]
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(actual, expected, strict=True))


def test_a_generator_can_be_stepped_from_several_threads(painter: Painter, content: Array, style: Array) -> None:
    expected = painter.stylize(content, style, FAST).pixels
    steps = painter.stream(content, style, FAST)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        result = None
        for pool in itertools.cycle((one, other)):
            if result := pool.submit(next, steps).result().result:
                break
    assert result is not None
    assert np.array_equal(result.pixels, expected)


fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")


def run_forked(work: Callable[[], str]) -> str:
    """Return what `work` returns in a process forked from this one."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking while other threads run
        process = context.Process(target=lambda: sender.send(work()))
        process.start()
    answer: str = receiver.recv() if receiver.poll(60) else "nothing"
    process.kill()
    process.join()
    return answer


@fork
def test_a_forked_process_gets_an_error_in_place_of_waiting_forever(
    painter: Painter, content: Array, style: Array
) -> None:
    def paint(threads: int) -> str:
        torch.set_num_threads(threads)
        try:
            return f"{Painter(device='cpu').stylize(content, style, FAST).iterations} iterations"
        except DeviceError as error:
            return str(error)

    painter.stylize(content, style, FAST.replace(threads=2))
    assert "get_context('spawn')" in run_forked(lambda: paint(2))
    assert run_forked(lambda: paint(1)) == "5 iterations"


def test_a_spawned_process_paints(content: Array, style: Array) -> None:
    options = Options(size=64, first_size=64, iterations=1, device="cpu", threads=2)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        actual = pool.apply(stylize, (content, style, options))
    assert np.array_equal(actual.pixels, stylize(content, style, options).pixels)


# Copies


class House(Options):
    """Somebody's own options."""


@dataclass(frozen=True, kw_only=True)
class Named(Options):
    """Options with a field of their own."""

    name: str = "mine"


def test_painters_options_and_results_can_be_copied(painter: Painter, content: Array, style: Array) -> None:
    expected = painter.stylize(content, style, FAST)
    again = copy.deepcopy(painter).stylize(content, style, copy.deepcopy(FAST))
    assert np.array_equal(again.pixels, expected.pixels)
    for value in (FAST, expected):
        assert type(pickle.loads(pickle.dumps(value))) is type(value)
    assert pickle.loads(pickle.dumps(FAST)) == FAST


def test_a_subclass_of_options_paints(painter: Painter, content: Array, style: Array) -> None:
    expected = painter.stylize(content, style, FAST).pixels
    house = House(**FAST.to_dict())
    assert np.array_equal(painter.stylize(content, style, house).pixels, expected)


# Memory


def list_tensors() -> list[Tensor]:
    gc.collect()
    return [each for each in gc.get_objects() if issubclass(type(each), Tensor)]


def count_new_tensors(before: Mapping[int, "weakref.ref[Tensor]"]) -> tuple[int, int]:
    """Return the number and the bytes of the tensors made since; some that other tests left have no bytes."""
    tensors = [each for each in list_tensors() if id(each) not in before or before[id(each)]() is not each]
    return len(tensors), sum(each.nbytes for each in tensors)


def test_memory_does_not_grow_with_what_was_painted(
    use_tiny: None, content: Array, style: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every painting has another order of layers, pooling, stroke size or style."""
    monkeypatch.setattr("styler.engine.styles.MAX_CACHE_BYTES", 10_000)
    painter, orders = Painter(device="cpu"), itertools.permutations(("relu1_1", "relu2_1", "relu3_1", "relu4_1"))
    amounts, others = [], {id(each): weakref.ref(each) for each in list_tensors()}
    for number, layers in enumerate(orders):
        options = FAST.replace(
            first_size=64,
            iterations=1,
            keep_color=0,
            style_layers=layers[: 2 + number % 3],
            layer_weights=(1.0,),
            content_layers=layers[-1:],
            pooling=("mixed", "max", "average")[number % 3],
            stroke_size=0.5 + 0.02 * number,
            sketch=0.5 * (number % 2),
        )
        painter.stylize(content, style, options)
        if number % 12 == 11:
            amounts.append(count_new_tensors(others))
    (count_before, bytes_before), (count, size) = amounts
    assert count - count_before < 60  # the cache may hold more, but smaller ones
    assert size - bytes_before < 10_000
    assert 5_000 < painter._cache.bytes <= 10_000


def test_a_painter_keeps_few_backbones(tiny: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    """But always the first, which the caller may have given."""
    loaded: list[str] = []

    def load(name: str) -> Weights:
        loaded.append(name)
        return tiny

    monkeypatch.setattr(registry, "load_backbone", load)
    painter = Painter("first", "cpu", weights=tiny)
    for name in ("first", "a", "b", "c", "first", "c", "a", "first"):
        painter.features(FAST.replace(backbone=name))
        assert len(painter._weights) <= 3
        assert painter._networks.keys() <= painter._weights.keys()
    assert loaded == ["a", "b", "c", "a"]


def test_the_cache_of_styles_has_a_bound_below_that_of_a_server() -> None:
    assert MAX_CACHE_BYTES <= 24_000_000
    assert StyleCache().bytes == 0
