import pytest

from pgetpy.core.fleet.node_list import NodeList
from pgetpy.errors import BadSettingError
from pgetpy.settings import Console, Proxies, Settings
from pgetpy.settings.fleet_settings import USUAL_PREFIXES, FleetSettings
from pgetpy.settings.options import OPTIONS

OPTION = {row.name: row for row in OPTIONS}


def read(**environ: str) -> Settings:
    return Settings.from_environment(environ)


def warnings_of(**environ: str) -> list[str]:
    warnings: list[str] = []
    Settings.from_environment(environ, warn=warnings.append)
    return warnings


def test_an_empty_environment_gives_the_defaults_without_a_word() -> None:
    assert read() == Settings()
    assert warnings_of() == []


@pytest.mark.parametrize(
    ("flag", "text", "value"),
    [
        ("concurrency", "8", 8),
        ("chunk-size", "16MiB", 16 * 2**20),
        ("connect-timeout", "1m30s", 90.0),
        ("stall-timeout", "2", 2.0),
        ("retries", "0", 0),
        ("max-conn-per-host", "7", 7),
        ("max-concurrent-files", "3", 3),
        ("max-concurrent-files", "0", 64),
        ("force", "T", True),
        ("resume", "false", False),
        ("fsync", "1", True),
        ("limit-rate", "1.5M", 1_500_000),
        ("max-size", "0", 0),
        ("min-free", "1G", 10**9),
        ("cacert", "/ca.pem", "/ca.pem"),
        ("netrc", "true", True),
        ("resolve", "H:80:::1 h:443:1.2.3.4", {("h", 80): "::1", ("h", 443): "1.2.3.4"}),
    ],
)
def test_a_variable_and_its_flag_say_the_same(flag: str, text: str, value: object) -> None:
    field = OPTION[flag].field
    assert getattr(read(**{OPTION[flag].variable: text}), field) == value
    assert getattr(Settings().with_flags({flag: text}), field) == value


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("concurrency", "0"),
        ("concurrency", "four"),
        ("concurrency", "1.5"),
        ("chunk-size", "0"),
        ("chunk-size", "big"),
        ("connect-timeout", "0s"),
        ("retries", "-1"),
        ("force", "yes"),
        ("limit-rate", "0"),
        ("resolve", "h:80"),
        ("resolve", "1.2.3.4:80:1.2.3.5"),
        ("resolve", "h:80:nowhere"),
        ("resolve", "h:http:1.2.3.4"),
        ("resolve", "h:80:1.2.3.4,h:80:1.2.3.5"),
    ],
)
def test_a_value_that_cannot_be_is_refused_in_the_name_of_its_giver(flag: str, text: str) -> None:
    with pytest.raises(BadSettingError) as from_environment:
        read(**{OPTION[flag].variable: text})
    assert from_environment.value.name == OPTION[flag].variable
    with pytest.raises(BadSettingError) as from_flag:
        Settings().with_flags({flag: text})
    assert from_flag.value.name == f"--{flag}"


def test_an_empty_variable_counts_as_unset() -> None:
    assert read(PGET_CONCURRENCY="", PGET_HEADERS="", HTTP_PROXY="", SSL_CERT_FILE="") == Settings()


def test_flags_go_before_the_environment() -> None:
    settings = read(PGET_RETRIES="1", PGET_FORCE="true").with_flags({"force": "false"})
    assert (settings.retries, settings.force) == (1, False)


def test_the_old_name_of_the_chunk_size_holds_with_a_warning() -> None:
    assert read(PGET_MINIMUM_CHUNK_SIZE="10M").chunk_size == 10_000_000
    assert warnings_of(PGET_MINIMUM_CHUNK_SIZE="10M") == [
        "Using PGET_MINIMUM_CHUNK_SIZE is deprecated, use PGET_CHUNK_SIZE instead"
    ]


def test_the_new_name_of_the_chunk_size_goes_before_the_old_one() -> None:
    both = {"PGET_MINIMUM_CHUNK_SIZE": "10M", "PGET_CHUNK_SIZE": "20M"}
    assert read(**both).chunk_size == 20_000_000
    (warning,) = warnings_of(**both)
    assert "using PGET_CHUNK_SIZE" in warning
    assert warnings_of(PGET_MINIMUM_CHUNK_SIZE="10M", PGET_CHUNK_SIZE="10M") == []


def test_a_bad_value_under_an_old_name_is_blamed_on_that_name() -> None:
    with pytest.raises(BadSettingError, match="PGET_MINIMUM_CHUNK_SIZE"):
        read(PGET_MINIMUM_CHUNK_SIZE="big")
    with pytest.raises(BadSettingError, match="PGET_MAX_CHUNKS"):
        read(PGET_MAX_CHUNKS="many")


def test_headers_come_as_a_json_object() -> None:
    settings = read(PGET_HEADERS='{"X-One": "1", "authorization": "Bearer a"}')
    assert settings.headers == {"X-One": "1"}
    assert settings.authorization == "Bearer a"


def test_a_header_given_again_takes_the_place_of_its_namesake() -> None:
    settings = read(PGET_HEADERS='{"X-One": "1"}', PGET_PROXY_AUTH_HEADER="Bearer old")
    settings = settings.with_headers([("x-one", "2"), ("Authorization", "Bearer new")], "--header")
    assert settings.headers == {"x-one": "2"}
    assert settings.origin_authorization == "Bearer new"


@pytest.mark.parametrize(
    "text", ["{", "[]", '"hunter2"', '{"a": 1}', '{"a b": "hunter2"}', '{"a": "hunter2\\r\\nb: c"}',
             '{"Range": "hunter2"}', '{"": "hunter2"}', '{"a": "hunter2\\ud800"}']
)  # fmt: skip
def test_headers_that_cannot_be_sent_are_refused_without_being_shown(text: str) -> None:
    with pytest.raises(BadSettingError) as caught:
        read(PGET_HEADERS=text)
    assert caught.value.name == "PGET_HEADERS"
    assert "hunter2" not in str(caught.value)


def test_secrets_are_no_part_of_what_settings_look_like() -> None:
    settings = read(
        PGET_HEADERS='{"X-Key": "hunter2"}',
        PGET_PROXY_AUTH_HEADER="hunter2",
        HTTP_PROXY="http://me:hunter2@proxy",
        PGET_METRICS_ENDPOINT="http://metrics/hunter2",
    )
    assert "hunter2" not in repr(settings)


def test_proxies_are_read_in_lower_case_first() -> None:
    settings = read(
        HTTP_PROXY="http://upper",
        http_proxy="lower:3128",
        ALL_PROXY="http://all",
        NO_PROXY="a.example, .b.example",
    )
    assert settings.proxies == Proxies(
        "http://lower:3128", "http://all", ("a.example", ".b.example")
    )


def test_a_proxy_named_by_a_request_header_is_not_believed() -> None:
    assert read(HTTP_PROXY="http://evil", REQUEST_METHOD="GET").proxies.http is None
    assert read(http_proxy="http://good", REQUEST_METHOD="GET").proxies.http == "http://good"


def test_a_proxy_that_is_no_http_url_is_refused_by_name_and_redacted() -> None:
    with pytest.raises(BadSettingError) as caught:
        read(ALL_PROXY="socks5://me:hunter2@proxy:1080")
    assert caught.value.name == "ALL_PROXY"
    assert "hunter2" not in str(caught.value)


def test_a_proxy_that_is_not_used_is_not_judged() -> None:
    urls = {"http_proxy": "http://p", "https_proxy": "http://p", "all_proxy": "socks5://p"}
    assert read(**urls).proxies == Proxies("http://p", "http://p")


def test_a_metrics_endpoint_is_an_http_url() -> None:
    assert read(PGET_METRICS_ENDPOINT="http://m/x").metrics_endpoint == "http://m/x"
    with pytest.raises(BadSettingError, match="PGET_METRICS_ENDPOINT"):
        read(PGET_METRICS_ENDPOINT="metrics")


SRV = {"PGET_CACHE_NODES_SRV_NAME": "srv"}
CIDR = {
    "PGET_CACHE_NODES_SRV_NAME_BY_HOST_CIDR": '{"1.0.0.0/8": "near"}',
    "PGET_HOST_IP": "1.2.3.4",
}
SERVICE = {"PGET_CACHE_SERVICE_HOSTNAME": "http://cache"}


def fleet_of(environ: dict[str, str]) -> FleetSettings:
    return read(**environ).fleet or FleetSettings()


@pytest.mark.parametrize(
    ("environ", "nodes"),
    [
        ({**SRV, **CIDR, **SERVICE, "PGET_CACHE_NODES": "a"}, NodeList(names=("a",))),
        ({**SRV, **CIDR, **SERVICE}, NodeList(srv="srv")),
        ({**CIDR, **SERVICE}, NodeList(srv="near")),
        ({**CIDR, "PGET_HOST_IP": "2.2.3.4", **SERVICE}, None),
        ({**SRV, "PGET_NO_CACHE_NODES": "1"}, None),
    ],
)
def test_the_nodes_in_use_are_the_first_that_are_set_in_pgets_order(
    environ: dict[str, str], nodes: NodeList | None
) -> None:
    assert fleet_of(environ).nodes == nodes


def test_a_service_is_used_where_there_are_no_nodes() -> None:
    rules = {"PGET_FORCE_CACHE_PREFIX_REWRITE": "true", "PGET_CACHE_USE_PATH_PROXY": "yes"}
    service = fleet_of({**SERVICE, **rules}).service
    assert service is not None
    # Go does not know "yes".
    assert (service.base, service.force, service.path_proxy) == ("http://cache", True, False)
    assert fleet_of({**SERVICE, **SRV}).service is None
    assert fleet_of({**SERVICE, "PGET_NO_CACHE_NODES": "1"}).service is None


def test_blank_prefixes_are_the_usual_ones() -> None:
    assert fleet_of({"PGET_CACHE_URI_PREFIXES": " "}).prefixes == USUAL_PREFIXES
    assert fleet_of({"PGET_CACHE_URI_PREFIXES": " a  b "}).prefixes == ("a", "b")


def test_flags_win_over_variables() -> None:
    settings = read(**SRV, PGET_CACHE_PIECE="1MiB")
    changed = settings.with_flags({"cache-nodes": "b:8080", "cache-prefixes": ("http://h",)}).fleet
    assert changed is not None
    assert (changed.nodes, changed.prefixes, changed.piece) == (
        NodeList(names=("b:8080",)),
        ("http://h",),
        1 << 20,
    )
    without = settings.with_flags({"no-cache-nodes": "true"})
    assert (without.has_fleet, settings.has_fleet) == (False, True)


@pytest.mark.parametrize("fleet", [SRV, SERVICE, {"PGET_CACHE_NODES": "a"}])
def test_the_proxys_authorization_is_for_the_fleet_if_there_is_one(fleet: dict[str, str]) -> None:
    environ = {"PGET_PROXY_AUTH_HEADER": "Bearer a"}
    alone, with_fleet = read(**environ), read(**environ, **fleet)
    assert alone.origin_authorization == "Bearer a"
    assert with_fleet.origin_authorization is None
    off = with_fleet.with_flags({"no-cache-nodes": "true"})
    assert off.origin_authorization == "Bearer a"


def test_under_a_policy_the_fleet_keeps_its_authorization_and_origins_get_none() -> None:
    environ = {"PGET_PROXY_AUTH_HEADER": "Bearer a", "PGET_POLICY": "public"}
    bare, with_fleet = read(**environ).under_policy(), read(**environ, **SRV).under_policy()
    assert (bare.origin_authorization, bare.proxy_authorization) == (None, None)
    assert (with_fleet.origin_authorization, with_fleet.proxy_authorization) == (None, "Bearer a")


@pytest.mark.parametrize("text", ["WARNING", "warn", "Warn"])
def test_a_log_level_is_read_in_any_case(text: str) -> None:
    assert Console.from_environment({"PGET_LOG_LEVEL": text}).log_level == "warn"


def test_verbose_is_a_log_level_and_extract_an_output() -> None:
    environ = {"PGET_VERBOSE": "1", "PGET_LOG_LEVEL": "error", "PGET_EXTRACT": "true"}
    console = Console.from_environment(environ)
    assert (console.log_level, console.output) == ("debug", "tar-extractor")
    assert Console().with_flags({"output": "tar"}).output == "tar-extractor"


@pytest.mark.parametrize("flag", [row.name for row in OPTIONS if row.section == "Console"])
def test_a_bad_value_of_the_command_lines_own_is_refused(flag: str) -> None:
    with pytest.raises(BadSettingError, match=OPTION[flag].variable):
        Console.from_environment({OPTION[flag].variable: "nonsense"})


def test_a_program_names_nodes_as_the_command_line_does() -> None:
    fleet = FleetSettings.of("a,https://b:1", cache_prefixes=["http://h"], cache_piece=1 << 20)
    assert fleet.nodes == NodeList(names=("a", "https://b:1"))
    assert (fleet.prefixes, fleet.piece) == (("http://h",), 1 << 20)
    with pytest.raises(BadSettingError, match="cache_nodes"):
        FleetSettings.of("http://a")


@pytest.mark.parametrize(
    ("networks", "address", "words"),
    [
        ("{oops", "10.0.0.1", "it is not a JSON object such as"),
        ('["10.0.0.0/8"]', "10.0.0.1", "it is not a JSON object such as"),
        ('{"10.0.0.0/8": "nodes"}', "", "PGET_HOST_IP is not set"),
        ('{"10.0.0.0/8": "nodes"}', "worker-1", "PGET_HOST_IP 'worker-1' is not an address"),
        ('{"10.0.0.0.0/8": "nodes"}', "10.0.0.1", "'10.0.0.0.0/8' is not a network"),
    ],
)
def test_networks_that_can_name_no_cache_nodes_are_told(
    networks: str, address: str, words: str
) -> None:
    name = "PGET_CACHE_NODES_SRV_NAME_BY_HOST_CIDR"
    (warning,) = warnings_of(**{name: networks, "PGET_HOST_IP": address})
    assert warning.startswith(f"{name} has no effect: {words}")


def test_networks_without_this_machine_are_no_mistake() -> None:
    networks = '{"10.0.0.0/8": "nodes"}'
    for address in ("10.0.0.1", "192.0.2.1"):
        assert (
            warnings_of(PGET_CACHE_NODES_SRV_NAME_BY_HOST_CIDR=networks, PGET_HOST_IP=address) == []
        )
