"""A name server on loopback that answers as a test says; needs dnslib, and dnspython to ask it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import dns.resolver
from dnslib import QTYPE, RCODE, RR, SRV, DNSError, DNSRecord
from dnslib.server import BaseResolver, DNSLogger, DNSServer

# The longest answer in a datagram without EDNS (RFC 1035, 4.2.1).
_DATAGRAM = 512


class ScriptedDns(BaseResolver):  # type: ignore[misc]  # dnslib has no types
    """Answers questions for SRV records.

    Attributes:
        names: the names that were asked for, in order.
        silent: whether to answer nothing at all.
        failure: the code that every answer has, such as SERVFAIL; empty for none.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.silent = False
        self.failure = ""
        self.port = 0
        self._records: dict[str, Sequence[tuple[str, int]]] = {}
        self._changed = threading.Lock()

    def serve(self, name: str, *records: tuple[str, int]) -> None:
        """Answer with these targets and ports for `name` from now on; none means no records."""
        with self._changed:
            self._records[name.rstrip(".")] = records

    def resolve(self, request: DNSRecord, handler: Any) -> DNSRecord:
        """Called by dnslib, in a thread for each question."""
        name = str(request.q.qname).rstrip(".")
        with self._changed:
            self.names.append(name)
            records = self._records.get(name)
        if self.silent:
            raise DNSError("silent")
        reply = request.reply()
        if self.failure or records is None:
            reply.header.rcode = getattr(RCODE, self.failure or "NXDOMAIN")
            return reply
        for target, port in records:
            reply.add_answer(RR(request.q.qname, QTYPE.SRV, rdata=SRV(0, 0, port, target), ttl=30))
        if handler.protocol == "udp" and len(reply.pack()) > _DATAGRAM:
            reply = request.reply()
            reply.header.tc = 1
        return reply


@contextmanager
def scripted_dns() -> Iterator[ScriptedDns]:
    """Start the name server, and have dnspython in this process ask it and no other."""
    script = ScriptedDns()
    servers = _servers(script)
    script.port = servers[0].server.server_address[1]
    before = dns.resolver.default_resolver
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = script.port
    dns.resolver.default_resolver = resolver
    for server in servers:
        server.start_thread()
    try:
        yield script
    finally:
        dns.resolver.default_resolver = before
        for server in servers:
            server.stop()
            with suppress(OSError):
                server.server.server_close()
            server.thread.join(30)


def _servers(script: ScriptedDns) -> tuple[DNSServer, DNSServer]:
    """Return servers for streams and datagrams at one port, which may take several tries."""
    logger = DNSLogger(logf=lambda _: None)
    while True:
        streams = DNSServer(script, address="127.0.0.1", port=0, tcp=True, logger=logger)
        port = streams.server.server_address[1]
        try:
            return streams, DNSServer(script, address="127.0.0.1", port=port, logger=logger)
        except OSError:
            streams.server.server_close()
