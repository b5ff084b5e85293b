"""The commands below `pgetpy node`. Imported when one of them runs."""

from __future__ import annotations

import re
from pathlib import Path

from pgetpy.cli.command_table import SUBCOMMANDS
from pgetpy.cli.invocation import DONE, Invocation
from pgetpy.cli.terminal import print_line
from pgetpy.core.nodes.nginx_config import NodeConfig, nginx_configuration
from pgetpy.errors import UsageError
from pgetpy.settings.node_options import NodeOptions

_RESOLV_CONF = Path("/etc/resolv.conf")
_NAME_SERVER = re.compile(r"^\s*nameserver\s+([0-9A-Fa-f.:]+)\s*$", re.MULTILINE)


def run_node(invocation: Invocation) -> int:
    """Carry out a command below `node`; return the exit status."""
    command = invocation.arguments.command.partition(" ")[2]
    operands = invocation.arguments.operands
    options = NodeOptions().with_flags(invocation.arguments.values)
    if command == "config":
        if operands:
            raise UsageError(f"pgetpy node config takes no arguments, got {operands[0]}")
        print_line(nginx_configuration(_node_config(options)).rstrip("\n"))
        return DONE
    found = next(iter(operands), "nothing")
    raise UsageError(f"expected one of {', '.join(SUBCOMMANDS['node'])}, got {found}")


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
