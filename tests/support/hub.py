"""A Hugging Face Hub on loopback: repositories, who may read them, and a store for large files.

What it answers follows the Hub's API documentation and what huggingface_hub makes of answers
(`hf_raise_for_status`, `get_hf_file_metadata`, `ModelInfo`); test_fake_hub.py lets that client
judge it. Large files are redirected to `cdn`, another origin, which refuses Authorization.

    hub.repo("owner/name", {"lora.safetensors": weights()}, gated=True, readers={TOKEN})
"""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote

from .faults import Fault, RefuseAuthorization, RequireSignature, Signer
from .faults.base import Tally
from .resources import Answer, Resource, plain, right_answer
from .rfc9110 import Request
from .server import Server

LARGE = 1000
_TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}
_API = re.compile(r"/api/(models|datasets|spaces)/(.+?)(?:/(revision|tree)/([^/]+))?/?")
_FILE = re.compile(r"/(?:(datasets|spaces)/)?((?:[^/]+/)?[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repo:
    """One repository.

    Attributes:
        revisions: the files at each revision, and at the commit that it stands for.
        readers: the tokens that may read it where it is not public.
        large: the names of files kept by Git LFS; all of LARGE bytes where it is None.
        extra: listed and not there, as the API has them.
        card: what the head of its README says.
    """

    name: str
    type: str = "model"
    private: bool = False
    gated: bool = False
    disabled: bool = False
    readers: Collection[str] = ()
    large: Collection[str] | None = None
    revisions: dict[str, dict[str, bytes]] = field(default_factory=dict)
    extra: list[dict[str, object]] = field(default_factory=list)
    card: dict[str, object] | None = None

    @property
    def public(self) -> bool:
        return not (self.private or self.gated)

    def commit(self, revision: str) -> str:
        """The commit that a revision stands for: another one when its files are others."""
        digests = {name: hashlib.sha1(data).hexdigest() for name, data in self.at(revision).items()}
        return hashlib.sha1(json.dumps([self.name, digests]).encode()).hexdigest()

    def at(self, revision: str) -> dict[str, bytes]:
        """The files at a revision, or at a commit that one stands for.

        Raises:
            KeyError: there is no such revision.
        """
        if revision in self.revisions:
            return self.revisions[revision]
        return {self.commit(each): files for each, files in self.revisions.items()}[revision]

    def is_large(self, name: str, data: bytes) -> bool:
        return len(data) >= LARGE if self.large is None else name in self.large


class Hub(Server):
    """The Hub; what `add` puts at a path stands before what the Hub would answer there.

    Attributes:
        tokens: those that belong to somebody.
        renamed: the new names of repositories by their old ones.
    """

    def __init__(self, cdn: Server, tokens: Collection[str] = ()) -> None:
        super().__init__()
        self.cdn = cdn
        self.tokens = set(tokens)
        self.renamed: dict[str, str] = {}
        self.signer = Signer()
        self._repos: dict[tuple[str, str], Repo] = {}

    def repo(
        self,
        name: str,
        files: Mapping[str, bytes],
        *,
        revisions: Mapping[str, Mapping[str, bytes]] | None = None,
        **fields: object,
    ) -> Repo:
        """Have a repository with `files` at main and what `revisions` have beside."""
        repo = Repo(name, **fields)  # type: ignore[arg-type]
        repo.revisions = {"main": dict(files)}
        repo.revisions |= {each: dict(found) for each, found in (revisions or {}).items()}
        self._repos[repo.type, name] = repo
        self.tokens |= set(repo.readers)
        return repo

    def forget(self, repo: Repo) -> None:
        """The owner of `repo` deletes it."""
        del self._repos[repo.type, repo.name]

    def asked_of_api(self) -> list[str]:
        """The targets of all questions put to the API."""
        return [seen.target for seen in self.requests if seen.path.startswith("/api/")]

    def resolved(self) -> list[str]:
        """The paths of all files asked for, without the repository and the revision."""
        found = [_FILE.fullmatch(seen.path) for seen in self.requests]
        return [unquote(match[4]) for match in found if match]

    # ------------------------------------------------------------------------------- the answers

    def _answer(self, request: Request, tally: Tally, connection: int) -> Answer:
        if request.path in self._resources:
            return super()._answer(request, tally, connection)
        if request.method not in ("GET", "HEAD"):
            return plain(405, "method not allowed\n", ("Allow", "GET, HEAD"))
        if match := _API.fullmatch(request.path):
            kind, name, what, revision = match.groups()
            return self._told(request, _TYPES[kind], name, what, unquote(revision or "main"))
        if match := _FILE.fullmatch(request.path):
            kind, name, revision, path = match.groups()
            if new := self.renamed.get(name):
                moved = request.path.replace(f"/{name}/", f"/{new}/", 1)
                return plain(307, "", ("Location", moved))
            kind = _TYPES[kind or "models"]
            return self._resolved(request, kind, name, unquote(revision), unquote(path))
        return _error(404, "", "Sorry, we can't find the page you are looking for.")

    def _refusal(self, request: Request, repo: Repo | None, *, metadata: bool) -> Answer | None:
        """Why `request` may not see `repo`; of a gated one anybody may see what is in it."""
        shown = request.header("authorization")
        token = shown.removeprefix("Bearer ") if shown is not None else None
        if token is not None and token not in self.tokens:
            return _error(401, "", "Invalid credentials in Authorization header")
        if repo is None or (repo.private and token not in repo.readers):
            status = 401 if token is None else 404
            return _error(status, "RepoNotFound", "Repository not found")
        if repo.disabled:
            return _error(403, "", "Access to this resource is disabled.")
        if not repo.gated or metadata or (token is not None and token in repo.readers):
            return None
        return _gated(repo, token, self.url(""))

    def _told(self, request: Request, kind: str, name: str, what: str, revision: str) -> Answer:
        repo = self._repos.get((kind, name))
        refusal = self._refusal(request, repo, metadata=True)
        if refusal is not None or repo is None:
            return refusal or plain(500)
        try:
            files = repo.at(revision)
        except KeyError:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if what == "tree":
            return _json([_tree_entry(repo, *each) for each in files.items()])
        listed = [_sibling(repo, *each) for each in files.items()] + repo.extra
        return _json(
            {
                "_id": "621ffdc036468d709f174338",
                "id": name,
                "modelId": name,
                "sha": repo.commit(revision),
                "private": repo.private,
                "gated": "manual" if repo.gated else False,
                "disabled": repo.disabled,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "createdAt": "2022-03-02T23:29:04.000Z",
                "lastModified": "2024-02-19T11:06:12.000Z",
                "siblings": listed,
                **({"cardData": repo.card} if repo.card is not None else {}),
            }
        )

    def _resolved(self, request: Request, kind: str, name: str, revision: str, path: str) -> Answer:
        repo = self._repos.get((kind, name))
        refusal = self._refusal(request, repo, metadata=False)
        if refusal is not None or repo is None:
            return refusal or plain(500)
        try:
            files = repo.at(revision)
        except KeyError:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        commit = ("X-Repo-Commit", repo.commit(revision))
        if path not in files:
            return _error(404, "EntryNotFound", "Entry not found", commit)
        data = files[path]
        if repo.is_large(path, data):
            return self._sent_on(data, commit)
        blob = f'"{_blob(data)}"'
        return right_answer(request, Resource(data, etag=blob, headers=(commit,)))

    def _sent_on(self, data: bytes, commit: tuple[str, str]) -> Answer:
        sha256 = hashlib.sha256(data).hexdigest()
        path = f"/repos/{sha256}"
        if not self.cdn.has(path):
            faults: list[Fault] = [RefuseAuthorization(), RequireSignature(self.signer)]
            self.cdn.add(path, Resource(data, etag=f'"{sha256[:32]}"', faults=faults))
        target = self.signer.sign(self.cdn.url(path))
        linked = (("X-Linked-Size", str(len(data))), ("X-Linked-Etag", f'"{sha256}"'))
        words = f"Found. Redirecting to {target}"
        return plain(302, words, ("Location", target), commit, *linked)


def _gated(repo: Repo, token: str | None, root: str) -> Answer:
    restricted = f"Access to {repo.type} {repo.name} is restricted"
    if token is None:
        words = f"{restricted}. You must have access to it and be authenticated. Please log in."
        return _error(401, "GatedRepo", words)
    where = f"Visit {root}/{repo.name} to ask for access."
    return _error(403, "GatedRepo", f"{restricted} and you are not in the authorized list. {where}")


def _error(status: int, code: str, words: str, *headers: tuple[str, str]) -> Answer:
    named = (("X-Error-Code", code),) if code else ()
    challenge = (("WWW-Authenticate", "Bearer"),) if status == 401 else ()
    answer = plain(status, "", ("X-Error-Message", words), *named, *challenge, *headers)
    body = json.dumps({"error": words}).encode()
    return answer.having("Content-Type", "application/json; charset=utf-8").carrying(body)


def _json(value: object) -> Answer:
    answer = plain(200).having("Content-Type", "application/json; charset=utf-8")
    return answer.carrying(json.dumps(value).encode())


def _blob(data: bytes) -> str:
    """What git calls the content (a blob's id)."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _sibling(repo: Repo, name: str, data: bytes) -> dict[str, object]:
    found: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": _blob(data)}
    if repo.is_large(name, data):
        digest = hashlib.sha256(data).hexdigest()
        found["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
    return found


def _tree_entry(repo: Repo, name: str, data: bytes) -> dict[str, object]:
    found: dict[str, object] = {"type": "file", "path": name, "size": len(data), "oid": _blob(data)}
    if repo.is_large(name, data):
        digest = hashlib.sha256(data).hexdigest()
        found["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 134}
    return found
