"""The rules of a policy over what it is shown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgetpy import Policy
from pgetpy.errors import BadReferenceError, BadSettingError, NotAllowedError
from pgetpy.settings import Proxies, Settings, SourceSettings
from pgetpy.sources.civitai import CivitaiSettings
from pgetpy.sources.huggingface import HubSettings
from pgetpy.sources.table import parse_reference


def rule_against(url: str, policy: Policy) -> str:
    """The rule that forbids `url`, empty where none does."""
    try:
        policy.check_reference(parse_reference(url))
    except NotAllowedError as error:
        return error.rule
    return ""


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        ("https://example.com/a.safetensors", ""),
        ("HTTPS://EXAMPLE.COM:443/a", ""),
        ("https://example.com:8443/a", ""),
        ("https://8.8.8.8/a", ""),
        ("https://[2001:4860:4860::8888]/a", ""),
        ("http://example.com/a", "schemes"),
        ("file:///etc/passwd", "schemes"),
        ("FILE://localhost/etc/passwd", "schemes"),
        ("https://example.com:22/a", "ports"),
        ("https://example.com:25/a", "ports"),
        ("https://example.com:1023/a", "ports"),
        ("https://example.com:1024/a", ""),
        ("https://127.0.0.1/a", "allow_networks"),
        ("https://127.1/a", "allow_networks"),
        ("https://0x7f.1/a", "allow_networks"),
        ("https://2130706433/a", "allow_networks"),
        ("https://0177.0.0.1/a", "allow_networks"),
        ("https://0/a", "allow_networks"),
        ("https://user:word@169.254.169.254/latest/meta-data/", "allow_networks"),
        ("https://169.254.169.254./a", "allow_networks"),
        ("https://[::1]/a", "allow_networks"),
        ("https://[::ffff:127.0.0.1]/a", "allow_networks"),
        ("https://[::ffff:a9fe:a9fe]/a", "allow_networks"),
        ("https://[64:ff9b::10.0.0.1]/a", "allow_networks"),
        ("https://[fe80::1%25eth0]/a", "allow_networks"),
        # Digits and points of other scripts are digits and points to the resolver.
        ("https://\uff11\uff12\uff17.0.0.1/a", "allow_networks"),
        ("https://127\u30020\u30020\u30021/a", "allow_networks"),
    ],
)
def test_the_public_policy_judges_what_needs_no_look_up(url: str, rule: str) -> None:
    assert rule_against(url, Policy.public()) == rule


def test_the_public_policy_is_for_anybody() -> None:
    policy = Policy.public()
    assert policy.schemes == ("https",)
    assert policy.only_safetensors
    assert policy.max_bytes == 16 << 30
    assert (policy.trust_proxy, policy.own_tokens) == (False, False)
    assert (policy.allow_hosts, policy.deny_hosts, policy.allow_networks) == ((), (), ())


@pytest.mark.parametrize(
    ("pattern", "host", "meant"),
    [
        ("example.com", "example.com", True),
        ("Example.COM.", "example.com", True),
        ("example.com", "EXAMPLE.com.", True),
        ("example.com", "www.example.com", False),
        ("example.com", "badexample.com", False),
        ("example.com", "example.com.evil.org", False),
        ("*.example.com", "www.example.com", True),
        ("*.example.com", "a.b.Example.com.", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "badexample.com", False),
        ("b\u00fccher.example", "xn--bcher-kva.example", True),
        ("xn--bcher-kva.example", "B\u00dcCHER.example", True),
        ("127.0.0.1", "0x7f.1", True),
        ("0x7f.1", "127.0.0.1", True),
        ("[::1]", "[0:0::1]", True),
        ("127.0.0.1", "[::ffff:127.0.0.1]", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
    ],
)
def test_hosts_are_compared_as_the_resolver_would(pattern: str, host: str, meant: bool) -> None:
    networks = ("127.0.0.0/8", "::1")
    allowing = Policy(allow_hosts=(pattern,), allow_networks=networks)
    denying = Policy(deny_hosts=(pattern,), allow_networks=networks)
    assert rule_against(f"http://{host}/a", allowing) == ("" if meant else "allow_hosts")
    assert rule_against(f"http://{host}/a", denying) == ("deny_hosts" if meant else "")


def test_what_is_denied_is_not_allowed_by_anything_else() -> None:
    policy = Policy(allow_hosts=("*.example.com",), deny_hosts=("bad.example.com",))
    assert rule_against("https://good.example.com/", policy) == ""
    assert rule_against("https://bad.example.com/", policy) == "deny_hosts"


def test_an_allowed_host_may_still_not_be_an_address_inside() -> None:
    assert rule_against("http://10.0.0.1/", Policy(allow_hosts=("10.0.0.1",))) == "allow_networks"


@pytest.mark.parametrize(
    ("address", "admitted"),
    [
        ("8.8.8.8", True),
        ("10.1.0.0", True),
        ("10.1.255.255", True),
        ("10.0.255.255", False),
        ("10.2.0.0", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:10.2.2.3", False),
        ("64:ff9b::10.1.2.3", True),
        ("fd00::5", True),
        ("fd00::5%eth0", True),
        ("fd00:0:0:1::5", False),
        ("169.254.169.254", False),
        ("2001:0:4136:e378:8000:63bf:f5fe:fdfc", False),
        ("not an address", False),
        ("", False),
    ],
)
def test_networks_that_are_allowed_are_joined_to_what_is_public(
    address: str, admitted: bool
) -> None:
    policy = Policy(allow_networks=("10.1.0.0/16", "fd00::/64"))
    assert policy.admits(address) is admitted


def test_ports_of_other_services_can_be_allowed() -> None:
    policy = Policy(ports=(443, 81))
    assert rule_against("http://example.com:81/", policy) == ""
    assert rule_against("http://example.com/", policy) == "ports"


@pytest.mark.parametrize(
    "fields",
    [
        {"schemes": "https"},
        {"schemes": ("ftp",)},
        {"allow_hosts": "example.com"},
        {"deny_hosts": 3},
        {"deny_hosts": ("",)},
        {"deny_hosts": ("*",)},
        {"deny_hosts": ("a.*.com",)},
        {"deny_hosts": ("https://example.com",)},
        {"allow_hosts": ("example.com:443",)},
        {"allow_networks": ("10.0.0.1/8",)},
        {"allow_networks": ("example.com",)},
    ],
)
def test_rules_that_would_mean_nothing_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(BadSettingError):
        Policy(**fields)  # type: ignore[arg-type]


def test_a_file_may_be_had_where_that_is_said() -> None:
    assert rule_against("file:///tmp/a", Policy()) == "schemes"
    assert rule_against("file:///tmp/a", Policy(schemes=("file",))) == ""


def test_nonsense_is_no_matter_of_policy() -> None:
    with pytest.raises(BadReferenceError):
        Policy().check_url("http://")


def test_a_refusal_is_one_sentence_without_secrets() -> None:
    with pytest.raises(NotAllowedError) as caught:
        Policy().check_url("http://me:hunter2@127.1/a?token=hunter2")
    assert caught.value.rule == "allow_networks"
    assert "hunter2" not in str(caught.value)
    assert str(caught.value) == (
        "not allowed by allow_networks: its host is not a public address for "
        f"{caught.value.url}; check its name; only hosts on the public internet are allowed"
    )


def test_policies_have_one_mark_where_they_let_the_same_be_asked() -> None:
    policy = Policy()
    assert policy.mark == replace(policy, max_bytes=1, only_safetensors=True).mark
    changes: list[dict[str, object]] = [
        {"schemes": ("http",)}, {"allow_hosts": ("a.b",)}, {"deny_hosts": ("a.b",)},
        {"allow_networks": ("10.0.0.0/8",)}, {"ports": ()}, {"trust_proxy": True},
    ]  # fmt: skip
    marks = {replace(policy, **change).mark for change in changes}  # type: ignore[arg-type]
    assert len(marks | {policy.mark}) == len(changes) + 1


# --------------------------------------------------------------------------- what it takes away

OWN = Settings(
    headers={"X-Mine": "1"},
    authorization="Bearer mine",
    use_netrc=True,
    proxies=Proxies(http="http://proxy:3128", https="http://proxy:3128"),
    sources=SourceSettings((HubSettings(token="a", hf_transfer=True), CivitaiSettings(token="b"))),
)


def test_without_a_policy_nothing_is_taken_away() -> None:
    assert OWN.under_policy() is OWN


@pytest.mark.parametrize("trusting", [False, True])
def test_a_policy_takes_away_what_is_the_operators_own(trusting: bool) -> None:
    policy = Policy(trust_proxy=trusting, own_tokens=trusting)
    left = replace(OWN, policy=policy).under_policy()
    assert (dict(left.headers), left.authorization, left.use_netrc) == ({}, None, False)
    assert left.proxies == (OWN.proxies if trusting else Proxies())
    hub = left.sources.of(HubSettings)
    found = (hub.token, left.sources.of(CivitaiSettings).token)
    assert found == (("a", "b") if trusting else (None, None))
    assert not hub.hf_transfer
    assert left.under_policy() == left


@pytest.mark.parametrize(
    ("own", "policys", "found"),
    [
        (None, None, None),
        (5, None, (5, "--max-size")),
        (None, 7, (7, "max_bytes")),
        (5, 7, (5, "--max-size")),
        (7, 5, (5, "max_bytes")),
        (0, 5, (0, "--max-size")),
    ],
)
def test_the_smaller_of_two_bounds_holds(
    own: int | None, policys: int | None, found: tuple[int, str] | None
) -> None:
    settings = Settings(max_size=own, policy=Policy(max_bytes=policys))
    assert settings.largest == found
    assert settings.under_policy().limits.total_bytes == policys


def test_a_flag_and_a_variable_name_the_ready_made_policy() -> None:
    assert Settings.from_environment({"PGET_POLICY": "public"}).policy == Policy.public()
    assert Settings.from_environment({}).policy is None
    given = Settings.from_environment({"PGET_POLICY": "public"}).with_flags({"policy": "none"})
    assert given.policy is None
    with pytest.raises(BadSettingError, match="PGET_POLICY"):
        Settings.from_environment({"PGET_POLICY": "publik"})
