"""Options are validated from their own specs, and layers of settings are merged in order."""

import dataclasses
import datetime
import enum
import json
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from styler.errors import OptionError
from styler.options import (
    DEFAULT_LAYER_WEIGHTS,
    LAYERS,
    LOOKS,
    PRESETS,
    VGG16_LAYERS,
    Options,
    describe_range,
    format_duration,
    format_value,
    list_options,
    resolve_options,
)
from styler.vgg import arch

SPECS = list_options()
NUMBERS = [name for name, spec in SPECS.items() if spec.low is not None]
LISTS = [field.name for field in dataclasses.fields(Options) if isinstance(field.default, tuple)]
WORDS = [name for name, spec in SPECS.items() if spec.choices]
TEXTS = [
    name for name, value in Options().to_dict().items() if isinstance(value, str) and name not in (*WORDS, *NUMBERS)
]
LISTS_OF_NAMES = {"content_layers", "style_layers", "protect", "regions"}
WHOLE = ["size", "dpi", "seed", "iterations", "first_size", "tile", "threads"]


def make_options(name: str, value: Any) -> Options:
    """Return options with one setting; a value for a list is wrapped in a tuple."""
    if name in LISTS and not isinstance(value, (str, list, tuple)):
        value = (value,)
    return Options(**{name: value})


def refusal(name: str, value: Any) -> str:
    """Return the message of the error that a value raises, which is one line that names the setting."""
    with pytest.raises(OptionError) as caught:
        make_options(name, value)
    message = str(caught.value)
    assert message.startswith(f"{name} is ")
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_every_option_has_help_and_a_range_or_choices() -> None:
    assert set(SPECS) == {field.name for field in dataclasses.fields(Options)}
    for name, spec in SPECS.items():
        assert spec.help, name
        assert spec.group in {"Picture", "Print", "Regions", "Effort", "Objective", "Machine"}, name
        assert (spec.low is None) == (spec.high is None), name
    assert set(NUMBERS) | set(WORDS) | set(TEXTS) | {"keep_border"} | LISTS_OF_NAMES == set(SPECS)


def test_the_defaults_are_those_of_the_default_preset_and_look() -> None:
    plain = Options()
    assert plain.preset == "standard"
    assert plain.look == "plain"
    assert resolve_options(("flags", {"preset": plain.preset, "look": plain.look})).options == plain
    assert Options.of() == plain


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_accepted_at_its_bounds_and_refused_beyond(name: str) -> None:
    low, high = SPECS[name].low, SPECS[name].high
    assert low is not None
    assert high is not None
    for bound in (low, high) if name != "layer_weights" else (1e-9, high):  # not all of them may be 0
        value = getattr(make_options(name, int(bound) if name in WHOLE else bound), name)
        assert value in (bound, (bound,))
    below = low - (1 if name in WHOLE else max(1e-6, low * 1e-6))
    above = high + (1 if name in WHOLE else high * 1e-6)
    for value in (below, above):
        assert describe_range(SPECS[name]) in refusal(name, value).replace("a whole number from ", "")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, False, "12", None, 3j, object()])
def test_a_value_that_is_not_a_number_is_refused(name: str, value: Any) -> None:
    refusal(name, [value] if name in LISTS else value)


def test_a_huge_integer_is_refused() -> None:
    for name in NUMBERS:
        refusal(name, 10**400)


@pytest.mark.parametrize("name", WHOLE)
def test_a_fraction_is_refused_where_an_integer_belongs(name: str) -> None:
    refusal(name, 100.5)
    value = getattr(make_options(name, 100.0), name)
    assert value == 100
    assert isinstance(value, int)


@pytest.mark.parametrize("name", ["strength", "stroke_size", "keep_color", "taper", "learning_rate"])
def test_an_integer_is_converted_to_a_float(name: str) -> None:
    value = getattr(make_options(name, 1), name)
    assert value == 1
    assert isinstance(value, float)


@pytest.mark.parametrize("name", WORDS)
def test_only_the_choices_are_accepted(name: str) -> None:
    for choice in SPECS[name].choices:
        assert getattr(make_options(name, choice), name) == choice
    for value in ("", "unknown", SPECS[name].choices[0].upper(), 3, None, ["a list"], True):
        message = refusal(name, value)
        assert all(choice in message for choice in SPECS[name].choices)


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_must_be_a_string(name: str) -> None:
    text = "A4" if name == "paper" else "anything"
    assert getattr(make_options(name, text), name) == text
    for value in (3, None, ["a list"], True):
        refusal(name, value)


@pytest.mark.parametrize("name", LISTS)
def test_a_list_must_not_be_a_string_or_a_scalar(name: str) -> None:
    for value in ("relu1_1", "1.0"):
        assert "list" in refusal(name, value)
    for nothing in (5, None):
        with pytest.raises(OptionError, match="list"):
            Options.of(**{name: nothing})


@pytest.mark.parametrize(
    "values",
    [[1, 2], range(1, 3), (n for n in (1, 2)), np.array([1, 2], np.uint8), torch.tensor([1.0, 2.0])],
    ids=lambda values: type(values).__name__,
)
def test_a_list_may_be_any_sequence(values: Any) -> None:
    weights = Options(style_weights=values).style_weights
    assert (list(weights), {type(weight) for weight in weights}) == ([1, 2], {float})


def test_what_has_no_order_or_is_not_a_list_of_numbers_is_refused() -> None:
    wrong: Any
    for wrong in (b"12", {1, 2}, {1: 2}, {1: 2}.keys(), np.array(1), np.zeros(()), torch.tensor(1.0)):
        with pytest.raises(OptionError, match=r"^style_weights is '.*'; it takes a list\.$"):
            Options(style_weights=wrong)
    for wrong in (np.ones((2, 2)), [[1]], torch.ones(2, 2), [None], ["1"]):
        with pytest.raises(OptionError, match=r"^style_weights is .*; it can be 0 to 1000000\.$"):
            Options(style_weights=wrong)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_may_be_of_any_type(name: str) -> None:
    """Of numpy, torch, fractions and decimals; the field has a type of Python's own, so that JSON can hold it."""
    low, high = SPECS[name].low, SPECS[name].high
    assert low is not None
    assert high is not None
    whole = max(1, math.ceil(low)) if name != "memory" else 10**9
    values: list[Any] = [np.int64(whole), np.uint32(whole), Fraction(whole), Decimal(whole), np.float64(whole)]
    values += [torch.tensor(whole), np.array(whole), np.float32(whole) if whole < 1e6 else whole]
    if name in WHOLE or high < 1:
        values = [value for value in values if low <= value <= high]
    for value in values:
        (stored,) = read_field(name, value)
        expected = int if name in WHOLE else type(make_field_value(name))
        assert (stored, type(stored)) == (whole, expected), repr(value)
    if name not in WHOLE and name not in ("memory", "patience"):
        for fraction in (np.float32(0.3), np.float16(0.3), Fraction(3, 10), Decimal("0.3"), np.float64(0.3)):
            (stored,) = read_field(name, fraction)
            assert (stored, type(stored)) == (0.3, float), repr(fraction)
    wrong: list[Any] = [np.float32("nan"), Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity"), np.bool_(True)]
    wrong += [np.complex64(1), Fraction(10**400), Decimal("1e400"), torch.tensor(math.inf), torch.tensor(True)]
    for value in (*wrong, torch.ones(2, 3)):
        refusal(name, [value] if name in LISTS else value)


def read_field(name: str, value: Any) -> tuple[Any, ...]:
    stored = getattr(make_options(name, [value] if name in LISTS else value), name)
    return stored if isinstance(stored, tuple) else (stored,)


def make_field_value(name: str) -> Any:
    return 1.0 if name in LISTS else getattr(Options(), name)


class Size(enum.IntEnum):
    SMALL = 64


class Look(str, enum.Enum):  # noqa: UP042 - the usual kind, whose `str()` is not its value
    OIL = "oil"


def test_values_may_be_of_the_types_that_programs_use() -> None:
    options: Any = {"look": Look.OIL, "time": datetime.timedelta(minutes=1), "device": torch.device("cuda", 1)}
    made = Options.of(**options, size=Size.SMALL)
    assert (made.look, made.time, made.device, made.size) == ("oil", 60, "cuda:1", 64)
    assert json.loads(json.dumps(made.to_dict())) == made.to_dict()
    assert "oil" in f"{made.look}"
    refusal("seed", datetime.timedelta(minutes=1))


def test_text_may_be_of_numpy_and_files_may_be_paths() -> None:
    options = Options(look=np.str_("oil"), size=np.str_("original"), init=Path("a") / "b.png", backbone=Path("c.pth"))  # type: ignore[arg-type]
    assert (options.look, options.size, options.init, options.backbone) == (
        "oil",
        "original",
        str(Path("a/b.png")),
        "c.pth",
    )
    assert {type(value) for value in (options.look, options.size, options.init)} == {str}
    assert Options(style_layers=np.array(["relu1_1", "relu2_1"])).style_layers == ("relu1_1", "relu2_1")  # type: ignore[arg-type]


def test_messages_name_the_value_and_the_range() -> None:
    assert refusal("size", 12) == "size is 12; it can be 64 to 16384."
    assert refusal("strength", 101) == "strength is 101; it can be 0 to 100."
    assert refusal("seed", -1) == "seed is -1; it can be a whole number from 0 to 4294967295."
    assert refusal("stroke_size", 0.1) == "stroke_size is 0.1; it can be 0.25 to 4."
    assert refusal("strength", "50") == "strength is the text 50; it can be 0 to 100."
    assert refusal("strength", np.zeros((100, 100))).count("0.") < 60, "a long value is cut"
    assert refusal("seed", None) == "seed is None; it can be a whole number from 0 to 4294967295."


def test_a_misspelled_choice_gets_a_suggestion() -> None:
    assert "did you mean 'gram'?" in refusal("distance", "grams")
    assert "did you mean" not in refusal("distance", "zzz")


def test_the_side_of_tiles_may_be_a_word() -> None:
    assert [Options(tile=tile).tile for tile in ("auto", "off", 0, 64, 1024)] == ["auto", "off", "off", 64, 1024]
    assert refusal("tile", 16) == "tile is 16; it can be 64 to 4096."
    words = "it can be 64 to 4096 for the side of a tile, or 'auto' or 'off'."
    assert refusal("tile", "on") == f"tile is 'on'; {words}"


def test_size_may_be_original() -> None:
    assert Options(size="original").size == "original"
    refusal("size", "orignal")


def test_layer_weights_are_one_per_style_layer_or_one_for_all() -> None:
    assert Options(layer_weights=(3.0,)).layer_weights == (3.0,)
    with pytest.raises(OptionError, match="2 numbers for 6 style layers"):
        Options(layer_weights=(1.0, 2.0))
    with pytest.raises(OptionError, match="6 numbers for 1 style layer; give one for each, a single one for all"):
        Options(style_layers=("relu1_1",), layer_weights=(1, 2, 3, 4, 5, 6))
    for zeros in ((0,), (0,) * 6):
        with pytest.raises(OptionError, match="layer_weights are all 0; give at least one layer a positive weight"):
            Options(layer_weights=zeros)


def test_the_default_weights_follow_the_layers() -> None:
    """A default layer keeps its weight; any other has that of the default layer before it in its block."""

    def list_weights(options: Options) -> list[float]:
        return [*options.style_layer_weights]

    assert list_weights(Options()) == [*DEFAULT_LAYER_WEIGHTS.values()]
    assert list_weights(Options(style_layers=("relu5_1", "conv1_1"))) == [1.5, 256]
    other = Options(style_layers=("relu1_2", "relu3_3", "relu4_2", "relu4_3", "relu4_4", "relu5_4"), backbone="vgg19")
    assert list_weights(other) == [256, 24, 6, 0.2, 0.2, 1.5]
    assert list_weights(Options.of(look="gatys", style_layers=("relu1_1",))) == [1]
    assert list_weights(Options(style_layers=())) == []
    assert list_weights(Options().replace(style_layers=("relu2_1",))) == [64]
    layers = (("--from", Options().to_dict()), ("flag", {"style_layers": ("relu1_1",)}))
    assert list_weights(resolve_options(*layers).options) == [256]


@pytest.mark.parametrize("name", ["content_layers", "style_layers"])
def test_an_unknown_layer_is_named_with_the_known_ones(name: str) -> None:
    assert tuple(LAYERS) == arch.list_layers("vgg19")
    assert tuple(VGG16_LAYERS) == arch.list_layers("vgg16")
    for layer in ("relu9_1", "relu2_3", "", "pool1", "relu4"):
        with pytest.raises(OptionError) as caught:
            Options.of(**{name: ("relu1_1", layer)})
        assert str(caught.value).startswith(
            f"{name} has '{layer}', which is not a layer of vgg16; choose from relu1_1,"
        )
    Options.of(**{name: ("relu4_4", " CONV1_1 "), "backbone": "vgg19"})
    with pytest.raises(OptionError, match="'relu9_1', which is not a layer of any VGG"):
        Options.of(**{name: ("relu9_1",), "backbone": "vgg19"})


def test_at_least_one_layer_is_required() -> None:
    with pytest.raises(OptionError):
        Options(content_layers=(), style_layers=(), layer_weights=(1.0,))


def test_options_are_frozen_and_can_be_replaced() -> None:
    plain = Options()
    with pytest.raises(dataclasses.FrozenInstanceError):
        plain.size = 64  # type: ignore[misc]
    changed = plain.replace(size=64, strength=70)
    assert (changed.size, changed.strength, plain.size) == (64, 70.0, 512)
    with pytest.raises(OptionError, match="strength is 700"):
        plain.replace(strength=700)
    with pytest.raises(OptionError, match="did you mean 'strength'"):
        plain.replace(strenght=7)
    with pytest.raises(TypeError):
        Options(512)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(size="original", style_weights=(1.0, 2.5), seed=2**32 - 1),
        Options.of(look="gatys", preset="fine", strength=33.3),
    ],
)
def test_options_are_restored_from_json(options: Options) -> None:
    assert Options(**json.loads(json.dumps(options.to_dict()))) == options
    assert hash(options) == hash(Options(**options.to_dict()))


def test_a_stronger_layer_wins_and_origins_name_it() -> None:
    resolved = resolve_options(("file", {"size": 256, "seed": 1}), ("flags", {"size": 128}))
    assert (resolved.options.size, resolved.options.seed) == (128, 1)
    assert (resolved.origins["size"], resolved.origins["seed"], resolved.origins["stroke_size"]) == (
        "flags",
        "file",
        "default",
    )
    assert set(resolved.origins) == set(SPECS)


def test_a_preset_ranks_below_the_fields_of_its_layer_and_above_weaker_layers() -> None:
    draft = PRESETS["draft"].values
    resolved = resolve_options(("file", {"iterations": 7, "taper": 0.5}), ("flags", {"preset": "draft", "taper": 0.9}))
    assert resolved.options.iterations == draft["iterations"]
    assert resolved.options.taper == 0.9
    assert resolved.options.preset == "draft"
    assert resolved.origins["iterations"] == "flags (preset draft)"
    assert resolved.origins["taper"] == resolved.origins["preset"] == "flags"


def test_a_preset_does_not_outrank_stronger_layers() -> None:
    resolved = resolve_options(("file", {"preset": "draft"}), ("flags", {"iterations": 7}))
    assert resolved.options.iterations == 7
    assert resolved.options.taper == PRESETS["draft"].values["taper"]
    assert resolved.origins["taper"] == "file (preset draft)"


@pytest.mark.parametrize(("kind", "bundles", "weaker"), [("preset", PRESETS, "draft"), ("look", LOOKS, "gatys")])
def test_the_default_preset_or_look_undoes_a_weaker_one(kind: str, bundles: dict[str, Any], weaker: str) -> None:
    default = getattr(Options(), kind)
    resolved = resolve_options(("file", {kind: weaker}), ("flags", {kind: default}))
    assert resolved.options == Options()
    assert all(resolved.origins[name] == f"flags ({kind} {default})" for name in bundles[weaker].values)


def test_every_preset_and_look_is_valid_and_applied() -> None:
    for preset, effort in PRESETS.items():
        for look, manner in LOOKS.items():
            options = Options.of(preset=preset, look=look).to_dict()
            own = {"iterations": manner.iterations[preset]} if manner.iterations else {}
            for name, value in {**effort.values, **manner.values, **own}.items():
                assert options[name] == (list(value) if isinstance(value, tuple) else value)
            assert effort.help
            assert manner.help
    iterations = [Options.of(preset=preset).iterations for preset in ("draft", "standard", "fine")]
    assert iterations == sorted(set(iterations))


def test_a_recipe_is_undone_when_another_look_replaces_it_and_only_then() -> None:
    """It sets options that have nothing to do with the manner; another look leaves them as they were chosen."""
    recipe = ("file", {"preset": "fine", "look": "gatys"})
    assert resolve_options(recipe).options.iterations == 1000
    for look in ("plain", "oil", "gram"):
        replaced = resolve_options(recipe, ("flags", {"look": look})).options
        assert replaced == Options.of(preset="fine", look=look)
    chosen = {"init": "style", "optimizer": "adam", "first_size": 256, "iterations": 33, "distance": "gram"}
    kept = resolve_options(("file", chosen), ("flags", {"look": "oil"})).options
    assert {name: getattr(kept, name) for name in chosen} == chosen
    assert kept.smoothness == 0.3


def test_a_preset_gives_the_iterations_of_a_look_with_its_own() -> None:
    looks = ({"look": "gatys", "preset": "draft"}, {"look": "gatys", "iterations": 7}, {"look": "gatys"})
    assert [Options.of(**look).iterations for look in looks] == [100, 7, 400]
    layers = ("file", {"look": "gatys"}), ("flags", {"preset": "fine"})
    assert resolve_options(*layers).options.iterations == 1000
    assert resolve_options(*layers, ("more", {"look": "gatys"})).options.iterations == 1000
    both = ("file", {"look": "gatys"}), ("flags", {"preset": "fine", "look": "plain"})
    assert resolve_options(*both).options == Options.of(preset="fine")


def test_an_unknown_setting_is_refused_with_a_suggestion_or_the_list() -> None:
    with pytest.raises(OptionError, match="no setting 'strenght'; did you mean 'strength'"):
        resolve_options(("flags", {"strenght": 50}))
    with pytest.raises(OptionError, match="no setting 'zzz'; the settings are size, preset"):
        Options.of(zzz=1)


@pytest.mark.parametrize("kind", ["preset", "look"])
@pytest.mark.parametrize("value", ["drafty", "", 3, None, ["draft"]])
def test_an_unknown_preset_or_look_is_refused_with_the_list(kind: str, value: Any) -> None:
    with pytest.raises(OptionError) as caught:
        resolve_options(("file", {kind: value}))
    assert all(choice in str(caught.value) for choice in SPECS[kind].choices)


def test_without_layers_the_defaults_are_returned() -> None:
    resolved = resolve_options()
    assert resolved.options == Options()
    assert set(resolved.origins.values()) == {"default"}


def test_durations_are_formatted_for_people() -> None:
    seconds = (0, 0.44, 9.94, 9.96, 59.4, 59.6, 61, 185, 3599.6, 7800, 90_000)
    assert [format_duration(value) for value in seconds] == [
        *("0.0 s", "0.4 s", "9.9 s", "10 s", "59 s", "1 min 0 s", "1 min 1 s", "3 min 5 s", "1 h 0 min"),
        *("2 h 10 min", "25 h 0 min"),
    ]


def test_values_are_formatted_as_flags_take_them() -> None:
    assert format_value(50.0) == "50"
    assert format_value(1 / 3) == "0.3333333333333333"
    assert format_value(("relu1_1", "relu2_1")) == "relu1_1,relu2_1"
    assert format_value([256.0, 0.25]) == "256,0.25"
    assert format_value("oil") == "oil"


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        *(("4gb", 4_000_000_000), ("4GB", 4_000_000_000), (" 4 Gb ", 4_000_000_000), ("4g", 4_000_000_000)),
        *(("4gib", 2**32), ("1.5GiB", 3 * 2**29), ("800mb", 800_000_000), ("800M", 800_000_000), (".5tb", 5 * 10**11)),
        *(("900000k", 900_000_000), ("900000KiB", 921_600_000), ("200000000b", 200_000_000), (2e9, 2_000_000_000)),
    ],
)
def test_memory_is_given_in_any_usual_unit(text: str | float, amount: int) -> None:
    memory = Options(memory=text).memory  # type: ignore[arg-type]
    assert memory == amount
    assert isinstance(memory, int)


@pytest.mark.parametrize("text", ["4", "4 bananas", "gb", "-4gb", "4gb 3", "4,5gb", "", "99tb", "0.1"])
def test_memory_in_another_form_is_refused_with_an_example(text: str) -> None:
    assert "such as 800mb, 4gb or 4gib" in refusal("memory", text)


def test_a_forgotten_unit_of_memory_is_an_error() -> None:
    assert "give a unit, such as 4gb" in refusal("memory", 4)


def test_time_is_given_in_any_usual_unit() -> None:
    assert [Options(time=text).time for text in ("60s", "2m", "1.5 h", "2M")] == [60, 120, 5400, 120]  # type: ignore[arg-type]
    assert "such as 60s, 2m or 1h" in refusal("time", "4gb")
