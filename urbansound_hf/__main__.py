"""`python -m urbansound_hf` is the command `urbansound-hf`; `accelerate launch -m urbansound_hf train …` works too."""

import sys

from urbansound_hf.cli import main

if __name__ == "__main__":
    sys.exit(main())
