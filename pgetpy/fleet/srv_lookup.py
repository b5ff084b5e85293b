"""The look-up of SRV records, with dnspython: the C library's resolver has no call for them."""

from __future__ import annotations

from pgetpy.core.fleet.srv import SrvNameError, nodes_of_srv

# Every download waits for the first look-up, so it may not take as long as resolv.conf allows.
LIFETIME = 2.0


class NodeLookupError(Exception):
    """The nodes could not be found out; the text says why, a clause."""


def look_up_srv(name: str) -> tuple[str, ...]:
    """Return the nodes that the SRV records at `_http._tcp.NAME` list, with holes; blocks.

    Args:
        name: completed by the search domains of resolv.conf like any other name.

    Raises:
        NodeLookupError: no answer, no such name, or a record without an index.
    """
    try:
        import dns.exception
        import dns.rdatatype
        import dns.resolver
    except ImportError:
        raise NodeLookupError("the package dnspython is not installed") from None
    try:
        answer = dns.resolver.resolve(
            f"_http._tcp.{name}", dns.rdatatype.SRV, search=True, lifetime=LIFETIME
        )
        return nodes_of_srv((record.target.to_text(), record.port) for record in answer)
    except dns.resolver.NXDOMAIN:
        raise NodeLookupError("there is no such name") from None
    except dns.resolver.NoAnswer:
        raise NodeLookupError("the name has no SRV records") from None
    except dns.exception.Timeout:
        raise NodeLookupError(f"no name server answered in {LIFETIME:g} s") from None
    except dns.resolver.NoNameservers as error:
        code = str(error).rpartition("answered ")[2].rstrip(".")
        raise NodeLookupError(f"the name servers answered {code}") from None
    except (dns.exception.DNSException, OSError, UnicodeError) as error:
        raise NodeLookupError(str(error).rstrip(".")) from None
    except SrvNameError as error:
        raise NodeLookupError(str(error)) from None
