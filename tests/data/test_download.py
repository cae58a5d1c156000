"""Downloading and unpacking, against a real server on the loopback interface and real archives."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.zenodo_server import FileServer, serve
from urbansound_hf.data.download import fetch, unpack
from urbansound_hf.errors import UserError

CONTENT = np.random.default_rng(0).bytes(400_000)
OTHER = np.random.default_rng(1).bytes(400_000)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve(CONTENT) as files:
        yield files


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data" / "sounds.tar.gz"


def get(server: FileServer, target: Path, attempts: int = 5, md5: str = "") -> Path:
    return fetch(server.url, target, md5 or server.md5, attempts=attempts, backoff_seconds=0.01)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"sounds.tar.gz.lock"}


def test_a_whole_download_is_remembered(server: FileServer, target: Path) -> None:
    assert get(server, target) == target
    assert target.read_bytes() == CONTENT
    assert get(server, target).read_bytes() == CONTENT
    assert server.asked_from == [0]  # the second call asked nobody
    assert names(target.parent) == {"sounds.tar.gz", "sounds.tar.gz.md5"}


def test_a_broken_connection_is_continued(server: FileServer, target: Path) -> None:
    server.cuts = [150_000, 200_000]
    assert get(server, target).read_bytes() == CONTENT
    first, second, third = server.asked_from
    assert first == 0
    assert 0 < second <= 150_000 and second < third <= second + 200_000


def test_the_next_run_continues(server: FileServer, target: Path) -> None:
    server.cuts = [150_000]
    with pytest.raises(UserError) as caught:
        get(server, target, attempts=0)
    have = Path(f"{target}.part").stat().st_size
    assert not target.exists() and 0 < have <= 150_000
    assert "the download stopped: IncompleteRead" in caught.value.what
    assert caught.value.where == server.url
    assert f"run the command again: it goes on after the {have / 1000:.0f}kB that are there; or download the file" in (
        caught.value.fix
    )
    assert get(server, target).read_bytes() == CONTENT
    assert server.asked_from == [0, have]


def test_a_server_without_ranges_starts_over(server: FileServer, target: Path) -> None:
    server.ranges, server.cuts = False, [150_000]
    assert get(server, target).read_bytes() == CONTENT
    assert server.asked_from[1] > 0  # asked for, and not given


def test_a_server_that_always_breaks_is_given_up(server: FileServer, target: Path) -> None:
    server.ranges, server.cuts = False, [150_000] * 10
    with pytest.raises(UserError, match="the download stopped"):
        get(server, target, attempts=3)
    assert len(server.requests) == 4  # the first brought something


@pytest.mark.parametrize("content", [OTHER, OTHER[:1000]], ids=["same size", "shorter than the part"])
def test_a_changed_file_is_not_glued(server: FileServer, target: Path, content: bytes) -> None:
    server.cuts = [150_000]
    with pytest.raises(UserError):
        get(server, target, attempts=0)
    server.content = content
    assert get(server, target).read_bytes() == content
    assert server.asked_from[1] > 0 and server.asked_from[2] == 0


def test_a_changed_file_without_etag_fails_the_md5(server: FileServer, target: Path) -> None:
    server.etags, server.cuts = False, [150_000]
    with pytest.raises(UserError):
        get(server, target, attempts=0)
    server.content = OTHER
    with pytest.raises(UserError, match=f"should have the md5 {server.md5}, but its 400kB have"):
        get(server, target)
    assert names(target.parent) <= {"sounds.tar.gz.part.etag"}  # nothing wrong is left to continue
    assert get(server, target).read_bytes() == OTHER


@pytest.mark.parametrize("etags", [True, False])
def test_a_complete_part_only_needs_the_check(server: FileServer, target: Path, etags: bool) -> None:
    server.etags = etags
    target.parent.mkdir()
    Path(f"{target}.part").write_bytes(CONTENT)
    assert get(server, target).read_bytes() == CONTENT
    assert server.asked_from == [len(CONTENT)]  # answered 416, nothing sent


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server: FileServer, target: Path, status: int) -> None:
    server.errors = [status, status]
    assert get(server, target).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_retry_after_is_honoured(server: FileServer, target: Path) -> None:
    server.errors, server.error_headers = [429, 503], {"Retry-After": "1"}
    get(server, target)
    assert np.all(np.diff(server.times) >= 1)


def test_a_refusal_is_told_at_once(server: FileServer, target: Path) -> None:
    server.errors = [404]
    with pytest.raises(UserError) as caught:
        get(server, target)
    assert len(server.requests) == 1
    assert str(caught.value).splitlines() == [
        "the download stopped: the server answered 404 Not Found",
        f"  where: {server.url}",
        "  fix:   download the file with a browser, unpack it, and give its folder as --data_dir",
    ]


def test_a_server_that_stays_busy_is_given_up(server: FileServer, target: Path) -> None:
    server.errors = [503] * 9
    with pytest.raises(UserError, match="the server answered 503 Service Unavailable"):
        get(server, target, attempts=3)
    assert len(server.requests) == 3


def test_nobody_there(target: Path) -> None:
    with serve(b"") as files:
        pass
    with pytest.raises(UserError, match=r"the download stopped: .*Connection refused"):
        get(files, target, attempts=2)


def test_a_wrong_md5_is_removed_and_told(server: FileServer, target: Path) -> None:
    server.content, right = OTHER, server.md5
    with pytest.raises(UserError) as caught:
        get(server, target, md5=right)
    assert right in caught.value.what and server.md5 in caught.value.what and "it was removed" in caught.value.what
    assert caught.value.where == server.url and "run the command again" in caught.value.fix
    assert not target.exists() and not Path(f"{target}.part").exists()
    server.content = CONTENT
    assert get(server, target).read_bytes() == CONTENT


def test_a_file_of_the_user_is_checked_but_never_removed(server: FileServer, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    assert get(server, target).read_bytes() == CONTENT
    target.write_bytes(OTHER)
    with pytest.raises(UserError, match="delete it to download it again"):
        get(server, target)
    assert target.read_bytes() == OTHER
    assert not server.requests


def test_a_verified_file_is_not_read_again(server: FileServer, target: Path) -> None:
    get(server, target)
    stat = target.stat()
    target.write_bytes(OTHER)  # only reading it could tell, because size and time are those that were noted
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert get(server, target).read_bytes() == OTHER


def test_a_full_disk_is_told_before_the_first_byte(server: FileServer, target: Path) -> None:
    server.claims = 10**18
    with pytest.raises(UserError, match=r"[\d,.]+ MiB are needed, .* are free"):
        get(server, target)
    assert not Path(f"{target}.part").stat().st_size


def test_a_folder_that_cannot_be_made(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="--data_dir") as caught:
        get(server, tmp_path / "file" / "sounds.tar.gz")
    assert str(tmp_path / "file") in caught.value.where


def test_two_at_once_download_once(server: FileServer, target: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: get(server, target), range(2))) == [target, target]
    assert target.read_bytes() == CONTENT
    assert len(server.requests) == 1


GOOD = {"US8K/audio/fold1/a.wav": CONTENT[:70_000], "US8K/metadata/US8K.csv": b"x,y\n", "US8K/empty": b""}
LITTER = {"US8K/.DS_Store": b"-", "US8K/audio/fold1/._a.wav": b"-", "US8K/audio/.DS_Store": b"-"}


def pack(path: Path, files: dict[str, bytes], *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in members:
            tar.addfile(member)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def test_unpacks_all_but_the_litter(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar.gz", GOOD | LITTER)
    folder = unpack(archive, tmp_path / "deep" / "out")
    assert folder == tmp_path / "deep" / "out"
    assert tree(folder) == GOOD
    assert {path.name for path in folder.parent.iterdir()} == {"out", "out.lock"}
    archive.unlink()
    assert tree(unpack(archive, folder)) == GOOD  # done once, the archive is not needed again


def test_a_folder_of_the_user_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.wav").write_bytes(b"RIFF")
    assert tree(unpack(tmp_path / "missing.tar.gz", tmp_path / "own")) == {"a.wav": b"RIFF"}
    assert {path.name for path in tmp_path.iterdir()} == {"own"}  # not even locked: it may be read-only


def test_what_a_killed_run_left_is_not_taken_as_whole(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar.gz", GOOD)
    (tmp_path / "out.unpacking").mkdir()
    (tmp_path / "out.unpacking" / "half.wav").write_bytes(b"RIFF")
    (tmp_path / "out").mkdir()  # an empty folder is no obstacle
    assert tree(unpack(archive, tmp_path / "out")) == GOOD


EVIL = {
    "../": [member("../evil")],
    "../ inside": [member("US8K/../../evil")],
    "symlink out": [member("US8K/link", tarfile.SYMTYPE, "../../evil")],
    "absolute symlink": [member("US8K/link", tarfile.SYMTYPE, "/etc")],
    "link inside": [member("US8K/link", tarfile.SYMTYPE, "empty")],
    "through a symlink": [member("link", tarfile.SYMTYPE, ".."), member("link/evil")],
    "hard link out": [member("US8K/link", tarfile.LNKTYPE, "../victim")],
    "pipe": [member("US8K/pipe", tarfile.FIFOTYPE)],
    "device": [member("US8K/null", tarfile.CHRTYPE)],
}


@pytest.mark.parametrize("members", EVIL.values(), ids=EVIL.keys())
def test_never_writes_outside(tmp_path: Path, members: list[tarfile.TarInfo]) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "victim").write_bytes(b"untouched")
    archive = pack(tmp_path / "a.tar.gz", GOOD, *members)
    with pytest.raises(UserError, match="only files and folders inside itself") as caught:
        unpack(archive, inner / "out")
    assert caught.value.where == f"{archive}: {members[0].name}"
    assert {path.name for path in inner.iterdir()} == {"victim", "out.lock"}
    assert {path.name for path in tmp_path.iterdir()} == {"inner", "a.tar.gz"}
    assert (inner / "victim").read_bytes() == b"untouched"


def test_an_absolute_name_lands_inside(tmp_path: Path) -> None:
    outside = tmp_path / "outside" / "evil"
    folder = unpack(pack(tmp_path / "a.tar.gz", {str(outside): b"-"}), tmp_path / "out")
    assert not outside.exists()
    assert tree(folder) == {str(outside).lstrip("/"): b"-"}


@pytest.mark.parametrize("keep", [0, 5, 0.2, 0.9, -1])
def test_a_cut_archive_leaves_nothing(tmp_path: Path, keep: float) -> None:
    archive = pack(tmp_path / "a.tar.gz", GOOD)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(keep * len(whole)) if 0 < keep < 1 else int(keep)])
    with pytest.raises(UserError, match="the archive is damaged or cut off") as caught:
        unpack(archive, tmp_path / "out")
    assert caught.value.where == str(archive) and f"delete {archive}" in caught.value.fix
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar.gz", "out.lock"}


@pytest.mark.parametrize(
    "content",
    [b"<html>not found</html>", gzip.compress(b"no tar"), gzip.compress(OTHER)],
    ids=["a page", "no tar", "other bytes"],  # compressed bytes hold the time, and would name the test anew each run
)
def test_something_else_than_an_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar.gz").write_bytes(content)
    with pytest.raises(UserError, match="the archive is damaged or cut off"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar.gz", GOOD)
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match="the archive is damaged or cut off"):
        unpack(archive, tmp_path / "out")


def test_an_archive_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file") as caught:
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert caught.value.where == str(tmp_path / "a.tar.gz")


def test_no_space_to_unpack(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.gz"
    archive.touch()
    os.truncate(archive, 2 * shutil.disk_usage(tmp_path).free)  # sparse: it takes no space itself
    with pytest.raises(UserError, match="MiB are needed"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
