"""`styler presets` and `styler styles`: what there is to choose from, by name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from styler import library
from styler.cli import answers
from styler.cli.answers import Json
from styler.cli.flags import name_of, shown
from styler.options import LOOKS, PRESETS, Bundle, Value, resolve_options


def presets(*, json: Json = False) -> int:
    """List the presets and looks with what they set."""
    kinds = {"preset": PRESETS, "look": LOOKS}
    if json:
        answers.document({f"{kind}s": _described(kind, bundles) for kind, bundles in kinds.items()})
        return 0
    text = []
    for kind, bundles in kinds.items():
        for name, bundle in bundles.items():
            flags = " ".join(
                f"{name_of(field)} {shown(value)}" for field, value in _values(kind, bundles, name).items()
            )
            text += [f"{name_of(kind)} {name}", f"  {bundle.help}", f"  {flags}", ""]
    answers.lines(text[:-1])
    return 0


def pictures(*, json: Json = False) -> int:
    """List the paintings and photos that come with styler."""
    kinds = {"styles": library.list_styles(), "contents": library.list_contents()}
    credit = library.read_credits()
    if json:
        answers.document(
            {
                kind: {name: {"path": str(path), "credit": credit.get(path.name)} for name, path in found.items()}
                for kind, found in kinds.items()
            }
        )
        return 0
    text = []
    for title, found in zip(("Paintings (STYLE):", "Photos (CONTENT):"), kinds.values(), strict=True):
        text += [title, *answers.columns([_row(name, path, credit) for name, path in found.items()]), ""]
    answers.lines(text[:-1])
    return 0


def _row(name: str, path: Path, credit: Mapping[str, str]) -> tuple[str, str]:
    return f"  {name}", credit.get(path.name, "")


def _described(kind: str, bundles: Mapping[str, Bundle]) -> dict[str, Any]:
    return {name: {"help": bundle.help, "values": _values(kind, bundles, name)} for name, bundle in bundles.items()}


def _values(kind: str, bundles: Mapping[str, Bundle], name: str) -> dict[str, Value]:
    """What a bundle sets; the default one sets what the others would change."""
    options = resolve_options(("presets", {kind: name})).options
    return {field: getattr(options, field) for bundle in bundles.values() for field in bundle.values}
