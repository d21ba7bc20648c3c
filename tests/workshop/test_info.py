"""Tests of `vgg info`: its numbers match the paper and torchvision."""

import sys
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from styler.errors import OptionError, StylerError
from styler.vgg import arch
from styler.workshop import plots
from styler.workshop.info import NETWORK_NAMES, LayerInfo, describe_network, info_to_json

MIB = 2**20


def list_rows(name: str, size: int = 224) -> dict[str, LayerInfo]:
    return {row.name: row for row in describe_network(name, size).rows}


def test_vgg16_has_138_4_million_parameters_and_15_5_gmac_at_224() -> None:
    total = describe_network("vgg16", 224).total(classifier=True)
    assert round(total.parameters / 1e6, 1) == 138.4
    assert round(total.flops / 2e9, 1) == 15.5


def test_first_convolutions_of_blocks_1_to_4_have_the_published_costs() -> None:
    convs = [conv for conv in arch.list_convolutions("vgg16") if conv.index == 1][:4]
    assert [conv.parameters - conv.outputs for conv in convs] == [1_728, 73_728, 294_912, 1_179_648]
    assert [list_rows("vgg16")[conv.name].bytes / MIB for conv in convs] == [12.25, 6.125, 3.0625, 1.53125]


def test_stacked_3x3_kernels_see_as_much_as_a_larger_one_with_fewer_weights() -> None:
    width = 64
    two, three = 2 * 9 * width**2, 3 * 9 * width**2
    assert list_rows("vgg16")["conv1_2"].receptive_field == 5
    assert two * 25 == 18 * 25 * width**2  # 18/25
    stack = {conv.name: conv.receptive_field for conv in arch.list_convolutions("vgg16")}
    before = list_rows("vgg16")["pool2"].receptive_field
    assert (stack["conv3_3"] - before) // 4 + 1 == 7
    assert round(three / (49 * width**2), 2) == 0.55


@pytest.mark.parametrize("name", [name for name in NETWORK_NAMES if not name.startswith("vgg16c")])
def test_parameters_match_torchvision(name: str) -> None:

    with torch.device("meta"):
        theirs = getattr(torchvision.models, name.replace("-bn", "_bn"))(weights=None)
    expected = [module for module in theirs.modules() if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d)]
    total = sum(parameter.numel() for module in expected for parameter in module.parameters())
    assert describe_network(name).total(classifier=True).parameters == total


def test_1x1_convolutions_of_configuration_c_do_not_enlarge_the_receptive_field() -> None:
    convs = list_rows("vgg16c")
    for block in (3, 4, 5):
        assert convs[f"conv{block}_3"].kernel == "1×1"
        assert convs[f"conv{block}_3"].receptive_field == convs[f"conv{block}_2"].receptive_field
    assert round(describe_network("vgg16c").total(classifier=True).parameters / 1e6) == 134  # the paper's table 2


def test_flops_match_the_counter_of_torch() -> None:

    with torch.device("meta"):
        theirs = torchvision.models.vgg11(weights=None)
        with FlopCounterMode(display=False) as counter:
            theirs(torch.rand(1, 3, 224, 224))
    assert counter.get_total_flops() == describe_network("vgg11").total(classifier=True).flops


@pytest.mark.parametrize(("name", "size", "message"), [("vgg12", 224, "vgg11"), ("vgg16", 31, "32")])
def test_unknown_network_and_size_are_rejected(name: str, size: int, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        describe_network(name, size)


def test_chart_has_a_bar_for_every_layer_and_json_every_value(tmp_path: Path) -> None:
    info = describe_network("vgg19-bn", 256)
    figure = plots.plot_info(info)
    assert [len(chart.patches) for chart in figure.axes] == [len(info.rows)] * 4
    path = plots.save_plot(figure, tmp_path / "a.png", overwrite=False)
    with Image.open(path) as image:
        assert image.format == "PNG"
    layers = info_to_json(info)["layers"]
    assert isinstance(layers, list)
    assert len(layers) == len(info.rows)


def test_plots_without_matplotlib_are_rejected_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(StylerError, match=r"^Plots need matplotlib; run 'pip install matplotlib' first\.$"):
        plots.plot_info(describe_network())
