"""The commands below `pgetpy node`. Imported when one of them runs."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from pgetpy.cli.invocation import DONE, FAILED, Invocation
from pgetpy.cli.terminal import print_line
from pgetpy.core.fleet.node_list import Node, NodeList, node_of
from pgetpy.core.http.urls import parse_link
from pgetpy.core.nodes.findings import NodeVerdict
from pgetpy.core.nodes.nginx_config import NodeConfig, nginx_configuration
from pgetpy.engine.authorities import trusting
from pgetpy.errors import TransferError, UsageError
from pgetpy.fleet.node_check import NodeReport, check_node
from pgetpy.fleet.node_probe import NodeProbe
from pgetpy.settings.node_options import NodeOptions

_RESOLV_CONF = Path("/etc/resolv.conf")
_NAME_SERVER = re.compile(r"^\s*nameserver\s+([0-9A-Fa-f.:]+)\s*$", re.MULTILINE)


def run_node(invocation: Invocation) -> int:
    """Carry out a command below `node`; return the exit status."""
    command = invocation.arguments.command.partition(" ")[2]
    options = NodeOptions().with_flags(invocation.arguments.values)
    if command == "check":
        return _check(invocation, options)
    invocation.refuse_operands()
    text = nginx_configuration(_node_config(options)).rstrip("\n")
    invocation.tell(text, {"configuration": text})
    return DONE


def _node_config(options: NodeOptions) -> NodeConfig:
    """Return the node that the flags describe.

    Raises:
        UsageError: something is missing.
    """
    if not options.origins:
        raise UsageError("expected --origins URL, such as --origins https://weights.example.com")
    if bool(options.certificate) != bool(options.certificate_key):
        raise UsageError("TLS needs both --certificate and --certificate-key")
    return NodeConfig(
        origins=options.origins,
        size=options.size,
        piece=options.piece,
        listen=options.listen or ("443" if options.certificate else "80"),
        folder=options.folder,
        resolvers=options.resolvers or _own_resolvers(),
        ca_file=options.ca_file,
        certificate=options.certificate,
        certificate_key=options.certificate_key,
        token_file=options.token_file,
    )


def _own_resolvers() -> tuple[str, ...]:
    """Return the name servers of this machine.

    Raises:
        UsageError: it names none.
    """
    try:
        text = _RESOLV_CONF.read_text("utf-8", "replace")
    except OSError:
        text = ""
    found = [f"[{each}]" if ":" in each else each for each in _NAME_SERVER.findall(text)]
    if not found:
        raise UsageError(f"{_RESOLV_CONF} names no name server: give --resolver ADDRESS")
    return tuple(found)


def _check(invocation: Invocation, options: NodeOptions) -> int:
    """Check each node that the flags name; return the status."""
    settings = invocation.settings
    (url,) = invocation.take({1}, "one URL")
    link = parse_link(url)
    context = lru_cache(maxsize=1)(lambda: trusting(settings))
    at = link.origin
    origin = NodeProbe(at.scheme, at.host, at.port, context)
    status = DONE
    fleet = settings.fleet
    nodes = options.nodes or (fleet.nodes if fleet is not None else None)
    for each in _listed(nodes):
        scheme = "https" if each.tls else "http"
        node = NodeProbe(scheme, each.host, each.port, context, settings.proxy_authorization)
        report = check_node(node, origin, link)
        shown = f"[{each.host}]" if ":" in each.host else each.host
        _tell(invocation, f"{shown}:{each.port}", str(link), report)
        status = status if report.sound else FAILED
    return status


def _listed(nodes: NodeList | None) -> tuple[Node, ...]:
    """Return the nodes of a list, or those that an SRV name lists.

    Raises:
        UsageError: there are none.
        TransferError: they cannot be looked up.
    """
    if nodes is None:
        raise UsageError("expected --node HOST[:PORT], or nodes in PGET_CACHE_NODES")
    names = nodes.names
    if not names:
        from pgetpy.fleet.srv_lookup import NodeLookupError, look_up_srv

        try:
            names = look_up_srv(nodes.srv)
        except NodeLookupError as error:
            raise TransferError(f"srv://{nodes.srv}", f"cannot be looked up: {error}") from None
    # Those that are missing in a list from SRV records are empty.
    return tuple(node_of(name, index) for index, name in enumerate(names) if name)


def _tell(invocation: Invocation, node: str, url: str, report: NodeReport) -> None:
    """Print what was found of one node."""
    if invocation.options.json:
        rows = [{**asdict(each), "verdict": each.verdict.name.lower()} for each in report.findings]
        record = {"node": node, "url": url, "sound": report.sound}
        print_line(json.dumps({**record, "origin_fetches": report.origin_fetches, "trials": rows}))
        return
    print_line(f"{node} for {url}")
    for each in report.findings:
        print_line(f"{each.verdict.value:<6} {each.trial:<10} {each.words}")
        if each.remedy:
            print_line(f"{'':<17} change: {each.remedy}")
    faults = sum(each.verdict is NodeVerdict.FAULT for each in report.findings)
    print_line(f"{faults or 'no'} fault{'' if faults == 1 else 's'}")
