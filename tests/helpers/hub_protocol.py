"""What the Hub knows and answers: repositories, branches, large files, and the requests of its real clients."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

USER = "me"
LARGE = 100_000  # bytes from which any file goes through LFS


class Refusal(Exception):
    """An answer that is an error: status, message, X-Error-Code."""

    def __init__(self, status: int, message: str, code: str = "", **content: object) -> None:
        super().__init__(status, message)
        self.status, self.headers = status, {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.content = {"error": message, **content}


@dataclass(frozen=True)
class Commit:
    """A revision: all files of the repository as they then were."""

    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repo:
    """A repository: what each branch points to, and all commits in order."""

    private: bool
    branches: dict[str, Commit] = field(default_factory=dict)
    commits: list[Commit] = field(default_factory=list)

    def commit(self, branch: str, message: str, files: dict[str, bytes]) -> Commit:
        oid = hashlib.sha1(repr((len(self.commits), message, sorted(files.items()))).encode()).hexdigest()
        self.branches[branch] = Commit(oid, message, files)
        self.commits.append(self.branches[branch])
        return self.branches[branch]

    def at(self, revision: str) -> Commit:
        for commit in [*filter(None, [self.branches.get(revision)]), *self.commits]:
            if revision in (commit.oid, *self.branches):
                return commit
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")


@dataclass
class Request:
    """What was asked; `role` is what the token may do, None without a valid one."""

    method: str
    path: str
    query: dict[str, list[str]]
    role: str | None
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def is_large(path: str, size: int) -> bool:
    return size >= LARGE or path.endswith((".safetensors", ".parquet", ".onnx"))


def described(path: str, content: bytes) -> dict[str, Any]:
    """A file as a tree lists it."""
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
    if not is_large(path, len(content)):
        return entry
    return entry | {"lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}}


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


ROUTES: list[tuple[str, Callable[..., object]]] = []
REPO = r"/api/(models|datasets|spaces)/([^/]+/[^/]+)"


def route(pattern: str) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """The function answers requests whose "METHOD /path" is like that; it gets the groups, and gives JSON or bytes."""
    return lambda function: ROUTES.append((pattern, function)) or function


@dataclass
class Hub:
    """What the Hub holds."""

    url: str = ""
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)  # by kind ("models") and id
    objects: dict[str, bytes] = field(default_factory=dict)  # large files by their sha256

    def repo(self, kind: str, name: str, request: Request | None = None, write: bool = False) -> Repo:
        """The repository, if that request may see it, or write to it."""
        repo = self.repos.get((kind, name))
        if not repo or (request and repo.private and not request.role):
            raise Refusal(404 if not request or request.role else 401, "Repository not found", "RepoNotFound")
        if write and request and (request.role != "write" or name.split("/")[0] != USER):
            raise Refusal(403, "you have no write access to this repository")
        return repo

    def files(self, name: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        return self.repo(kind, name).at(revision).files

    @route(r"GET /api/whoami-v2")
    def whoami(self, request: Request) -> object:
        if not request.role:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return {"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": request.role}}}

    @route(r"POST /api/repos/create")
    def create(self, request: Request) -> object:
        asked = request.json
        kind, name = f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or USER}/{asked['name']}"
        url = f"{self.url}/{'' if kind == 'models' else f'{kind}/'}{name}"
        if (kind, name) in self.repos:
            raise Refusal(409, "You already created this repo", url=url)
        if request.role != "write" or not name.startswith(f"{USER}/"):
            raise Refusal(403, f"You don't have the rights to create {name}")
        repo = self.repos[kind, name] = Repo(asked.get("visibility") == "private")
        repo.commit(
            "main", "initial commit", {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
        )
        return {"url": url, "name": name}

    @route(r"POST /api/validate-yaml")
    def validate_card(self, request: Request) -> object:
        return {"errors": [], "warnings": []}

    @route(rf"GET {REPO}(?:/revision/([^/]+))?")
    def info(self, request: Request, kind: str, name: str, revision: str | None) -> object:
        repo = self.repo(kind, name, request)
        commit = repo.at(revision or "main")
        files = [{"rfilename": path} for path in commit.files]
        return {"id": name, "sha": commit.oid, "private": repo.private, "siblings": files, "tags": []}

    @route(rf"GET {REPO}/auth-check/write")
    def may_write(self, request: Request, kind: str, name: str) -> object:
        self.repo(kind, name, request, write=True)
        return {}

    @route(rf"GET {REPO}/refs")
    def refs(self, request: Request, kind: str, name: str) -> object:
        heads = self.repo(kind, name, request).branches.items()
        told = [{"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": head.oid} for branch, head in heads]
        return {"branches": told, "tags": [], "converts": []}

    @route(rf"GET {REPO}/tree/([^/]+)(?:/(.+))?")
    def tree(self, request: Request, kind: str, name: str, revision: str, folder: str | None) -> object:
        start, recursive = f"{folder}/" if folder else "", request.query.get("recursive") in (["true"], ["True"])
        files = self.repo(kind, name, request).at(revision).files
        entries = [described(path, content) for path, content in files.items() if path.startswith(start)]
        if folder and not entries:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        folders = {entry["path"][: cut.start()] for entry in entries for cut in re.finditer("/", entry["path"])}
        entries += [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
        inside = [entry for entry in entries if entry["path"].startswith(start)]
        return [entry for entry in inside if recursive or "/" not in entry["path"].removeprefix(start)]

    @route(rf"POST {REPO}/paths-info/([^/]+)")
    def paths_info(self, request: Request, kind: str, name: str, revision: str) -> object:
        files = self.repo(kind, name, request).at(revision).files
        asked = [path.strip("/") for path in parse_qs(request.body.decode())["paths"]]
        folders = [path for path in asked if any(other.startswith(f"{path}/") for other in files)]
        told = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders]
        return told + [described(path, files[path]) for path in asked if path in files]

    @route(rf"POST {REPO}/branch/([^/]+)")
    def branch(self, request: Request, kind: str, name: str, branch: str) -> object:
        repo = self.repo(kind, name, request, write=True)
        if branch in repo.branches:
            raise Refusal(409, "Reference already exists")
        repo.branches[branch] = repo.at("main")
        return {}

    @route(rf"POST {REPO}/preupload/([^/]+)")
    def preupload(self, request: Request, kind: str, name: str, revision: str) -> object:
        there = self.repo(kind, name, request, write=True).at(revision).files
        told = {path: described(path, content) for path, content in there.items()}
        known = {path: entry.get("lfs", entry)["oid"] for path, entry in told.items()}
        mode = {True: "lfs", False: "regular"}
        asked = [(file["path"], mode[is_large(file["path"], file["size"])]) for file in request.json["files"]]
        files = [{"path": p, "uploadMode": mode, "shouldIgnore": False, "oid": known.get(p)} for p, mode in asked]
        return {"files": files}

    @route(r"POST /(?:(datasets|spaces)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch")
    def batch(self, request: Request, kind: str | None, name: str) -> object:
        self.repo(kind or "models", name, request, write=True)
        objects, urls = request.json["objects"], {"upload": f"{self.url}/lfs", "verify": f"{self.url}/lfs/verify"}
        for each in (each for each in objects if each["oid"] not in self.objects):
            each["actions"] = {action: {"href": f"{url}/{each['oid']}"} for action, url in urls.items()}
        return {"transfer": "basic", "objects": objects}

    @route(r"PUT /lfs/(\w+)")
    def upload(self, request: Request, oid: str) -> object:
        if hashlib.sha256(request.body).hexdigest() != oid:
            raise Refusal(400, "this is not the object that was announced")
        self.objects[oid] = request.body
        return {}

    @route(r"POST /lfs/verify/(\w+)")
    def verify(self, request: Request, oid: str) -> object:
        if len(self.objects.get(oid, b"")) != request.json["size"]:
            raise Refusal(404, "the object has not arrived")
        return {}

    @route(rf"POST {REPO}/commit/([^/]+)")
    def commit(self, request: Request, kind: str, name: str, branch: str) -> object:
        repo = self.repo(kind, name, request, write=True)
        header, *steps = [json.loads(line) for line in request.body.splitlines()]
        files = dict(repo.at(branch).files)
        for key, value in ((step["key"], step["value"]) for step in steps):
            if key == "deletedFile":
                del files[value["path"]]
            else:
                large = key == "lfsFile"
                files[value["path"]] = self.objects[value["oid"]] if large else base64.b64decode(value["content"])
        number = 1 + sum(other.startswith("refs/pr/") for other in repo.branches)
        target = f"refs/pr/{number}" if "create_pr" in request.query else branch
        page = f"{self.url}/{'' if kind == 'models' else f'{kind}/'}{name}"
        made = repo.commit(target, header["value"]["summary"], files)
        return {
            "commitOid": made.oid,
            "commitUrl": f"{page}/commit/{made.oid}",
            "pullRequestUrl": f"{page}/discussions/{number}" if "create_pr" in request.query else None,
        }

    @route(r"(?:GET|HEAD) /(?:(datasets|spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
    def resolve(self, request: Request, kind: str | None, name: str, revision: str, path: str) -> object:
        commit = self.repo(kind or "models", name, request).at(revision)
        if path not in commit.files:
            raise Refusal(404, f"{path} does not exist", "EntryNotFound")
        content = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{git_hash(content)}"', "Accept-Ranges": "bytes"}
        if is_large(path, len(content)):
            oid = described(path, content)["lfs"]["oid"]
            headers |= {"ETag": f'"{oid}"', "X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        return content, headers
