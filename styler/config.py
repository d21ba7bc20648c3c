"""What is set besides the flags: `STYLER_*` in the environment, and `styler.toml` in two folders.

The fields of `Options` stand at the top level of the file, tables are for the verbs of their name. Every front end
merges these layers with its own by `options.resolve`. Knows the options alone: no flags, pictures or networks.
"""

import dataclasses
import difflib
import os
import tomllib
import typing
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from styler.errors import OptionError, StylerError
from styler.options import Options, check_settings, list_options

CONFIG_FILE = "styler.toml"
ENV_PREFIX = "STYLER_"
ENVIRONMENT_LAYER = "environment"
"""The name of the layer that the variables make."""
TABLES = ("batch", "ui")
"""Tables that a file may have for other verbs."""

Layer = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Config:
    """What is set outside the program."""

    layers: tuple[Layer, ...]
    """For `resolve`, weakest first."""
    warnings: tuple[str, ...]


def load_config(environ: Mapping[str, str] | None = None, verb: str = "", own: Container[str] = ()) -> Config:
    """Read the user's file, the working folder's file and the environment.

    Args:
        environ: the variables; those of the process when not given.
        verb: whose table in a file counts, over what stands at its top level.
        own: names in that table that are flags of the verb alone, which `own` gives.

    Raises:
        OptionError: a file is no TOML, or a setting is unknown or invalid; the sentence names the file or variable.
        StylerError: a file is there and cannot be read.
    """
    variables = os.environ if environ is None else environ
    layers = [
        (str(path), settings) for path in config_paths() if (settings := read_config_file(path, verb, own)) is not None
    ]
    return Config((*layers, (ENVIRONMENT_LAYER, _read_environment(variables))), tuple(_find_misspelled(variables)))


def config_paths() -> tuple[Path, Path]:
    """Where the files would be, weakest first: the user's, and the one in the working folder."""
    from platformdirs import user_config_path

    return user_config_path("styler", appauthor=False) / CONFIG_FILE, Path(CONFIG_FILE)


def is_readable(path: Path) -> bool:
    """Is there a file for us? Not in a folder that we may not look into, where `Path.is_file` would raise."""
    return os.path.isfile(path)  # noqa: PTH113


def variable_name(name: str) -> str:
    """The environment variable of a field: `STYLER_KEEP_COLOR`."""
    return ENV_PREFIX + name.upper()


def parse_value(name: str, text: str) -> Any:
    """The value of a field that a person typed, in the field's type where the text allows.

    A list is separated by commas. A text that is no number goes on as it is, for `Options` to refuse by name.
    """
    kind: Any = next(field.type for field in dataclasses.fields(Options) if field.name == name)
    return _parse_typed(kind, text)


def read_command_flags(path: Path, verb: str, names: Container[str]) -> dict[str, Any]:
    """What a verb's table in a file says of flags that the verb alone has; who reads the flags checks them.

    Raises:
        OptionError: the file is no TOML.
        StylerError: it is there and cannot be read.
    """
    table = (_read_toml(path) or {}).get(verb)
    return {name: value for name, value in table.items() if name in names} if isinstance(table, Mapping) else {}


def read_config_file(path: Path, verb: str = "", own: Container[str] = ()) -> dict[str, Any] | None:
    """The settings in a file for a verb, without the tables of other verbs; None if there is no such file.

    Args:
        path: the file.
        verb: whose table counts.
        own: names in that table that are no options.

    Raises:
        OptionError: it is no TOML, or a setting in it is unknown or invalid.
        StylerError: it is there and cannot be read.
    """
    content = _read_toml(path)
    if content is None:
        return None
    settings = {name: value for name, value in content.items() if not (name in TABLES and isinstance(value, Mapping))}
    table = content.get(verb)
    if isinstance(table, Mapping):
        settings |= {name: value for name, value in table.items() if name not in own}
    try:
        for name, value in settings.items():
            _check_type(name, value)
        check_settings(settings)
    except OptionError as error:
        raise OptionError(f"In '{path}': {error}") from error
    return settings


def _read_toml(path: Path) -> dict[str, Any] | None:
    """Everything in a file; None if there is no such file."""
    if not os.path.lexists(path):  # nor is there a file for us in a folder that we may not look into
        return None
    try:
        if not path.is_file():  # a pipe would be waited for
            raise StylerError(f"Cannot read the settings in '{path}': it is no file; move it away.")
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))  # some editors put a mark before UTF-8
    except OSError as error:
        raise StylerError(f"Cannot read the settings in '{path}': {error.strerror}; make it readable.") from error
    except (ValueError, RecursionError) as error:
        raise OptionError(f"The settings in '{path}' are no valid TOML: {error}; correct or delete it.") from error


def _check_type(name: str, value: Any) -> None:
    """Refuse a text where a number or a list is wanted, with better advice than its range."""
    if name in list_options() and isinstance(value, str) and not isinstance(wanted := parse_value(name, value), str):
        form = "a list in brackets" if isinstance(wanted, tuple) else "a number without quotes"
        raise OptionError(f'{name} is the text "{value}"; write {form}.')


def _read_environment(variables: Mapping[str, str]) -> dict[str, Any]:
    """The settings in the environment; an empty variable is none."""
    settings = {}
    for name in list_options():
        if text := variables.get(variable_name(name), ""):
            settings[name] = parse_value(name, text)
            try:
                check_settings({name: settings[name]})
            except OptionError as error:
                raise OptionError(f"In the variable {variable_name(name)}: {error}") from error
    return settings


def _find_misspelled(variables: Iterable[str]) -> list[str]:
    """A warning for every variable that is nearly one of ours; others may belong to somebody else."""
    ours = [name.upper() for name in list_options()]
    warnings = []
    for name in variables:
        rest = name.removeprefix(ENV_PREFIX)
        if rest != name and rest not in ours and (close := difflib.get_close_matches(rest, ours, 1)):
            warnings.append(f"The variable {name} is no setting; did you mean {ENV_PREFIX}{close[0]}?")
    return warnings


def _parse_typed(kind: Any, text: str) -> Any:
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return tuple(_parse_typed(item, part.strip()) for part in text.split(",")) if text.strip() else ()
    return text if kind is str else _parse_number(text)


def _parse_number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
