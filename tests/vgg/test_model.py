"""Tests of the frozen network: its features at any size and precision, and that it can be stopped."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from styler import images, library
from styler.errors import ImageError, OptionError
from styler.options import Options, list_options
from styler.resample import resize
from styler.vgg import arch, model
from styler.vgg.arch import DEFAULT_POOLING, POOLINGS
from styler.vgg.model import Features
from styler.vgg.weights import Weights

Picture = Callable[..., Tensor]
ALL = ("relu1_1", "relu2_1", "relu2_2", "relu3_1", "relu3_2", "relu4_1", "relu4_2", "relu4_3", "relu5_1")
CHECKED = ("relu1_1", "relu2_2", "relu4_2")


class Enough(Exception):
    """Raised by a check to stop the network."""


@pytest.fixture
def convolutions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Record the kernel shapes of all convolutions that run."""
    shapes: list[tuple[int, ...]] = []
    conv2d = F.conv2d

    def counted(x: Tensor, weight: Tensor, *rest: Any, **settings: Any) -> Tensor:
        shapes.append(tuple(weight.shape))
        output: Tensor = conv2d(x, weight, *rest, **settings)
        return output

    monkeypatch.setattr(F, "conv2d", counted)
    return shapes


def load_photo(long_side: int) -> Tensor:
    """Load a photo that comes with styler, (1, 3, H, W)."""
    image = torch.from_numpy(images.read_image(library.find_content("cat")).pixels).permute(2, 0, 1)[None]
    scale = long_side / max(image.shape[-2:])
    return resize(image.contiguous(), round(image.shape[-1] * scale), round(image.shape[-2] * scale))


def compute_original(image: Tensor, layers: tuple[str, ...], pooling: str) -> dict[str, Tensor]:
    """Compute VGG-16 as its authors did: BGR in 0 to 255, minus the mean color; nothing folded, nothing rescaled."""
    stored = load_file(library.find_assets() / "weights" / "vgg16.safetensors")
    x = 255 * image.flip(1) - torch.tensor([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    outputs = {}
    for block, depth in enumerate((2, 2, 3, 3), start=1):
        for index in range(1, depth + 1):
            kernel, bias = (stored[f"conv{block}_{index}.{part}"].float() for part in ("weight", "bias"))
            x = F.relu(F.conv2d(x, kernel, bias, padding=0 if block == index == 1 else 1))
            if f"relu{block}_{index}" in layers:
                outputs[f"relu{block}_{index}"] = x
        smooth = pooling == "average" or (pooling == "mixed" and block <= 2)
        x = F.avg_pool2d(x, 2) if smooth else F.max_pool2d(x, 2)
    return outputs


def measure_difference(outputs: dict[str, Tensor], expected: dict[str, Tensor], vgg16: Weights, pooling: str) -> float:
    """Return the largest relative difference of a layer's features, with the rescaling undone."""
    differences = []
    for layer, maps in expected.items():
        scale = vgg16.mean_activation[pooling][layer.replace("relu", "conv")].reshape(-1, 1, 1)
        differences.append(float((outputs[layer] * scale - maps).norm() / maps.norm()))
    return max(differences)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_embedded_network_matches_the_original_for_rgb(vgg16: Weights, pooling: str) -> None:
    image = load_photo(96)
    expected = compute_original(image, CHECKED, pooling)
    assert measure_difference(Features(vgg16, CHECKED, pooling)(image), expected, vgg16, pooling) < 1e-4


def test_swapped_channel_order_changes_the_features(vgg16: Weights) -> None:
    image = load_photo(96)
    expected = compute_original(image, CHECKED, "max")
    swapped = Features(vgg16, CHECKED)(image.flip(1))
    assert measure_difference(swapped, expected, vgg16, "max") > 0.1


def test_embedded_constants_belong_to_rgb_images(vgg16: Weights) -> None:
    """Mean activations over photos are near 1 in RGB, and farther from it with red and blue swapped."""
    features = Features(vgg16, CHECKED, "average")
    image = load_photo(96)
    right, wrong = (
        [float((maps.mean(dim=(0, 2, 3)) - 1).abs().mean()) for maps in features(x).values()]
        for x in (image, image.flip(1))
    )
    assert right[0] < wrong[0]
    assert max(right) < 1


def test_network_is_frozen(tiny: Weights) -> None:
    features = Features(tiny, ALL)
    assert not features.training
    assert list(features.parameters()) == []
    assert all(not buffer.requires_grad for buffer in features.buffers())
    assert not any(maps.requires_grad for maps in features(torch.rand(1, 3, 32, 32)).values())


def test_layers_are_requested_by_name_and_conv_is_an_alias(tiny: Weights, picture: Picture) -> None:
    image = picture(32, 40)
    outputs = Features(tiny, ["conv4_2", "relu1_1", "relu4_2"])(image)
    assert set(outputs) == {"relu4_2", "relu1_1"}
    assert all((maps >= 0).all() for maps in outputs.values())
    expected = Features(tiny, ["relu4_2"])(image)["relu4_2"]
    torch.testing.assert_close(outputs["relu4_2"], expected, rtol=0, atol=0)


def test_unknown_layer_is_rejected_with_the_valid_names(tiny: Weights) -> None:
    with pytest.raises(OptionError, match="'relu4_4' is not a layer of tiny") as caught:
        Features(tiny, ["relu4_2", "relu4_4"])
    assert all(layer in str(caught.value) for layer in ALL)


@pytest.mark.parametrize(("layers", "count"), [(("relu3_1",), 4), (("relu4_2", "relu1_1"), 7), (ALL, 9)])
def test_nothing_is_computed_beyond_the_last_requested_layer(
    tiny: Weights, convolutions: list[tuple[int, ...]], layers: tuple[str, ...], count: int
) -> None:
    features = Features(tiny, layers)
    features(torch.rand(1, 3, 32, 32))
    assert len(convolutions) == count
    assert len(list(features.buffers())) == 2 * count


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 31), (16, 77), (33, 47), (65, 100)])
def test_any_size_down_to_the_stride_of_the_last_layer_works(tiny: Weights, height: int, width: int) -> None:
    outputs = Features(tiny, ALL)(torch.rand(1, 3, height, width))
    for conv in arch.list_convolutions_until("tiny", ALL):
        assert outputs[conv.layer].shape == (1, conv.outputs, height // conv.stride, width // conv.stride)


@pytest.mark.parametrize(("layers", "side"), [(("relu5_1",), 16), (("relu4_3",), 8), (("relu1_1",), 1)])
def test_shortest_side_is_the_stride_of_the_last_layer(tiny: Weights, layers: tuple[str, ...], side: int) -> None:
    features = Features(tiny, layers)
    assert features.min_side == side
    assert features(torch.rand(1, 3, side, side))[layers[0]].shape[-2:] == (1, 1)


@pytest.mark.parametrize("layers", [("relu1_1", "relu5_1"), ("relu5_1", "relu1_1")])
def test_smaller_image_is_rejected_with_the_required_size_and_the_layer(tiny: Weights, layers: tuple[str, ...]) -> None:
    with pytest.raises(ImageError) as caught:
        Features(tiny, layers)(torch.rand(1, 3, 15, 200))
    assert "200×15" in str(caught.value)
    assert "16 pixels" in str(caught.value)
    assert "relu5_1" in str(caught.value)


def test_features_are_channels_last(tiny: Weights, picture: Picture) -> None:
    for maps in Features(tiny, ALL)(picture(48, 64)).values():
        assert maps.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_rescaling_changes_only_the_scale_of_each_channel(tiny: Weights, picture: Picture, pooling: str) -> None:
    plain = Weights("tiny", "", tiny.kernels, {}, {})
    image = picture(48, 64, 9)
    scaled, raw = Features(tiny, ALL, pooling)(image), Features(plain, ALL, pooling)(image)
    for layer in ALL:
        constants = tiny.mean_activation[pooling][layer.replace("relu", "conv")].reshape(-1, 1, 1)
        torch.testing.assert_close(scaled[layer] * constants, raw[layer], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_mean_activation_over_the_rescaling_images_is_1(tiny: Weights, picture: Picture, pooling: str) -> None:
    features = Features(tiny, ALL, pooling)
    outputs = [features(picture(64, 80, seed)) for seed in range(3)]
    for layer in ALL:
        means = torch.stack([maps[layer].mean(dim=(0, 2, 3)) for maps in outputs]).mean(dim=0)
        raw = tiny.mean_activation[pooling][layer.replace("relu", "conv")]
        alive = raw > 1.001 * raw.min()  # a nearly dead filter has the floor
        torch.testing.assert_close(means[alive], torch.ones_like(means[alive]), rtol=1e-4, atol=1e-4)
        assert (means < 1.001).all()
        assert alive.any()


def test_dead_filter_is_divided_by_a_share_of_the_layer_mean() -> None:
    means = model._floor_means(torch.tensor([0.0, 1e-9, 1.0, 3.0]))
    torch.testing.assert_close(means, torch.tensor([0.05, 0.05, 1.0, 3.0]), rtol=1e-6, atol=0)


def test_rescaling_weights_images_equally_regardless_of_size(tiny: Weights, picture: Picture) -> None:
    kernels = {**tiny.kernels, "conv1_1.bias": torch.ones(4)}  # so that no filter has the floor
    small, large = picture(32, 32, 4), picture(96, 96, 5)
    separate = [model.compute_mean_activations(kernels, "tiny", "max", [image])["conv1_1"] for image in (small, large)]
    both = model.compute_mean_activations(kernels, "tiny", "max", [small, large])["conv1_1"]
    torch.testing.assert_close(both, (separate[0] + separate[1]) / 2)


def test_flat_image_has_no_frame(tiny: Weights) -> None:
    """The first convolution repeats the border; zeros would darken it."""
    maps = Features(tiny, ["relu1_1"])(torch.full((1, 3, 20, 24), 0.7))["relu1_1"]
    torch.testing.assert_close(maps, maps[..., :1, :1].expand_as(maps))
    assert maps.max() > 0.1


def test_missing_constants_for_a_pooling_are_rejected(tiny: Weights) -> None:
    older = replace(tiny, mean_activation={"max": tiny.mean_activation["max"]})
    with pytest.raises(OptionError, match=r"lack the constants for mixed pooling; import .* or use --pooling max"):
        Features(older, ["relu1_1"], "mixed")


def test_poolings_match_the_option() -> None:
    assert list_options()["pooling"].choices == POOLINGS
    assert Options().pooling == DEFAULT_POOLING


def test_average_pooling_differs_from_max_pooling(tiny: Weights, picture: Picture) -> None:
    plain = Weights("tiny", "", tiny.kernels, {}, {})
    image = picture(32, 32)
    most, mean = (Features(plain, ["relu1_1", "relu2_1"], pooling)(image) for pooling in ("max", "average"))
    torch.testing.assert_close(most["relu1_1"], mean["relu1_1"])
    kernel, bias = tiny.kernels["conv2_1.weight"], tiny.kernels["conv2_1.bias"]
    for outputs, pool in ((most, F.max_pool2d), (mean, F.avg_pool2d)):
        expected = F.relu(F.conv2d(pool(outputs["relu1_1"], 2), kernel, bias, padding=1))
        torch.testing.assert_close(outputs["relu2_1"], expected)
    assert (most["relu2_1"] - mean["relu2_1"]).norm() > 0.01 * mean["relu2_1"].norm()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_checkpointing_gives_equal_features_and_gradient(
    tiny: Weights, picture: Picture, convolutions: list[tuple[int, ...]], pooling: str, precision: torch.dtype
) -> None:
    features = Features(tiny, ALL, pooling, precision)
    gradients = []
    for checkpoint, count in ((False, 9), (True, 18)):
        convolutions.clear()
        image = picture(48, 40, 1).requires_grad_()
        outputs = features(image, checkpoint=checkpoint)
        loss = torch.stack([maps.square().mean() for maps in outputs.values()]).sum()
        gradients.append(torch.autograd.grad(loss, image)[0])
        assert len(convolutions) == count  # everything is recomputed, and only with checkpointing
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=0)


@pytest.mark.parametrize("checkpoint", [False, True])
def test_check_can_stop_the_forward_pass_at_every_convolution(
    tiny: Weights, convolutions: list[tuple[int, ...]], checkpoint: bool
) -> None:
    features = Features(tiny, ALL)
    for allowed in range(9):
        calls = iter(range(100))

        def check(calls: object = calls, allowed: int = allowed) -> None:
            if next(calls) == allowed:  # type: ignore[call-overload]
                raise Enough

        convolutions.clear()
        with pytest.raises(Enough):
            features(torch.rand(1, 3, 32, 32).requires_grad_(), check, checkpoint=checkpoint)
        assert len(convolutions) == allowed


@pytest.mark.parametrize("checkpoint", [False, True])
def test_check_can_stop_the_backward_pass_at_every_convolution(tiny: Weights, checkpoint: bool) -> None:
    features = Features(tiny, ALL)
    for allowed in range(9):
        stop, calls = [False], [0]

        def check(stop: list[bool] = stop, calls: list[int] = calls, allowed: int = allowed) -> None:
            calls[0] += stop[0]
            if calls[0] > allowed:
                raise Enough

        image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
        outputs = features(image, check, checkpoint=checkpoint)
        loss = torch.stack([maps.mean() for maps in outputs.values()]).sum()
        stop[0] = True
        with pytest.raises(Enough):
            torch.autograd.grad(loss, image)


def test_check_that_returns_changes_nothing(tiny: Weights, picture: Picture) -> None:
    features, image, calls = Features(tiny, ALL), picture(32, 32), [0]

    def check() -> None:
        calls[0] += 1

    watched, plain = features(image.requires_grad_(), check), features(image)
    for layer in ALL:
        torch.testing.assert_close(watched[layer], plain[layer], rtol=0, atol=0)
    torch.autograd.grad(torch.stack([maps.mean() for maps in watched.values()]).sum(), image)
    assert calls == [18]  # once per convolution and direction


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_is_close_to_single_precision(
    tiny: Weights, picture: Picture, precision: torch.dtype, pooling: str
) -> None:
    """Of the gradient, a few values differ wholly: where another value of a square is the largest."""
    image, gradients = picture(48, 64).requires_grad_(), []
    outputs, expected = Features(tiny, ALL, pooling, precision)(image), Features(tiny, ALL, pooling)(image)
    for layer in ALL:
        assert outputs[layer].dtype is precision
        assert outputs[layer].is_contiguous(memory_format=torch.channels_last)
        assert expected[layer].dtype is torch.float32
        assert (outputs[layer].float() - expected[layer]).norm() < 0.03 * expected[layer].norm()
    for each in (outputs, expected):
        loss = torch.stack([maps.float().square().mean() for maps in each.values()]).sum()
        gradients.append(torch.autograd.grad(image.numel() * loss, image)[0])
    half, single = (each.flatten() for each in gradients)
    assert half.dtype is torch.float32
    assert torch.cosine_similarity(half, single, dim=0) > 0.95


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_the_first_convolution_sees_colors_in_full_precision(
    tiny: Weights, picture: Picture, precision: torch.dtype
) -> None:
    image = picture(48, 64)
    half = Features(tiny, ["relu1_1"], precision=precision)(image)["relu1_1"]
    expected = Features(tiny, ["relu1_1"])(image)["relu1_1"].to(precision)
    assert (half == expected).float().mean() > 0.9


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
def test_all_tensors_of_a_network_are_in_its_precision(tiny: Weights, precision: torch.dtype) -> None:
    readouts = {"relu2_1": torch.eye(6)[:, :4], "relu3_1": torch.eye(8)[:, :6]}
    for weights in (tiny, replace(tiny, readouts=readouts)):
        assert {buffer.dtype for buffer in Features(weights, ALL, precision=precision).buffers()} == {precision}


def test_a_selection_of_layers_shares_the_kernels(tiny: Weights, picture: Picture) -> None:
    whole, image = Features(tiny, tiny.layers), picture(48, 64)
    for layers in (["relu4_2", "relu1_1"], ["conv1_1", "relu4_2"], ["relu5_1"], ["relu3_2", "relu2_1"]):
        selected, alone = whole.select(layers), Features(tiny, layers)
        assert (selected.layers, selected.convs, selected.min_side) == (alone.layers, alone.convs, alone.min_side)
        for (layer, ours), theirs in zip(selected(image).items(), alone(image).values(), strict=True):
            assert torch.equal(ours, theirs), layer
        assert all(a is b for conv in alone.convs for a, b in zip(*map(_kernels(conv), (whole, selected)), strict=True))
    assert whole.layers == tiny.layers


def _kernels(conv: arch.Conv) -> Callable[[Features], tuple[Tensor, Tensor]]:
    return lambda features: features.get_kernel(conv)


def test_the_order_of_the_layers_makes_no_difference(tiny: Weights) -> None:
    assert Features(tiny, ["relu4_2", "conv1_1", "relu1_1"]).layers == ("relu1_1", "relu4_2")


def test_a_selection_cannot_go_beyond_the_last_layer(tiny: Weights) -> None:
    with pytest.raises(OptionError, match=r"relu4_2.*choose from relu1_1, .*relu3_2"):
        Features(tiny, ["relu3_2"]).select(["relu4_2"])
    with pytest.raises(OptionError, match="'relu9_1' is not a layer of tiny; choose from relu1_1"):
        Features(tiny, tiny.layers).select(["relu9_1"])
