"""Errors that are a conversation with the user: the rule, what was found, where, and the way out."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence


class UserError(Exception):
    """Something the user can mend; shown without a traceback, exit code 2.

    Args:
        what: the rule that was broken and what was found instead.
        where: the file, line, flag or clip concerned ("" if there is none).
        fix: what to do about it, nearest valid name included ("" if there is nothing to add).
    """

    def __init__(self, what: str, where: str = "", fix: str = "") -> None:
        super().__init__(what, where, fix)  # the arguments, so that the error survives pickling between processes
        self.what, self.where, self.fix = what, where, fix

    def __str__(self) -> str:
        lines = [self.what]
        lines += [f"  where: {self.where}"] * bool(self.where)
        lines += [f"  fix:   {self.fix}"] * bool(self.fix)
        return "\n".join(lines)


class UserErrors(UserError):
    """Several mistakes told at once, so that nobody has to find them one run at a time."""

    def __init__(self, problems: Sequence[UserError]) -> None:
        super().__init__(f"{len(problems)} problem{'s' * (len(problems) != 1)}")
        self.problems = list(problems)

    def __reduce__(self) -> tuple[type[UserErrors], tuple[list[UserError]]]:
        return type(self), (self.problems,)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def joined(problems: Sequence[UserError]) -> UserError:
    """The error to raise for one or more problems: a single one stays as it is."""
    return problems[0] if len(problems) == 1 else UserErrors(problems)


def exit_code(main: Callable[[], int | None]) -> int:
    """Runs `main`; a `UserError` becomes a message on standard error and exit code 2, Ctrl-C becomes 130."""
    try:
        return main() or 0
    except UserError as error:
        problems = error.problems if isinstance(error, UserErrors) else [error]
        if os.environ.get("RANK", "0") == "0":  # of several processes, the first speaks
            for problem in problems:
                print(f"error: {problem}", file=sys.stderr)
        else:
            time.sleep(5)  # the launcher ends all processes with the first that fails: not before it has spoken
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
