"""Tests of slim networks: exact with all channels, close with fewer, and better after training."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from styler.errors import OptionError, WeightsError
from styler.objective.losses import content_loss
from styler.objective.moments import compute_moments, gram_distance
from styler.objective.wasserstein import prepare_wasserstein_target, wasserstein_distance
from styler.vgg import weights
from styler.vgg.arch import DEFAULT_POOLING
from styler.vgg.model import Features
from styler.vgg.weights import Weights
from styler.workshop import distill, slim
from styler.workshop.distill import DistillSettings, Student, reinitialize

LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2", "relu5_1")
Picture = Callable[..., Tensor]


@pytest.fixture(scope="module")
def pictures(picture: Picture) -> list[Tensor]:
    return [picture(80, 96, seed) for seed in range(4)]


@pytest.fixture(scope="module")
def slimmed(tiny: Weights, pictures: list[Tensor]) -> Weights:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slim, "MULTIPLE", 1)
        return slim.slim_network(tiny, 0.6, pictures, count=12, side=48)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use small lessons."""
    monkeypatch.setattr(distill, "LESSON_SIDE", 32)


def test_keeping_all_channels_keeps_the_network(tiny: Weights, pictures: list[Tensor], picture: Picture) -> None:
    whole = slim.slim_network(tiny, 1.0, pictures, count=2, side=32)
    ours, theirs = (Features(network, LAYERS, DEFAULT_POOLING)(picture(64, 48)) for network in (whole, tiny))
    for layer in LAYERS:
        torch.testing.assert_close(ours[layer], theirs[layer], rtol=1e-4, atol=1e-4)


def test_slim_network_has_fewer_channels_except_in_the_first_convolution(slimmed: Weights) -> None:
    assert slimmed.widths == (4, 4, 4, 4, 4, 5, 5, 5, 5)
    assert slimmed.readouts["relu4_1"].shape == (8, 5)
    assert "relu1_1" not in slimmed.readouts


def test_metric_gives_the_losses_of_the_readout(slimmed: Weights, picture: Picture) -> None:
    """Distances over k channels in the metric equal those over C channels of A g."""
    features = Features(slimmed, LAYERS, DEFAULT_POOLING)
    a, b = (features(picture(64, 48, seed)) for seed in (1, 2))
    for layer, readout in slimmed.readouts.items():
        if layer not in LAYERS:
            continue
        factors = slimmed.factorize_readout(layer)
        assert factors is not None
        full = [torch.einsum("ck,nkhw->nchw", factors[0], maps[layer]) for maps in (a, b)]
        assert full[0].shape[1] == len(readout)
        torch.testing.assert_close(content_loss(a[layer], b[layer]), content_loss(*full))
        slim_moments, full_moments = ([compute_moments(x) for x in xs] for xs in ((a[layer], b[layer]), full))
        torch.testing.assert_close(gram_distance(*slim_moments), gram_distance(*full_moments))
        distances = [
            wasserstein_distance(ours, prepare_wasserstein_target(theirs))
            for ours, theirs in (slim_moments, full_moments)
        ]
        torch.testing.assert_close(*distances, rtol=2e-2, atol=1e-4)  # the covariances' floor differs


def test_channels_that_predict_the_others_are_chosen() -> None:
    """Of two independent signals, each in several channels, one channel of each is enough."""
    generator = torch.Generator().manual_seed(0)
    signals = torch.randn((1000, 2), generator=generator)
    rows = torch.cat([signals[:, :1] * 3, signals[:, 1:] * 2, signals[:, :1], signals[:, 1:]], dim=1)
    chosen = slim.choose_channels((rows.T @ rows / len(rows)).double(), 2, None)
    assert len({index % 2 for index in chosen.tolist()}) == 2


def test_refitted_channels_are_closer_than_shuffled_ones(tiny: Weights, slimmed: Weights, picture: Picture) -> None:
    image = picture(64, 64, 9)
    full = Features(tiny, LAYERS, DEFAULT_POOLING)(image)
    shuffled = replace(
        slimmed, kernels={**slimmed.kernels, "conv3_1.weight": slimmed.kernels["conv3_1.weight"].flip(0)}
    )

    def measure_error(network: Weights) -> float:
        maps = Features(network, ["relu3_1"], DEFAULT_POOLING)(image)["relu3_1"]
        factors = network.factorize_readout("relu3_1")
        assert factors is not None
        return float(
            (torch.einsum("ck,nkhw->nchw", factors[0], maps) - full["relu3_1"]).norm() / full["relu3_1"].norm()
        )

    assert measure_error(slimmed) < 0.6
    assert measure_error(slimmed) < measure_error(shuffled)


def test_slim_file_round_trips(slimmed: Weights, tmp_path: Path) -> None:
    path = tmp_path / "slim.safetensors"
    path.write_bytes(slim.dump_network(slimmed, torch.float32))
    trained = weights.read_weights(path)
    assert trained.widths == slimmed.widths
    for name, tensor in slimmed.kernels.items():
        assert torch.equal(trained.kernels[name], tensor)
    assert torch.equal(trained.readouts["relu3_2"], slimmed.readouts["relu3_2"])


def test_slim_network_rejects_another_pooling(slimmed: Weights) -> None:
    with pytest.raises(OptionError, match="--pooling mixed"):
        Features(slimmed, LAYERS, "max")


@pytest.mark.parametrize("keep", [0.0, 1.5, -1.0])
def test_share_out_of_range_is_rejected(keep: float, tiny: Weights, pictures: list[Tensor]) -> None:
    with pytest.raises(OptionError, match="up to 1"):
        slim.slim_network(tiny, keep, pictures)


def test_slim_network_is_not_slimmed_again(slimmed: Weights, pictures: list[Tensor]) -> None:
    with pytest.raises(OptionError, match="already slim"):
        slim.slim_network(slimmed, 0.5, pictures)


def train(
    original: Weights, tiny: Weights, pictures: list[Tensor], settings: DistillSettings, **kwargs: object
) -> Weights:
    trained = original
    for step, network in distill.distill(original, tiny, pictures, settings, **kwargs):  # type: ignore[arg-type]
        if step.number == settings.steps:
            trained = network()
    return trained


def test_training_lowers_the_error(
    slimmed: Weights, tiny: Weights, pictures: list[Tensor], short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill, "LEARNING_RATE", 5e-3)
    steps = [step for step, _ in distill.distill(slimmed, tiny, pictures, DistillSettings(steps=40))]
    first, last = (sum(step.gradient for step in part) for part in (steps[:8], steps[-8:]))
    assert last < 0.9 * first


def test_frozen_blocks_and_the_first_convolution_do_not_change(
    slimmed: Weights, tiny: Weights, pictures: list[Tensor], short: None
) -> None:
    trained = train(slimmed, tiny, pictures, DistillSettings(steps=2, freeze=2))
    for name, tensor in slimmed.kernels.items():
        assert torch.equal(trained.kernels[name], tensor) == name.startswith(("conv1", "conv2")), name


def test_interrupted_training_resumes(
    slimmed: Weights,
    tiny: Weights,
    pictures: list[Tensor],
    short: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distill, "SAVE_EVERY", 2)
    settings, state = DistillSettings(steps=4), tmp_path / "slim.state"
    whole = train(slimmed, tiny, pictures, settings)
    for step, _ in distill.distill(slimmed, tiny, pictures, settings, state=state):
        if step.number == 3:
            break  # the third step is not saved
    done = []
    for step, network in distill.distill(slimmed, tiny, pictures, settings, state=state):
        done.append(step.number)
        resumed = network()
    assert done == [3, 4]
    for name, tensor in whole.kernels.items():
        assert torch.equal(resumed.kernels[name], tensor), name
    with pytest.raises(WeightsError, match="another distillation"):
        next(distill.distill(slimmed, tiny, pictures, DistillSettings(steps=4, seed=1), state=state))
    state.write_bytes(state.read_bytes()[:-50])
    with pytest.raises(WeightsError, match="start again"):
        next(distill.distill(slimmed, tiny, pictures, settings, state=state))


def test_a_training_that_starts_elsewhere_is_not_resumed(
    slimmed: Weights, tiny: Weights, pictures: list[Tensor], short: None, tmp_path: Path
) -> None:
    """With random values, another pooling, other pictures or another teacher."""
    settings, state = DistillSettings(steps=1), tmp_path / "slim.state"
    train(slimmed, tiny, pictures, settings, state=state)
    others: list[tuple[Weights, Weights, list[Tensor]]] = [
        (reinitialize(slimmed, seed=0), tiny, pictures),
        (replace(slimmed, info={**slimmed.info, "pooling": "average"}), tiny, pictures),
        (slimmed, replace(tiny, sha256="1" * 64), pictures),
        (slimmed, tiny, [*pictures[1:], 1 - pictures[0]]),
    ]
    for original, teacher, other_pictures in others:
        with pytest.raises(WeightsError, match="another distillation"):
            next(distill.distill(original, teacher, other_pictures, settings, state=state))


def test_a_training_that_was_finished_but_not_written_gives_its_network(
    slimmed: Weights, tiny: Weights, pictures: list[Tensor], short: None, tmp_path: Path
) -> None:
    settings, state = DistillSettings(steps=2), tmp_path / "slim.state"
    [*_, (last, network)] = distill.distill(slimmed, tiny, pictures, settings, state=state)
    [(again, restored)] = distill.distill(slimmed, tiny, pictures, settings, state=state)
    assert again == last
    assert restored().info == network().info
    for name, tensor in network().kernels.items():
        assert torch.equal(restored().kernels[name], tensor), name
    assert not torch.equal(restored().kernels["conv4_2.weight"], slimmed.kernels["conv4_2.weight"])


def test_lessons_come_from_the_latest_paintings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then those in memory are enough, and a long training sees more than a short one."""
    monkeypatch.setattr(distill, "PAINTINGS_KEPT", 10)
    asked: list[int] = []

    class Recorded:
        layers: tuple[str, ...] = ()

        def get_lesson(self, number: int) -> distill.Lesson:
            asked.append(number // len(distill.LESSON_AT))
            return distill.Lesson(torch.zeros(1, 3, 1, 1), {}, {}, torch.zeros(1, 3, 1, 1))

    for seed in range(40):
        distill._make_batch(Recorded(), 50 * distill.STEPS_PER_PAINTING, seed)  # type: ignore[arg-type]
    painted = distill.FIRST_PAINTINGS + 50
    assert (min(asked), max(asked)) == (painted - 10, painted - 1)


def test_batch_norm_starts_equal_to_the_network_and_folds_away(slimmed: Weights, picture: Picture) -> None:
    settings = DistillSettings(steps=1, batch_norm=True)
    image = torch.cat([picture(48, 48, seed) for seed in range(4)])
    student = Student(slimmed, settings)
    student.initialize_norms(image)
    plain = Student(slimmed, DistillSettings(steps=1))(image, ["relu4_1"])["relu4_1"]
    torch.testing.assert_close(student(image, ["relu4_1"])["relu4_1"], plain, rtol=1e-3, atol=1e-3)
    folded = Student(student.to_weights(slimmed), DistillSettings(steps=1))(image, ["relu4_1"])["relu4_1"]
    torch.testing.assert_close(student.eval()(image, ["relu4_1"])["relu4_1"], folded, rtol=1e-5, atol=1e-5)


def test_reinitialized_layers_have_the_standard_deviation_of_kaiming(slimmed: Weights) -> None:
    trained = reinitialize(slimmed, seed=3)
    assert torch.equal(trained.kernels["conv1_1.weight"], slimmed.kernels["conv1_1.weight"])
    kernel = trained.kernels["conv4_2.weight"]
    assert abs(float(kernel.std()) - (2 / (9 * kernel.shape[1])) ** 0.5) < 0.02
    assert torch.equal(trained.kernels["conv4_2.weight"], reinitialize(slimmed, seed=3).kernels["conv4_2.weight"])
