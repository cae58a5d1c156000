"""Work in a fork of this process: the libraries are imported already, and it may be killed."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable

from tqdm import tqdm


def fork(work: Callable[[], object]) -> int:
    """Starts the work in a child process and returns the child's id; the child ends with the work."""
    if pid := os.fork():
        return pid
    tqdm.set_lock(threading.RLock())  # its own is shared by all forks: one that is killed may hold it for ever
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # without what pytest does at its end


def exit_status(pid: int) -> int:
    """Waits for a child; returns its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
