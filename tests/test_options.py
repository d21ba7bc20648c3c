"""Every setting is validated from its own table, and layers of settings merge as promised."""

import dataclasses
import json
import math
from typing import Any

import pytest

from styler.errors import OptionError
from styler.options import (
    LOOKS,
    PRESETS,
    Options,
    describe_range,
    format_duration,
    format_value,
    list_options,
    resolve_options,
)

KNOBS = list_options()
NUMBERS = [name for name, knob in KNOBS.items() if knob.low is not None]
LISTS = [field.name for field in dataclasses.fields(Options) if isinstance(field.default, tuple)]
WORDS = [name for name, knob in KNOBS.items() if knob.choices]
TEXTS = [name for name, value in Options().to_dict().items() if isinstance(value, str) and name not in WORDS]
WHOLE = ["size", "seed", "iterations", "first_size", "threads"]


def options(name: str, value: Any) -> Options:
    """Options with one setting; one for a list is put in one."""
    if name in LISTS and not isinstance(value, (str, list, tuple)):
        value = (value,)
    return Options(**{name: value})


def refused(name: str, value: Any) -> str:
    """The sentence with which a value is refused: one line that names the setting and the value."""
    with pytest.raises(OptionError) as caught:
        options(name, value)
    message = str(caught.value)
    assert message.startswith(f"{name} is ")
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_every_setting_is_documented_and_bounded_or_chosen_from() -> None:
    assert set(KNOBS) == {field.name for field in dataclasses.fields(Options)}
    for name, knob in KNOBS.items():
        assert knob.help, name
        assert knob.group in {"Picture", "Effort", "Objective", "Machine"}, name
        assert (knob.low is None) == (knob.high is None), name
    assert set(NUMBERS) | set(WORDS) | set(TEXTS) | {"content_layers", "style_layers"} == set(KNOBS)


def test_the_defaults_are_valid_and_are_those_of_the_default_preset_and_look() -> None:
    plain = Options()
    assert plain.preset == "standard"
    assert plain.look == "plain"
    assert resolve_options(("flags", {"preset": plain.preset, "look": plain.look})).options == plain
    assert Options.of() == plain


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_taken_at_its_bounds_and_refused_beyond(name: str) -> None:
    low, high = KNOBS[name].low, KNOBS[name].high
    assert low is not None
    assert high is not None
    for bound in (low, high):
        found = getattr(options(name, int(bound) if name in WHOLE else bound), name)
        assert found in (bound, (bound,))
    below = low - (1 if name in WHOLE else max(1e-6, low * 1e-6))
    above = high + (1 if name in WHOLE else high * 1e-6)
    for value in (below, above):
        assert describe_range(KNOBS[name]) in refused(name, value).replace("a whole number from ", "")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, False, "12", None, 3j, object()])
def test_what_is_no_number_is_refused(name: str, value: Any) -> None:
    refused(name, [value] if name in LISTS else value)


def test_a_number_of_any_length_is_refused_in_a_sentence() -> None:
    for name in NUMBERS:
        refused(name, 10**400)


@pytest.mark.parametrize("name", WHOLE)
def test_a_fraction_of_a_pixel_a_step_or_a_thread_is_refused(name: str) -> None:
    refused(name, 100.5)
    found = getattr(options(name, 100.0), name)
    assert found == 100
    assert isinstance(found, int)


@pytest.mark.parametrize("name", ["strength", "stroke_size", "keep_color", "taper", "learning_rate"])
def test_a_whole_number_does_for_a_real_one(name: str) -> None:
    found = getattr(options(name, 1), name)
    assert found == 1
    assert isinstance(found, float)


@pytest.mark.parametrize("name", WORDS)
def test_a_word_is_taken_from_the_choices_alone(name: str) -> None:
    for choice in KNOBS[name].choices:
        assert getattr(options(name, choice), name) == choice
    for value in ("", "nothing of ours", KNOBS[name].choices[0].upper(), 3, None, ["a list"], True):
        message = refused(name, value)
        assert all(choice in message for choice in KNOBS[name].choices)


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_is_a_text(name: str) -> None:
    assert getattr(options(name, "anything"), name) == "anything"
    for value in (3, None, ["a list"], True):
        refused(name, value)


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_a_list(name: str) -> None:
    for value in ("relu1_1", "1.0"):
        assert "list" in refused(name, value)
    for nothing in (5, None):
        with pytest.raises(OptionError, match="list"):
            Options.of(**{name: nothing})


def test_a_list_may_come_as_any_sequence() -> None:
    assert Options(style_weights=[1, 2]).style_weights == (1.0, 2.0)  # type: ignore[arg-type]


def test_messages_name_the_value_and_the_range_there_is() -> None:
    assert refused("size", 12) == "size is 12; it can be 64 to 8192."
    assert refused("strength", 101) == "strength is 101; it can be 0 to 100."
    assert refused("seed", -1) == "seed is -1; it can be a whole number from 0 to 4294967295."
    assert refused("stroke_size", 0.1) == "stroke_size is 0.1; it can be 0.25 to 4."


def test_a_misspelt_choice_is_guessed() -> None:
    assert "did you mean 'gram'?" in refused("distance", "grams")
    assert "did you mean" not in refused("distance", "zzz")


def test_size_may_be_that_of_the_original() -> None:
    assert Options(size="original").size == "original"
    refused("size", "orignal")


def test_there_is_a_weight_for_every_style_layer_or_one_for_all() -> None:
    assert Options(layer_weights=(3.0,)).layer_weights == (3.0,)
    with pytest.raises(OptionError, match="2 numbers for 6 style layers"):
        Options(layer_weights=(1.0, 2.0))
    with pytest.raises(OptionError, match="0 numbers for 6 style layers"):
        Options(layer_weights=())
    with pytest.raises(OptionError, match="6 numbers for 1 style layers"):
        Options(style_layers=("relu1_1",))


def test_a_picture_must_be_compared_with_something() -> None:
    """Without any layer there is nothing to paint towards."""
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
    "found",
    [
        Options(),
        Options(size="original", style_weights=(1.0, 2.5), seed=2**32 - 1),
        Options.of(look="gatys", preset="fine", strength=33.3),
    ],
)
def test_options_survive_json(found: Options) -> None:
    assert Options(**json.loads(json.dumps(found.to_dict()))) == found
    assert hash(found) == hash(Options(**found.to_dict()))


def test_a_stronger_layer_wins_and_origins_say_which() -> None:
    found = resolve_options(("file", {"size": 256, "seed": 1}), ("flags", {"size": 128}))
    assert (found.options.size, found.options.seed) == (128, 1)
    assert (found.origins["size"], found.origins["seed"], found.origins["stroke_size"]) == ("flags", "file", "default")
    assert set(found.origins) == set(KNOBS)


def test_a_preset_ranks_below_its_own_layer_s_fields_and_above_weaker_layers() -> None:
    draft = PRESETS["draft"].values
    found = resolve_options(("file", {"iterations": 7, "taper": 0.5}), ("flags", {"preset": "draft", "taper": 0.9}))
    assert found.options.iterations == draft["iterations"]
    assert found.options.taper == 0.9
    assert found.options.preset == "draft"
    assert found.origins["iterations"] == "flags (preset draft)"
    assert found.origins["taper"] == found.origins["preset"] == "flags"


def test_a_preset_does_not_outrank_stronger_layers() -> None:
    found = resolve_options(("file", {"preset": "draft"}), ("flags", {"iterations": 7}))
    assert found.options.iterations == 7
    assert found.options.taper == PRESETS["draft"].values["taper"]
    assert found.origins["taper"] == "file (preset draft)"


@pytest.mark.parametrize(("kind", "bundles", "weaker"), [("preset", PRESETS, "draft"), ("look", LOOKS, "gatys")])
def test_the_default_preset_or_look_undoes_a_weaker_one(kind: str, bundles: dict[str, Any], weaker: str) -> None:
    default = getattr(Options(), kind)
    found = resolve_options(("file", {kind: weaker}), ("flags", {kind: default}))
    assert found.options == Options()
    assert all(found.origins[name] == f"flags ({kind} {default})" for name in bundles[weaker].values)


def test_every_preset_and_look_is_valid_and_does_what_it_says() -> None:
    for preset, effort in PRESETS.items():
        for look, manner in LOOKS.items():
            found = Options.of(preset=preset, look=look).to_dict()
            for name, value in {**effort.values, **manner.values}.items():
                assert found[name] == (list(value) if isinstance(value, tuple) else value)
            assert effort.help
            assert manner.help
    steps = [Options.of(preset=preset).iterations for preset in ("draft", "standard", "fine")]
    assert steps == sorted(set(steps))


def test_the_gatys_look_is_the_recipe_of_the_paper() -> None:
    found = Options.of(look="gatys")
    assert found.distance == "gram"
    assert found.content_layers == ("relu4_2",)
    assert found.style_layers == ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_3", "relu5_1")
    assert len(set(found.layer_weights)) == 1
    assert found.smoothness == 0
    assert found.pooling == "average"


def test_an_unknown_setting_is_refused_with_a_guess_or_the_list() -> None:
    with pytest.raises(OptionError, match="no setting 'strenght'; did you mean 'strength'"):
        resolve_options(("flags", {"strenght": 50}))
    with pytest.raises(OptionError, match="no setting 'zzz'; the settings are size, preset"):
        Options.of(zzz=1)


@pytest.mark.parametrize("kind", ["preset", "look"])
@pytest.mark.parametrize("value", ["drafty", "", 3, None, ["draft"]])
def test_an_unknown_preset_or_look_is_refused_with_the_list(kind: str, value: Any) -> None:
    with pytest.raises(OptionError) as caught:
        resolve_options(("file", {kind: value}))
    assert all(choice in str(caught.value) for choice in KNOBS[kind].choices)


def test_resolving_nothing_gives_the_defaults() -> None:
    found = resolve_options()
    assert found.options == Options()
    assert set(found.origins.values()) == {"default"}


def test_durations_are_formatted_for_people() -> None:
    seconds = (0, 0.44, 9.94, 9.96, 59.4, 59.6, 61, 185, 3599.6, 7800, 90_000)
    assert [format_duration(value) for value in seconds] == (
        ["0.0 s", "0.4 s", "9.9 s", "10 s", "59 s", "1 min 0 s", "1 min 1 s", "3 min 5 s", "1 h 0 min"]
        + ["2 h 10 min", "25 h 0 min"]
    )


def test_values_are_formatted_as_flags_take_them() -> None:
    assert format_value(50.0) == "50"
    assert format_value(1 / 3) == "0.3333333333333333"
    assert format_value(("relu1_1", "relu2_1")) == "relu1_1,relu2_1"
    assert format_value([256.0, 0.25]) == "256,0.25"
    assert format_value("oil") == "oil"
