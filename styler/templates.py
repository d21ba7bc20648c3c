"""Names with `{fields}` in them. Knows neither pictures nor files."""

import re
from collections.abc import Mapping

from styler.errors import UsageError

_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


def fill(template: str, values: Mapping[str, str], flag: str) -> str:
    """A template with its fields filled in; `{{` and `}}` are braces.

    Args:
        template: such as `{content}-{seed}.{ext}`.
        values: of every field there is.
        flag: what the template was given by, for the sentence.

    Raises:
        UsageError: there is no such field.
    """

    def value(found: "re.Match[str]") -> str:
        if found[0] in ("{{", "}}"):
            return found[0][0]
        if found[1] not in values:
            known = ", ".join(f"{{{name}}}" for name in values)
            raise UsageError(f"{flag} has no field {found[0]}; it can have {known}, and {{{{ for a brace.")
        return values[found[1]]

    return _FIELD.sub(value, template)
