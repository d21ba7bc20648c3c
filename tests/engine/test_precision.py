"""The precision that `auto` chooses: by timings from a fake clock, and by figures that are stored between runs."""

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from styler.engine import precision
from styler.engine.device import name_precision
from styler.engine.painter import Painter
from styler.engine.precision import (
    ConvolutionWorkload,
    GradientComparison,
    Measurement,
    PrecisionChoice,
    compare_precisions,
    describe_machine,
    find_measurement_file,
    list_candidates,
    measure_precision,
    read_measurement,
    write_measurement,
)
from styler.options import Options

CPU = torch.device("cpu")


class FakeWorkload:
    """Work that takes a given number of seconds of a fake clock, and a hundredth of it as a trial."""

    def __init__(self, **seconds: float) -> None:
        self.seconds, self.now = seconds, 0.0
        self.calls: list[str] = []

    def run(self, name: str) -> None:
        self.calls.append(name)
        self.now += self.seconds[name]

    def run_trial(self, name: str) -> None:
        self.calls.append(f"trial of {name}")
        self.now += self.seconds[name] / 100

    def measure(self, compare: Callable[[str], float] = lambda _name: 0.9999) -> Measurement:
        candidates = [name for name in self.seconds if name != "fp32"]
        return compare_precisions(candidates, self, compare, lambda: self.now)


def test_the_faster_precision_is_taken() -> None:
    measured = FakeWorkload(fp32=0.03, bf16=0.015).measure()
    assert measured.choice == "bf16"
    assert measured.seconds == pytest.approx({"fp32": 0.03, "bf16": 0.015})
    assert measured.cosines == {"bf16": 0.9999}
    assert measured.describe() == "convolutions take 30 ms in fp32, 15 ms in bf16 (cosine 0.99990)"


def test_an_inaccurate_precision_is_refused_and_the_next_one_is_tried() -> None:
    cosines = {"bf16": 0.9985, "fp16": 0.9995}
    workload = FakeWorkload(fp32=0.03, bf16=0.01, fp16=0.015)
    assert workload.measure(cosines.__getitem__).choice == "fp16"
    cosines["fp16"] = 0.0
    measured = workload.measure(cosines.__getitem__)
    assert (measured.choice, measured.cosines) == ("fp32", cosines)


def test_a_small_win_is_refused_without_comparing_gradients() -> None:
    measured = FakeWorkload(fp32=0.03, bf16=0.028).measure(lambda name: pytest.fail(f"{name} was compared"))
    assert measured.choice == "fp32"


def test_float16_is_taken_only_if_it_is_clearly_faster_than_bfloat16() -> None:
    assert FakeWorkload(fp32=0.03, bf16=0.015, fp16=0.0145).measure().choice == "bf16"
    assert FakeWorkload(fp32=0.03, bf16=0.015, fp16=0.01).measure().choice == "fp16"


def test_a_hopeless_precision_is_never_timed_in_full() -> None:
    workload = FakeWorkload(fp32=0.03, bf16=6.0)
    measured = workload.measure()
    assert measured.choice == "fp32"
    assert measured.seconds == pytest.approx({"fp32": 0.03, "bf16": 6.0})
    assert workload.calls.count("trial of bf16") == 2
    assert "bf16" not in workload.calls
    assert workload.now < 0.2


def test_rounds_alternate_and_end_after_a_tenth_of_a_second() -> None:
    workload = FakeWorkload(fp32=0.01, bf16=0.005)
    workload.measure()
    rounds = [call for call in workload.calls if "trial" not in call]
    assert rounds[:4] == ["bf16", "fp32", "fp32", "bf16"]
    assert 0.1 <= workload.now < 0.12
    slow = FakeWorkload(fp32=1.0, bf16=0.5)
    slow.measure()
    assert slow.calls.count("bf16") == precision.MIN_ROUNDS


def test_the_best_round_counts() -> None:
    """Another program that takes the processor for one round does not decide."""
    workload = FakeWorkload(fp32=0.03, bf16=0.015)
    real = workload.run

    def disturbed(name: str) -> None:
        real(name)
        workload.now += 0.1 if workload.calls.count(name) == 1 and name == "bf16" else 0.0

    workload.run = disturbed  # type: ignore[method-assign]
    assert workload.measure().seconds["bf16"] == pytest.approx(0.015)


def test_a_precision_that_fails_is_not_chosen_and_the_reason_is_told() -> None:
    workload = FakeWorkload(fp32=0.03, bf16=0.015)

    def fail(_name: str) -> float:
        raise RuntimeError('"sum" not implemented for BFloat16\nmore')

    measured = workload.measure(fail)
    assert measured.choice == "fp32"
    assert measured.describe().endswith('bf16 cannot be used ("sum" not implemented for BFloat16)')


def test_a_comparison_of_the_real_objective_finds_the_same_gradient(use_tiny: None) -> None:
    compare = GradientComparison(CPU, 64)
    assert compare("fp32") == pytest.approx(1, abs=1e-12)
    assert 0.99 < compare("bf16") < 1


def test_the_real_workload_runs_in_every_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "BLOCKS", ((8, 4),))
    workload = ConvolutionWorkload(CPU)
    for name in ("fp32", "bf16"):
        workload.run(name)
        workload.run_trial(name)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Measurement]:
    """Give this test a cache of its own, and return the measurements that will be made, the next one last."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(precision, "_measurements", {})
    pending = [Measurement({"fp32": 3.0, "bf16": 9.0}), Measurement({"fp32": 3.0, "bf16": 1.0}, {"bf16": 0.9998})]
    monkeypatch.setattr(precision, "run_measurement", lambda _device: pending.pop())
    return pending


def begin_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what this process has measured, as another one would."""
    monkeypatch.setattr(precision, "_measurements", {})


def find_file() -> Path:
    file = find_measurement_file(describe_machine(CPU))
    assert file is not None
    return file


def test_a_machine_is_measured_once(monkeypatch: pytest.MonkeyPatch, probe: list[Measurement]) -> None:
    first = measure_precision(CPU)
    assert first.choice == "bf16"
    begin_process(monkeypatch)
    assert measure_precision(CPU) == first
    assert len(probe) == 1
    assert json.loads(find_file().read_text())["seconds"] == {"fp32": 3.0, "bf16": 1.0}
    find_file().unlink()
    begin_process(monkeypatch)
    assert measure_precision(CPU).choice == "fp32"


def test_a_painter_keeps_its_precision(use_tiny: None, probe: list[Measurement]) -> None:
    painter = Painter(device="cpu")
    assert len(probe) == 2, "nothing is measured before the network is needed"
    assert painter.features(Options()).precision is painter.precision is torch.bfloat16
    assert painter.precision_choice.measurement == measure_precision(CPU)
    precision._measurements.clear()
    find_file().unlink()
    assert painter.precision is torch.bfloat16
    assert len(probe) == 1


def test_a_named_precision_is_not_measured(probe: list[Measurement]) -> None:
    for name in ("fp32", "bf16", "fp16"):
        choice = PrecisionChoice(CPU, name)
        assert (name_precision(choice.dtype), choice.measurement) == (name, None)
    assert len(probe) == 2


def test_threads_measure_once(probe: list[Measurement]) -> None:
    choice = PrecisionChoice(CPU, "auto")
    threads = [threading.Thread(target=getattr, args=(choice, "dtype")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(probe) == 1


def test_the_answer_belongs_to_processor_version_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {find_file()}
    for owner, name, value in (
        (torch, "__version__", "2.99"),
        (torch, "get_num_threads", lambda: 99),
        (torch.backends.cpu, "get_cpu_capability", lambda: "NEON"),
        (precision, "_read_cpu_facts", lambda: {"model name": "Z80", "flags": "z"}),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            files.add(find_file())
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert len(files | {find_file()}) == 6


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"[" * 100_000,
        b"\xff",
        {"machine": {}},
        {"seconds": {"bf16": 1.0}},
        {"seconds": {"fp32": 3.0, "bf16": "fast"}},
        {"seconds": {"fp32": 3.0, "bf16": -1.0}},
        {"seconds": {"fp32": 3.0, "fp8": 1.0}},
        {"seconds": [3.0]},
        {"seconds": {"fp32": 3.0, "bf16": float("nan")}},
        {"cosines": {}},
    ],
)
def test_a_damaged_answer_is_measured_again(probe: list[Measurement], damage: bytes | dict[str, object]) -> None:
    write_measurement(describe_machine(CPU), Measurement({"fp32": 3.0, "bf16": 1.0}, {"bf16": 0.9998}))
    file = find_file()
    sound = file.read_bytes()
    file.write_bytes(damage if isinstance(damage, bytes) else json.dumps(json.loads(sound) | damage).encode())
    assert read_measurement(describe_machine(CPU)) is None
    assert measure_precision(CPU).choice == "bf16"
    assert len(probe) == 1
    assert file.read_bytes() == sound, "it is stored anew"


@pytest.mark.parametrize("folder", ["a file", "none"])
def test_a_cache_that_cannot_be_written_is_no_error(
    monkeypatch: pytest.MonkeyPatch, probe: list[Measurement], tmp_path: Path, folder: str
) -> None:
    if folder == "none":
        monkeypatch.setattr("styler.environment.find_cache_folder", lambda: None)
    else:
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert measure_precision(CPU) is measure_precision(CPU)
    assert len(probe) == 1, "this process keeps it"


def test_an_answer_with_a_failure_is_not_stored(monkeypatch: pytest.MonkeyPatch, probe: list[Measurement]) -> None:
    failed = Measurement({"fp32": 1.0}, {}, {"bf16": "out of memory"})
    monkeypatch.setattr(precision, "run_measurement", lambda _device: failed)
    assert measure_precision(CPU) is failed
    assert not find_file().exists()


def test_candidates_are_what_the_hardware_has(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    for supported, expected in ((True, ("bf16", "fp16")), (False, ("fp16",))):

        def told(including_emulation: bool = True, supported: bool = supported) -> bool:
            return supported and not including_emulation

        monkeypatch.setattr(torch.cuda, "is_bf16_supported", told)
        assert list_candidates(cuda) == expected
    assert list_candidates(torch.device("mps")) == ("fp16",)
    for flags, expected in (("avx2 fma", ("bf16",)), ("avx512_fp16 fma", ("bf16", "fp16"))):
        monkeypatch.setattr(precision, "_read_cpu_facts", lambda flags=flags: {"flags": flags})
        assert list_candidates(CPU) == expected


def test_the_processor_is_read_from_the_system() -> None:
    machine = describe_machine(CPU)
    assert machine["threads"] == torch.get_num_threads()
    assert machine["processor"]
    assert re.fullmatch("[0-9a-f]{64}", str(machine["capabilities"]))
