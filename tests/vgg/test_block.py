"""A block's own way back is that of autograd, and touches nobody else's tensors."""

import pytest
import torch
from torch import Tensor

from styler.vgg import model
from styler.vgg.model import Block, ConvStep, run_block


def made(pooling: str, dtype: torch.dtype = torch.float64) -> Block:
    """Three seeded convolutions."""
    generator = torch.Generator().manual_seed(3)
    widths = [(3, 5), (5, 4), (4, 6)]
    steps = tuple(
        ConvStep(
            torch.randn((outputs, inputs, 3, 3), generator=generator, dtype=dtype),
            0.1 * torch.randn(outputs, generator=generator, dtype=dtype),
            1,
        )
        for inputs, outputs in widths
    )
    return Block(steps, pooling)


def picture(height: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    pixels = torch.rand((1, 3, height, width), generator=generator, dtype=dtype)
    return pixels.contiguous(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (2, 3)])
@pytest.mark.parametrize("pooling", ["", "max", "average"])
@pytest.mark.parametrize("taken", [(0,), (1, 2), (0, 1, 2), (-1,), (0, -1)])
def test_maps_and_gradient_are_those_of_autograd(taken: tuple[int, ...], pooling: str, size: tuple[int, int]) -> None:
    x, ours = picture(*size), made(pooling)
    found, plain = run_block(x, ours), model._compute_block(x, ours)[0]
    assert len(found) == 3 + bool(pooling)
    for one, other in zip(found, plain, strict=True):
        assert torch.equal(one, other)
    one, other = (torch.autograd.grad([each[index].square().sum() for index in taken], x)[0] for each in (found, plain))
    torch.testing.assert_close(one, other)
    assert one.abs().max() > 0


@pytest.mark.parametrize("pooling", ["", "max", "average"])
def test_gradients_that_come_in_are_left_as_they_are(pooling: str) -> None:
    """They may be somebody else's as well, such as those of a sum."""
    x = picture(6, 8)
    found = run_block(x, made(pooling))
    given = [torch.randn_like(each) for each in found]
    before = [each.clone() for each in given]
    torch.autograd.grad(found, x, given)
    for one, other in zip(given, before, strict=True):
        assert torch.equal(one, other)


def test_a_gradient_is_that_of_finite_differences() -> None:
    x = picture(5, 6)
    assert torch.autograd.gradcheck(lambda pixels: run_block(pixels, made("average")), (x,))


def test_without_a_gradient_nothing_is_kept_for_it() -> None:
    assert all(each.grad_fn is None for each in run_block(picture(6, 6).detach(), made("max")))
    with torch.no_grad():
        assert all(each.grad_fn is None for each in run_block(picture(6, 6), made("max")))


def test_a_half_precision_block_gives_a_gradient_of_the_pictures_own_precision() -> None:
    x = picture(8, 8, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        *_, last = run_block(x, made("average", torch.float32))
    assert last.dtype is torch.bfloat16
    (gradient,) = torch.autograd.grad(last.float().sum(), x)
    assert gradient.dtype is torch.float32
    (exact,) = torch.autograd.grad(run_block(x, made("average", torch.float32))[-1].sum(), x)
    assert torch.cosine_similarity(gradient.flatten(), exact.flatten(), dim=0) > 0.99
