"""`python -m service.cli` is the `corral` command, for a checkout that is not installed."""

import sys

from service.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
