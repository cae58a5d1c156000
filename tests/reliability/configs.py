"""Broken configs: every number among the flags outside its range and of another type, and damaged YAML."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.reliability import Case
from urbansound_hf.config.checks import RANGES, ranges
from urbansound_hf.config.parse import flag_parser, parse_run_config
from urbansound_hf.errors import UserError

VALUES = ["nan", "inf", "-1e300", "1e300", "'x'", "[]", "{a: 1}", "9" * 40]
TEXTS = {
    "deep": "[" * 20_000,
    "deep mapping": "{a: " * 5_000,
    "an alias bomb": "a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n",
    "a tag": "seed: !!python/object/apply:os.system ['true']\n",
    "no mapping": "- 1\n- 2\n",
    "a scalar": "42\n",
    "tabs": "seed:\t1\n\tx: 2\n",
    "twice": "seed: 1\nseed: 2\n",
    "binary": "\x00\x01",
    "a lone quote": "seed: '1\n",
    "a number as key": "1: 2\n",
    "null key": "~: 2\n",
    "two documents": "seed: 1\n---\nseed: 2\n",
    "a fold": "test_fold: " + "9" * 30,
    "a recursive alias": "a: &a [*a]\n",
    "a date": "seed: 2020-01-01\n",
    "octal": "seed: 0o17\n",
    "underscores": "seed: 1_000\n",
}


def parse(path: Path, text: str) -> str:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        config = parse_run_config([str(path)], path.parent / "absent.yaml")
    except SystemExit as leaving:
        raise AssertionError(f"exit {leaving.code} without an error") from None
    except UserError as errors:
        said = str(errors)
        assert (said.strip() and path.name in said) or "flag" in said or "`" in said, f"no place named: {said[:200]}"
        return "refused"
    wrong = list(ranges(config.as_dict()))
    assert not wrong, f"accepted: {wrong[:2]}"
    return "answered"


def cases(root: Path) -> Iterator[Case]:
    known = {action.dest for action in flag_parser()._actions}
    for name in sorted(known & set(RANGES)):
        for value in VALUES:
            yield f"{name}: {value[:20]}", partial(parse, root / "run.yaml", f"{name}: {value}\n")
    for name, text in TEXTS.items():
        yield name, partial(parse, root / "run.yaml", text)
