#!/usr/bin/env python3
"""What a checkpoint does before any fine-tuning, on the test rows of an experiment, as a record for a table.

    python experiments/zero_shot.py --config config.yaml --output runs/zero-shot-en-de

It is evaluated just as a run of the same configuration is when it has finished.
"""

import sys

from jaxtune.cli.programs import record_main
from jaxtune.training.untrained import evaluate_untrained

if __name__ == "__main__":
    sys.exit(record_main(__doc__, evaluate_untrained))
