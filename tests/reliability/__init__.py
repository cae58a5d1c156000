"""Hostile files, full disks, kills and crowds, tried by the hundred: `python -m tests.reliability`.

Each module yields cases, a name and a function, from a folder that it may fill. A case returns how it ended, such as
"answered" or "refused", and raises `UserError` (refused) or `AssertionError`; anything else that it raises is a fault.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from urbansound_hf.errors import UserError

Case = tuple[str, Callable[[], str | None]]


@dataclass
class Tally:
    """What a kind of cases came to: counts by outcome, and the faults with their names."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def run(self, cases: Iterable[Case]) -> Tally:
        for name, case in cases:
            try:
                self.outcomes[case() or "answered"] += 1
            except UserError as error:
                if error.what and "\n" not in error.what.strip():
                    self.outcomes["refused"] += 1
                else:
                    self.faults.append(f"{name}: an error without a line of its own: {error!r}"[:400])
            except AssertionError as error:
                self.faults.append(f"{name}: {error}"[:1500])
            except Exception as error:
                self.faults.append(f"{name}: traceback of {type(error).__name__}: {error}"[:400])
        return self

    @property
    def tried(self) -> int:
        return self.outcomes.total() + len(self.faults)
