"""The interface of a source: how a reference is recognised, and where its bytes are found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, Protocol, TypeVar
from urllib.parse import urlsplit

from pgetpy.core.http.urls import Link, RequestSigner, opened_link
from pgetpy.core.lazy_dataclass import dataclass, field, replace
from pgetpy.core.references.reference import Reference
from pgetpy.errors import BadReferenceError, HttpStatusError, PgetError
from pgetpy.settings import SourceSection

if TYPE_CHECKING:
    from pgetpy.core.references.checksums import Checksum

T = TypeVar("T")
S = TypeVar("S", bound=SourceSection)
# Longer texts are not names.
_LONGEST_FACT = 200


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file that can be fetched.

    Attributes:
        url: an http or https URL.
        name: its name: a relative POSIX path if there are several files.
        digest: its digest, if the service gives one.
        size: its size in bytes, if the service gives it.
        authorization: the value of the Authorization header, sent only to the origin of `url`.
        trusted: whether the operator configured this origin, which exempts it from policies.
            Redirects from it are not exempt.
        etag: the service's name for its content.
        signer: signs each request, if the store requires that.
        hf_transfer: whether to fetch it with hf_transfer; needs a digest.
    """

    url: str = field(repr=False)
    name: str = ""
    digest: Checksum | None = None
    size: int | None = None
    authorization: str | None = field(default=None, repr=False)
    trusted: bool = False
    etag: str = ""
    hf_transfer: bool = False
    signer: RequestSigner | None = field(default=None, repr=False, compare=False)

    @property
    def link(self) -> Link:
        """The URL as a link.

        Raises:
            BadReferenceError: it is not an http or https URL with a host.
        """
        link = opened_link(self.url, self.authorization, trusted=self.trusted)
        return replace(link, signer=self.signer) if self.signer is not None else link


class ModelFacts(NamedTuple):
    """What a service says about a model; empty where it does not.

    Attributes:
        base_model: the model that it was made from, or for.
        license: the name of its license.
    """

    base_model: str = ""
    license: str = ""


NO_FACTS = ModelFacts()


def read_fact(value: object) -> str:
    """Return a name, or a list of names, from a service's answer; empty for anything else."""
    several = value if isinstance(value, list) else [value]
    found = ", ".join(each for each in several if isinstance(each, str))
    return found if len(found) <= _LONGEST_FACT and found.isprintable() else ""


@dataclass(frozen=True)
class Located:
    """Where the bytes of a reference are at this moment.

    Attributes:
        objects: its files; exactly one unless it is a `folder`.
        folder: whether the objects are files of a folder, under their names.
        extract: whether the one object is an archive that contains what is wanted.
        version: its version, if the service gives one.
        facts: what the service says about it.
    """

    objects: Sequence[RemoteFile]
    folder: bool = False
    extract: bool = False
    version: str = ""
    facts: ModelFacts = NO_FACTS


class ServiceClient(Protocol):
    """Sends a source's requests to its service; settings, retries and policies are the engine's."""

    async def read(self, remote: RemoteFile, *, most: int = 4 << 20) -> bytes:
        """Return the whole body of a GET, following redirects.

        Args:
            remote: what to get.
            most: the largest body to accept, in bytes.

        Raises:
            TransferError: the request failed.
        """

    async def head(self, remote: RemoteFile) -> Mapping[str, str]:
        """Return the header fields of the first answer to a GET of one byte, with lower-case names.

        Redirects are not followed. The status is in `:status`.

        Raises:
            TransferError: there was no credible answer.
        """

    @property
    def exclusive(self) -> bool:
        """Whether other HTTP clients must not be used: only this one obeys the rules in force."""

    @property
    def retries(self) -> int:
        """How often a failed request is repeated."""

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run `work`, which blocks, in a thread and return its result."""


class Source(ABC, Generic[S]):
    """One service, or one kind of reference.

    Other packages add a source with an entry point in the group `pgetpy.sources`:

        [project.entry-points."pgetpy.sources"]
        hub = "their_package:Hub"

    `their_package.Hub()` is called without arguments. It is asked about texts that none of pgetpy's
    own sources recognise, so it should use a scheme of its own, such as `hub:NAME@VERSION`. It is
    also asked about http and https URLs of its `hosts` and its endpoint, provided that the
    distribution's name begins with `pgetpy-`: looking into all installed distributions would take
    longer than many downloads. A source that cannot be imported, or whose name is taken, affects
    only references that no other source recognises.

    `recognise` must build the key with `core.references.reference.key_for`, from a text that begins
    with the source's name. Secrets must not appear in `shown`, `text` or the key: put them in
    `token`, and `scope_for(token)` in `scope`. If the operator's settings decide which host is
    contacted, put it in `service`.

    Attributes:
        name: identifies the source in its references.
        hosts: http and https URLs of these hosts belong to it, as do those of its endpoint.
        takes_urls: whether URLs of its endpoint belong to it, too.
        settings: the dataclass of its settings. Its `options` are rows as in `settings.options`; of
            other packages' rows, the variables are read and the flags ignored.
        argument: the Python argument for its token; empty if there is none.
    """

    name: ClassVar[str]
    hosts: ClassVar[Set[str]] = frozenset()
    takes_urls: ClassVar[bool] = True
    settings: type[S]
    argument: ClassVar[str] = ""

    @abstractmethod
    def recognise(self, text: str, wanted: str, settings: S) -> Reference | None:
        """Parse `text`; return None if it belongs to another source.

        Called for every cache hit, so it must not touch network or disk, nor import anything heavy.

        Args:
            text: what the user wrote.
            wanted: `auto` or the value of a `Wanted`.
            settings: the source's settings.

        Raises:
            BadReferenceError: it belongs to this source, but is invalid.
        """

    @abstractmethod
    async def locate(self, reference: Reference, settings: S, client: ServiceClient) -> Located:
        """Ask the service where the bytes are.

        Args:
            reference: what `recognise` returned.
            settings: the source's settings.
            client: sends requests.

        Raises:
            TransferError: the service does not say.
        """

    def explained(self, reference: Reference, error: HttpStatusError, settings: S) -> PgetError:
        """Return what the HTTP error `error` means at this service; by default `error` itself."""
        return error


def parts_at(text: str, hosts: Set[str], endpoint: str) -> tuple[str, str] | None:
    """Return path and query if `text` is a URL of one of `hosts` or of `endpoint`, else None.

    The scheme may be missing, as in addresses copied from a browser.
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


def only_object(reference: Reference, located: Located) -> RemoteFile:
    """Return the one object of a reference.

    Raises:
        BadReferenceError: it is a folder.
    """
    if located.folder:
        hint = "name one file of it, or have pgetpy ensure --wanted folder keep all"
        raise BadReferenceError(str(reference), f"it is {len(located.objects)} files; {hint}")
    return located.objects[0]
