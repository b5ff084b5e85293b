"""In which order the addresses of a host are tried."""

from __future__ import annotations

import socket

from pgetpy.engine.transports.base import Address
from pgetpy.engine.transports.connecting import AddressRace

A, B, C = (Address(socket.AF_INET, (f"192.0.2.{number}", 443)) for number in (1, 2, 3))
X, Y = (Address(socket.AF_INET6, (f"2001:db8::{number}", 443, 0, 0)) for number in (1, 2))


def test_families_take_turns_beginning_with_the_resolver_s_first() -> None:
    assert AddressRace().order((X, Y, A, B, C)) == [X, A, Y, B, C]
    assert AddressRace().order((A, B, X)) == [A, X, B]
    assert AddressRace().order((A,)) == [A]
    assert AddressRace().order(()) == []


def test_the_last_winner_goes_first() -> None:
    race = AddressRace()
    race.won((X, Y, A, B), A)
    assert race.order((X, Y, A, B)) == [A, X, B, Y]
    race.won((X, Y, A, B), Y)
    assert race.order((X, Y, A, B)) == [Y, X, A, B]
    # Another host's addresses are its own.
    assert race.order((X, A)) == [X, A]
