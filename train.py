"""Fine-tunes an audio classifier: `accelerate launch train.py [CONFIG.yaml] [--flag value …]`."""

from __future__ import annotations

import sys
from pathlib import Path

from urbansound_hf.errors import exit_code

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "wav2vec2_base.yaml"


def main() -> int:
    from urbansound_hf import config

    run_config = config.parse(sys.argv[1:], DEFAULT_CONFIG)

    from urbansound_hf import crossval

    return crossval.run(run_config)


if __name__ == "__main__":
    sys.exit(exit_code(main))
