"""Settings outside the program: the variables `STYLER_*` and the file `styler.toml`, in two folders.

Fields of `Options` are at the top level of a file; a table holds settings for the command of its name. Front ends merge
these layers with their own using `resolve_options`. Knows options only, not flags.
"""

import codecs
import difflib
import os
import re
import tomllib
import typing
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from styler import environment
from styler.errors import OptionError, StylerError
from styler.options import Options, check_settings, list_options

CONFIG_FILE = "styler.toml"
ENV_PREFIX = "STYLER_"
ENVIRONMENT_LAYER = "environment"
"""Name of the layer of environment variables."""
TABLES = ("batch", "ui")
"""Commands that may have a table in a file."""

_SWITCHES = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)

Layer = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Config:
    """The settings outside the program."""

    layers: tuple[Layer, ...]
    """For `resolve_options`, weakest first."""
    warnings: tuple[str, ...]


def load_config(
    environ: Mapping[str, str] | None = None, command: str = "", command_flags: Container[str] = ()
) -> Config:
    """Read the user's file, the file in the working folder and the environment.

    Args:
        environ: the variables; those of the process by default.
        command: the command whose table overrides the top level of a file.
        command_flags: names in that table that are flags of the command and not options; they are left out.

    Raises:
        OptionError: a file is not valid TOML, or a setting is unknown or invalid; names the file or variable.
        StylerError: a file exists but cannot be read.
    """
    variables = os.environ if environ is None else environ
    layers = [
        (str(path), settings)
        for path in list_config_paths()
        if (settings := _read_settings(path, command, command_flags)) is not None
    ]
    return Config((*layers, (ENVIRONMENT_LAYER, _read_environment(variables))), tuple(_find_misspelled(variables)))


def list_config_paths() -> tuple[Path, ...]:
    """Return where the files may be, weakest first: the user's, unless there is no home, and the working folder's."""
    folder = environment.find_config_folder()
    return (*([folder / CONFIG_FILE] if folder else []), Path(CONFIG_FILE))


def is_readable(path: Path) -> bool:
    """Return whether there is a file; False in a folder without access, where `Path.is_file` would raise."""
    return os.path.isfile(path)  # noqa: PTH113


def get_variable_name(name: str) -> str:
    """Return the environment variable of an option: `STYLER_KEEP_COLOR`."""
    return ENV_PREFIX + name.upper()


def parse_value(name: str, text: str) -> Any:
    """Parse the value of an option as a flag or variable gives it; items of a list are separated by commas.

    Text that is not a number is returned unchanged, so that the error of `Options` names the option.
    """
    field_type: Any = Options.__annotations__[name]
    if typing.get_origin(field_type) is tuple:
        items = [item.strip() for item in text.split(",")] if text.strip() else []
        return tuple(items if typing.get_args(field_type)[0] is str else map(_parse_number, items))
    if field_type is bool:
        return _SWITCHES.get(text.strip().lower(), text)
    if field_type is not str:
        _check_notation(name, text)
    return text if field_type is str else _parse_number(text)


def _check_notation(name: str, text: str) -> None:
    """Reject a number with a decimal comma or a percent sign, with better advice than the option's range.

    Raises:
        OptionError: it is one.
    """
    if re.fullmatch(r"\s*-?[0-9]+,[0-9]+\s*", text):
        raise OptionError(f"{name} is {text}; write it with a decimal point, {text.strip().replace(',', '.')}.")
    high = list_options()[name].high
    if high is not None and high <= 100 and (match := re.fullmatch(r"\s*([0-9.]+)\s*%\s*", text)):
        share = _parse_number(match[1])
        number = share / 100 if high <= 1 and isinstance(share, int | float) else share
        raise OptionError(f"{name} is {text}; write it without the percent sign, {number}.")


def _parse_number(text: str) -> int | float | str:
    for number_type in (int, float):
        try:
            return number_type(text)
        except ValueError:
            continue
    return text


def read_command_flags(path: Path, command: str, names: Container[str]) -> dict[str, Any]:
    """Return the flags, by name, in the table of a command; their values are not validated.

    Raises:
        OptionError: the file is not valid TOML.
        StylerError: it exists but cannot be read.
    """
    table = (_read_toml(path) or {}).get(command)
    return {name: value for name, value in table.items() if name in names} if isinstance(table, Mapping) else {}


def _read_settings(path: Path, command: str, command_flags: Container[str]) -> dict[str, Any] | None:
    """Read the settings for a command; None if there is no file."""
    content = _read_toml(path)
    if content is None:
        return None
    _check_tables(path, content)
    settings = {name: value for name, value in content.items() if name not in TABLES}
    table = content.get(command)
    if isinstance(table, Mapping):
        settings |= {name: value for name, value in table.items() if name not in command_flags}
    try:
        for name, value in settings.items():
            _check_type(name, value)
        check_settings(settings)
    except OptionError as error:
        raise OptionError(f"In '{path}': {error}") from error
    return settings


def _check_tables(path: Path, content: Mapping[str, Any]) -> None:
    """Reject a table that nothing reads, and a value in place of a table."""
    for name, value in content.items():
        is_table = isinstance(value, Mapping) or (
            isinstance(value, list) and any(isinstance(v, Mapping) for v in value)
        )
        if is_table != (name in TABLES) and (is_table or name in TABLES) and name not in list_options():
            tables = " and ".join(f"[{table}]" for table in TABLES)
            problem = f"nothing reads the table [{name}]" if is_table else f"{name} is not a table"
            raise OptionError(f"In '{path}': {problem}; the tables are {tables}, settings for all commands come first.")
        if name in TABLES and not isinstance(value, Mapping):
            raise OptionError(f"In '{path}': {name} is a list of tables; write [{name}] in single brackets.")


def _read_toml(path: Path) -> dict[str, Any] | None:
    """Parse a file; None if there is none."""
    if not os.path.lexists(path):  # False, too, in a folder without access
        return None
    try:
        if not path.is_file():  # reading a pipe would wait for its writer
            raise StylerError(f"Cannot read the settings in '{path}': it is not a regular file; move it away.")
        return tomllib.loads(decode_text(path.read_bytes()))
    except OSError as error:
        raise StylerError(f"Cannot read the settings in '{path}': {error.strerror}; make it readable.") from error
    except (ValueError, RecursionError) as error:
        is_path = isinstance(error, tomllib.TOMLDecodeError) and any(word in str(error) for word in _ESCAPES)
        advice = "write paths in single quotes, or with /" if is_path else "correct or delete it"
        reason = "it is not UTF-8" if isinstance(error, UnicodeError) else error
        raise OptionError(f"The settings in '{path}' are not valid TOML: {reason}; {advice}.") from error


_ESCAPES = ("Unescaped", "hex value", "Invalid escape")
"""Words of the parser for a backslash that begins no escape, as in a path of Windows."""

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def decode_text(data: bytes, default: Callable[[bytes], str] = bytes.decode) -> str:
    """Decode the text that some editor or shell wrote: UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Args:
        data: the bytes.
        default: decodes bytes that have no mark and are not UTF-16.

    Raises:
        UnicodeError: the bytes are not a text.
    """
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding)
    for encoding, high in (("utf-16-le", data[1::2]), ("utf-16-be", data[::2])):
        if len(high) > 3 and high.count(0) > 0.7 * len(high):
            return data.decode(encoding)
    return default(data)


def _check_type(name: str, value: Any) -> None:
    """Reject a string in place of a number or list, with better advice than the option's range."""
    if name in list_options() and isinstance(value, str) and not isinstance(parsed := parse_value(name, value), str):
        forms = {tuple: "a list in brackets", bool: "true or false without quotes"}
        form = forms.get(type(parsed), "a number without quotes")
        raise OptionError(f'{name} is the text "{value}"; write {form}.')


def _read_environment(variables: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings in the environment; an empty variable counts as not set."""
    settings = {}
    for name in list_options():
        if text := variables.get(get_variable_name(name), "").strip():  # files of variables may end lines by CR LF
            settings[name] = parse_value(name, text)
            try:
                check_settings({name: settings[name]})
            except OptionError as error:
                raise OptionError(f"In the variable {get_variable_name(name)}: {error}") from error
    return settings


def _find_misspelled(variables: Iterable[str]) -> list[str]:
    """Return a warning for every variable whose name is almost that of an option; the others may not be ours."""
    known = [name.upper() for name in list_options()]
    warnings = []
    for variable in variables:
        name = variable.removeprefix(ENV_PREFIX)
        if name != variable and name not in known and (matches := difflib.get_close_matches(name, known, 1)):
            warnings.append(f"The variable {variable} is not a setting; did you mean {ENV_PREFIX}{matches[0]}?")
    return warnings
