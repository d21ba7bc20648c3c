"""The command line: one verb a file.

    main ─► app (the verbs, errors ─► text and exit codes) ─► run (one picture) ─► dry_run · outputs · interrupts
                                                            ─► config · presets · doctor · completion
                                flags (from `Options`) · usage (pages of help) · report (stderr) · answers (stdout)

Importing this loads almost nothing, and the pages of help load neither torch nor gradio: a verb loads what it needs
once its arguments have been checked. Does not know how pictures are read, made or written.
"""

import sys
from collections.abc import Sequence

from styler import environment
from styler.cli import output

INTERRUPTED = 130


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        tokens: the arguments; those of the process when not given.
    """
    environment.prepare_process()
    output.open_closed_streams()
    try:
        from styler.cli.app import execute

        return execute(list(sys.argv[1:] if tokens is None else tokens))
    except KeyboardInterrupt as interruption:  # a bare one comes while the program itself loads
        sys.stderr.write(f"styler: {str(interruption) or 'Interrupted.'}\n")
        return getattr(interruption, "exit_code", INTERRUPTED)
