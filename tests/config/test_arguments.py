"""The fields of a run: help texts, mixed precision by hardware, copies, and that no flag is dead."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from urbansound_hf.config import arguments
from urbansound_hf.config.arguments import (
    DataArguments,
    ModelArguments,
    OwnRunArguments,
    RecipeArguments,
    RunArguments,
    has_bf16,
)

PRECISIONS = [  # given bf16, given fp16, launched with, on the CPU, with CUDA, bf16 in hardware → bf16, fp16
    (None, None, "no", False, True, True, (True, False)),  # an A100
    (None, None, "no", False, True, False, (False, True)),  # a T4
    (None, None, "no", True, False, True, (True, False)),  # a recent server CPU
    (None, None, "no", True, True, False, (False, False)),  # --use_cpu beside a T4: never float16
    (None, None, "no", False, False, False, (False, False)),  # an accelerator without CUDA
    (None, False, "no", False, True, False, (False, False)),
    (None, False, "no", False, True, True, (True, False)),
    (None, True, "no", False, True, True, (False, True)),
    (True, None, "no", False, True, False, (True, False)),
    (False, None, "no", False, True, False, (False, False)),  # --bf16 false stays float32
    (False, True, "no", True, False, True, (False, True)),
    (None, None, "fp16", False, True, True, (False, False)),  # Accelerate's own wins
    (None, None, "fp8", False, True, True, (False, False)),
    (None, None, "bf16", False, True, False, (False, False)),
    (None, None, "bf16", False, True, True, (True, False)),
]


@pytest.mark.parametrize(("bf16", "fp16", "launched", "cpu", "cuda", "hardware", "expected"), PRECISIONS)
def test_mixed_precision_follows_the_hardware(monkeypatch, bf16, fp16, launched, cpu, cuda, hardware, expected):
    monkeypatch.setattr(arguments, "has_bf16", lambda on_cpu: hardware)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert arguments.mixed_precision(bf16, fp16, cpu, launched) == expected


@pytest.mark.parametrize("answer", [True, False])
def test_bf16_is_automatic(parse, monkeypatch, answer):
    monkeypatch.setattr(arguments, "has_bf16", lambda on_cpu: answer)
    assert (parse().training.bf16, parse().training.fp16) == (answer, False)  # on the CPU
    assert parse("bf16: true").training.bf16 is True
    assert parse("bf16: false").training.bf16 is False
    assert (parse("fp16: true").training.bf16, parse("fp16: true").training.fp16) == (False, True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert parse().training.bf16 is False


def test_the_hardware_is_asked_for_bf16():
    flags = Path("/proc/cpuinfo")
    if not flags.is_file() or "flags" not in flags.read_text(encoding="utf-8"):
        pytest.skip("needs /proc/cpuinfo of an x86 processor")
    words = flags.read_text(encoding="utf-8").split()
    assert has_bf16(on_cpu=True) == ("amx_tile" in words), "avx512_bf16 alone is slower"


def test_training_arguments_can_be_copied_for_a_fold(parse):
    training = parse("report_to: [none]").training
    copy = dataclasses.replace(training, output_dir="elsewhere")
    assert copy.output_dir == "elsewhere" and copy.to_dict() == {**training.to_dict(), "output_dir": "elsewhere"}


def test_a_copy_with_other_values_leaves_the_original(parse):
    config = parse("report_to: [none]")
    values = config.training.to_dict()
    changed = config.with_values({"output_dir": "elsewhere"}).training
    assert changed.to_dict() == {**values, "output_dir": "elsewhere"} and config.training.to_dict() == values


OWN_GROUPS = (DataArguments, ModelArguments, RecipeArguments, OwnRunArguments)
OWN = [field for kind in OWN_GROUPS for field in dataclasses.fields(kind)]


@pytest.mark.parametrize("field", OWN, ids=lambda field: field.name)
def test_every_flag_of_ours_explains_itself(field):
    assert len(field.metadata["help"]) > 10 and "%" not in field.metadata["help"]


def attributes_read_from_arguments():
    """The attributes that code outside the schema reads from variables of these names."""
    for path in (ROOT / "urbansound_hf").rglob("*.py"):
        if path.parent.name == "config":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = getattr(node.value, "attr", getattr(node.value, "id", ""))
                if owner in ("data", "model", "training", "arguments", "recipe", "request", "self"):
                    yield node.attr


def test_no_flag_of_ours_is_dead():
    read = {*attributes_read_from_arguments()}
    assert not {field.name for field in OWN} - read


def test_the_schema_is_all_of_training_arguments():
    inherited = {field.name for field in dataclasses.fields(RunArguments.__mro__[1]) if field.init}
    own = {field.name for field in dataclasses.fields(OwnRunArguments)}
    assert {field.name for field in dataclasses.fields(RunArguments) if field.init} == inherited | own
