"""`styler completion`: what a shell needs to complete verbs, flags and choices."""

from collections.abc import Callable
from typing import Annotated, Literal

from cyclopts import App, Parameter

from styler.cli import answers, report
from styler.cli.flags import OUTPUT
from styler.errors import OutputError, UsageError

Name = Literal["bash", "zsh", "fish", "powershell"]
Shell = Annotated[Name | None, Parameter(metavar="SHELL", help="bash, zsh, fish or powershell; yours if not given")]
Install = Annotated[
    bool, Parameter(group=OUTPUT, negative=(), help="put it where the shell finds it, from its start on")
]


def verb(app: App) -> Callable[..., int]:
    """The verb, for the verbs and flags of an application."""

    def completion(shell: Shell = None, /, *, install: Install = False) -> int:
        """Print a completion script, or install it."""
        chosen = shell or _detected()
        if not install:
            answers.lines([app.generate_completion(shell=chosen)])
            return 0
        try:
            path = app.install_completion(shell=chosen)
        except OSError as error:
            raise OutputError(
                f"The completion for {chosen} cannot be installed ({error}); save what 'styler completion {chosen}' "
                "prints where your shell looks."
            ) from error
        report.say(report.console(), "Start a new shell to use it.")
        answers.lines([str(path)])
        return 0

    return completion


def _detected() -> Name:
    """The shell that started us.

    Raises:
        UsageError: it cannot be told.
    """
    from cyclopts.completion.detect import ShellDetectionError, detect_shell

    try:
        return detect_shell()
    except ShellDetectionError as error:
        raise UsageError(
            "Your shell is not known; name it: styler completion bash, zsh, fish or powershell."
        ) from error
