"""The page in the browser: drop or record a sound, hear it, see it, and what checkpoints say of it, where and why.

    urbansound-hf app [--model DIR_OR_HUB_ID …] [--examples FOLDER]

It listens on this machine alone unless told otherwise, and asks no other host for anything. Needs Gradio:
`pip install 'urbansound-hf[app]'`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from urbansound_hf.errors import UserError, exit_code
from urbansound_hf.inference.inputs import newest_run

if TYPE_CHECKING:
    from gradio import Blocks


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("urbansound-hf app", description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    newest = "a checkpoint; repeat it to compare several (default: the newest finished run under outputs/)"
    add("--model", action="append", metavar="DIR_OR_HUB_ID", help=newest)
    add("--examples", type=Path, metavar="FOLDER", help="sounds to choose from (default: synthetic ones)")
    add("--host", default="127.0.0.1", help="0.0.0.0 opens the page to the network (default: this machine alone)")
    add("--port", type=int, default=7860, help="(default: %(default)s)")
    add("--trust_remote_code", action="store_true", help="run the model code that comes with a checkpoint")
    return parser.parse_args(argv)


def start(args: argparse.Namespace) -> Blocks:
    """Starts the page, which goes on in the background.

    Raises:
        UserError: Gradio is missing, a model or the examples cannot be opened, or the port is taken.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported: it would call home
    try:
        from urbansound_hf.app import views
        from urbansound_hf.app.layout import TITLE, build, options
        from urbansound_hf.app.views import open_models
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UserError(
            "the page needs Gradio, which is not installed", fix="pip install 'urbansound-hf[app]'"
        ) from None
    examples = views.examples(args.examples)
    models = open_models(args.model or [str(newest_run())], args.trust_remote_code)
    blocks = build(models, examples)
    try:
        address = blocks.launch(server_name=args.host, server_port=args.port, prevent_thread_lock=True, **options())[1]
    except OSError:
        fix = f"stop what listens there, or choose another one: --port {args.port + 1}"
        raise UserError(f"port {args.port} is taken", f"--port {args.port}", fix) from None
    print(f"{TITLE} {', '.join(models)} answer at {address} (Ctrl-C ends the page)")
    return blocks


def main(argv: list[str] | None = None) -> int:
    start(parse(argv)).block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
