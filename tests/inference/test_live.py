"""Live sound through a pipe and a fake microphone; shards, manifests and addresses of sounds."""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest

from tests.helpers import tiny
from urbansound_hf import cli
from urbansound_hf.audio.io import AudioError, load_audio, to_wav
from urbansound_hf.errors import UserError
from urbansound_hf.inference import inputs, live
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.inference.inputs import Shard

RATE = 16_000
SOUND = to_wav(np.random.default_rng(0).uniform(-0.5, 0.5, 5 * RATE).astype(np.float32))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny.save("yamnet", tmp_path_factory.mktemp("live"), clip_seconds=1.0)


def infer(monkeypatch, capsys, *words: str | Path, stdin: bytes = b"") -> tuple[int, list[dict], str]:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stdin)))
    code = cli.infer([*map(str, words), "--format", "jsonl"])
    out, err = capsys.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err


def test_raw_pcm_is_scored_as_the_file(model, monkeypatch, capsys, tmp_path):
    (tmp_path / "a.wav").write_bytes(SOUND)
    pcm = np.rint(load_audio(SOUND) * 32768).astype("<i2").tobytes()
    _, windows, err = infer(monkeypatch, capsys, "--raw", RATE, "--model", model, stdin=pcm + b"\0")  # half a sample
    _, expected, _ = infer(monkeypatch, capsys, tmp_path / "a.wav", "--model", model)
    assert len(windows) == 9 and "every 0.5 s, the 1 s before are classified" in err and "latency: " in err
    for window, known in zip(windows, expected[:-1], strict=True):
        assert {**window, "path": ""} == {**known, "path": "", "score": pytest.approx(known["score"], abs=1e-5),
                                          "top": window["top"]}  # fmt: skip


def test_another_rate_is_resampled(model):
    classifier, sound = SoundClassifier.from_pretrained(model), np.repeat(load_audio(SOUND), 3)  # 48 kHz
    blocks = (sound[start : start + 1000] for start in range(0, len(sound), 1000))
    ends = [prediction.end for prediction in live.listen(classifier, blocks, 48_000)]
    assert ends == [1 + 0.5 * number for number in range(9)]


def test_a_line_a_window(model, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(bytes(2 * RATE * 2))))
    assert cli.infer(["--raw", str(RATE), "--model", str(model)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].startswith("0.0–1.0 s  ") and all(line.endswith("silence") for line in lines)


def fake_library(blocks: int, pause: float = 0.0) -> SimpleNamespace:
    """sounddevice with a microphone at 8 kHz that gives numbered blocks from a thread of its own."""

    class InputStream:
        def __init__(self, rate: int, size: int, device: object, callback: object, **_: object) -> None:
            self.size, self.callback = size, callback

        def give(self) -> None:
            for number in range(blocks):
                time.sleep(pause)
                self.callback(np.full((self.size, 1), number / 100, np.float32), self.size, None, 0)

        def __enter__(self) -> None:
            threading.Thread(target=self.give, daemon=True).start()

        def __exit__(self, *_: object) -> None: ...

    return SimpleNamespace(
        PortAudioError=OSError, InputStream=InputStream, query_devices=lambda *_: {"default_samplerate": 8000.0}
    )


def test_a_microphone_gives_blocks(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", fake_library(3))
    rate, blocks = live.microphone()
    values = [next(blocks) for _ in range(3)]
    assert rate == 8000 and [len(value) for value in values] == [800] * 3
    assert [round(100 * float(value[0])) for value in values] == [0, 1, 2]


def test_a_slow_model_drops_the_oldest_sound_and_says_so(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sounddevice", fake_library(150, pause=1e-4))
    _, blocks = live.microphone()
    next(blocks)
    time.sleep(0.5)  # meanwhile 149 blocks come, of which 100 may wait
    assert round(100 * float(next(blocks)[0])) >= 49
    assert "s were dropped: the model is slower than the sound" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "fix"),
    [(None, "pip install 'urbansound-hf[live]'"),
     (SimpleNamespace(PortAudioError=OSError, query_devices=lambda *_: 1 / 0), "python -m sounddevice")],
)  # fmt: skip
def test_without_a_microphone_the_way_out_is_named(module, fix, monkeypatch):
    if module:
        module.query_devices = lambda *_: (_ for _ in ()).throw(ValueError("no device"))
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    with pytest.raises(UserError) as caught:
        live.microphone()
    assert fix in caught.value.fix


def test_shards_are_all_of_the_inputs(model, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for number in range(5):
        Path(f"{number}.wav").write_bytes(SOUND)
    Path("list.txt").write_text("0.wav\n1.wav\n\nabsent.wav\n2.wav\n3.wav\n4.wav\n", encoding="utf-8")
    words = ["--manifest", "list.txt", "--model", str(model), "--output", "out.jsonl"]
    assert cli.infer([*words, "--shard", "1/2"]) == 1 and cli.infer([*words, "--shard", "2/2"]) == 0
    parts = [Path(f"out-0000{n}-of-00002.jsonl").read_text(encoding="utf-8").splitlines() for n in (0, 1)]
    names = [{json.loads(line)["path"] for line in part} for part in parts]
    assert names == [{"0.wav", "absent.wav", "3.wav"}, {"1.wav", "2.wav", "4.wav"}]


@pytest.mark.parametrize(("manifest", "why"), [("/dev/zero", "it is a device"), ("absent.txt", "No such file")])
def test_a_manifest_that_cannot_be_read_is_named(manifest, why):
    with pytest.raises(UserError, match=f"the manifest cannot be read .{why}(.|\\n)*--manifest {manifest}"):
        inputs.listed(manifest)


def test_processes_of_one_job_share_a_shard(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert Shard.of("2/3") == (3, 6) and Shard.of(None).name("a.csv") == "a-00001-of-00002.csv"
    with pytest.raises(UserError, match="I from 1 to N"):
        Shard.of("3/2")


def test_an_address_is_fetched(tmp_path):
    (tmp_path / "a.wav").write_bytes(SOUND)
    np.testing.assert_array_equal(load_audio(f"file://{tmp_path}/a.wav"), load_audio(SOUND))
    with pytest.raises(AudioError, match="cannot be fetched"):
        load_audio(f"file://{tmp_path}/b.wav")
    with pytest.raises(AudioError, match="cannot be fetched"):
        load_audio("nothing://a/b.wav")


@pytest.mark.parametrize("words", [["a.wav"], ["--shard", "1/2"], ["--output", "a.csv"], ["--events"]])
def test_what_does_not_go_with_live_sound_is_refused(words):
    with pytest.raises(UserError, match="live sound goes line by line"):
        cli.infer(["--raw", "16000", *words])


def test_a_sound_at_an_address_is_plotted(sounds, run):
    fsspec.filesystem("memory").pipe_file("/plotted/a.wav", Path("a.wav").read_bytes())
    code, out, err = run("memory://plotted/a.wav", "--format", "jsonl", "--plot", "figures")
    assert code == 0 and "error" not in out and Path("figures/a.png").stat().st_size > 1000, err
