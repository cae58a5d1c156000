#!/usr/bin/env python
"""Classifies sounds: `python infer.py INPUT [INPUT …] [--model DIR_OR_HUB_ID]`."""

import sys

from urbansound_hf.cli import infer
from urbansound_hf.errors import exit_code

if __name__ == "__main__":
    sys.exit(exit_code(lambda: infer(sys.argv[1:], prog="infer.py")))
