"""TLS without a socket: sealed bytes go in, plain bytes come out.

Python's SSLSocket asks the system twice for every record of 16 KiB. Here the socket is read in
large pieces, and the records are opened from memory, which takes a fifth less time in the kernel.
"""

from __future__ import annotations

import ssl

# Read from a socket at a time: eight records.
TLS_READ_SIZE = 128 * 1024


class Tls:
    """One TLS client. It touches no socket; its owner carries `sealed` bytes in both directions.

    Args:
        context: what to trust.
        host: the name that the certificate must have.
    """

    def __init__(self, context: ssl.SSLContext, host: str | None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def shaken_hands(self) -> bool:
        """Go on with the handshake; whether it is done.

        Raises:
            ssl.SSLError: it failed.
        """
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def name(self) -> str:
        """Return the version and cipher agreed on; after the handshake."""
        cipher = self._object.cipher()
        return f"{self._object.version()} {cipher[0] if cipher is not None else ''}"

    def certificate(self) -> bytes:
        """Return the host's certificate in DER; after the handshake."""
        return self._object.getpeercert(binary_form=True) or b""

    def seal(self, data: bytes) -> None:
        """Have `data` sent."""
        self._object.write(data)

    def sealed(self) -> bytes:
        """Return what has to be sent now."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def receive(self, sealed: memoryview) -> None:
        """Take what came from the socket; nothing means its end."""
        if sealed:
            self._incoming.write(sealed)
        else:
            self._incoming.write_eof()

    def read_into(self, buffer: memoryview) -> int | None:
        """Open what has come into `buffer`: bytes, 0 for the end, None if more has to come first.

        Raises:
            ssl.SSLError: the stream is broken, or ended without saying so (RFC 8446, 6.1).
        """
        filled = 0
        read = self._object.read
        try:
            while filled < len(buffer):
                # Given a buffer it returns a count, which typeshed does not know.
                count: int = read(len(buffer) - filled, buffer[filled:])  # type: ignore[assignment]
                if not count:
                    break
                filled += count
        except ssl.SSLWantReadError:
            return filled or None
        except ssl.SSLZeroReturnError:
            return filled
        except ssl.SSLError:
            if not filled:
                raise
        return filled

    @property
    def silent(self) -> bool:
        """Whether nothing has come that was not read."""
        return not self._incoming.pending and not self._object.pending()
