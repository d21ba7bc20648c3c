"""`python -m styler` is `styler`."""

import sys

from styler.cli import main

if __name__ == "__main__":
    sys.exit(main())
