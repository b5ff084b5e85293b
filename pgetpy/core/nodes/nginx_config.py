"""The configuration of a cache node: nginx with its slice module, for pget and pgetpy alike.

A client asks a node by plain HTTP for a range, with the origin's name as Host. The node fetches
whole pieces from the origin, each once, however many clients wait for it. What the directives are
for is said beside them, in the text that is printed, because operators change that text.

How a request passes through the two servers and their locations:

    /            cached, in pieces, which come from the second server
    @uncached    with the client's own headers, and not stored: requests with credentials, and
                 what cannot be cut into pieces, such as an empty object
    second server, on loopback, which only this nginx asks:
    /            one piece, from the origin
    @hop1, @hop2 the same piece, from where the origin redirects to

Redirects have a server of their own because nginx forgets which piece it is at when one location
passes a request on to another: it would go on with the object's first bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from pgetpy.core.http.urls import DEFAULT_PORTS, Origin
from pgetpy.errors.redact import SIGNERS, Signer

MIB = 1 << 20
# A piece has to divide pget's slice of 500 MiB, or a range of pget's would touch a piece of another
# node. 1 and 2 MiB make too many files, and from 100 MiB on the first byte takes long to arrive.
PIECES = tuple(size * MIB for size in (4, 5, 10, 20, 25, 50))
HEALTH_PATH = "/-/health"
STATUS_PATH = "/-/status"
# Says of a cached piece whether the origin was asked.
CACHE_HEADER = "X-Cache"
# A map of nginx takes one megabyte for 8,000 keys; twice that, for keys of files that are deleted.
_KEYS_PER_MEGABYTE = 4000
_HOPS = 2
_REDIRECTS = "301 302 303 307 308"
_FORBIDDEN = re.compile(r"[\x00-\x20\"'\\;{}$]")


@dataclass(frozen=True)
class NodeConfig:
    """What a node is asked to be.

    Attributes:
        origins: what may be fetched through it.
        size: bytes of disk for pieces.
        piece: bytes fetched from the origin at a time; one of PIECES.
        listen: [ADDRESS:]PORT.
        folder: where pieces are kept; exists, and is writable for nginx.
        resolvers: name servers, each ADDRESS[:PORT].
        ca_file: certificate authorities that origins are checked with, a PEM file on the node.
        certificate, certificate_key: PEM files on the node, for TLS; both or neither.
        token_file: a file on the node with lines `"AUTHORIZATION" 1;`. Requests need one of these
            as their Authorization; empty serves everyone.
    """

    origins: tuple[Origin, ...]
    size: int
    piece: int
    listen: str
    folder: str
    resolvers: tuple[str, ...]
    ca_file: str
    certificate: str = ""
    certificate_key: str = ""
    token_file: str = ""


def fits_configuration(word: str) -> bool:
    """Whether `word` is one word for nginx, such as a path without blanks."""
    return bool(word) and not _FORBIDDEN.search(word)


def nginx_configuration(node: NodeConfig) -> str:
    """Return the configuration as nginx reads it."""
    return "\n".join(_lines(node)) + "\n"


def _lines(node: NodeConfig) -> Iterator[str]:
    yield "# A cache node for pget and pgetpy, printed by `pgetpy node config`. It needs nginx with"
    yield "# the slice module (--with-http_slice_module), which packages of nginx have."
    yield "worker_processes auto;"
    yield "error_log stderr warn;"
    yield f"pid {node.folder}/nginx.pid;"
    yield "events { worker_connections 4096; }"
    yield "http {"
    yield from _indented(_http(node))
    yield "}"


def _http(node: NodeConfig) -> Iterator[str]:
    yield "map_hash_bucket_size 512;"
    yield from _maps(node)
    keys = max(16, node.size // node.piece // _KEYS_PER_MEGABYTE)
    free = max(1024, node.size // MIB // 50)
    yield f"proxy_cache_path {node.folder}/cache levels=1:2 keys_zone=pieces:{keys}m"
    yield f"                 max_size={node.size // MIB}m min_free={free}m inactive=90d"
    yield "                 use_temp_path=off manager_files=1000;"
    for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
        yield f"{kind}_temp_path {node.folder}/{kind};"
    # /-/status and X-Cache say what a node does, and a log of its own would fill the disk.
    yield "access_log off;"
    yield "default_type application/octet-stream;"
    yield "sendfile on; tcp_nopush on; aio threads;"
    yield "keepalive_requests 100000; reset_timedout_connection on; send_timeout 30s;"
    # Addresses of IPv4 only: nginx would try the others in turn where there is no way to them.
    yield f"resolver {' '.join(node.resolvers)} valid=30s ipv6=off;"
    yield f"upstream pieces {{ server {_inner_address(node.listen)}; keepalive 64; }}"
    yield "server {"
    yield from _indented(_server(node))
    yield "}"
    yield "# Gets one piece, for the server above alone. It follows redirects, since clients do not"
    yield "# follow those of a node; the server above would forget which piece it is at."
    yield "server {"
    yield from _indented(_inner_server(node))
    yield "}"


def _maps(node: NodeConfig) -> Iterator[str]:
    yield "# What may be fetched, and from where. Clients send the origin's name, never its scheme."
    rows = [f"{name} {_url(origin)};" for origin in node.origins for name in host_names(origin)]
    yield from _map("$http_host", "$origin", ['default "";', *rows])
    yield "# The object's path. With PGET_CACHE_USE_PATH_PROXY the origin's name is in front."
    rows = [
        r"default $request_uri;",
        r'"~^(?<named>\S+) /\k<named>(?<behind>/.*)$" $behind;',
    ]
    yield from _map('"$http_host $request_uri"', "$target", rows)
    yield from _map("$target", "$object_path", ["default $target;", r'"~^(?<path>[^?]*)" $path;'])
    yield "# The arguments that name the object: those of a signature do not."
    rows = ["default ?$args;", '"" "";', *(f'"{_marks(each)}" {_left(each)};' for each in SIGNERS)]
    yield from _map("$args", "$object_args", rows)
    if node.token_file:
        yield '# Lines `"Bearer TOKEN" 1;`: one of these is the Authorization of every client.'
        yield from _map("$http_authorization", "$admitted", [
            "default 0;", f"include {node.token_file};",
        ])  # fmt: skip
        secrets = "$http_cookie"
    else:
        secrets = "$http_authorization$http_cookie"
    yield "# What is fetched with credentials is neither stored nor taken from the store."
    yield from _map(f'"{secrets}"', "$private", ["default 1;", '"" 0;'])
    yield "# Where a redirect leads: relative to what was asked, and from https to https only."
    rows = [
        'default "";',
        r'"~^(?<base>https?://[^/ ]+)\S* (?<rest>/(?!/).*)$" $base$rest;',
        r'"~^http://\S+ (?<next>https?://.+)$" $next;',
        r'"~^https://\S+ (?<safe>https://.+)$" $safe;',
    ]
    yield from _map('"$asked $upstream_http_location"', "$onward", ["volatile;", *rows])
    rows = ['default "";', '"~^https?://(?<authority>[^/?#]+)" $authority;']
    yield from _map("$asked", "$asked_host", ["volatile;", *rows])


def _server(node: NodeConfig) -> Iterator[str]:
    if node.certificate:
        yield f"listen {node.listen} ssl backlog=4096;"
        yield f"ssl_certificate {node.certificate};"
        yield f"ssl_certificate_key {node.certificate_key};"
        yield "ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:tls:10m;"
    else:
        yield f"listen {node.listen} backlog=4096;"
    yield from _CACHING.format(piece=node.piece // MIB, header=CACHE_HEADER).splitlines()
    yield from _ASKING.format(ca_file=node.ca_file).splitlines()
    # The second server tries twice, each time for this long.
    yield "proxy_read_timeout 45s;"
    yield from _headers("$http_host", "$slice_range")
    yield f'location = {HEALTH_PATH} {{ return 200 "ok\\n"; }}'
    yield f"location = {STATUS_PATH} {{ stub_status; }}"
    yield "location / {"
    yield from _indented(_entrance(node))
    yield "}"
    yield "# With credentials, or what cannot be cut into pieces."
    yield "location @uncached {"
    yield from _indented(_uncached(node))
    yield "}"


def _inner_server(node: NodeConfig) -> Iterator[str]:
    yield f"listen {_inner_address(node.listen)} backlog=4096;"
    yield from _ASKING.format(ca_file=node.ca_file).splitlines()
    yield "proxy_read_timeout 20s; recursive_error_pages on;"
    yield from _headers("$asked_host", "$http_range")
    yield "location / {"
    yield '  if ($origin = "") { return 503; }'
    yield "  set $asked $origin;"
    yield f"  error_page {_REDIRECTS} = @hop1;"
    yield "  proxy_pass $origin$target;"
    yield "}"
    for hop in range(1, _HOPS + 1):
        yield f"location @hop{hop} {{"
        yield from _indented(_hop(hop))
        yield "}"


def _inner_address(listen: str) -> str:
    """Return where the second server listens: the node's port, at an address on loopback.

    Nodes of one machine that share a port differ in their addresses, so the address is made from
    theirs.
    """
    address, _, port = listen.rpartition(":")
    first, second, third = sha256(address.encode()).digest()[:3]
    return f"127.{128 + first % 127}.{second}.{1 + third % 254}:{port}"


_CACHING = """\
slice {piece}m;  # has to divide pget's 500 MiB: 4, 5, 10, 20, 25 or 50
proxy_cache pieces;
proxy_cache_key $origin$object_path$object_args$slice_range;
proxy_cache_lock on;
# Both: their defaults of 5s send to the origin those who have waited longer.
proxy_cache_lock_timeout 15m; proxy_cache_lock_age 15m;
proxy_cache_valid 206 90d;
# Otherwise those who wait for what fails ask one after the other, each 0.5s later.
proxy_cache_valid 404 410 5s; proxy_cache_valid 500 502 503 504 1s;
proxy_ignore_headers Cache-Control Expires Vary Set-Cookie X-Accel-Expires;
proxy_hide_header Set-Cookie;
add_header {header} $upstream_cache_status always;"""
_ASKING = """\
proxy_http_version 1.1;
proxy_connect_timeout 3s; proxy_max_temp_file_size 0;
proxy_next_upstream error timeout invalid_header; proxy_next_upstream_tries 2;
proxy_ssl_server_name on; proxy_ssl_verify on; proxy_ssl_verify_depth 4;
proxy_ssl_trusted_certificate {ca_file};
proxy_intercept_errors on;"""


def _headers(host: str, span: str) -> Iterator[str]:
    yield f"proxy_set_header Host {host};"
    yield 'proxy_set_header Connection ""; proxy_set_header Accept-Encoding "";'
    yield 'proxy_set_header Authorization ""; proxy_set_header Cookie "";'
    yield 'proxy_set_header If-Range ""; proxy_set_header If-Match "";'
    yield 'proxy_set_header If-None-Match ""; proxy_set_header If-Modified-Since "";'
    yield f'proxy_set_header If-Unmodified-Since ""; proxy_set_header Range {span};'


def _entrance(node: NodeConfig) -> Iterator[str]:
    yield "# 503 sends pget and pgetpy on to the origin."
    yield 'if ($origin = "") { return 503 "this node does not serve $http_host\\n"; }'
    if node.token_file:
        yield "if ($admitted = 0) { return 401; }"
    yield "if ($private) { return 418; }"
    yield "limit_except GET { deny all; }"
    yield "error_page 416 418 = @uncached;"
    yield "proxy_pass http://pieces$request_uri;"


def _hop(hop: int) -> Iterator[str]:
    yield "set $asked $onward;"
    yield 'if ($asked = "") { return 502 "the origin redirects to where a node must not go\\n"; }'
    if hop < _HOPS:
        yield f"error_page {_REDIRECTS} = @hop{hop + 1};"
    yield "proxy_pass $asked;"


def _uncached(node: NodeConfig) -> Iterator[str]:
    yield "slice 0; proxy_cache off; proxy_intercept_errors off;"
    yield "set $asked $origin;"
    yield 'proxy_set_header Connection ""; proxy_set_header Host $asked_host;'
    if node.token_file:
        yield 'proxy_set_header Authorization "";'
    yield f"add_header {CACHE_HEADER} BYPASS always;"
    yield "proxy_pass $origin$target;"


def _map(source: str, name: str, rows: Sequence[str]) -> Iterator[str]:
    yield f"map {source} {name} {{"
    yield from _indented(rows)
    yield "}"


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)


def _host(origin: Origin) -> str:
    return f"[{origin.host}]" if ":" in origin.host else origin.host


def _url(origin: Origin) -> str:
    """Return the origin's URL without a path."""
    port = "" if origin.port == DEFAULT_PORTS[origin.scheme] else f":{origin.port}"
    return f"{origin.scheme}://{_host(origin)}{port}"


def host_names(origin: Origin) -> list[str]:
    """Return how clients may name the origin in Host."""
    named = f"{_host(origin)}:{origin.port}"
    return [_host(origin), named] if origin.port == DEFAULT_PORTS[origin.scheme] else [named]


def _marks(signer: Signer) -> str:
    """Return a regular expression for the arguments of URLs that are signed in this way."""
    return "~*^" + "".join(f"(?=(?:.*&)?{name}=)" for name in sorted(signer.marks))


def _left(signer: Signer) -> str:
    """Return what remains of signed arguments: the version of the object, where they name one.

    A signed URL and an unsigned one of the same path are kept apart, because what only a signature
    opens must not be sent to those who have none.
    """
    versions = {"aws": "versionid", "google": "generation", "azure": "versionid&snapshot"}
    names = versions.get(signer.name, "").split("&")
    return "&".join([f"?signed={signer.name}", *(f"{name}=$arg_{name}" for name in names if name)])
