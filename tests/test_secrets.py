"""Tokens of flags, of HF_TOKEN and of the token file appear in no receipt, log, error or card, whatever their form."""

from __future__ import annotations

import logging

import pytest

from tests.helpers.runs import finish
from tests.helpers.runs import write_run as write_tiny_run
from urbansound_hf import progress
from urbansound_hf.config.parse import parse_run_config
from urbansound_hf.errors import SECRETS, UserError, exit_code, redacted
from urbansound_hf.evaluation.runs import write_json

TOKENS = {"flag": 'a-flag\'s "token"', "HF_TOKEN": "0123456789", "file": "from the file"}


@pytest.fixture(autouse=True)
def tokens(tmp_path, monkeypatch):
    (tmp_path / "token").write_text(TOKENS["file"] + "\n", encoding="utf-8")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", TOKENS["HF_TOKEN"])
    yield
    SECRETS.clear()


@pytest.mark.parametrize("origin", TOKENS)
def test_no_token_is_written(origin, tmp_path, capsys, caplog):
    token = TOKENS[origin]
    (tmp_path / "run.yaml").write_text("use_cpu: true\nbf16: false\n", encoding="utf-8")
    parse_run_config(["--hub_token", TOKENS["flag"]], tmp_path / "run.yaml")
    write_json(tmp_path / "run.json", {"command": ["train", f"--hub_token={token}"]})
    assert token not in str(json_words(tmp_path / "run.json"))

    def fail(error: Exception) -> None:
        progress.say(f"with {token}")
        logging.getLogger("huggingface_hub").warning("sent %s", token)
        raise error

    assert exit_code(lambda: fail(UserError(f"refused: {token}", f"--hub_token {token}"))) == 2
    assert exit_code(lambda: fail(LookupError(f"no {token}"))) == 1
    printed = capsys.readouterr()
    assert token not in printed.out + printed.err + caplog.text
    assert "no $HF_TOKEN" in printed.err and "sent $HF_TOKEN" in caplog.text


def json_words(path):
    import json

    return json.loads(path.read_text(encoding="utf-8"))["command"]


def test_a_refused_token_and_a_card_name_none(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("use_cpu: true\nhub_token: [one-secret, two-secret]\n", encoding="utf-8")
    assert exit_code(lambda: parse_run_config([], tmp_path / "run.yaml") and 0) == 2
    assert "secret" not in capsys.readouterr().err
    folder = finish(write_tiny_run(tmp_path / "run"), note="one-secret")
    assert "one-secret" not in (folder / "run.json").read_text(encoding="utf-8")


def test_other_text_stays():
    SECRETS.add("abc")  # too short to be a secret
    assert redacted("abc 12 learning_rate") == "abc 12 learning_rate"
