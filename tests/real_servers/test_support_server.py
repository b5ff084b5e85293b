"""The loopback server is itself judged, by curl, nginx, Apache and the standard library's client.

What most tests rely on is in tests/integration/support.
"""

import gzip
import http.client
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime, timezone
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer

from tests.support.authority import Authority
from tests.support.bodies import BLOCK, block, body, digest
from tests.support.delivery import Gate
from tests.support.faults import (
    Busy,
    Chunked,
    Close,
    ContentRangeOn200,
    Crawl,
    DripHead,
    Encoded,
    EnormousHead,
    ExtraBytes,
    Fault,
    FinAfter,
    Garbage,
    GateAfter,
    Headers,
    Http10,
    IdleClose,
    IgnoreRange,
    Interim,
    Multipart,
    NoLength,
    ObsFold,
    Overwritten,
    Pace,
    Redirect,
    RefuseAuthorization,
    RequireSignature,
    ResetAfter,
    Signer,
    SilenceAfter,
    SilenceBeforeHead,
    Status,
    When,
)
from tests.support.judges import Judge
from tests.support.plain_client import ask, connect
from tests.support.processes import Run, folder_of_nobody, limited_tmpfs
from tests.support.proxy import Proxy
from tests.support.resources import LONG_AGO, Resource
from tests.support.server import Server

BODY = body(300_000)
OTHER = body(300_000, "v2")


def read_on(read: Callable[[], bytes], into: bytearray) -> None:
    """Read until the connection ends."""
    while piece := read():
        into += piece


def ask_over_tls(server: Server, ca: Authority) -> ssl.SSLSocket:
    plain = socket.create_connection((server.host, server.port))
    link = ca.client().wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False)
    link.sendall(f"GET /x HTTP/1.1\r\nHost: localhost:{server.port}\r\n\r\n".encode())
    return link


def serve(server: Server, *faults: Fault, data: bytes = BODY) -> str:
    return server.add("/x", Resource(data, faults=faults))


@pytest.fixture
def curl(tmp_path: Path) -> Callable[..., tuple[int, bytes]]:
    """Runs curl; gives its exit code and the bytes that it wrote."""
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")

    def run(*args: str) -> tuple[int, bytes]:
        written = tmp_path / "curl.out"
        written.write_bytes(b"")
        command = ["curl", "-q", "-sS", "--noproxy", "*", "--max-time", "5", "-o", str(written)]
        done = subprocess.run([*command, *args], capture_output=True, check=False)
        return done.returncode, written.read_bytes()

    return run


# Bodies


def test_a_body_is_made_of_its_blocks_and_a_shorter_one_is_its_prefix():
    whole = body(3 * BLOCK + 5)
    assert whole[BLOCK : 2 * BLOCK] == block(1)
    assert whole.startswith(body(BLOCK + 1))
    assert len({digest(block(index, seed)) for index in range(3) for seed in ("v1", "v2")}) == 6


# Right answers


def test_curl_gets_the_whole_body(server: Server, curl):
    assert curl(serve(server)) == (0, BODY)
    assert server.asked("/x") == [None]
    assert server.sent("/x") == len(BODY)


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("0-0", 0, 1),
        ("10-19", 10, 20),
        ("299999-", 299_999, 300_000),
        ("-7", 299_993, 300_000),
        ("100-999999999", 100, 300_000),
        ("-999999999", 0, 300_000),
    ],
)
def test_a_single_range_has_exactly_its_bytes(server: Server, curl, asked, start, stop):
    url = serve(server)
    assert curl("-r", asked, url) == (0, BODY[start:stop])
    got = ask(server, Range=f"bytes={asked}")
    assert (got.status, got["Content-Range"]) == (206, f"bytes {start}-{stop - 1}/300000")
    assert got["Content-Length"] == str(stop - start)
    assert got.body == BODY[start:stop]


def test_head_has_the_head_alone(server: Server, curl):
    assert curl("-I", serve(server))[0] == 0
    got = ask(server, method="HEAD", Range="bytes=0-9")
    assert (got.status, got["Content-Length"], got.body) == (200, "300000", b"")
    assert got["ETag"] == '"v1"'
    assert got["Accept-Ranges"] == "bytes"


def test_credentials_are_asked_for(server: Server, curl):
    url = server.add("/x", Resource(BODY, authorization="Basic dXNlcjp3b3Jk"))
    assert curl("-f", url)[0] == 22
    assert curl("-u", "user:word", url) == (0, BODY)
    assert ask(server)["WWW-Authenticate"] == 'Basic realm="weights"'


def test_a_post_is_recorded_with_its_content(server: Server, curl):
    url = server.add("/metrics", Resource(accepts_post=True))
    assert curl("-d", '{"a":1}', url)[0] == 0
    assert server.seen("/metrics")[0].body == b'{"a":1}'
    assert curl("-H", "Transfer-Encoding: chunked", "-d", "abc", url)[0] == 0
    assert server.seen("/metrics")[1].body == b"abc"


def test_tls_and_ipv6_serve_the_same(ca: Authority, curl):
    with Server(tls=ca.context(), ipv6=socket.has_ipv6) as server:
        serve(server)
        assert curl("--cacert", str(ca.pem), server.url("/x", host="localhost")) == (0, BODY)
        assert curl(server.url("/x"))[0] == 60
        if socket.has_ipv6:
            assert curl("--cacert", str(ca.pem), server.url("/x", host="[::1]")) == (0, BODY)
        assert server.errors == []
    expired = ca.context(not_after=datetime(2020, 1, 1, tzinfo=timezone.utc))
    with Server(tls=expired) as server:
        assert curl("--cacert", str(ca.pem), serve(server))[0] == 60


def test_the_server_may_go_and_come_back_on_its_port(server: Server):
    serve(server)
    before = server.port
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        ask(server)
    server.start()
    assert server.port == before
    assert ask(server).body == BODY


def test_pytest_httpserver_gives_the_same_simple_answers(server: Server, httpserver: HTTPServer):
    serve(server)
    httpserver.expect_request("/x").respond_with_data(
        BODY, headers={"ETag": '"v1"', "Last-Modified": LONG_AGO}, content_type="a/b"
    )
    server.change("/x", content_type="a/b")
    other = http.client.HTTPConnection(httpserver.host, httpserver.port, timeout=30)
    for method in ("GET", "HEAD"):
        ours, theirs = ask(server, method=method), ask(server, over=other, method=method)
        assert ours.body == theirs.body
        for name in ("Content-Length", "ETag", "Last-Modified", "Content-Type"):
            assert ours[name] == theirs[name]
    other.close()


# Faults of the object and of the head


def test_an_object_is_overwritten_while_it_is_read(server: Server):
    serve(server, Overwritten(1000, OTHER))
    assert ask(server).body == BODY[:1000] + OTHER[1000:]


def test_a_content_coding_comes_although_none_was_asked_for(server: Server):
    serve(server, Encoded())
    got = ask(server, Accept_Encoding="identity")
    assert got["Content-Encoding"] == "gzip"
    assert gzip.decompress(got.body) == BODY
    serve(server, Encoded("deflate", label="gzip"))
    got = ask(server)
    assert (got["Content-Encoding"], zlib.decompress(got.body)) == ("gzip", BODY)


def test_a_200_with_a_content_range_and_a_multipart_of_one(server: Server):
    serve(server, ContentRangeOn200())
    got = ask(server, Range="bytes=100-199")
    assert (got.status, got["Content-Range"]) == (200, "bytes 100-199/300000")
    assert got.body == BODY[100:200]
    serve(server, Multipart())
    got = ask(server, Range="bytes=100-199")
    assert got["Content-Type"].startswith("multipart/byteranges")
    assert got["Content-Range"] is None
    assert BODY[100:200] in got.body


def test_heads_that_are_odd_or_none_at_all(server: Server, curl):
    assert curl(serve(server, Interim((100, 103)))) == (0, BODY)
    assert curl(serve(server, DripHead())) == (0, BODY)
    serve(server, ObsFold())
    assert ask(server)["X-Folded"] == "one\r\n two"
    assert curl(serve(server, EnormousHead()))[0] in (27, 56)
    assert curl(serve(server, Garbage()))[0] == 1
    header = ("Content-Disposition", 'attachment; filename="a"')
    serve(server, Headers(remove=("date",), put=(("etag", '"z"'),), add=(header, ("A", "1"))))
    got = ask(server)
    assert (got["Date"], got["ETag"], got[header[0]], got["A"]) == (None, '"z"', header[1], "1")


# Refusals and redirects


@pytest.mark.parametrize("status", [401, 403, 404, 408, 410, 416, 425, 429, 500, 502, 503])
def test_every_error_status_keeps_the_connection(server: Server, status):
    serve(server, Status(status, when=When(times=1)))
    connection = connect(server)
    assert ask(server, over=connection).status == status
    assert ask(server, over=connection).body == BODY
    connection.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_lead_to_another_origin(server: Server, other_server: Server, curl, status):
    other_server.add("/target", Resource(BODY))
    url = serve(server, Redirect(other_server.url("/target", host="localhost"), status))
    assert curl("-L", url) == (0, BODY)
    assert other_server.seen("/target")[0].header("Host") == f"localhost:{other_server.port}"


def test_a_relative_redirect_and_a_loop(server: Server, curl):
    server.add("/a/b", Resource(faults=[Redirect("../x?q=1")]))
    serve(server)
    assert curl("-L", server.url("/a/b")) == (0, BODY)
    assert server.requests[-1].request.query == "q=1"
    serve(server, Redirect("/a/b"))
    assert curl("-L", server.url("/a/b"))[0] == 47


def test_a_signed_link_expires_until_it_is_resolved_again(server: Server, curl):
    signer = Signer(requests=2)
    server.add("/blob", Resource(BODY, faults=[RequireSignature(signer)]))
    serve(server, Redirect("/blob", signer=signer))
    assert ask(server, "/blob").status == 403
    link = ask(server)["Location"]
    assert [ask(server, link).status for _ in range(3)] == [200, 200, 403]
    assert curl("-L", server.url("/x")) == (0, BODY)
    sized = Signer(size=100)
    server.change("/blob", faults=[RequireSignature(sized, 410)])
    link = sized.sign("/blob?a=1")
    statuses = [ask(server, link, Range="bytes=0-59").status for _ in range(3)]
    assert statuses == [206, 206, 410]


def test_a_busy_server_and_one_that_refuses_credentials(server: Server):
    gate = Gate()
    serve(server, GateAfter(None, gate, when=When(request=1)), Busy(1, retry_after=1))
    holding = connect(server)
    holding.request("GET", "/x")
    gate.wait_reached()
    assert ask(server).status == 503
    gate.open()
    assert holding.getresponse().read() == BODY
    holding.close()
    assert ask(server).status == 200
    serve(server, RefuseAuthorization())
    assert ask(server, Authorization="Bearer a").status == 400
    assert ask(server).status == 200


# Framing and the connection


def test_chunked_with_and_without_a_range(server: Server, curl):
    url = serve(server, Chunked(5000, trailers=b"X-Sum: 1\r\n"))
    assert curl(url) == (0, BODY)
    assert curl("-r", "10-20009", url) == (0, BODY[10:20010])
    serve(server, IgnoreRange(), Chunked())
    got = ask(server, Range="bytes=0-9")
    assert (got.status, got.body, got["Content-Length"]) == (200, BODY, None)
    assert curl(serve(server, Chunked(size_line=b"xyz")))[0] == 56
    assert curl(serve(server, Chunked(), FinAfter(10_000))) == (18, BODY[:10_000])


def test_a_body_that_ends_with_the_connection(server: Server, curl):
    assert curl(serve(server, NoLength())) == (0, BODY)
    serve(server, Http10())
    got = ask(server, Range="bytes=0-9")
    assert (got.status, got.version, got["Content-Length"]) == (200, 10, None)
    assert got.body == BODY


def test_a_reset_a_fin_and_a_silence_after_exactly_so_many_bytes(server: Server, curl):
    url = serve(
        server, ResetAfter(1000, when=When(request=1)), FinAfter(70_000, when=When(request=2))
    )
    assert curl(url) == (56, BODY[:1000])
    assert curl(url) == (18, BODY[:70_000])
    assert [(seen.sent, seen.cut) for seen in server.requests] == [
        (1000, "reset"),
        (70_000, "fin"),
    ]
    serve(server, SilenceAfter(500), data=BODY[:1000])
    assert curl("--max-time", "2", url) == (28, BODY[:500])
    assert server.requests[-1].cut == "silence"
    serve(server, SilenceBeforeHead())
    assert curl("--max-time", "0.2", url) == (28, b"")
    serve(server, ResetAfter(1000))
    assert curl("-r", "0-99", url) == (0, BODY[:100])


@pytest.mark.parametrize("fault", [ResetAfter(1000), FinAfter(1000)], ids=["reset", "fin"])
def test_a_body_over_tls_ends_after_exactly_so_many_bytes(
    tls_server: Server, ca: Authority, fault: Fault
):
    serve(tls_server, fault)
    got = bytearray()
    # Which of the two a reset gives depends on the version of OpenSSL.
    with (
        ask_over_tls(tls_server, ca) as link,
        pytest.raises((ConnectionResetError, ssl.SSLEOFError)),
    ):
        read_on(lambda: link.recv(65536), got)
    assert bytes(got).partition(b"\r\n\r\n")[2] == BODY[:1000]


def test_over_tls_too_a_reset_is_a_reset_and_a_fin_a_fin(tls_server: Server, ca: Authority):
    for fault, end in ((ResetAfter(), pytest.raises(ConnectionResetError)), (FinAfter(), None)):
        serve(tls_server, fault)
        with ask_over_tls(tls_server, ca) as link, end or nullcontext():
            read_on(lambda link=link: os.read(link.fileno(), 65536), bytearray())


def test_a_client_that_goes_away_is_recorded(server: Server):
    big = body(8_000_000)
    serve(server, data=big)
    connection = connect(server)
    connection.request("GET", "/x")
    connection.getresponse().close()
    connection.close()
    server.wait_until(lambda: server.requests[0].cut == "client")
    assert server.requests[0].sent < len(big)


def test_a_crawl_and_a_pace_take_their_time(server: Server, ca: Authority):
    serve(server, Crawl(10_000, after=290_000, when=When(request=1)))
    began = time.monotonic()
    assert ask(server, Range="bytes=0-291999").body == BODY[:292_000]
    assert time.monotonic() - began > 0.15
    serve(server, Pace(8_000_000), data=body(4_000_000))
    began = time.monotonic()
    assert ask(server).body == body(4_000_000)
    assert time.monotonic() - began > 0.3


def test_extra_bytes_follow_the_body(server: Server):
    serve(server, ExtraBytes(b"extra!"))
    with socket.create_connection((server.host, server.port), timeout=30) as link:
        link.sendall(f"GET /x HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
        got = b""
        while not got.endswith(b"extra!"):
            got += link.recv(65536)
    assert got.partition(b"\r\n\r\n")[2] == BODY + b"extra!"


def test_connections_are_closed_with_and_without_a_word(server: Server):
    for fault, words in ((Close(), "close"), (Close(says=False), None), (IdleClose(), None)):
        serve(server, fault)
        connection = connect(server)
        assert ask(server, over=connection)["Connection"] == words
        if connection.sock is not None:
            assert connection.sock.recv(1) == b""
        connection.close()


def test_connections_are_refused_at_once(server: Server):
    serve(server)
    server.refuse(1)
    with pytest.raises(ConnectionResetError):
        ask(server)
    assert ask(server).body == BODY


# The proxy, the judges and second processes


def test_the_proxy_passes_plain_and_tunnelled_requests(
    server: Server, tls_server: Server, proxy: Proxy, ca: Authority, curl
):
    proxy.names["weights.example"] = (server.host, server.port)
    proxy.names["store.example"] = (tls_server.host, tls_server.port)
    serve(server)
    serve(tls_server, data=OTHER)
    via = ("--noproxy", "", "-x", proxy.url())
    assert curl(*via, "-r", "5-9", "http://weights.example/x?a=1") == (0, BODY[5:10])
    assert server.requests[0].target == "/x?a=1"
    secure = curl(*via, "--cacert", str(ca.pem), "https://store.example/x")
    assert secure == (0, OTHER)
    assert proxy.hosts == ["weights.example", "store.example"]


def test_the_proxy_asks_for_credentials_and_keeps_them(server: Server, curl):
    serve(server)
    with Proxy(credentials="user:word") as proxy:
        via = ("--noproxy", "", "-f", "-x")
        assert curl(*via, proxy.url(), server.url("/x"))[0] == 22
        assert curl(*via, proxy.url("user:word"), server.url("/x")) == (0, BODY)
        assert (proxy.refused, len(proxy.requests)) == (1, 1)
    assert server.requests[0].header("Proxy-Authorization") is None


@pytest.mark.parametrize("name", ["nginx", "tls_nginx", "apache", "tls_apache"])
def test_the_judges_agree_with_the_loopback_server(
    name: str, request: pytest.FixtureRequest, server: Server, ca: Authority, curl
):
    judge: Judge = request.getfixturevalue(name)
    trust = ("--cacert", str(ca.pem)) if judge.tls else ()
    url, ours = judge.put("folder/x", BODY), serve(server)
    for asked in ("0-0", "100-199", "299999-", "-7"):
        theirs = curl(*trust, "-r", asked, url)
        assert theirs == curl("-r", asked, ours)
        assert theirs[0] == 0
    assert curl(*trust, url) == (0, BODY)


def test_a_second_process_is_killed_and_its_words_are_kept():
    program = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)")
    with Run(program=program) as running:
        running.wait_until(lambda: "up" in running.out)
        running.kill()
        assert running.wait().code == -signal.SIGKILL


def test_a_second_process_may_be_poor():
    code = "import os, resource as r; print(os.getuid(), *r.getrlimit(r.RLIMIT_NOFILE))"
    with Run(program=(sys.executable, "-c", code), unprivileged=True, descriptors=50) as running:
        uid, *limits = running.wait().out.split()
    assert limits == ["50", "50"]
    assert int(uid) != 0
    with folder_of_nobody() as folder:
        touch = f"open({str(folder / 'mine')!r}, 'w').write('a' * 5000); open('/etc/x', 'w')"
        with Run(program=(sys.executable, "-c", touch), unprivileged=True) as running:
            assert "PermissionError" in running.wait().err
        assert (folder / "mine").stat().st_uid == int(uid)
        written = f"open({str(folder / 'big')!r}, 'wb').write(bytes(1 << 20))"
        with Run(program=(sys.executable, "-c", written), file_size=65536) as running:
            assert running.wait().code != 0
        assert (folder / "big").stat().st_size <= 65536


def test_a_small_file_system_fills_up():
    with limited_tmpfs(65536) as folder, pytest.raises(OSError, match="No space left"):
        (folder / "x").write_bytes(bytes(100_000))
    assert not os.path.ismount(folder)
