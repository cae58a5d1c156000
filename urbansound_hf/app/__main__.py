"""The browser page that classifies sounds: `launch_app` from Python, the command `urbansound-hf app`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from urbansound_hf.audio.io import Limits
from urbansound_hf.errors import CommandParser, UserError, exit_code
from urbansound_hf.inference.inputs import newest_run

if TYPE_CHECKING:
    from gradio import Blocks

HOST, PORT = "127.0.0.1", 7860
MOST_CHANNELS = 32  # of a sound on the page


def launch_app(
    models: Sequence[str | Path] = (),
    examples: Path | None = None,
    host: str = HOST,
    port: int = PORT,
    trust_remote_code: bool = False,
    **served: Any,
) -> Blocks:
    """Starts the browser page that classifies sounds, in the background, and prints its address.

    Args:
        models: checkpoint folders or Hub ids, compared side by side (default: the newest finished run in outputs/).
        examples: a folder of sounds to choose from (default: synthetic ones).
        host: the address to listen on; "0.0.0.0" opens the page to the network.
        port: the TCP port.
        trust_remote_code: run the model code that comes with a checkpoint.
        served: the fields of `app.limits.PageLimits` (`upload_mb`, `max_seconds`, `queue`, `request_seconds`);
            `allow_host`, further host names under which the page is reached; `api`, whether programs may call it.

    Returns:
        the running Gradio page; `close()` ends it, `block_thread()` waits for Ctrl-C.

    Raises:
        UserError: Gradio is missing, a model or the examples cannot be opened, or the port is in use.

    Examples:
        >>> page = ush.launch_app(["outputs/base/fold10"], port=PORT)  # doctest: +ELLIPSIS
        What is this sound? base/fold10 at http://127.0.0.1:...
        >>> page.close()  # doctest: +ELLIPSIS
        Closing server running on port: ...
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported; it would contact its makers
    try:
        from urbansound_hf.app import views
        from urbansound_hf.app.layout import TITLE, PageLimits, build, options
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("gradio", "starlette"):  # the second comes with the first
            raise
        raise UserError("Gradio is not installed", fix="pip install 'urbansound-hf[app]'") from None
    names, api = served.pop("allow_host", ()), served.pop("api", False)
    limits = PageLimits(**served)
    os.environ["GRADIO_TEMP_DIR"] = str(views.temporary_folder() / "uploads")
    sounds = views.examples(examples)
    opened = views.open_models([str(model) for model in models or [newest_run()]], trust_remote_code)
    for model in opened.values():
        model.limits = Limits(max_seconds=limits.max_seconds, max_channels=MOST_CHANNELS)
    page = build(opened, sounds, limits, api)
    try:
        site = options(limits, host, names, api)
        address = page.launch(server_name=host, server_port=port, prevent_thread_lock=True, **site)[1]
    except OSError:
        fix = f"stop the program that listens there, or choose another port: --port {port + 1}"
        raise UserError(f"port {port} is in use", f"--port {port}", fix) from None
    print(f"{TITLE} {', '.join(opened)} at {address} (Ctrl-C stops it)")
    return page


ABOUT = """Serves a browser page: drop or record a sound; it shows the classes, a timeline of a long recording, and the
evidence for a prediction. The page loads nothing from other hosts. Needs Gradio: pip install 'urbansound-hf[app]'"""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser("urbansound-hf app", description=ABOUT)
    add = parser.add_argument
    newest = "a checkpoint; repeat it to compare several (default: the newest finished run under outputs/)"
    add("--model", action="append", default=[], metavar="DIR_OR_HUB_ID", help=newest)
    add("--examples", type=Path, metavar="FOLDER", help="folder of sounds to choose from (default: synthetic sounds)")
    add("--host", default=HOST, help="0.0.0.0 opens the page to the network (default: this machine only)")
    add("--port", type=int, default=PORT, help="TCP port (default: %(default)s)")
    add("--trust_remote_code", action="store_true", help="run the model code that comes with a checkpoint")
    name = "a further host name under which the page is reached, behind a proxy; repeat it for several"
    add("--allow_host", action="append", default=[], metavar="NAME", help=name)
    add("--upload_mb", type=int, default=500, help="largest request, in MB (default: %(default)s)")
    add("--max_seconds", type=float, default=3600.0, help="longest sound (default: %(default)s)")
    add("--queue", type=int, default=256, help="requests that may wait; more are refused (default: %(default)s)")
    add("--request_seconds", type=float, default=600.0, help="longest time of a request (default: %(default)s)")
    add("--api", action="store_true", help="let programs call the page's functions by name; serve /openapi.json")
    args = parser.parse_args(argv)
    if not min(args.upload_mb, args.max_seconds, args.queue, args.request_seconds) > 0:
        parser.error("the limits are numbers above 0")
    return args


def main(argv: list[str] | None = None) -> int:
    """Serves the page until Ctrl-C."""
    served = vars(parse(argv))
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the temporary files are removed
    try:
        launch_app(served.pop("model"), **served).block_thread()
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
