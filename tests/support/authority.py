"""A private certificate authority for the TLS servers of the tests."""

import ssl
from datetime import datetime
from pathlib import Path

import trustme

NAMES = ("localhost", "127.0.0.1", "::1", "weights.example", "store.example")


class Authority:
    """Issues certificates; ``pem`` is the file that a client must trust."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.pem = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.pem)
        # Read by servers and clients that run as another user.
        self.pem.chmod(0o644)

    def context(
        self, names: tuple[str, ...] = NAMES, not_after: datetime | None = None
    ) -> ssl.SSLContext:
        """What a server with these names needs; ``not_after`` in the past makes it expired."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*names, not_after=not_after).configure_cert(context)
        return context

    def files(
        self, folder: Path, names: tuple[str, ...] = NAMES, **times: datetime
    ) -> tuple[Path, Path]:
        """The certificate chain and the key as files, for servers that are other programs;
        ``times`` are ``not_before`` and ``not_after``."""
        issued = self._ca.issue_cert(*names, **times)
        chain, key = folder / "chain.pem", folder / "key.pem"
        chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        key.chmod(0o600)
        return chain, key

    def client(self) -> ssl.SSLContext:
        """What a client that trusts this authority needs."""
        return ssl.create_default_context(cafile=str(self.pem))
