"""What a source is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Protocol, TypeVar
from urllib.parse import urlsplit

from pgetpy.core.http.urls import Link, opened_link
from pgetpy.core.references.checksums import Checksum
from pgetpy.core.references.reference import Reference
from pgetpy.errors import HttpStatusError, PgetError
from pgetpy.settings import SourceSection

T = TypeVar("T")
S = TypeVar("S", bound=SourceSection)


@dataclass(frozen=True)
class RemoteFile:
    """One file that can be fetched.

    Attributes:
        url: an http or https URL.
        name: what it is called: a relative POSIX path where there are several.
        digest: what its bytes hash to, where the service says so.
        size: in bytes, where the service says so.
        authorization: value of the header; it goes to the URL's own origin alone.
        trusted: whether the operator has named this origin, so that no policy concerns it. Where
            it redirects to is somebody else's again.
        etag: what its service calls its content.
        hf_transfer: whether hf_transfer is to bring it; the digest is known then.
    """

    url: str = field(repr=False)
    name: str = ""
    digest: Checksum | None = None
    size: int | None = None
    authorization: str | None = field(default=None, repr=False)
    trusted: bool = False
    etag: str = ""
    hf_transfer: bool = False

    @property
    def link(self) -> Link:
        """The URL as a link.

        Raises:
            BadReferenceError: it is not an http or https URL with a host.
        """
        return opened_link(self.url, self.authorization, trusted=self.trusted)


@dataclass(frozen=True)
class Located:
    """What a reference stands for at this moment.

    Attributes:
        objects: exactly one unless it is a `folder`.
        folder: the objects are the files of a folder, under their names.
        extract: the one object is an archive of what is wanted.
        version: which version it is, where the service says so.
    """

    objects: tuple[RemoteFile, ...]
    folder: bool = False
    extract: bool = False
    version: str = ""


class ServiceClient(Protocol):
    """Puts a source's questions to its service; settings, retries and policy are the engine's."""

    async def read(self, remote: RemoteFile, *, most: int = 4 << 20) -> bytes:
        """Return the whole answer to a GET, of at most so many bytes; redirects are followed.

        Raises:
            TransferError: there is none.
        """

    async def head(self, remote: RemoteFile) -> Mapping[str, str]:
        """Return the fields of the first answer to a GET of one byte, names in lower case.

        A redirect is an answer like any other, and is not followed. `:status` is its status.

        Raises:
            TransferError: it is none that could be believed.
        """

    @property
    def exclusive(self) -> bool:
        """Whether nothing else may ask: there are rules on how to which no other client keeps."""

    @property
    def retries(self) -> int:
        """How often a question is asked again that fails."""

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, which blocks."""


class Source(ABC, Generic[S]):
    """One service, or one kind of reference.

    Other packages add theirs by an entry point of the group `pgetpy.sources`:

        [project.entry-points."pgetpy.sources"]
        hub = "their_package:Hub"

    `their_package.Hub()`, without arguments, is the source. It is asked for what none of this
    package's sources knows, so it has a scheme of its own, as `hub:NAME@VERSION`. Of http and https
    URLs it is asked for those of its `hosts` and its endpoint, if its distribution is called
    `pgetpy-...`: looking into all that are installed takes longer than many a download.

    `recognise` has to make the key of a reference by `core.references.reference.key_for` from a
    text that begins with the source's name, and to leave secrets out of `shown`, `text` and the
    key; they belong to `token`, and `scope_for(token)` to `scope`. Where the operator's settings
    say who is asked, that is the reference's `service`. One that cannot be loaded, or bears a name
    that is taken, harms no reference that is not its own.

    Attributes:
        name: what references bear that are its own.
        hosts: http and https URLs of these hosts are its own, as are those of its endpoint.
        settings: the dataclass of what it goes by. Its `options` are rows as in `settings.options`;
            of other packages' rows the variables are read, and flags are not known.
        argument: what callers in Python give the token as; empty where they cannot.
    """

    name: ClassVar[str]
    hosts: ClassVar[Set[str]] = frozenset()
    settings: type[S]
    argument: ClassVar[str] = ""

    @abstractmethod
    def recognise(self, text: str, wanted: str, settings: S) -> Reference | None:
        """Return the reference that `text` is; None where it is another source's.

        It is asked for each hit: it touches neither network nor disk, and imports nothing heavy.

        Args:
            wanted: `auto` or the value of a `Wanted`.

        Raises:
            BadReferenceError: it is this source's, and makes no sense.
        """

    @abstractmethod
    async def locate(self, reference: Reference, settings: S, client: ServiceClient) -> Located:
        """Return where the bytes are.

        Raises:
            TransferError: the service does not say.
        """

    def explained(self, reference: Reference, error: HttpStatusError, settings: S) -> PgetError:
        """Return what `error`, an answer on the way to the bytes, means at this service."""
        return error


def parts_at(text: str, hosts: Set[str], endpoint: str) -> tuple[str, str] | None:
    """Return path and query of `text`, a URL of one of `hosts` or of `endpoint`; None of others.

    The scheme may be left out, as people do who copy what a browser shows.
    """
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
    except ValueError:
        return None
    own = urlsplit(endpoint)
    host = parts.netloc.rpartition("@")[2].lower()
    if parts.scheme not in ("http", "https") or host not in hosts | {own.netloc.lower()}:
        return None
    return parts.path.removeprefix(own.path), parts.query
