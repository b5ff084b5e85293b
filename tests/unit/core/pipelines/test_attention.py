"""Which attention backend is chosen, in which order they are tried, and what is believed."""

from __future__ import annotations

import pytest

from pgetpy.core.pipelines.attention import (
    ProbeResult,
    is_device_fault,
    refuse_error,
    refuse_failure,
    risk,
    select,
)

KNOWN = ("native", "_native_math", "_native_flash", "flex", "flash", "_flash_3", "flash_hub")
GOOD = ProbeResult()


class Backends:
    """Answers a probe by the table; notes what was tried."""

    def __init__(self, **bad: ProbeResult) -> None:
        self.bad = bad
        self.tried: list[str] = []

    def probe(self, name: str) -> ProbeResult:
        self.tried.append(name)
        return self.bad.get(name, GOOD)


def test_the_most_preferred_that_passes_is_chosen() -> None:
    backends = Backends(_flash_3=ProbeResult("it is not installed"))
    found = select(("_flash_3", "flash", "native"), KNOWN, backends.probe)
    assert found.name == "flash"
    assert found.refused == {
        "_flash_3": "it is not installed",
        "native": "flash is preferred",
    }


def test_pytorchs_own_backends_are_tried_before_packages_and_the_hub_last() -> None:
    backends = Backends()
    select(("flash_hub", "flash", "flex", "_native_flash"), KNOWN, backends.probe)
    assert backends.tried == ["_native_flash", "flex", "flash", "flash_hub"]


def test_what_is_not_named_is_not_tried_except_what_every_machine_has() -> None:
    backends = Backends(native=ProbeResult("no"))
    assert select((), KNOWN, backends.probe).name == "_native_math"
    assert backends.tried == ["native", "_native_math"]


def test_less_trusted_ones_are_not_tried_if_something_preferred_has_passed() -> None:
    backends = Backends()
    found = select(("native", "flash"), KNOWN, backends.probe)
    assert (found.name, backends.tried) == ("native", ["native"])
    assert found.refused["flash"] == "native is preferred"


def test_a_name_that_diffusers_does_not_know_is_refused_without_trying() -> None:
    backends = Backends()
    found = select(("flash_9", "native"), KNOWN, backends.probe)
    assert found.refused["flash_9"] == "the installed diffusers has no such backend"
    assert "flash_9" not in backends.tried


def test_nothing_is_chosen_if_all_fail() -> None:
    names = ("native", "_native_math", "flash")
    backends = Backends(**{name: ProbeResult("broken") for name in names})
    found = select(("flash",), KNOWN, backends.probe)
    assert found.name == ""
    assert list(found.refused) == ["flash", "native", "_native_math"]


def test_after_a_fault_nothing_else_is_tried_and_nothing_chosen() -> None:
    backends = Backends(flash=ProbeResult("calling it failed", fault=True))
    found = select(("flash_hub", "flash", "native"), KNOWN, backends.probe)
    assert (found.name, found.fault) == ("", "flash")
    assert backends.tried == ["native", "flash"]
    assert found.refused["flash_hub"] == "the device failed when flash was tried"


def test_the_order_of_trust() -> None:
    names = ("flash_hub", "sage_hub_x", "flash", "_flash_3", "flex", "native", "_native_cudnn")
    assert [risk(name) for name in names] == [3, 3, 2, 2, 1, 0, 0]


@pytest.mark.parametrize(
    ("error", "own", "rounding", "passes"),
    [
        (0.0, 0.0, 1e-7, True),
        (4e-3, 1e-3, 1e-4, True),
        (4.1e-3, 1e-3, 1e-4, False),
        (4e-4, 0.0, 1e-4, True),
        (0.5, 1e-3, 1e-3, False),
        (float("nan"), 1.0, 1.0, False),
        (float("inf"), 1.0, 1.0, False),
    ],
)
def test_four_times_the_error_of_plain_math_is_allowed(
    error: float, own: float, rounding: float, passes: bool
) -> None:
    assert (refuse_error(error, own, rounding) == "") is passes


def test_a_failure_becomes_one_short_line() -> None:
    why = refuse_failure(RuntimeError(f"two\nlines {'x' * 500}"), "calling")
    assert why.startswith("calling it raised RuntimeError: two lines xxx")
    assert len(why) < 250
    assert refuse_failure(TypeError(), "selecting").endswith("TypeError: no message")


def test_only_errors_that_outlive_the_call_are_faults() -> None:
    assert is_device_fault(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not is_device_fault(RuntimeError("CUDA out of memory"))
