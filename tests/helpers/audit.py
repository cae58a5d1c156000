"""The audit of `make audit`: known vulnerabilities in the pinned versions of a constraints file.

It exits with 1 for a version with a known vulnerability, and with 3 if nothing could be audited, as where only a mirror
of pypi.org is reached: its vulnerability service is pypi.org's own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from urbansound_hf.text import first_ten


def judged(dependencies: Sequence[dict[str, Any]], problem: str = "") -> tuple[int, list[str]]:
    """The exit code, and the lines to print, for the `dependencies` of a JSON report of pip-audit's.

    Args:
        problem: why there is no report.
    """
    skipped = [each["name"] for each in dependencies if "skip_reason" in each]
    found = [(each, known) for each in dependencies for known in each.get("vulns", [])]
    lines = [
        f"{each['name']} {each['version']}: {known['id']}, fixed in {', '.join(known['fix_versions']) or 'no version'}"
        for each, known in found
    ]
    audited = len(dependencies) - len(skipped)
    lines.append(f"{audited} of {len(dependencies)} versions audited, {len(found)} known vulnerabilities")
    if skipped or problem:
        lines.append(f"not audited: {problem or f'pypi.org has no record of {first_ten(skipped)}'}")
    if not audited:
        lines.append("nothing was audited: the vulnerability service at https://pypi.org/pypi/… cannot be reached here")
    return 1 if found else 3 * (not audited), lines


def main(constraints: str) -> int:
    words = [sys.executable, "-m", "pip_audit", "--requirement", constraints, "--no-deps", "--disable-pip"]
    ran = subprocess.run([*words, "--format", "json"], capture_output=True, text=True, check=False)
    try:
        code, lines = judged(json.loads(ran.stdout)["dependencies"])
    except ValueError:
        code, lines = judged([], (ran.stderr.strip().splitlines() or ["pip-audit wrote nothing"])[-1])
    print(*lines, sep="\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
