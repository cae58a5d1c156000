"""Pushes to the loopback Hub by the real clients: what arrives, what never leaves, and every way to be interrupted."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from tests.conftest import TINY, YAMNET
from tests.helpers import hub_protocol, hub_server, tiny
from tests.helpers.hub_server import READ_TOKEN, TOKEN, Fault
from tests.helpers.processes import exit_status, fork
from urbansound_hf import __version__, cli
from urbansound_hf.config.parse import parse_run_config
from urbansound_hf.errors import UserError
from urbansound_hf.hub import __main__, push
from urbansound_hf.hub.callback import Pusher
from urbansound_hf.hub.files import anonymized, describes_model, model_files, run_files
from urbansound_hf.hub.push import NotPushed, Target, check_upload, push_run, push_space, upload
from urbansound_hf.inference.classifier import SoundClassifier
from urbansound_hf.models.loading import check_path
from urbansound_hf.models.registry import conversions
from urbansound_hf.reports.model_card import render_card
from urbansound_hf.training.cross_validation import run_experiment
from urbansound_hf.training.experiment import push_target

pytestmark = pytest.mark.usefixtures("plain_reports")

GOES_UP = {
    ".gitattributes", "README.md", "config.json", "model.safetensors", "preprocessor_config.json", "metrics.json",
    "report.json", "predictions.csv",
}  # fmt: skip
"""Beside the figures."""
STAYS = (
    "optimizer.pt",
    "training_args.bin",
    "clip.wav",
    "run.json",
    "run.yaml",
    "notes.py",
    "checkpoints/optimizer.pt",
)


@pytest.fixture
def loopback(monkeypatch):
    """An empty Hub, which the clients of this process talk to as if HF_ENDPOINT named it."""
    with hub_server.serve() as served:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", served.url)
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(push, "WAITS_SECONDS", (0, 0))
        yield served


@pytest.fixture(scope="module")
def trained(tmp_path_factory, synthetic_root) -> Path:
    """A finished run of the tiny wav2vec2."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    argv = ["--data_dir", str(synthetic_root), "--output_dir", str(folder), "--max_steps", "2"]
    assert run_experiment(parse_run_config(argv, folder / "tiny.yaml")) == 0
    return folder / "fold10"


@pytest.fixture
def run_folder(trained, tmp_path) -> Path:
    """Its own copy for each test, with what must stay here beside what goes up."""
    folder = shutil.copytree(trained, tmp_path / "run")
    (folder / "checkpoints").mkdir()
    for name in STAYS:
        (folder / name).touch()
    return folder


def environment(served, **changes: str) -> dict[str, str]:
    """That of a fresh process whose Hub is the loopback one."""
    others = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    own = {"HF_ENDPOINT": served.url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    return {**others, **own, **changes}


def goes_up(folder: Path) -> set[str]:
    return GOES_UP | {path.name for path in folder.glob("*.png")}


def test_what_a_user_needs_arrives_byte_for_byte_and_nothing_else(loopback, run_folder):
    url = push_run(run_folder, Target("me/sounds", private=True))
    arrived = loopback.files("me/sounds")
    assert url == f"{loopback.url}/me/sounds"
    assert set(arrived) == goes_up(run_folder) > {*GOES_UP, "confusion_matrix.png", "reliability.png"}
    for name in set(arrived) - {".gitattributes", "README.md"}:
        assert arrived[name] == (run_folder / name).read_bytes()
    assert arrived["README.md"].decode() == render_card(run_folder, "me/sounds")
    assert b'model="me/sounds"' in arrived["README.md"]
    repo = loopback.repos["models", "me/sounds"]
    assert repo.private
    accuracy = json.loads((run_folder / "metrics.json").read_text(encoding="utf-8"))["test_accuracy"]
    protocol = "official split, test fold 10; 1 of 10 folds, not comparable"
    said = f"wav2vec2: accuracy {accuracy:.3f} on 10 clips ({protocol})"
    assert [commit.message for commit in repo.commits] == ["initial commit", said]


def test_a_card_that_somebody_wrote_goes_up_as_it_is(loopback, run_folder):
    (run_folder / "README.md").write_text("---\nlicense: other\n---\n# Mine\n", encoding="utf-8")
    push_run(run_folder, Target("me/sounds"))
    assert loopback.files("me/sounds")["README.md"] == b"---\nlicense: other\n---\n# Mine\n"


def test_the_page_goes_up_as_a_space_with_its_model(loopback, run_folder, capsys):
    assert __main__.main(["space", str(run_folder), "me/page", "--private"]) == 0
    assert capsys.readouterr().out.strip() == f"{loopback.url}/spaces/me/page"
    files, repo = loopback.files("me/page", kind="spaces"), loopback.repos["spaces", "me/page"]
    assert repo.private and len(repo.commits) == 2
    wheel = f"urbansound_hf-{__version__}-py3-none-any.whl"
    assert {"app.py", "requirements.txt", "Dockerfile", wheel} <= set(files)
    assert files["model/model.safetensors"] == (run_folder / "model.safetensors").read_bytes()
    assert b"sdk: docker" in files["README.md"] and b"title: 'page'" in files["README.md"]
    assert not [name for name, content in files.items() if str(run_folder).encode() in content]
    target = check_upload(Target("me/page", "space"))
    old = {"urbansound_hf/gone.py": b"", "urbansound_hf-0.0.1-py3-none-any.whl": b""}
    upload(target, {**old, "notes.txt": b"mine"}, "by hand")
    push_space(str(run_folder), target)
    assert set(loopback.files("me/page", kind="spaces")) == {*files, "notes.txt"}


def test_the_code_of_our_own_families_goes_along(tmp_path):
    folder = tiny.save("yamnet", tmp_path)
    assert set(model_files(folder)) == {
        "config.json", "model.safetensors", "modeling_yamnet.py", "preprocessor_config.json"
    }  # fmt: skip


def test_pushed_again_nothing_is_sent_and_nothing_committed(loopback, run_folder):
    push_run(run_folder, Target("sounds"))  # a bare name belongs to the token's owner
    before = len(loopback.requests)
    push_run(run_folder, Target("me/sounds"))
    assert len(loopback.repos["models", "me/sounds"].commits) == 2
    assert not [asked for asked in loopback.requests[before:] if asked.startswith("PUT") or "/commit/" in asked]


def test_a_model_does_not_inherit_the_numbers_of_the_one_before(loopback, run_folder):
    push_run(run_folder, Target("me/sounds"))
    target = check_upload(Target("me/sounds"))
    upload(target, {"model.onnx": b"old", "figures/mine.png": b"mine", "mine.txt": b"mine"}, "by hand")
    (run_folder / "predictions.csv").rename(run_folder / "elsewhere.csv")
    files = run_files(run_folder)
    upload(target, files, "another run", replaces=describes_model)
    assert set(loopback.files("me/sounds")) == {*files, ".gitattributes", "figures/mine.png", "mine.txt"}
    assert "predictions.csv" not in files


def test_a_branch_and_a_pull_request_leave_main_alone(loopback, run_folder):
    check_upload(Target("me/sounds"))
    assert push_run(run_folder, Target("me/sounds", revision="next")) == f"{loopback.url}/me/sounds/tree/next"
    assert push_run(run_folder, Target("me/sounds", create_pr=True)) == f"{loopback.url}/me/sounds/discussions/1"
    assert set(loopback.files("me/sounds")) == {".gitattributes"}
    assert loopback.files("me/sounds", "next") == loopback.files("me/sounds", "refs/pr/1")


def test_a_pull_request_is_never_asked_for_twice(loopback, run_folder):
    check_upload(Target("me/sounds"))
    loopback.faults.append(Fault("/commit/", takes_effect=True))
    with pytest.raises(NotPushed, match="cannot be reached"):
        push_run(run_folder, Target("me/sounds", create_pr=True))
    assert sum("/commit/" in asked for asked in loopback.requests) == 1


def test_no_name_token_or_path_of_this_machine_leaves_it(loopback, run_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/jane_doe")
    monkeypatch.setenv("LOGNAME", "jane_doe")
    receipt = json.loads((run_folder / "run.json").read_text(encoding="utf-8"))
    receipt["command"] += ["--data_dir=/mnt/clips/urban", "--hub_token", TOKEN]
    receipt["config"]["model_name_or_path"] = "/scratch/jane_doe/base"
    (run_folder / "run.json").write_text(json.dumps(receipt), encoding="utf-8")
    secret = f"{TOKEN} /mnt/clips/urban/fold1 {run_folder} /home/jane_doe/x /scratch/jane_doe/base /var/jane_doe/y"
    for name, place in (("README.md", "accuracy"), ("report.json", '"scope": "')):
        path = run_folder / name
        path.write_text(path.read_text(encoding="utf-8").replace(place, f"{place} {secret}", 1), encoding="utf-8")
    push_run(run_folder, Target("me/sounds"))
    arrived = loopback.files("me/sounds")
    for name, content in arrived.items():
        for private in ("jane_doe", TOKEN, "/mnt/clips", str(run_folder), str(tmp_path), str(Path.cwd())):
            assert private.encode() not in content, name
    assert b"accuracy $HF_TOKEN urban/fold1 run ~/x base ~/y" in arrived["README.md"]
    json.loads(arrived["report.json"])
    assert loopback.repos["models", "me/sounds"].commits[-1].message.startswith("base: accuracy")


def test_a_page_of_the_users_is_no_path_of_theirs(monkeypatch):
    monkeypatch.setenv("LOGNAME", "jane")
    text = "https://hub.org/jane/x /srv/jane/x jane janet/x /srv/janet"
    assert anonymized(text, {}) == "https://hub.org/jane/x ~/x jane janet/x /srv/janet"


def test_an_exported_graph_that_names_a_path_is_refused(run_folder):
    (run_folder / "model.onnx").write_bytes(b"graph of " + str(run_folder).encode())
    with pytest.raises(UserError, match=r"names a path of this machine(.|\n)*model\.onnx"):
        run_files(run_folder)
    (run_folder / "model.onnx").write_bytes(b"graph")
    assert "model.onnx" in run_files(run_folder)
    (run_folder / "onnx").mkdir()
    for name in ("model.onnx", "model.onnx_data", "export.json", "notes.txt"):
        (run_folder / "onnx" / name).write_text("{}", encoding="utf-8")
    pushed = {name for name in run_files(run_folder) if name.startswith("onnx/")}
    assert pushed == {"onnx/model.onnx", "onnx/model.onnx_data", "onnx/export.json"}
    assert all(map(describes_model, pushed)) and not describes_model("onnx/notes.txt")


def refused(**changes: object) -> Fault:
    return Fault(times=99, **changes)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (refused(at="whoami", status=401), "token is invalid"),
        (refused(at="auth-check", status=403), "no write access"),
        (refused(at="/commit/", status=403), "no write access"),
        (refused(at="/commit/", status=404, headers={"X-Error-Code": "RepoNotFound"}), "does not exist"),
        (refused(at="/tree/", status=401, headers={"X-Error-Code": "GatedRepo"}), "no access to it"),
        (refused(at="/commit/", status=413), "refuses the upload"),
        (refused(at="/commit/", status=500), "internal error .500."),
        (refused(at="/commit/", status=429), "too many requests"),
        (refused(at="/commit/"), "cannot be reached"),
    ],
)
def test_a_permanent_error_has_a_message_and_changes_nothing(loopback, run_folder, fault, words):
    target = check_upload(Target("me/sounds"))
    upload(target, {"config.json": b"old"}, "old")
    before = dict(loopback.files("me/sounds")), set(run_folder.iterdir())
    loopback.faults.append(fault)
    with pytest.raises(NotPushed, match=words):
        push_run(run_folder, target)
    assert (loopback.files("me/sounds"), set(run_folder.iterdir())) == before


@pytest.mark.parametrize(
    "fault",
    [
        Fault("whoami", status=503),
        Fault("repos/create", status=500),
        Fault("/tree/"),
        Fault("validate-yaml", status=502),
        Fault("/preupload/", status=500),
        Fault("PUT /lfs", status=500, after=20_000),
        Fault("PUT /lfs", after=20_000),
        Fault("/commit/", status=500),
        Fault("/commit/", status=409),
        Fault("/commit/", after=1000),
        Fault("/commit/", takes_effect=True),
        Fault("/commit/", status=200, meanwhile=lambda: time.sleep(0.3)),
    ],
    ids=lambda fault: f"{fault.at}-{fault.status}-{fault.after}-{fault.takes_effect}",
)
def test_a_temporary_error_is_retried(loopback, run_folder, fault):
    loopback.faults.append(fault)
    push_run(run_folder, Target("me/sounds"))
    assert fault.times == 0
    assert set(loopback.files("me/sounds")) == goes_up(run_folder)
    assert len(loopback.repos["models", "me/sounds"].commits) == 2  # a lost answer does not make it two pushes
    weights = hashlib.sha256((run_folder / "model.safetensors").read_bytes()).hexdigest()
    sent = loopback.requests.count(f"PUT /lfs/{weights}")
    assert sent == 1 + ("PUT" in str(fault.at)), "what has arrived is not sent again"


def test_the_hub_says_how_long_to_wait(loopback, run_folder):
    loopback.faults.append(Fault("/commit/", status=429, headers={"Retry-After": "1"}))
    push_run(run_folder, Target("me/sounds"))
    first, second = (at for asked, at in zip(loopback.requests, loopback.times, strict=True) if "/commit/" in asked)
    assert 1 <= second - first < 3


@pytest.mark.parametrize(
    ("target", "token", "words"),
    [
        (Target("me/sounds"), "", "there is none(.|\n)*hf auth login"),
        (Target("me/sounds"), "hf_unknown", "token is invalid"),
        (Target("me/sounds"), READ_TOKEN, "read access only"),
        (Target("you/sounds"), TOKEN, "no write access(.|\n)*of your own"),
        (Target("me/clips"), TOKEN, "is a dataset, not a model"),
        (Target("me/bad name"), TOKEN, "not a repository id"),
        (Target("https://huggingface.co/me/sounds"), TOKEN, "give me/sounds"),
    ],
)
def test_each_mistake_has_its_message(loopback, monkeypatch, target, token, words):
    check_upload(Target("me/clips", kind="dataset"))
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(NotPushed, match=words):
        check_upload(target)
    assert list(loopback.repos) == [("datasets", "me/clips")]


def test_offline_is_an_error_at_once(loopback, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NotPushed, match="HF_HUB_OFFLINE is set"):
        check_upload(Target("me/sounds"))
    assert not loopback.requests


def test_only_finished_runs_are_pushed(run_folder):
    (run_folder / "run.json").unlink()
    with pytest.raises(UserError, match=r"not a finished run(.|\n)*let the training finish"):
        run_files(run_folder)


def test_of_a_cross_validation_one_run_is_named(trained):
    with pytest.raises(UserError, match=r"give one run: .*fold10"):
        run_files(trained.parent)


def test_killed_at_any_request_the_old_revision_is_whole(loopback, run_folder, tmp_path):
    """SIGKILL in the middle of each request in turn; the same command then brings the new revision."""
    old = check_upload(Target("me/sounds"))
    upload(old, {"config.json": b"old", "model.safetensors": b"old"}, "old")
    before = dict(loopback.files("me/sounds"))
    killed = 0
    while True:
        number = len(loopback.requests) + 1 + killed
        pushing: list[int] = []
        kill = partial(lambda pids: os.kill(pids[0], signal.SIGKILL), pushing)
        loopback.faults = [Fault(number, after=100, meanwhile=kill)]
        pushing.append(fork(lambda: __main__.main(["push", str(run_folder), "me/sounds"])))
        if (status := exit_status(pushing[0])) == 0:
            break
        assert status == -signal.SIGKILL
        assert loopback.files("me/sounds") == before
        killed += 1
    assert killed >= 8  # whoami, the repository, the right to write, tree, card, preupload, LFS, commit
    assert set(loopback.files("me/sounds")) == goes_up(run_folder)


def push_while_training(configure, root: Path, folder: Path, *more: str) -> int:
    target = ["--push_to_hub", "--hub_model_id", "me/sounds"]
    return run_experiment(configure("--data_dir", root, "--output_dir", folder, *target, *more))


def test_training_pushes_its_checkpoints_and_then_the_run(loopback, configure, synthetic_root, tmp_path):
    assert push_while_training(configure, synthetic_root, tmp_path, "--hub_always_push", "true") == 0
    commits = loopback.repos["models", "me/sounds"].commits
    messages = [commit.message for commit in commits]
    assert messages[1:3] == ["Training in progress, step 2 of 4", "Training in progress, step 4 of 4"]
    assert messages[3].startswith("wav2vec2: accuracy")
    assert set(commits[1].files) == {".gitattributes", "config.json", "model.safetensors", "preprocessor_config.json"}
    assert commits[1].files["model.safetensors"] != commits[2].files["model.safetensors"]
    assert set(commits[3].files) == goes_up(tmp_path / "fold10")
    assert commits[3].files["model.safetensors"] == (tmp_path / "fold10" / "model.safetensors").read_bytes()


def test_every_checkpoint_can_be_kept(loopback, configure, synthetic_root, tmp_path):
    strategy = ("--hub_always_push", "true", "--hub_strategy", "all_checkpoints")
    assert push_while_training(configure, synthetic_root, tmp_path, *strategy) == 0
    files = loopback.files("me/sounds")
    assert {name for name in files if name.startswith("checkpoint-2/")} == {
        "checkpoint-2/config.json", "checkpoint-2/model.safetensors", "checkpoint-2/preprocessor_config.json"
    }  # fmt: skip
    assert not [name for name in files if "optimizer" in name or name.endswith((".pt", ".bin", ".pth"))]


def test_a_run_that_could_not_be_pushed_is_whole(loopback, configure, synthetic_root, tmp_path, capsys):
    loopback.faults.append(Fault("/commit/", status=500, times=99))
    assert push_while_training(configure, synthetic_root, tmp_path, "--hub_strategy", "end", "--max_steps", "2") == 1
    printed = capsys.readouterr().err
    command = f"urbansound-hf hub push {tmp_path / 'fold10'} me/sounds"
    assert "the Hub has an internal error (500)" in printed
    assert command in printed
    loopback.faults.clear()
    assert __main__.main(command.split()[2:]) == 0
    assert set(loopback.files("me/sounds")) == goes_up(tmp_path / "fold10")


def test_mistakes_are_reported_before_anything_is_prepared(loopback, configure, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    with pytest.raises(NotPushed, match="read access only"):
        push_while_training(configure, Path("nowhere"), tmp_path)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--push_to_hub"], "needs `hub_model_id`"),
        (["--hub_model_id", "me/sounds"], "belongs to `push_to_hub`"),
        (["--push_to_hub", "--hub_model_id", "me/x", "--hub_strategy", "checkpoint"], "optimizer's state"),
    ],
)
def test_flags_that_cannot_push(configure, flags, words):
    with pytest.raises(UserError, match=words):
        configure(*flags)
    assert configure("--push_to_hub", "--hub_model_id", "me/x").training.push_to_hub


def test_a_checkpoint_that_trainer_removes_is_pushed_all_the_same_and_the_next_waits_for_nobody(loopback, tmp_path):
    """The first push is held up: the second is left out, the third goes."""
    pusher, held = Pusher(Target("me/yamnet"), "every_save", always=False), threading.Event()
    loopback.faults.append(Fault("/preupload/", status=200, meanwhile=lambda: held.wait(10)))
    for step in (1, 2, 3):
        checkpoint = tiny.save("yamnet", tmp_path / f"checkpoint-{step}")
        (checkpoint / "optimizer.pt").touch()
        weights = (checkpoint / "model.safetensors").read_bytes()
        (checkpoint / "config.json").write_text(
            json.dumps({**json.loads((checkpoint / "config.json").read_text(encoding="utf-8")), "step": step}),
            encoding="utf-8",
        )
        state = TrainerState(global_step=step, max_steps=3)
        pusher.on_save(TrainingArguments(str(tmp_path), use_cpu=True), state, TrainerControl())
        shutil.rmtree(checkpoint)
        if step == 2:
            held.set()
            pusher.last.result()
    pusher.thread.shutdown()
    messages = [commit.message for commit in loopback.repos["models", "me/yamnet"].commits]
    assert messages[1:] == ["Training in progress, step 1 of 3", "Training in progress, step 3 of 3"]
    arrived = loopback.files("me/yamnet")
    assert set(arrived) == {
        ".gitattributes",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "modeling_yamnet.py",
    }
    assert arrived["model.safetensors"] == weights
    assert not list(tmp_path.glob("push-*"))


def test_several_folds_go_to_repositories_of_their_own(configure):
    flags = ("--push_to_hub", "--hub_model_id", "me/x", "--hub_private_repo", "true")
    assert push_target(configure(*flags, "--test_fold", "3"), "fold3").repo_id == "me/x"
    assert push_target(configure(*flags, "--test_fold", "1,3"), "fold3").repo_id == "me/x-fold3"
    assert push_target(configure(*flags, "--test_fold", "all"), "fold3").private


DOWNSTREAM = """
import json, sys
import numpy as np
from transformers import pipeline
classify = pipeline("audio-classification", model="me/yamnet", trust_remote_code=True)
waveform = np.random.default_rng(0).standard_normal(32000).astype("float32") * 0.1
print(json.dumps(classify({"array": waveform, "sampling_rate": 16000}, top_k=10)))
assert "urbansound_hf" not in sys.modules
"""


def test_a_pushed_model_of_ours_opens_where_this_project_is_not(loopback, tmp_path):
    folder = tiny.save("yamnet", tmp_path / "yamnet")
    upload(check_upload(Target("me/yamnet")), model_files(folder), "a tiny YAMNet")
    clean = environment(loopback, HF_HOME=str(tmp_path / "home"), PYTHONPATH="")
    done = subprocess.run(
        [sys.executable, "-c", DOWNSTREAM], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    from urbansound_hf.inference.classifier import SoundClassifier

    model = SoundClassifier.from_pretrained(folder)
    waveform = np.random.default_rng(0).standard_normal(32000).astype("float32") * 0.1
    expected = dict(zip(model.labels, model.probabilities([waveform])[0].tolist(), strict=True))
    assert {entry["label"]: entry["score"] for entry in json.loads(done.stdout)} == pytest.approx(expected, abs=1e-4)


def test_infer_takes_a_revision_from_the_hub_and_caches_it(loopback, synthetic_root, tmp_path, monkeypatch, capsys):
    target = check_upload(Target("me/yamnet", revision="first"))
    upload(target, model_files(tiny.save("yamnet", tmp_path / "yamnet")), "a tiny YAMNet")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    clip = str(next(synthetic_root.rglob("*.wav")))
    capsys.readouterr()
    assert cli.infer([clip, "--model", "me/yamnet", "--revision", "first", "--format", "jsonl"]) == 0
    assert json.loads(capsys.readouterr().out)["label"]
    kept = huggingface_hub.try_to_load_from_cache(
        "me/yamnet", "model.safetensors", tmp_path / "cache", revision="first"
    )
    assert Path(str(kept)).read_bytes() == (tmp_path / "yamnet" / "model.safetensors").read_bytes()


@pytest.mark.real
def test_the_weights_of_the_yamnet_config_are_downloaded_and_converted(loopback, monkeypatch, tmp_path, capsys):
    pytest.importorskip("onnx", reason="onnx is not installed: pip install 'urbansound-hf[export]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    folder, hub = Path("outputs/yamnet_audioset"), conversions()["yamnet"].hub
    with pytest.raises(UserError, match=r"there is no such folder(.|\n)*urbansound-hf models yamnet convert"):
        check_path(folder)
    assert "could not be downloaded from niobures/YAMNet@080fce0" in capsys.readouterr().err and not folder.exists()
    repo = loopback.repos["models", hub["repo_id"]] = hub_protocol.Repo(private=False)
    files = {f"{hub['subfolder']}/{path.name}": path.read_bytes() for path in YAMNET.iterdir()}
    repo.branches[hub["revision"]] = repo.commit("main", "weights", files)
    model = SoundClassifier.from_pretrained(folder, device="cpu")
    assert model.labels[0] == "Speech" and "converted from niobures/YAMNet@080fce0" in capsys.readouterr().err


def test_the_licence_is_asked_for(monkeypatch, capsys):
    with pytest.raises(UserError, match=r"no terminal(.|\n)*--yes"):
        __main__.main(["data", "me/clips"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "no")
    with pytest.raises(UserError, match="nothing is uploaded"):
        __main__.main(["data", "me/clips", "--public"])
    printed = capsys.readouterr().err
    assert "non-commercial" in printed
    assert "PUBLIC" in printed


@pytest.fixture
def pushed_clips(loopback, synthetic_root, tmp_path, monkeypatch):
    import datasets

    from urbansound_hf.hub import __main__

    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", loopback.url)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert __main__.main(["data", "me/clips", "--data_dir", str(synthetic_root), "--yes"]) == 0
    return loopback


def test_the_data_set_goes_up_private_with_a_file_a_fold_and_comes_back(pushed_clips, sounds, synthetic_root):
    import datasets

    files = pushed_clips.files("me/clips", kind="datasets")
    assert pushed_clips.repos["datasets", "me/clips"].private
    assert {name for name in files if name.endswith(".parquet")} == {
        f"data/train-{k:05d}-of-00010.parquet" for k in range(10)
    }
    card = huggingface_hub.DatasetCard(files["README.md"].decode())
    assert card.data.license == "cc-by-nc-3.0"
    assert re.search(r"\| siren +\| +1 \| +1 \|", card.text)
    assert not [name for name, content in files.items() if str(synthetic_root).encode() in content]
    whole = datasets.load_dataset("me/clips", split="train")
    assert whole.features["audio"] == datasets.Audio(sampling_rate=16000)
    streamed = list(
        datasets.load_dataset("me/clips", split="train", streaming=True).cast_column(
            "audio", sounds.dataset.features["audio"]
        )
    )
    plain = whole.cast_column("audio", sounds.dataset.features["audio"])
    by_name = {row["audio"]["path"]: row for row in sounds.dataset}
    for row in [*plain, *streamed]:
        assert row == by_name[row["audio"]["path"]]
    assert len(streamed) == len(plain) == len(by_name)


def test_clips_are_not_added_to_a_public_repository_by_default(loopback, synthetic_root):
    check_upload(Target("me/clips", "dataset"))
    flags = ["data", "me/clips", "--data_dir", str(synthetic_root), "--yes"]
    with pytest.raises(UserError, match="exists and is public"):
        __main__.main(flags)
    assert set(loopback.files("me/clips", kind="datasets")) == {".gitattributes"}
    assert __main__.main([*flags, "--public"]) == 0


def test_training_takes_the_data_set_from_the_hub(pushed_clips, configure, tmp_path):
    flags = ("--dataset", "me/clips", "--test_fold", "3", "--output_dir", tmp_path, "--max_steps", "2")
    assert run_experiment(configure(*flags)) == 0
    metrics = json.loads((tmp_path / "fold3" / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["test_fold"], metrics["validation_fold"], metrics["clips"]["test"]) == (3, 4, 10)
