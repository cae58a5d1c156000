"""Fine-tunes an audio classifier: `accelerate launch train.py [CONFIG.yaml] [--flag value …]`."""

import sys

from urbansound_hf.cli import train
from urbansound_hf.errors import exit_code

if __name__ == "__main__":
    sys.exit(exit_code(lambda: train(sys.argv[1:], prog="train.py")))
