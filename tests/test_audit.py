"""The judgement of `make audit` on reports of pip-audit."""

from __future__ import annotations

import pytest

from tests.helpers.audit import judged

SAFE = {"name": "numpy", "version": "2.3.0", "vulns": []}
UNSAFE = {"name": "torch", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.0"]}]}
UNKNOWN = {"name": "av", "skip_reason": "Dependency not found on PyPI and could not be audited: av (18.1.0)"}


@pytest.mark.parametrize(
    ("report", "code", "said"),
    [
        ([SAFE], 0, "1 of 1 versions audited, 0 known"),
        ([SAFE, UNKNOWN], 0, "no record of av"),
        ([SAFE, UNSAFE], 1, "torch 1.0: PYSEC-1, fixed in 2.0"),
        ([UNKNOWN], 3, "nothing was audited"),
        ([], 3, "no network"),
    ],
)
def test_findings_and_an_audit_of_nothing_are_no_success(report, code, said):
    found, lines = judged(report, "" if report else "no network")
    assert found == code and said in "\n".join(lines)
