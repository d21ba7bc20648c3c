"""The notation of masks: what is a mask, an amount and a style, and what is wrong."""

import re
from pathlib import Path

import pytest

from styler.errors import OptionError
from styler.options import Options
from styler.regions.specs import Protection, explain_missing_mask, is_color, parse_color, parse_protection, parse_region

STYLES = {"woodcut", "mosaic", "a=b.jpg"}


@pytest.mark.parametrize(
    ("text", "mask", "amount"),
    [
        ("faces", "faces", 70),
        ("subject=80", "subject", 80),
        (" subject = 12.5 ", "subject", 12.5),
        ("faces=0", "faces", 0),
        ("mask.png", "mask.png", 70),
        ("mask.png=100", "mask.png", 100),
        ("a=b.png", "a=b.png", 70),
        ("a=b.png=30", "a=b.png", 30),
        ("size=50=60", "size=50", 60),
        ("#FF0000=20", "#FF0000", 20),
        ("folder/x=1/m.png", "folder/x=1/m.png", 70),
    ],
)
def test_the_number_after_the_last_equals_sign_is_the_amount(text: str, mask: str, amount: float) -> None:
    assert parse_protection(text) == Protection(mask, amount)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "which names no mask; a mask is subject"),
        ("=50", "which names no mask"),
        ("faces=120", "the amount is 120; it can be 0 to 100"),
        ("faces=-1", "the amount is -1; it can be 0 to 100"),
        ("mask.png=nan", "the amount is nan; it can be 0 to 100"),
        ("faces=80%", "write it without the percent sign, faces=80"),
        ("faces=much", "the amount is 'much'; it can be 0 to 100"),
        ("faces=", "the amount is ''; it can be 0 to 100"),
        ("none=5", "none stands alone"),
        ("#ff00=5", "write it with six hexadecimal digits"),
        ("#red", "write it with six hexadecimal digits"),
        ("#ff0000", "a color of the label picture, but there is none; name it with --labels"),
    ],
)
def test_a_malformed_protection_is_explained(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=re.escape(message)) as caught:
        Options(protect=(text,))
    assert re.fullmatch(r"protect (has|is) .*\.", str(caught.value))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"protect": ("none", "faces")}, "none stands alone"),
        ({"regions": ("subject", "subject")}, "twice; give each mask one style"),
        ({"regions": ("none",)}, "which is no mask"),
        ({"regions": (" ",)}, "which names no mask"),
        ({"regions": ("#00ff00",)}, "name it with --labels"),
        ({"regions": "subject"}, "takes a list"),
    ],
)
def test_contradictions_are_refused_without_the_photo(settings: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Options(**settings)  # type: ignore[arg-type] # wrong on purpose


def test_what_is_well_formed_is_accepted() -> None:
    options = Options(protect=("faces=30", "#ff0000"), regions=("#00ff00", "sky.png"), labels="labels.png")
    assert Options(**options.to_dict()) == options
    assert Options(protect=("none",)).protect == ("none",)
    assert Options().protect == Options().regions == ()


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("subject=woodcut", ("subject", "woodcut")),
        ("#ff0000=mosaic", ("#ff0000", "mosaic")),
        ("sky.png=woodcut", ("sky.png", "woodcut")),
        ("x=1.png=mosaic", ("x=1.png", "mosaic")),
        ("subject=a=b.jpg", ("subject", "a=b.jpg")),
        ("x=1.png=a=b.jpg", ("x=1.png", "a=b.jpg")),
        ("own=mosaic", ("own", "mosaic")),
        ("subject=missing.jpg", ("subject", "missing.jpg")),
        ("subject=of=missing.jpg", ("subject", "of=missing.jpg")),
        ("missing.png=mosaic", ("missing.png", "mosaic")),
    ],
)
def test_a_region_is_divided_where_both_parts_exist(
    text: str, pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("sky.png", "x=1.png"):
        Path(name).touch()
    assert parse_region(text, STYLES.__contains__, names=("own",)) == pair


@pytest.mark.parametrize("text", ["subject", "", "=", "subject=", "=woodcut"])
def test_a_region_without_mask_or_style_is_explained(text: str) -> None:
    with pytest.raises(OptionError, match=r"write MASK=STYLE, such as subject=woodcut\.$"):
        parse_region(text, STYLES.__contains__)


def test_a_name_that_is_almost_right_is_suggested() -> None:
    assert "did you mean 'faces'?" in explain_missing_mask("faecs", ())
    assert "did you mean 'sky'?" in explain_missing_mask("sky1", ("sky",))
    assert "did you mean" not in explain_missing_mask("qqqqqq", ())


def test_colors_are_six_digits() -> None:
    assert parse_color("#Ff8001") == (255, 128, 1)
    assert [is_color(text) for text in ("#ff0000", "#F0F0F0", "ff0000", "#ff000", "#gg0000")] == [True] * 2 + [
        False
    ] * 3
