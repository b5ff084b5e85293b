"""Credentials: sent where they belong, and nowhere else; shown to nobody."""

from __future__ import annotations

import base64
import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

import pgetpy
from pgetpy.core.report.events import Started
from pgetpy.errors import HttpStatusError, PgetError
from pgetpy.settings import Settings
from tests.support.authority import Authority
from tests.support.bodies import body
from tests.support.delivery import Gate
from tests.support.faults import (
    Dam,
    IgnoreRange,
    Redirect,
    RefuseAuthorization,
    RequireSignature,
    Signer,
    Status,
    When,
)
from tests.support.fetching import Events, fetch, impatient
from tests.support.marks import ONCE
from tests.support.processes import Run, run
from tests.support.resources import Resource
from tests.support.secrets import PASSWORD as SECRET
from tests.support.server import Server

pytestmark = pytest.mark.usefixtures("transport", "forked_runs")

BODY = body(2_500_001)
CHUNK = 250_000
BEARER = f"Bearer {SECRET}"
OWN, OTHER = "weights.example", "store.example"


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def authorizations(server: Server, path: str) -> set[str | None]:
    return {seen.header("Authorization") for seen in server.seen(path)}


def named(*servers: Server) -> dict[str, Any]:
    """Settings under which both names lead to any of `servers`."""
    found = {(name, s.port): "127.0.0.1" for s in servers for name in (OWN, OTHER)}
    return {"resolve": MappingProxyType(found)}


def from_environment(environ: Mapping[str, str], **changes: Any) -> dict[str, Any]:
    """Fields of the settings that an environment gives."""
    settings = Settings.from_environment(environ)
    return {"headers": settings.headers, "authorization": settings.origin_authorization, **changes}


# ------------------------------------------------------------------- to whom they belong


@pytest.mark.parametrize(
    "given",
    [
        {"headers": {"Authorization": BEARER}},
        {"headers": {"authorization": BEARER}},
        from_environment({"PGET_HEADERS": json.dumps({"Authorization": BEARER})}),
        from_environment({"PGET_PROXY_AUTH_HEADER": BEARER}),
    ],
    ids=["header", "lower case", "PGET_HEADERS", "PGET_PROXY_AUTH_HEADER"],
)
def test_every_request_to_the_own_host_carries_the_credential(
    server: Server, tmp_path: Path, given: dict[str, Any]
) -> None:
    url = server.add("/model", Resource(BODY, authorization=BEARER))
    given = dict(given)
    extra = dict(given.pop("headers"))
    fetch(url, tmp_path / "got", chunk_size=CHUNK, headers=extra, **given)
    assert (tmp_path / "got").read_bytes() == BODY
    assert len(server.requests) > 5
    assert authorizations(server, "/model") == {BEARER}


def test_what_a_call_gives_comes_before_what_the_environment_gives(
    server: Server, tmp_path: Path
) -> None:
    url = server.add("/model", Resource(BODY))
    settings = Settings.from_environment({"PGET_PROXY_AUTH_HEADER": "Bearer old"})
    pgetpy.download(url, tmp_path / "got", settings=settings, headers={"Authorization": BEARER})
    assert authorizations(server, "/model") == {BEARER}


def test_user_and_password_of_a_url_are_sent_as_basic(server: Server, tmp_path: Path) -> None:
    expected = basic("me@home", f"{SECRET}:%")
    server.add("/model", Resource(BODY, authorization=expected))
    url = server.url("/model", user=f"me%40home:{SECRET}%3A%25")
    result = fetch(url, tmp_path / "got", chunk_size=CHUNK)
    assert authorizations(server, "/model") == {expected}
    assert SECRET not in repr(result)


def test_user_and_password_of_a_url_come_before_a_header(server: Server, tmp_path: Path) -> None:
    server.add("/model", Resource(BODY))
    url = server.url("/model", user="a:b")
    fetch(url, tmp_path / "got", headers={"Authorization": BEARER})
    assert authorizations(server, "/model") == {basic("a", "b")}


@pytest.mark.parametrize("name", ["X-Api-Key", "Cookie", "Authorization", "Private-Token"])
def test_no_header_of_the_callers_goes_to_another_host_after_a_redirect(
    server: Server, other_server: Server, tmp_path: Path, name: str
) -> None:
    target = other_server.add("/blob", Resource(BODY))
    url = server.add("/start", Resource(faults=[Redirect(target)]))
    fetch(url, tmp_path / "got", chunk_size=CHUNK, headers={name: BEARER, "Accept": "model/*"})
    assert (tmp_path / "got").read_bytes() == BODY
    assert {seen.header(name) for seen in server.requests} == {BEARER}
    assert len(other_server.requests) > 5
    assert {seen.header(name) for seen in other_server.requests} == {None}
    # What tells nothing about the caller is of use there too.
    assert {seen.header("Accept") for seen in other_server.requests} == {"model/*"}
    assert SECRET not in repr([seen.request for seen in other_server.requests])


def test_another_name_of_the_same_machine_is_another_host(server: Server, tmp_path: Path) -> None:
    server.add("/model", Resource(BODY))
    url = server.url("/start", host=OWN)
    server.add("/start", Resource(faults=[Redirect(server.url("/model", host=OTHER))]))
    fetch(url, tmp_path / "got", headers={"Authorization": BEARER}, **named(server))
    assert authorizations(server, "/start") == {BEARER}
    assert authorizations(server, "/model") == {None}


def test_a_redirect_within_the_host_keeps_the_credential(server: Server, tmp_path: Path) -> None:
    server.add("/model", Resource(BODY, authorization=BEARER))
    url = server.add("/start", Resource(authorization=BEARER, faults=[Redirect("/model")]))
    fetch(url, tmp_path / "got", chunk_size=CHUNK, headers={"Authorization": BEARER})
    assert authorizations(server, "/model") == {BEARER}


def test_every_file_of_a_call_has_its_credential_whatever_redirects_did(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    other_server.add("/blob", Resource(BODY, faults=[RefuseAuthorization()]))
    for name in ("/a", "/b", "/c"):
        redirect = Redirect(other_server.url("/blob"))
        server.add(name, Resource(faults=[redirect]))
    files = [(server.url(f"/{name}"), tmp_path / name) for name in "abc"]
    settings = impatient(authorization=BEARER, max_concurrent_files=1, chunk_size=CHUNK)
    found = pgetpy.download_many(files, settings=settings)
    assert all(isinstance(outcome, pgetpy.DownloadResult) for outcome in found)
    assert {seen.header("Authorization") for seen in server.requests} == {BEARER}
    assert authorizations(other_server, "/blob") == {None}


def test_a_redirect_may_bring_a_credential_of_its_own(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    other_server.add("/blob", Resource(BODY, authorization=basic("a", "b")))
    target = other_server.url("/blob", user="a:b")
    url = server.add("/start", Resource(faults=[Redirect(target)]))
    fetch(url, tmp_path / "got", headers={"Authorization": BEARER})
    assert authorizations(other_server, "/blob") == {basic("a", "b")}


def test_a_target_that_is_resolved_anew_still_gets_no_credential(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    signer = Signer(requests=4)
    faults = [RequireSignature(signer), RefuseAuthorization()]
    target = other_server.add("/blob", Resource(BODY, faults=faults))
    url = server.add("/start", Resource(faults=[Redirect(target, signer=signer)]))
    fetch(url, tmp_path / "got", chunk_size=CHUNK, headers={"Authorization": BEARER})
    assert len(server.requests) > 1
    assert authorizations(server, "/start") == {BEARER}
    assert authorizations(other_server, "/blob") == {None}


# ------------------------------------------------------------------- never from https to http


def test_no_credential_goes_to_http_after_https(
    server: Server, tls_server: Server, ca: Authority, tmp_path: Path
) -> None:
    target = server.add("/model", Resource(BODY))
    url = tls_server.add("/start", Resource(faults=[Redirect(target)]))
    given = {"headers": {"Authorization": BEARER, "X-Api-Key": SECRET}, "cacert": str(ca.pem)}
    fetch(url, tmp_path / "got", **given)
    assert authorizations(tls_server, "/start") == {BEARER}
    assert authorizations(server, "/model") == {None}
    assert SECRET not in repr([seen.request for seen in server.requests])


def test_who_came_back_from_http_is_not_trusted_any_more(
    server: Server, tls_server: Server, ca: Authority, tmp_path: Path
) -> None:
    back = tls_server.add("/model", Resource(BODY))
    over = server.add("/over", Resource(faults=[Redirect(back)]))
    url = tls_server.add("/start", Resource(faults=[Redirect(over)]))
    fetch(url, tmp_path / "got", headers={"Authorization": BEARER}, cacert=str(ca.pem))
    assert authorizations(tls_server, "/start") == {BEARER}
    assert authorizations(tls_server, "/model") == {None}


# ------------------------------------------------------------------- netrc


def netrc(folder: Path, text: str) -> dict[str, Any]:
    path = folder / "netrc"
    path.write_text(text)
    path.chmod(0o600)
    return {"use_netrc": True, "netrc_file": str(path)}


def test_netrc_names_the_hosts_that_get_its_credentials(
    server: Server, other_server: Server, tmp_path: Path
) -> None:
    other_server.add("/model", Resource(BODY))
    target = other_server.url("/model", host=OTHER)
    server.add("/start", Resource(faults=[Redirect(target)]))
    given = netrc(tmp_path, f"machine {OWN} login me password {SECRET}\n")
    given |= named(server, other_server)
    fetch(server.url("/start", host=OWN), tmp_path / "got", chunk_size=CHUNK, **given)
    assert authorizations(server, "/start") == {basic("me", SECRET)}
    assert authorizations(other_server, "/model") == {None}


def test_a_header_comes_before_netrc(server: Server, tmp_path: Path) -> None:
    url = server.add("/model", Resource(BODY))
    given = netrc(tmp_path, f"machine 127.0.0.1 login me password {SECRET}\n")
    fetch(url, tmp_path / "got", headers={"Authorization": "Bearer mine"}, **given)
    assert authorizations(server, "/model") == {"Bearer mine"}


def test_netrc_is_not_read_unless_it_is_asked_for(server: Server, tmp_path: Path) -> None:
    url = server.add("/model", Resource(BODY))
    given = netrc(tmp_path, f"machine 127.0.0.1 login me password {SECRET}\n")
    fetch(url, tmp_path / "got", netrc_file=given["netrc_file"])
    assert authorizations(server, "/model") == {None}


@ONCE
@pytest.mark.parametrize("text", [None, "machine\n", f"login me password {SECRET}"])
def test_a_netrc_that_cannot_be_read_is_an_error_that_shows_nothing_of_it(
    server: Server, tmp_path: Path, text: str | None
) -> None:
    url = server.add("/model", Resource(BODY))
    given = netrc(tmp_path, text or "")
    if text is None:
        (tmp_path / "netrc").unlink()
    with pytest.raises(PgetError, match="netrc") as caught:
        fetch(url, tmp_path / "got", **given)
    assert SECRET not in str(caught.value)
    assert not (tmp_path / "got").exists()


# ------------------------------------------------------------------- shown to nobody


def secret_url(server: Server, path: str) -> str:
    """A URL with a secret in every place that can hold one."""
    query = f"token={SECRET}&X-Amz-Signature={SECRET}&sig={SECRET}&v=1&api_key={SECRET}"
    return f"{server.url(path, user=f'me:{SECRET}')}?{query}#{SECRET}"


def everything_of(error: BaseException) -> str:
    """All that a program may show of an error."""
    shown = [str(error), repr(error), repr(error.args), repr(vars(error))]
    causes = [error.__cause__, error.__context__]
    return "\n".join([*shown, *(everything_of(cause) for cause in causes if cause is not None)])


FAULTS = {
    "whole": [],
    "404": [Status(404, f"no https://x:{SECRET}@h/?token={SECRET} here")],
    "redirected": [Redirect(f"http://me:{SECRET}@127.0.0.1:1/x?token={SECRET}")],
    "nowhere": [Redirect(f"ftp://me:{SECRET}@h/x?token={SECRET}")],
    "circle": [Redirect(f"/start?token={SECRET}")],
    "retried": [Status(503, when=When(times=1))],
    "no ranges": [IgnoreRange()],
    "garbled": [Status(206)],
}


@pytest.mark.parametrize("case", FAULTS)
def test_no_secret_is_in_any_event_error_or_log(
    server: Server, tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.add("/start", Resource(BODY, faults=FAULTS[case]))
    events = Events()
    shown = ""
    try:
        given = {"headers": {"Authorization": BEARER, "X-Key": SECRET}, "progress": events}
        result = fetch(secret_url(server, "/start"), tmp_path / "got", retries=1, **given)
        shown = repr(result)
    except PgetError as error:
        shown = everything_of(error)
    assert server.requests
    assert events.all
    assert SECRET not in shown
    assert SECRET not in "\n".join(map(repr, events.all))
    assert SECRET not in "\n".join(str(vars(event)) for event in events.all)
    assert SECRET not in caplog.text
    written = [path.read_bytes() for path in tmp_path.iterdir()]
    assert not any(SECRET.encode() in data for data in written)


def test_no_secret_is_in_the_journal(server: Server, tmp_path: Path) -> None:
    gate = Gate()
    server.add("/model", Resource(BODY, faults=[Dam(5 * CHUNK + 100_000, gate)]))
    events = Events()
    failures: list[BaseException] = []

    def download() -> None:
        try:
            fetch(
                secret_url(server, "/model"),
                tmp_path / "got",
                chunk_size=CHUNK,
                headers={"Authorization": BEARER},
                progress=events,
            )
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=download)
    thread.start()
    gate.wait_reached()
    server.wait_until(lambda: events.of(Started))
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    gate.open()
    thread.join(30)
    assert failures == []
    assert any("journal" in name and data for name, data in written.items())
    assert not any(SECRET.encode() in data for data in written.values())


@ONCE
def test_no_secret_is_in_anything_that_the_command_line_prints(
    server: Server, tmp_path: Path
) -> None:
    server.add("/start", Resource(BODY, faults=[Redirect("/model?token=" + SECRET)]))
    server.add("/model", Resource(BODY, faults=[Status(503, when=When(times=1))]))
    flags = ["-H", f"Authorization: {BEARER}", "-H", f"X-Key: {SECRET}", "--json", "-v"]
    environ = {"PGET_HEADERS": json.dumps({"X-Other": SECRET})}
    for progress in ("json", "plain"):
        dest = tmp_path / progress
        ended = run(secret_url(server, "/start"), dest, *flags, "--progress", progress, env=environ)
        assert ended.code == 0, ended.err
        assert dest.read_bytes() == BODY
        assert SECRET not in ended.out + ended.err
        assert "***" in ended.out


@ONCE
@pytest.mark.parametrize("place", ["url", "header", "PGET_HEADERS", "manifest", "proxy", "flag"])
def test_no_secret_is_in_what_the_command_line_says_of_a_mistake(
    server: Server, tmp_path: Path, place: str
) -> None:
    url = server.add("/model", Resource(BODY, faults=[Status(404)]))
    manifest = tmp_path / "manifest"
    manifest.write_text(f"{secret_url(server, '/missing')} {tmp_path}/a\nhttp://u:{SECRET}@h:x/ b")
    arguments, environ = {
        "url": ([f"http://me:{SECRET}@host:port/?token={SECRET}", "x"], {}),
        "header": ([url, "x", "-H", f"Author ization: {SECRET}"], {}),
        "PGET_HEADERS": ([url, "x"], {"PGET_HEADERS": f'{{"Authorization": "{SECRET}"'}),
        "manifest": (["multifile", str(manifest)], {}),
        "proxy": ([url, "x"], {"HTTP_PROXY": f"http://me:{SECRET}@h:port/"}),
        "flag": ([url, "x", f"--tokn=http://u:{SECRET}@h/"], {}),
    }[place]
    ended = run(*arguments, env=environ, cwd=tmp_path)
    assert ended.code == 2
    assert SECRET not in ended.out + ended.err


@ONCE
def test_a_second_process_sees_no_secret_in_a_failure(server: Server, tmp_path: Path) -> None:
    server.add("/model", Resource(BODY, faults=[Status(403, "no")]))
    with Run(secret_url(server, "/model"), tmp_path / "got", "--json", "-v") as running:
        ended = running.wait()
    assert ended.code == 1
    assert SECRET not in ended.out + ended.err
    assert json.loads(ended.out)["error_type"] == "HttpStatusError"


def test_the_hint_of_a_refusal_says_how_to_give_credentials(server: Server, tmp_path: Path) -> None:
    url = server.add("/model", Resource(BODY, authorization=BEARER))
    with pytest.raises(HttpStatusError, match="-H 'Authorization") as caught:
        fetch(url, tmp_path / "got")
    assert caught.value.status == 401


@ONCE
def test_settings_show_no_secret(tmp_path: Path) -> None:
    settings = Settings.from_environment(
        {
            "PGET_HEADERS": json.dumps({"Authorization": BEARER, "X-Key": SECRET}),
            "HTTP_PROXY": f"http://me:{SECRET}@proxy:1",
            "PGET_METRICS_ENDPOINT": f"http://me:{SECRET}@metrics/",
        }
    )
    assert SECRET not in repr(settings)
