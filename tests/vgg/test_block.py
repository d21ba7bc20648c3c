"""Tests of the block: its backward pass matches autograd, and does not modify tensors of others."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from styler.vgg import model
from styler.vgg.model import Block, ConvStep, run_block


def make_block(pooling: str, dtype: torch.dtype = torch.float64) -> Block:
    """Return three seeded convolutions."""
    generator = torch.Generator().manual_seed(3)
    widths = [(3, 5), (5, 4), (4, 6)]
    steps = tuple(
        ConvStep(
            torch.randn((outputs, inputs, 3, 3), generator=generator, dtype=torch.float64).to(dtype),
            (0.1 * torch.randn(outputs, generator=generator, dtype=torch.float64)).to(dtype),
            1,
        )
        for inputs, outputs in widths
    )
    return Block(steps, pooling)


def make_image(height: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    pixels = torch.rand((1, 3, height, width), generator=generator, dtype=torch.float64).to(dtype)
    return pixels.contiguous(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (2, 3)])
@pytest.mark.parametrize("pooling", ["", "max", "average"])
@pytest.mark.parametrize("indices", [(0,), (1, 2), (0, 1, 2), (-1,), (0, -1)])
def test_maps_and_gradient_match_autograd(indices: tuple[int, ...], pooling: str, size: tuple[int, int]) -> None:
    x, ours = make_image(*size), make_block(pooling)
    maps, plain = run_block(x, ours), model._compute_block(x, ours)[0]
    assert len(maps) == 3 + bool(pooling)
    for one, other in zip(maps, plain, strict=True):
        assert torch.equal(one, other)
    one, other = (
        torch.autograd.grad([each[index].square().sum() for index in indices], x)[0] for each in (maps, plain)
    )
    torch.testing.assert_close(one, other)
    assert one.abs().max() > 0


@pytest.mark.parametrize("pooling", ["", "max", "average"])
def test_incoming_gradients_are_not_modified(pooling: str) -> None:
    """Somebody else may use them as well, as in a sum."""
    x = make_image(6, 8)
    maps = run_block(x, make_block(pooling))
    gradients = [torch.randn_like(each) for each in maps]
    before = [each.clone() for each in gradients]
    torch.autograd.grad(maps, x, gradients)
    for one, other in zip(gradients, before, strict=True):
        assert torch.equal(one, other)


def test_gradient_matches_finite_differences() -> None:
    x = make_image(5, 6)
    assert torch.autograd.gradcheck(lambda pixels: run_block(pixels, make_block("average")), (x,))


def test_nothing_is_saved_without_a_gradient() -> None:
    assert all(each.grad_fn is None for each in run_block(make_image(6, 6).detach(), make_block("max")))
    with torch.no_grad():
        assert all(each.grad_fn is None for each in run_block(make_image(6, 6), make_block("max")))


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the names of all operators, forward and backward, and of those that convert a tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []
        self.casts: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.names.append(name)
        if name == "_to_copy" or (name == "copy_" and args[0].dtype is not args[1].dtype):
            self.casts.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("pooling", ["", "max", "average"])
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_block_converts_nothing(precision: torch.dtype, pooling: str) -> None:
    block = make_block(pooling, precision)
    x = make_image(8, 8, precision)
    with Recorder() as recorder:
        maps = run_block(x, block)
        (gradient,) = torch.autograd.grad(maps, x, [torch.ones_like(each) for each in maps])
    assert {each.dtype for each in (*maps, gradient)} == {precision}
    assert {"relu_", "convolution_backward"} <= {*recorder.names}
    assert not recorder.casts
    wide = make_image(8, 8, torch.float32)
    plain = model._compute_block(wide, make_block(pooling, torch.float32))[0]
    (exact,) = torch.autograd.grad(plain, wide, [torch.ones_like(each) for each in plain])
    assert torch.cosine_similarity(gradient.float().flatten(), exact.flatten(), dim=0) > 0.99


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (2, 3), (9, 4)])
def test_the_gradient_of_max_pooling_that_every_device_can_compute_equals_that_of_pytorch(
    size: tuple[int, int],
) -> None:
    """Also where several values of a square are the largest."""
    before = (4 * make_image(*size).detach()).round().contiguous(memory_format=torch.channels_last)
    pooled, indices = torch.nn.functional.max_pool2d(before, 2, return_indices=True)
    gradient = torch.randn(pooled.shape, dtype=pooled.dtype).contiguous(memory_format=torch.channels_last)
    expected = model._pooling_backward(gradient, before, indices)
    spread = torch.where(model._mark_maxima(indices, before), gradient[..., :, None, :, None], 0)
    height, width = pooled.shape[-2:]
    assert torch.equal(spread.reshape(1, 3, 2 * height, 2 * width), expected[..., : 2 * height, : 2 * width])
    assert not expected[..., 2 * height :, :].any()
    on_meta = model._pooling_backward(gradient.to("meta"), before.to("meta"), indices.to("meta"))
    assert (on_meta.shape, on_meta.stride()) == (expected.shape, expected.stride())


def test_the_border_is_repeated_as_by_pytorch() -> None:
    x = make_image(7, 5)
    ours, theirs = model._repeat_border(x), torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    assert torch.equal(ours, theirs)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    slope = torch.randn(theirs.shape, dtype=theirs.dtype)
    torch.testing.assert_close(*(torch.autograd.grad(padded, x, slope)[0] for padded in (ours, theirs)))
