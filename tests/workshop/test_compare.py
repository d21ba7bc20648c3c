"""Tests of comparison and diagnosis: a network equals itself, and problems are reported."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from styler.errors import NothingMatched, OptionError, WeightsError
from styler.objective.terms import Objective
from styler.options import Options
from styler.vgg import conventions, registry
from styler.vgg.weights import Weights
from styler.workshop import compare, crops, export, memory, plots, quantize, slim
from styler.workshop.diagnose import EXPLODING, diagnose_network, diagnosis_to_json
from styler.workshop.objectives import build_objective

Picture = Callable[..., Tensor]
SMALL = Options(size=64, iterations=2, first_size=64)


@pytest.fixture
def files(tiny: Weights, tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Write the tiny network: whole, in 8 bits, slim, and as ONNX."""
    monkeypatch.setattr(slim, "MULTIPLE", 1)
    monkeypatch.setattr(
        memory, "measure_peak_memory", lambda *_args: 1e6
    )  # a separate process does not know the tiny network
    data_by_name = {
        "whole.safetensors": quantize.quantize_network(tiny, "float32"),
        "int8.safetensors": quantize.quantize_network(tiny, "int8"),
        "slim.safetensors": slim.dump_network(slim.slim_network(tiny, 0.5, [picture(64, 64)], count=4, side=48)),
    }
    for name, data in data_by_name.items():
        (tmp_path / name).write_bytes(data)
    layers = ["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_3", "relu5_1"]
    export.export_onnx(tiny, layers, tmp_path / "whole.onnx")
    return [str(tmp_path / name) for name in (*data_by_name, "whole.onnx")]


def test_network_scores_equal_to_itself_and_a_slim_one_differs(
    files: list[str], picture: Picture, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript", reason="an ONNX model is among the networks")
    pair = ("pair", picture(64, 80, 1), picture(64, 64, 2))
    log: list[str] = []
    rows = compare.compare_networks(
        [files[0], *files], [pair], SMALL, timed_at=64, keep=tmp_path / "kept", log=log.append
    )
    first, again, whole_numbers, slimmed, onnx = rows
    assert again.objective == first.objective
    assert again.gradient == pytest.approx(1, abs=1e-5)
    assert again.same == pytest.approx(1, abs=1e-6)
    assert compare.average(again.cosine) == pytest.approx(1, abs=1e-5)
    assert abs(whole_numbers.same - 1) < 0.1  # the picture is still close to the photo: its objective is small
    assert whole_numbers.bytes < first.bytes
    assert slimmed.parameters < first.parameters
    assert slimmed.gradient < 0.9999
    assert onnx.gflop != onnx.gflop
    assert compare.average(onnx.cosine) == pytest.approx(1, abs=1e-4)
    assert not onnx.objective
    assert (tmp_path / "kept" / "pair.slim.safetensors.png").is_file()
    assert len(log) == 1 + len(rows)
    lines = compare.format_table(rows)
    assert len(lines) == 2 + len(rows)
    assert lines[-1].count("–") >= 5
    assert len({line.count("|") for line in lines}) == 1
    assert len(plots.plot_comparison(rows).axes[0].collections) == 4  # all but the ONNX model
    assert len(compare.scores_to_json(rows)) == len(rows)


def test_the_objective_of_the_first_network_is_built_once_for_each_pair(
    tiny: Weights, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[object] = []
    build = build_objective

    def counted(*arguments: Any) -> Objective:
        built.append(arguments)
        return build(*arguments)

    monkeypatch.setattr(compare, "build_objective", counted)
    judge, score = compare.Judge(tiny, SMALL), compare.NetworkScore("tiny", 0, 0)
    for number in (1, 2):
        pair = (f"pair {number}", picture(64, 80, number), picture(64, 64, 3))
        for seed in (5, 6):
            painted = picture(51, 64, seed)
            judge.score(score, pair, painted)
            compare._compare_gradients(tiny, score, judge, pair, painted, 2)
    assert len(built) == 2
    assert score.gradient == pytest.approx(2, rel=1e-4)


def test_structure_is_1_for_the_content_itself_and_0_for_noise(picture: Picture) -> None:
    image, noise = picture(96, 96), torch.rand((1, 3, 96, 96), generator=torch.Generator().manual_seed(0))
    assert compare.measure_structure(image, image) == pytest.approx(1)
    assert abs(compare.measure_structure(noise, image)) < 0.3


def test_pairs_are_loaded_from_the_bundled_pictures_or_a_folder(tmp_path: Path, picture: Picture) -> None:
    assert len(compare.load_pairs(None, 4, 64)) == 4
    with pytest.raises(NothingMatched, match="contents"):
        compare.load_pairs(tmp_path, 4, 64)


@pytest.mark.parametrize(("name", "error"), [("absent.onnx", WeightsError), ("nothing", OptionError)])
def test_missing_network_is_rejected(name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        compare.load_candidate(name)


def test_damaged_model_is_rejected(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="models are read with onnx")
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(WeightsError, match="export it again"):
        compare.load_candidate(str(tmp_path / "a.onnx"))


def test_memory_of_an_iteration_is_measured_in_a_separate_process() -> None:
    peak = memory.measure_peak_memory("vgg16", "average", ["relu2_1"], (96, 128))
    assert 4 * 64 * 96 * 128 * 2 < peak < 500e6


def test_valid_network_has_no_problems_and_a_swapped_one_is_reported(vgg16: Weights) -> None:
    content, style = (crops.load_picture(path, 96) for path in _find_bundled())
    diagnosis = diagnose_network(vgg16, vgg16, content, style)
    assert diagnosis.problems == ()
    assert [layer.name for layer in diagnosis.layers] == list(vgg16.layers)
    assert all(norm > 0 for name, norm in diagnosis.gradients.items() if "content" not in name)
    assert len(diagnosis.sheet) > 5
    swapped = replace(
        vgg16, sha256="another", kernels={**vgg16.kernels, "conv1_1.weight": vgg16.kernels["conv1_1.weight"].flip(1)}
    )
    problems = diagnose_network(swapped, vgg16, content, style).problems
    assert conventions.WRONG_ORDER in problems[0]
    layers = diagnosis_to_json(diagnosis)["layers"]
    assert isinstance(layers, list)
    assert len(layers) == len(vgg16.layers)


def _find_bundled() -> list[Path]:
    from styler import library

    return [library.list_contents()["citrus"], library.list_styles()["starry-night"]]


def test_dead_and_saturated_channels_and_exploding_gradients_are_reported(
    tiny: Weights, vgg16: Weights, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conventions, "check_convention", lambda *_args: conventions.ConventionVerdict(1.0, 1.0, ()))
    dead = {**tiny.kernels, "conv3_1.bias": torch.full_like(tiny.kernels["conv3_1.bias"], -1e6)}
    content, style, result = (picture(64, 64, seed) for seed in range(3))
    diagnosis = diagnose_network(replace(tiny, kernels=dead), vgg16, content, style, result)
    assert any(problem.startswith("relu3_1 is dead") for problem in diagnosis.problems)
    loud = {**tiny.kernels, "conv2_1.weight": tiny.kernels["conv2_1.weight"] * 1000}
    diagnosis = diagnose_network(replace(tiny, kernels=loud), vgg16, content, style, result)
    assert any("saturated" in problem for problem in diagnosis.problems)
    assert {"style/content", "result/content", "result/style"} == diagnosis.layers[0].similarity.keys()
    options = Options(content_weight=1e9)
    diagnosis = diagnose_network(tiny, vgg16, content, style, result, options)
    assert max(diagnosis.gradients.values()) > EXPLODING
    assert any("explodes" in problem for problem in diagnosis.problems)


def test_crops_depend_on_the_seed_alone_and_are_in_range(picture: Picture) -> None:
    sources = [picture(90, 120, 1), picture(64, 64, 2)]
    samples = [
        [crops.sample_crop(sources, 32, generator) for _ in range(12)]
        for generator in (torch.Generator().manual_seed(5), torch.Generator().manual_seed(5))
    ]
    assert all(torch.equal(a, b) for a, b in zip(*samples, strict=True))
    assert all(sample.shape == (1, 3, 32, 32) and sample.min() >= 0 and sample.max() <= 1 for sample in samples[0])
    assert math.isfinite(float(torch.stack(samples[0]).mean()))
    assert registry.is_valid_name("mine")
