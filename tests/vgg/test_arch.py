"""Tests of the VGG family's table: it matches torchvision, and its arithmetic matches a running network."""

from collections import OrderedDict

import pytest
import torch
import torchvision
from torch import nn

from styler.errors import OptionError
from styler.vgg import arch
from styler.vgg.model import Features
from styler.vgg.weights import Weights

STANDARD = ("vgg11", "vgg13", "vgg16", "vgg19")


@pytest.mark.parametrize("network", STANDARD)
def test_table_matches_torchvision(network: str) -> None:
    with torch.device("meta"):
        model = getattr(torchvision.models, network)(weights=None)
    theirs = [(m.in_channels, m.out_channels) for m in model.features if isinstance(m, nn.Conv2d)]
    assert [(conv.inputs, conv.outputs) for conv in arch.list_convolutions(network)] == theirs


@pytest.mark.parametrize(("network", "count"), [("vgg11", 8), ("vgg13", 10), ("vgg16", 13), ("vgg19", 16)])
def test_name_counts_the_convolutions_and_three_more_layers(network: str, count: int) -> None:
    assert len(arch.list_convolutions(network)) == count == int(network.removeprefix("vgg")) - 3


def test_layers_have_the_names_of_the_literature() -> None:
    assert arch.list_layers("vgg16") == (
        *("relu1_1", "relu1_2", "relu2_1", "relu2_2", "relu3_1", "relu3_2", "relu3_3"),
        *("relu4_1", "relu4_2", "relu4_3", "relu5_1", "relu5_2", "relu5_3"),
    )


@pytest.mark.parametrize("name", ["relu4_2", "conv4_2", "Conv4_2", " RELU4_2 "])
def test_conv4_2_means_its_rectified_output(name: str) -> None:
    assert arch.canonicalize_layer(name, "vgg16") == "relu4_2"


@pytest.mark.parametrize("name", ["relu6_1", "conv4_9", "20", "", "relu"])
def test_unknown_layer_is_rejected_with_the_valid_names(name: str) -> None:
    with pytest.raises(OptionError) as caught:
        arch.canonicalize_layer(name, "vgg11")
    assert f"'{name}'" in str(caught.value)
    assert all(layer in str(caught.value) for layer in arch.list_layers("vgg11"))


def test_reach_is_what_an_output_sees_beyond_its_own_square(tiny: Weights) -> None:
    """By the gradient of one output in the middle, whose square begins at pixel 64; all filters fire."""
    features = Features(tiny, arch.list_layers("tiny"), "average").double()
    for buffer in features.buffers():
        buffer.abs_()
    image = torch.rand(1, 3, 144, 144, dtype=torch.float64).requires_grad_()
    maps = features(image)
    for conv in arch.list_convolutions("tiny"):
        place = 64 // conv.stride
        (gradient,) = torch.autograd.grad(maps[conv.layer][0, :, place, place].sum(), image, retain_graph=True)
        seen = gradient.abs().sum(dim=(0, 1, 3)).nonzero()[:, 0].tolist()
        assert (seen[0], seen[-1] + 1) == (64 - conv.reach, 64 + conv.stride + conv.reach)


@pytest.mark.parametrize(
    ("network", "layer", "margin"),
    [("vgg16", "relu5_1", 64), ("vgg19", "relu5_1", 80), ("vgg16", "relu4_1", 32), ("vgg16", "relu1_1", 1)],
)
def test_the_margin_is_the_reach_as_a_multiple_of_the_stride(network: str, layer: str, margin: int) -> None:
    convs = arch.list_convolutions_until(network, [layer])
    assert arch.compute_margin(convs) == margin
    assert margin - convs[-1].stride < convs[-1].reach <= margin
    assert arch.compute_margin([]) == 0


def test_unknown_network_is_rejected_with_the_valid_names() -> None:
    with pytest.raises(OptionError, match="'resnet50' is not a VGG network") as caught:
        arch.list_convolutions("resnet50")
    assert all(network in str(caught.value) for network in STANDARD)


def test_layer_missing_from_a_shallow_network_becomes_the_last_of_its_block() -> None:
    assert arch.find_nearest_layer("relu4_3", "vgg11") == "relu4_2"
    assert arch.find_nearest_layer("relu1_2", "vgg11") == "relu1_1"
    assert arch.find_nearest_layer("relu4_3", "vgg16") == "relu4_3"


def test_convolutions_end_at_the_last_requested_layer() -> None:
    assert [conv.name for conv in arch.list_convolutions_until("vgg11", ["relu3_1", "relu1_1"])] == [
        "conv1_1",
        "conv2_1",
        "conv3_1",
    ]
    assert arch.list_convolutions_until("vgg16", []) == ()


def test_strides_double_from_block_to_block() -> None:
    assert {conv.block: conv.stride for conv in arch.list_convolutions("vgg19")} == {1: 1, 2: 2, 3: 4, 4: 8, 5: 16}


def test_gradient_of_an_output_covers_its_receptive_field(tiny: Weights) -> None:
    ones = OrderedDict((name, torch.ones_like(kernel) / kernel[0].numel()) for name, kernel in tiny.kernels.items())
    weights = Weights("tiny", "", ones, {}, {})
    layers = arch.list_layers("tiny")
    image = torch.ones((1, 3, 320, 320), requires_grad=True)
    outputs = Features(weights, layers, "average")(image)
    for conv in arch.list_convolutions("tiny"):
        maps = outputs[conv.layer]
        middle = maps.shape[-1] // 2
        (gradient,) = torch.autograd.grad(maps[0, 0, middle, middle], image, retain_graph=True)
        seen = gradient.abs().sum(dim=(0, 1)).nonzero()
        extent = seen.amax(dim=0) - seen.amin(dim=0) + 1
        assert extent.tolist() == [conv.receptive_field] * 2, conv.layer


def test_receptive_fields_of_vgg16_match_the_literature() -> None:
    fields = {conv.layer: conv.receptive_field for conv in arch.list_convolutions("vgg16")}
    assert fields["relu1_1"] == 3
    assert fields["relu2_1"] == 10
    assert fields["relu4_2"] == 76
    assert fields["relu5_3"] == 196


def test_flops_of_vgg16_match_a_manual_count() -> None:
    assert arch.count_flops("vgg16", ["relu1_1"], 256 * 256) == 2 * 9 * 3 * 64 * 256 * 256
    assert arch.count_flops("vgg16", ["relu5_1"], 256 * 256) == pytest.approx(37.7e9, rel=5e-3)
    assert arch.count_flops("vgg16", ["relu5_1"], 512 * 512) == 4 * arch.count_flops("vgg16", ["relu5_1"], 256 * 256)


@pytest.mark.parametrize("pooling", ["max", "average", "mixed"])
def test_memory_estimate_covers_what_the_backward_pass_keeps(tiny: Weights, pooling: str) -> None:
    """Count every storage that autograd keeps once; the estimate adds the memory of the backward pass itself."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    layers = arch.list_layers("tiny")
    features = Features(tiny, layers, pooling)
    own = {buffer.untyped_storage().data_ptr() for buffer in features.buffers()}
    image = torch.rand((1, 3, 128, 128), requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = features(image)
    measured = sum(size for address, size in kept.items() if address not in own)
    estimate = arch.estimate_activation_bytes("tiny", layers, 128 * 128)
    assert outputs
    assert measured < estimate < 2.5 * measured


def test_estimated_memory_is_less_with_checkpointing_and_grows_with_the_image() -> None:
    for network in STANDARD:
        plain = arch.estimate_activation_bytes(network, ["relu5_1"], 512 * 512)
        assert arch.estimate_activation_bytes(network, ["relu5_1"], 512 * 512, checkpoint=True) < plain
        assert arch.estimate_activation_bytes(network, ["relu5_1"], 1024 * 1024) == pytest.approx(4 * plain)
        assert arch.estimate_activation_bytes(network, ["relu2_1"], 512 * 512) < plain
