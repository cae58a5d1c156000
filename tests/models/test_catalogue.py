"""The catalogue knows every family and every shipped config's checkpoint; sizes and inputs are the classes' own."""

from __future__ import annotations

import json
import sys

import pytest
import yaml

from tests.conftest import ROOT
from urbansound_hf.models import catalogue
from urbansound_hf.models.catalogue import family_cells, list_families
from urbansound_hf.models.registry import conversions, families, known_types

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
FAMILIES = families()
BY_TYPE = {family.model_type: family for family in FAMILIES}


@pytest.fixture(scope="module")
def rows():
    return {row["family"]: row for row in list_families()}


@pytest.fixture
def listing(capsys):
    """The command, as text."""

    def run(*argv: str) -> str:
        catalogue.main(argv)
        return capsys.readouterr().out

    return run


def test_every_family_is_listed_once():
    """Fails when Transformers learns a new one; a whole CLAP opens as one of ours, and is no family of its own."""
    from transformers import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING

    assert known_types()  # registers ours
    opened = {model.config_class.model_type for model in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING.values()}
    assert opened == BY_TYPE.keys() and len(BY_TYPE) == len(FAMILIES) >= 16


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_starts_from_what_the_catalogue_knows(path):
    converted = {conversion.out_dir for conversion in conversions().values()}
    known = (
        {family.start_from for family in FAMILIES} | converted | BY_TYPE.keys() | {"mispeech/ced-tiny"}
    )  # remote code
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["model_name_or_path"] in known - {""}


def test_every_recommended_checkpoint_with_a_config_is_that_of_the_config():
    named = {yaml.safe_load(path.read_text(encoding="utf-8"))["model_name_or_path"] for path in CONFIGS}
    with_config = ("clap-audio", "audio-spectrogram-transformer", "whisper", "wav2vec2", "hubert", "wavlm", "cnn")
    assert {BY_TYPE[name].start_from for name in with_config} <= named
    assert BY_TYPE["yamnet"].conversion.out_dir in named


@pytest.mark.parametrize(
    ("family", "parameters"),
    [
        ("cnn", 44_602),  # the tutorial's network
        ("yamnet", 3_205_706),
        ("audio-spectrogram-transformer", 86_200_000),  # its card: 86.6 million, with 527 classes
        ("sew", 40_750_000),  # from here on: the published file's bytes, over four a float32, with another head
        ("sew-d", 24_140_000),
        ("unispeech", 317_000_000),
        ("wav2vec2-conformer", 620_000_000),
    ],
)
def test_sizes_are_those_of_the_checkpoints(family, parameters, rows):
    assert rows[family]["parameters"] == pytest.approx(parameters, rel=0.01 if parameters % 1000 == 0 else 0)


@pytest.mark.parametrize(
    ("family", "heard"),
    [
        ("wav2vec2", "16 kHz waveform, any length"),
        ("wav2vec2-bert", "16 kHz log-mel, any length"),
        ("whisper", "16 kHz log-mel, fixed 30 s"),
        ("audio-spectrogram-transformer", "16 kHz log-mel, fixed 10.24 s"),
        ("clap-audio", "48 kHz log-mel, fixed 10 s"),
        ("cnn", "16 kHz MFCC/log-mel, fixed 4 s"),
        ("yamnet", "16 kHz log-mel, any length"),
    ],
)
def test_inputs(family, heard, rows):
    assert rows[family]["input"] == heard


def test_speech_is_called_weak_and_sounds_are_not():
    for family in FAMILIES:
        if family.model_type != "whisper":  # as found, with what sounds behind the voice
            assert family.environmental.startswith("weak") == family.pretraining.startswith("speech"), family
        assert family.licence and family.pretraining and family.environmental


def test_without_its_extra_a_family_is_listed_all_the_same(monkeypatch):
    monkeypatch.setitem(sys.modules, "speechbrain", None)
    monkeypatch.setitem(sys.modules, "speechbrain.lobes.models.ECAPA_TDNN", None)
    monkeypatch.setattr(catalogue, "families", lambda: [BY_TYPE["ecapa-tdnn"], BY_TYPE["cnn"]])
    ecapa, cnn = map(family_cells, list_families())
    assert ecapa[4:6] == ["–", "needs its extra"] and cnn[4] == "0.0446"


def test_the_table_fits_a_terminal(listing):
    lines = listing().splitlines()
    assert max(map(len, lines)) <= 120
    assert lines[0].split() == ["family", "parameters", "input", "on", "environmental", "sound"]
    (at,) = (number for number, line in enumerate(lines) if line.startswith("whisper"))
    assert lines[at + 1].split()[:2] == ["openai/whisper-tiny", "Apache-2.0"]


def test_the_other_formats_say_the_same(listing, rows):
    assert json.loads(listing("--format", "json")) == list(rows.values())
    shown = listing("--format", "markdown").splitlines()
    assert [line.split("|")[1].strip() for line in shown[2 : len(rows) + 2]] == list(rows)
