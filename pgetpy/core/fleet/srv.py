"""What SRV records of cache nodes mean: the index in a name is the node's place in the list.

Kubernetes names the pods of a StatefulSet name-0, name-1 and so on, so the list keeps its order and
its length while a pod restarts. Priority, weight and TTL are not used, as in pget.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_INDEXED = re.compile(r"[a-z0-9-]*-([0-9]+)\.", re.ASCII)
# A list is as long as its highest index: a name such as node-4000000000 is not a member of one.
MOST_NODES = 100_000
USUAL_PORT = 80


class SrvNameError(ValueError):
    """A record's name has no usable index; the text says which, a clause."""


def nodes_of_srv(records: Iterable[tuple[str, int]]) -> tuple[str, ...]:
    """Return the list of nodes as pget makes it: `host`, or `host:port` unless that is 80.

    Args:
        records: the target and port of each SRV record.

    Returns:
        As many names as the highest index says; a missing one is an empty text. Of two with the
        same index the later one counts. Without records, one empty text.

    Raises:
        SrvNameError: a name has no index, or one that is too high.
    """
    indexed = [(_index_of(target), target, port) for target, port in records]
    names = [""] * (max((index for index, _, _ in indexed), default=0) + 1)
    for index, target, port in indexed:
        host = target.removesuffix(".")
        names[index] = host if port == USUAL_PORT else f"{host}:{port}"
    return tuple(names)


def _index_of(target: str) -> int:
    match = _INDEXED.match(f"{target.removesuffix('.')}.")
    if match is None:
        raise SrvNameError(f"the name {target} has no index such as the 3 of node-3.example.com")
    index = int(match[1][-20:])
    if index >= MOST_NODES or len(match[1]) > 20:
        raise SrvNameError(f"the index in the name {target} is {MOST_NODES} or more")
    return index
