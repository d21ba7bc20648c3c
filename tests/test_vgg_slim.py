"""A slim network: exact where nothing is lost, close where little is, and better after it has learnt."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from styler import losses
from styler.errors import OptionError, WeightsError
from styler.vgg import distil, lessons, slim, weights
from styler.vgg.distil import Settings, Student, kaiming
from styler.vgg.features import Features
from styler.vgg.pooling import DEFAULT
from styler.vgg.weights import Weights

LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2", "relu5_1")
Picture = Callable[..., Tensor]


@pytest.fixture(scope="module")
def pictures(picture: Picture) -> list[Tensor]:
    return [picture(80, 96, seed) for seed in range(4)]


@pytest.fixture(scope="module")
def slimmed(tiny: Weights, pictures: list[Tensor]) -> Weights:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slim, "MULTIPLE", 1)
        return slim.slim(tiny, 0.6, pictures, looks=12, side=48)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small lessons."""
    monkeypatch.setattr(lessons, "SIDE", 32)


def test_all_channels_kept_is_the_same_network(tiny: Weights, pictures: list[Tensor], picture: Picture) -> None:
    whole = slim.slim(tiny, 1.0, pictures, looks=2, side=32)
    ours, theirs = (Features(network, LAYERS, DEFAULT)(picture(64, 48)) for network in (whole, tiny))
    for layer in LAYERS:
        torch.testing.assert_close(ours[layer], theirs[layer], rtol=1e-4, atol=1e-4)


def test_a_slim_network_has_fewer_channels_and_the_first_convolution_whole(slimmed: Weights) -> None:
    assert slimmed.widths == (4, 4, 4, 4, 4, 5, 5, 5, 5)
    assert slimmed.readouts["relu4_1"].shape == (8, 5)
    assert "relu1_1" not in slimmed.readouts


def test_the_metric_gives_the_losses_of_the_readout(slimmed: Weights, picture: Picture) -> None:
    """The distances over k channels in the metric are those over C channels of A g."""
    features = Features(slimmed, LAYERS, DEFAULT)
    a, b = (features(picture(64, 48, seed)) for seed in (1, 2))
    for layer, readout in slimmed.readouts.items():
        if layer not in LAYERS:
            continue
        expansion = slimmed.expansion(layer)
        assert expansion is not None
        full = [torch.einsum("ck,nkhw->nchw", expansion, maps[layer]) for maps in (a, b)]
        assert full[0].shape[1] == len(readout)
        torch.testing.assert_close(losses.content_loss(a[layer], b[layer]), losses.content_loss(*full))
        slim_moments, full_moments = ([losses.moments(x) for x in xs] for xs in ((a[layer], b[layer]), full))
        torch.testing.assert_close(losses.gram_distance(*slim_moments), losses.gram_distance(*full_moments))
        distances = [
            losses.wasserstein_distance(ours, losses.wasserstein_target(theirs))
            for ours, theirs in (slim_moments, full_moments)
        ]
        torch.testing.assert_close(*distances, rtol=2e-2, atol=1e-4)  # the covariances' floor differs


def test_channels_that_tell_the_others_are_chosen() -> None:
    """Two independent signals, each seen by several channels: one of each is enough."""
    generator = torch.Generator().manual_seed(0)
    signals = torch.randn((1000, 2), generator=generator)
    rows = torch.cat([signals[:, :1] * 3, signals[:, 1:] * 2, signals[:, :1], signals[:, 1:]], dim=1)
    chosen = slim.choose((rows.T @ rows / len(rows)).double(), 2, None)
    assert len({index % 2 for index in chosen.tolist()}) == 2


def test_refitted_is_nearer_than_merely_pruned(tiny: Weights, slimmed: Weights, picture: Picture) -> None:
    image = picture(64, 64, 9)
    full = Features(tiny, LAYERS, DEFAULT)(image)
    shuffled = replace(
        slimmed, kernels={**slimmed.kernels, "conv3_1.weight": slimmed.kernels["conv3_1.weight"].flip(0)}
    )

    def missed(network: Weights) -> float:
        maps = Features(network, ["relu3_1"], DEFAULT)(image)["relu3_1"]
        expansion = network.expansion("relu3_1")
        assert expansion is not None
        return float((torch.einsum("ck,nkhw->nchw", expansion, maps) - full["relu3_1"]).norm() / full["relu3_1"].norm())

    assert missed(slimmed) < 0.6
    assert missed(slimmed) < missed(shuffled)


def test_a_slim_file_is_read_as_it_was_written(slimmed: Weights, tmp_path: Path) -> None:
    path = tmp_path / "slim.safetensors"
    path.write_bytes(slim.dumped(slimmed, torch.float32))
    found = weights.read(path)
    assert found.widths == slimmed.widths
    for name, tensor in slimmed.kernels.items():
        assert torch.equal(found.kernels[name], tensor)
    assert torch.equal(found.readouts["relu3_2"], slimmed.readouts["relu3_2"])


def test_a_slim_network_takes_the_pooling_it_was_made_for(slimmed: Weights) -> None:
    with pytest.raises(OptionError, match="--pooling mixed"):
        Features(slimmed, LAYERS, "max")


@pytest.mark.parametrize("keep", [0.0, 1.5, -1.0])
def test_a_share_out_of_range_is_refused(keep: float, tiny: Weights, pictures: list[Tensor]) -> None:
    with pytest.raises(OptionError, match="up to 1"):
        slim.slim(tiny, keep, pictures)


def test_a_slim_network_is_not_slimmed_again(slimmed: Weights, pictures: list[Tensor]) -> None:
    with pytest.raises(OptionError, match="slim already"):
        slim.slim(slimmed, 0.5, pictures)


def learnt(beginning: Weights, tiny: Weights, pictures: list[Tensor], settings: Settings, **given: object) -> Weights:
    found = beginning
    for step, network in distil.distil(beginning, tiny, pictures, settings, **given):  # type: ignore[arg-type]
        if step.number == settings.steps:
            found = network()
    return found


def test_learning_lowers_what_is_missed(
    slimmed: Weights, tiny: Weights, pictures: list[Tensor], short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distil, "RATE", 5e-3)
    steps = [step for step, _ in distil.distil(slimmed, tiny, pictures, Settings(steps=40))]
    first, last = (sum(step.gradient for step in part) for part in (steps[:8], steps[-8:]))
    assert last < 0.9 * first


def test_frozen_blocks_and_the_first_convolution_stay(
    slimmed: Weights, tiny: Weights, pictures: list[Tensor], short: None
) -> None:
    found = learnt(slimmed, tiny, pictures, Settings(steps=2, freeze=2))
    for name, tensor in slimmed.kernels.items():
        assert torch.equal(found.kernels[name], tensor) == name.startswith(("conv1", "conv2")), name


def test_learning_goes_on_where_it_was_cut_off(
    slimmed: Weights,
    tiny: Weights,
    pictures: list[Tensor],
    short: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distil, "SAVE_EVERY", 2)
    settings, state = Settings(steps=4), tmp_path / "slim.state"
    whole = learnt(slimmed, tiny, pictures, settings)
    for step, _ in distil.distil(slimmed, tiny, pictures, settings, state=state):
        if step.number == 3:
            break  # the third step is not saved
    done = []
    for step, network in distil.distil(slimmed, tiny, pictures, settings, state=state):
        done.append(step.number)
        resumed = network()
    assert done == [3, 4]
    for name, tensor in whole.kernels.items():
        assert torch.equal(resumed.kernels[name], tensor), name
    with pytest.raises(WeightsError, match="another distillation"):
        next(distil.distil(slimmed, tiny, pictures, Settings(steps=4, seed=1), state=state))
    state.write_bytes(state.read_bytes()[:-50])
    with pytest.raises(WeightsError, match="begin anew"):
        next(distil.distil(slimmed, tiny, pictures, settings, state=state))


def test_lessons_are_of_the_last_paintings(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that those in memory are enough, and a long learning sees more than a short one."""
    monkeypatch.setattr(distil, "KEPT", 10)
    asked: list[int] = []

    class Recorded:
        layers: tuple[str, ...] = ()

        def lesson(self, number: int) -> lessons.Lesson:
            asked.append(number // len(lessons.TAKEN))
            return lessons.Lesson(torch.zeros(1, 3, 1, 1), {}, {}, torch.zeros(1, 3, 1, 1))

    for seed in range(40):
        distil._batch(Recorded(), 50 * distil.STEPS_A_PAINTING, seed)  # type: ignore[arg-type]
    painted = distil.FIRST_PAINTINGS + 50
    assert (min(asked), max(asked)) == (painted - 10, painted - 1)


def test_batch_norm_begins_as_the_network_it_was_put_into_and_folds_away(slimmed: Weights, picture: Picture) -> None:
    settings = Settings(steps=1, batch_norm=True)
    image = torch.cat([picture(48, 48, seed) for seed in range(4)])
    student = Student(slimmed, settings)
    student.start_norms(image)
    plain = Student(slimmed, Settings(steps=1))(image, ["relu4_1"])["relu4_1"]
    torch.testing.assert_close(student(image, ["relu4_1"])["relu4_1"], plain, rtol=1e-3, atol=1e-3)
    folded = Student(student.weights(slimmed), Settings(steps=1))(image, ["relu4_1"])["relu4_1"]
    torch.testing.assert_close(student.eval()(image, ["relu4_1"])["relu4_1"], folded, rtol=1e-5, atol=1e-5)


def test_layers_without_a_parent_begin_with_kaimings_spread(slimmed: Weights) -> None:
    found = kaiming(slimmed, seed=3)
    assert torch.equal(found.kernels["conv1_1.weight"], slimmed.kernels["conv1_1.weight"])
    kernel = found.kernels["conv4_2.weight"]
    assert abs(float(kernel.std()) - (2 / (9 * kernel.shape[1])) ** 0.5) < 0.02
    assert torch.equal(found.kernels["conv4_2.weight"], kaiming(slimmed, seed=3).kernels["conv4_2.weight"])
