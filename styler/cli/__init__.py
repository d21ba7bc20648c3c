"""The command line: one command per file; `show` holds those that only print.

    main ─► app (commands; errors ─► messages and exit codes) ─► run · preview · batch · ui · vgg · show
              flags (derived from `Options`) · usage (help pages) · files (pictures in and out)
              report (stderr; batch_report for batches) · output (stdout)

Importing this loads almost nothing, and help pages load neither PyTorch nor Gradio: a command loads what it needs once
its arguments have been checked. Does not know how pictures are decoded, painted or encoded.
"""

import sys
from collections.abc import Sequence

from styler import environment
from styler.cli import output
from styler.errors import StylerError, explain_failure

INTERRUPTED = 130


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        tokens: the arguments; those of the process by default.
    """
    environment.prepare_process()
    output.open_closed_streams()
    try:
        from styler.cli.app import execute

        return execute(list(sys.argv[1:] if tokens is None else tokens))
    except KeyboardInterrupt as error:  # raised while the program itself is loaded
        output.write_stderr(f"styler: {str(error) or 'Interrupted.'}\n")
        return getattr(error, "exit_code", INTERRUPTED)
    except Exception as error:  # in loading the program, since `execute` reports all others
        if not (reason := explain_failure(error)):
            raise
        output.write_stderr(f"styler: error: {reason}\n")
        return StylerError.exit_code
