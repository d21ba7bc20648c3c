"""`styler config`: every setting, and where its value comes from."""

from styler import config
from styler.cli import answers, report
from styler.cli.answers import Json
from styler.cli.flags import NOT_GIVEN, Settings, given, shown
from styler.options import resolve_options


def settings(*, flags: Settings = NOT_GIVEN, json: Json = False) -> int:
    """Show every setting and where its value comes from."""
    found = config.load_config()
    resolved = resolve_options(*found.layers, ("flag", given(flags)))
    origins = {name: _named(name, origin) for name, origin in resolved.origins.items()}
    for warning in found.warnings:
        report.warn(warning)
    if json:
        values = resolved.options.to_dict()
        answers.document(
            {
                "settings": {name: {"value": value, "origin": origins[name]} for name, value in values.items()},
                "files": [{"path": str(path), "found": config.is_readable(path)} for path in config.config_paths()],
                "warnings": found.warnings,
            }
        )
        return 0
    rows = [(name, shown(getattr(resolved.options, name)) or "–", origin) for name, origin in origins.items()]
    files = [
        f"{path} ({'read' if config.is_readable(path) else 'not there'})" for path in reversed(config.config_paths())
    ]
    answers.lines([*answers.columns([("setting", "value", "from"), *rows]), "", f"Files: {', '.join(files)}."])
    return 0


def _named(name: str, origin: str) -> str:
    """An origin as a person would look for it: the variable itself for a value from the environment."""
    return config.variable_name(name) if origin == config.ENVIRONMENT_LAYER else origin
