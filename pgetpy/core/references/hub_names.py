"""Names on the Hugging Face Hub: which repository, revision and file a reference means.

The forms are those of the Hub's pages and of huggingface_hub (its "HF URIs", `hf_hub_url` and
`validate_repo_id`):

    hf://OWNER/NAME[@REVISION][/PATH]                          a model
    hf://datasets/OWNER/NAME...  hf://spaces/OWNER/NAME...     the other types
    https://huggingface.co/OWNER/NAME[/resolve|blob|raw|tree/REVISION/PATH]

All spellings of one thing become one value, and so one key in the cache.

Two things are ambiguous and decided here. The oldest repositories are called NAME alone: a first
part with a revision, or with nothing behind it, is such a name. And revisions may hold slashes
(`refs/pr/7`): only the forms that the Hub makes itself are recognised; others need `%2F`.

Nothing is asked of the Hub: whether a repository exists is found out when it is fetched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import quote, unquote, urlsplit

from pgetpy.core.references.patterns import EVERYTHING, Patterns
from pgetpy.errors import BadReferenceError, BadSettingError

MAIN = "main"
_SCHEME = "hf://"
HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co", "www.hf.co"})
_TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}
_PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
# What hf:// names besides, and what the Hub has in the place of owners of models.
_NO_REPOSITORIES = frozenset({"buckets", "kernels"})
_PAGES = _NO_REPOSITORIES | {
    "api", "blog", "chat", "collections", "docs", "enterprise", "join", "learn", "login", "models",
    "new", "organizations", "papers", "posts", "pricing", "search", "settings", "tasks",
    "terms-of-service",
}  # fmt: skip
_FILES = frozenset({"resolve", "blob", "raw"})
_VERBS = _FILES | {"tree"}
_URL = re.compile(r"(?:(https?)://)?([^/?#]*)([^?#]*).*", re.IGNORECASE | re.DOTALL)
_USUAL_PORT = re.compile(r":(?:80|443)\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_REPO_PART = re.compile(r"\w(?:[\w.-]*\w)?", re.ASCII)
_LONGEST_REPO = 96
_LONGEST_PART = 255
# Revisions that have slashes of their own, which are written as they are where they are known.
_DEEP_REVISIONS = {"pr": re.compile(r"\d+"), "convert": re.compile(r"[\w-]+")}


@dataclass(frozen=True)
class HubName:
    """A file of a repository, or a folder of it.

    Attributes:
        repo: `OWNER/NAME`, or `NAME` alone as the oldest are called.
        type: `model`, `dataset` or `space`.
        path: below the repository's folder; empty for all of it.
        is_folder: whether `path` is a folder.
        patterns: which of a folder's files are meant.
    """

    repo: str
    type: str = "model"
    revision: str = MAIN
    path: str = ""
    is_folder: bool = True
    patterns: Patterns = EVERYTHING

    def __str__(self) -> str:
        # In hf://NAME/PATH the PATH would be read as the repository's name; @REVISION prevents it.
        shows = self.revision != MAIN or (self.path and "/" not in self.repo)
        revision = f"@{quote(self.revision, safe='')}" if shows else ""
        path = f"/{quote(self.path)}" if self.path else ""
        slash = "/" if path and self.is_folder else ""
        return f"{_SCHEME}{_PREFIXES[self.type]}{self.repo}{revision}{path}{slash}"

    def page(self, endpoint: str) -> str:
        """Return the URL of the repository's page."""
        return f"{endpoint}/{_PREFIXES[self.type]}{self.repo}"

    def listing(self, endpoint: str) -> str:
        """Return the URL at which the Hub says what is in it."""
        return f"{endpoint}/api/{self.type}s/{self.repo}/revision/{quote(self.revision, safe='')}"

    def file(self, endpoint: str, path: str, revision: str = "") -> str:
        """Return the URL at which the file `path` is, at another revision if one is given."""
        at = quote(revision or self.revision, safe="")
        # Names in listings come from outside, and may hold anything.
        return f"{self.page(endpoint)}/resolve/{at}/{quote(path, errors='replace')}"


def parse_hub_name(text: str, endpoint: str) -> HubName | None:
    """Return what `text` names on the Hub at `endpoint`; None if it is not a file of the Hub.

    Raises:
        BadReferenceError: it is meant for the Hub, but cannot be a name there.
    """
    if text[: len(_SCHEME)].lower() == _SCHEME:
        rest, _, query = text[len(_SCHEME) :].partition("#")[0].partition("?")
        try:
            patterns = Patterns.parse(query)
        except BadSettingError as error:
            raise BadReferenceError(text, f"a pattern {error.reason}") from None
        return _Reader(text).uri(rest, patterns)
    found = _URL.fullmatch(text)
    assert found is not None
    scheme, host, path = found.groups()
    _, at, host = host.rpartition("@")
    below = _below(host, path or "/", endpoint)
    if below is None:
        return None
    if at:
        reason = "it contains a user name; give the token in HF_TOKEN or as hf_api_token"
        raise BadReferenceError(f"{host}{path}", reason)
    named = _Reader(text).page(below)
    if named is None and not scheme:
        reason = "it does not name a file of a repository; write hf://OWNER/NAME/FILE"
        raise BadReferenceError(text, reason)
    return named


def _below(host: str, path: str, endpoint: str) -> str | None:
    """Return the path below the Hub's root; None where `host` is not a Hub's."""
    own = urlsplit(endpoint)
    if _host(host) == _host(own.netloc):
        root = own.path.rstrip("/")
        return path[len(root) :] if path.startswith(f"{root}/") else None
    # With an endpoint of the user's own, a URL of the public Hub means that endpoint, too.
    return path if _host(host) in HOSTS else None


def _host(netloc: str) -> str:
    return _USUAL_PORT.sub("", netloc.lower())


class _Reader:
    """Reads the reference `text`."""

    def __init__(self, text: str) -> None:
        self._text = text

    def uri(self, rest: str, patterns: Patterns) -> HubName:
        """Return what `rest`, the text behind hf://, names."""
        pieces = rest.split("/")
        is_folder = len(pieces) > 1 and not pieces[-1]
        if is_folder:
            pieces.pop()
        if pieces[0] in _NO_REPOSITORIES:
            self._refuse(f"{pieces[0]} of the Hub are not supported")
        kind = _TYPES[pieces.pop(0)] if pieces[0] in _TYPES and len(pieces) > 1 else "model"
        # OWNER/NAME, unless a revision or the end follows the first part.
        size = 1 if "@" in pieces[0] or len(pieces) == 1 else 2
        *owner, last = pieces[:size]
        name, at, revision = last.partition("@")
        if at and not revision:
            self._refuse("its revision is empty")
        deep, path = self._revision([revision or MAIN, *pieces[size:]])
        is_folder = is_folder or not path
        return self._named([*owner, name], kind, deep, path, is_folder, patterns)

    def page(self, path: str) -> HubName | None:
        """Return what a path of the Hub's web site means; None where it is not a repository."""
        pieces = path.removeprefix("/").split("/")
        is_folder = len(pieces) > 1 and not pieces[-1]
        if is_folder:
            pieces.pop()
        if pieces != [""]:
            self._check_all(pieces)
        typed = pieces[0] in ("datasets", "spaces")
        kind = _TYPES[pieces.pop(0)] if typed and len(pieces) > 1 else "model"
        if pieces[0] in _PAGES or pieces[0] in _TYPES or len(pieces) < 2:
            return None
        alone = pieces[1] in _VERBS and len(pieces) > 2 and pieces[2] not in _VERBS
        size = 1 if alone else 2
        name, rest = pieces[:size], pieces[size:]
        if not rest:
            return self._named(name, kind, MAIN, [], is_folder=True)
        if rest[0] in _VERBS:
            return self._at_verb(name, kind, rest, is_folder)
        if rest[-1].lower().endswith(".safetensors"):
            return self._named(name, kind, MAIN, rest, is_folder)
        return None

    def _at_verb(self, name: list[str], kind: str, rest: list[str], is_folder: bool) -> HubName:
        verb, *rest = rest
        revision, path = self._revision(rest or [MAIN])
        if verb in _FILES and (is_folder or not path):
            self._refuse("it names no file")
        return self._named(name, kind, revision, path, is_folder=verb == "tree")

    def _revision(self, pieces: list[str]) -> tuple[str, list[str]]:
        """Return the revision that `pieces` begin with, and what follows it."""
        if pieces[0] == "refs" and len(pieces) > 2:
            pattern = _DEEP_REVISIONS.get(pieces[1])
            if pattern is not None and pattern.fullmatch(pieces[2]):
                return "/".join(pieces[:3]), pieces[3:]
        return pieces[0], pieces[1:]

    def _named(
        self,
        name: list[str],
        kind: str,
        revision: str,
        path: list[str],
        is_folder: bool,
        patterns: Patterns = EVERYTHING,
    ) -> HubName:
        repo = "/".join(name)
        for part in name:
            if not _REPO_PART.fullmatch(part) or ".." in part or "--" in part:
                self._refuse("its OWNER or NAME is not valid on the Hub")
        if len(repo) > _LONGEST_REPO or repo.endswith((".git", ".ipynb")):
            self._refuse("its OWNER/NAME is not valid on the Hub")
        at = "/".join(self._check_all([revision]))
        whole = "/".join(self._check_all(path))
        if patterns and not is_folder:
            self._refuse("patterns select files of a folder, but it names a single file")
        return HubName(repo, kind, at, whole, is_folder, patterns)

    def _check_all(self, pieces: list[str]) -> list[str]:
        """Return `pieces` of a path as they are meant."""
        try:
            text = unquote("/".join(pieces), errors="strict")
        except UnicodeDecodeError:
            self._refuse("it is not encoded in UTF-8")
        if _CONTROL.search(text):
            self._refuse("there are control characters in it")
        parts = text.split("/") if pieces else []
        for part in parts:
            if part in ("", ".", ".."):
                self._refuse(f"a part of its path is {part!r}" if part else "a part of it is empty")
            if len(part.encode(errors="surrogatepass")) > _LONGEST_PART:
                self._refuse("a part of its path is too long")
        return parts

    def _refuse(self, reason: str) -> NoReturn:
        raise BadReferenceError(self._text, reason)
