"""TLS without a socket: sealed bytes go in, plain bytes come out.

OpenSSL, given a socket, reads each record of 16 KiB with two system calls: one for its header of
five bytes, one for the rest. For gigabytes that is hundreds of thousands of calls. Here OpenSSL
reads from memory (`ssl.MemoryBIO`), and the socket is read in large pieces, which takes a fifth
less time in the kernel:

                recv 128 KiB                               read_into
    socket  ------------------>  _incoming  ---->  SSL  ------------->  buffer
            <------------------  _outgoing  <----  SSL  <-------------  seal
                    send                                   request

OpenSSL never waits. Where it needs bytes that have not come it raises SSLWantReadError, which here
becomes False or None: the owner sends what `sealed` returns, receives, and calls again. That is the
same on the event loop and in a thread, so one `Tls` can change between them.

Anything may cause something to send: a handshake, but also reading, when the server asks for new
keys. So `sealed` is called before each receive.
"""

from __future__ import annotations

import ssl

# Read from a socket at a time: eight records of the largest size.
TLS_READ_SIZE = 128 * 1024


class Tls:
    """One TLS client. It touches no socket: its owner carries sealed bytes in both directions.

    Args:
        context: what to trust.
        host: the name that the certificate must have.
    """

    def __init__(self, context: ssl.SSLContext, host: str | None) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)

    def shaken_hands(self) -> bool:
        """Advance the handshake; whether it is done. If not, more has to be received.

        Raises:
            ssl.SSLError: it failed, or the certificate was not accepted.
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
        """Encrypt `data`; `sealed` returns the result."""
        self._object.write(data)

    def sealed(self) -> bytes:
        """Return the bytes that have to be sent now; empty for none."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def receive(self, sealed: memoryview) -> None:
        """Take what came from the socket; empty for its end."""
        if sealed:
            self._incoming.write(sealed)
        else:
            self._incoming.write_eof()

    def read_into(self, buffer: memoryview) -> int | None:
        """Decrypt into `buffer`; bytes, 0 for the end, None if more has to be received first.

        An error after some bytes is not raised until the next call, since these bytes are good.

        Raises:
            ssl.SSLError: the stream is broken, or was cut off: a server has to announce its end
                (RFC 8446, 6.1), or anyone on the way could shorten the body.
        """
        filled = 0
        # Each read gives one record at most.
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
        """Whether everything that came has been read: nothing is left of the last answer."""
        return not self._incoming.pending and not self._object.pending()


class NestedTls(Tls):
    """TLS with a host, inside the TLS with a proxy: what goes out is sealed by both.

    Args:
        context: what to trust.
        host: the name that the certificate must have.
        outer: the TLS with the proxy, after its handshake.
    """

    def __init__(self, context: ssl.SSLContext, host: str | None, outer: Tls) -> None:
        super().__init__(context, host)
        self._outer = outer
        self._opened = memoryview(bytearray(TLS_READ_SIZE))

    def sealed(self) -> bytes:
        """See `Tls.sealed`."""
        data = super().sealed()
        if data:
            self._outer.seal(data)
        return self._outer.sealed()

    def receive(self, sealed: memoryview) -> None:
        """See `Tls.receive`."""
        self._outer.receive(sealed)
        try:
            while count := self._outer.read_into(self._opened):
                super().receive(self._opened[:count])
        except ssl.SSLError:
            # Whether the host's bytes are complete is told by the TLS with the host.
            count = 0
        if count == 0:
            super().receive(self._opened[:0])

    @property
    def silent(self) -> bool:
        """See `Tls.silent`."""
        return super().silent and self._outer.silent
