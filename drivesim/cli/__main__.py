"""``python -m drivesim.cli``."""

import sys

from drivesim.cli import main

if __name__ == "__main__":
    sys.exit(main())
