"""``python -m jaxtune.cli``: the command where its script is not installed."""

import sys

from jaxtune.cli import main

if __name__ == "__main__":
    sys.exit(main())
