"""The command `urbansound-hf app`: serves the browser page that classifies sounds."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from urbansound_hf.app.launch import HOST, PORT, launch_app
from urbansound_hf.errors import exit_code

ABOUT = """Serves a browser page: drop or record a sound; it shows the classes, a timeline of a long recording, and the
evidence for a prediction. The page loads nothing from other hosts. Needs Gradio: pip install 'urbansound-hf[app]'"""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("urbansound-hf app", description=ABOUT)
    add = parser.add_argument
    newest = "a checkpoint; repeat it to compare several (default: the newest finished run under outputs/)"
    add("--model", action="append", default=[], metavar="DIR_OR_HUB_ID", help=newest)
    add("--examples", type=Path, metavar="FOLDER", help="folder of sounds to choose from (default: synthetic sounds)")
    add("--host", default=HOST, help="0.0.0.0 opens the page to the network (default: this machine only)")
    add("--port", type=int, default=PORT, help="TCP port (default: %(default)s)")
    add("--trust_remote_code", action="store_true", help="run the model code that comes with a checkpoint")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Serves the page until Ctrl-C."""
    args = parse(argv)
    launch_app(args.model, args.examples, args.host, args.port, args.trust_remote_code).block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
