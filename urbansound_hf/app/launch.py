"""Starts the browser page: `launch_app` from Python, `main` from the command line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from urbansound_hf.errors import UserError
from urbansound_hf.inference.inputs import newest_run

if TYPE_CHECKING:
    from gradio import Blocks

HOST, PORT = "127.0.0.1", 7860


def launch_app(
    models: Sequence[str | Path] = (),
    examples: Path | None = None,
    host: str = HOST,
    port: int = PORT,
    trust_remote_code: bool = False,
) -> Blocks:
    """Starts the browser page that classifies sounds, in the background, and prints its address.

    Args:
        models: checkpoint folders or Hub ids, compared side by side (default: the newest finished run in outputs/).
        examples: a folder of sounds to choose from (default: synthetic ones).
        host: the address to listen on; "0.0.0.0" opens the page to the network.
        port: the TCP port.
        trust_remote_code: run the model code that comes with a checkpoint.

    Returns:
        the running Gradio page; `close()` ends it, `block_thread()` waits for Ctrl-C.

    Raises:
        UserError: Gradio is missing, a model or the examples cannot be opened, or the port is in use.

    >>> page = ush.launch_app(["outputs/base/fold10"], port=PORT)  # doctest: +ELLIPSIS
    What is this sound? base/fold10 at http://127.0.0.1:...
    >>> page.close()  # doctest: +ELLIPSIS
    Closing server running on port: ...
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported; it would contact its makers
    try:
        from urbansound_hf.app import views
        from urbansound_hf.app.layout import TITLE, build, options
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise UserError("Gradio is not installed", fix="pip install 'urbansound-hf[app]'") from None
    sounds = views.examples(examples)
    opened = views.open_models([str(model) for model in models or [newest_run()]], trust_remote_code)
    page = build(opened, sounds)
    try:
        address = page.launch(server_name=host, server_port=port, prevent_thread_lock=True, **options())[1]
    except OSError:
        fix = f"stop the program that listens there, or choose another port: --port {port + 1}"
        raise UserError(f"port {port} is in use", f"--port {port}", fix) from None
    print(f"{TITLE} {', '.join(opened)} at {address} (Ctrl-C stops it)")
    return page
