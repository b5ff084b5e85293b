"""examples/loras on a real Cog server: images are those that diffusers makes alone, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.weights import assert_nothing_left, opened, serve

from ..support.delivery import Gate
from ..support.faults import GateAfter, Status, When
from ..support.resources import Resource
from ..support.server import Server
from ..support.waiting import eventually
from .cogs import CogServer, Reply, running, starting
from .pipelines import PROMPT, save_transformer_lora
from .studio import SEED, STEPS, Studio

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Machine:
    """What stays when a container is replaced: where its weights are, and who serves them."""

    folder: Path
    origin: Server
    studio: Studio

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def base(self) -> Path:
        return self.folder / "base"

    @property
    def env(self) -> dict[str, str]:
        return {
            "BASE_WEIGHTS_URL": self.origin.url("/base.tar"),
            "BASE_WEIGHTS_DIR": str(self.base),
            "PGET_CACHE_DIR": str(self.cache),
            "TRUST_LORA_URLS": "1",
        }


def machine_in(folder: Path, origin: Server, studio: Studio) -> Machine:
    origin.add("/base.tar", Resource(studio.archive))
    return Machine(folder, origin, studio)


@pytest.fixture
def machine(tmp_path: Path, server: Server, studio: Studio) -> Machine:
    """A machine of the test's own."""
    return machine_in(tmp_path, server, studio)


@pytest.fixture(scope="module")
def cog(
    tmp_path_factory: pytest.TempPathFactory, shelf: Server, studio: Studio
) -> Iterator[CogServer]:
    """One predictor for the tests of this module that leave it running."""
    machine = machine_in(tmp_path_factory.mktemp("machine"), shelf, studio)
    with running("loras", **machine.env) as server:
        yield server


def predict(cog: CogServer, *loras: tuple[str, float], **more: object) -> Reply:
    return cog.predict(**inputs(*loras), **more)


def inputs(*loras: tuple[str, float]) -> dict[str, object]:
    """The inputs that name so many LoRAs by URL and scale."""
    found: dict[str, object] = {"prompt": PROMPT, "steps": STEPS, "seed": SEED}
    for slot, (url, scale) in zip(("lora", "extra_lora"), loras, strict=False):
        found |= {slot: url, f"{slot}_scale": scale}
    return found


def serve_both(server: Server, studio: Studio) -> tuple[str, str]:
    first = serve(server, studio.first.read_bytes(), "/first.safetensors")
    return first, serve(server, studio.second.read_bytes(), "/second.safetensors")


# ----------------------------------------------------------------------------------- compositions


def test_every_composition_looks_as_diffusers_alone_makes_it(
    cog: CogServer, server: Server, studio: Studio
) -> None:
    one, two = serve_both(server, studio)
    wanted = {
        "base": [],
        "one": [(one, 1.0)],
        "two with scales": [(one, 0.7), (two, 0.4)],
        "another scale": [(one, 0.2), (two, 0.4)],
        "the second in the first slot": [(two, 0.4)],
        "no strength": [(one, 0.0)],
    }
    paths = {one: studio.first, two: studio.second}
    expected = {
        name: studio.picture(*((paths[url], scale) for url, scale in loras))
        for name, loras in wanted.items()
    }
    assert len(set(expected.values())) == len(wanted) - 1, "scale 0 alone is the base"
    # And the base once more, after all that has been done to the pipeline.
    for name in (*wanted, "base"):
        assert predict(cog, *wanted[name]).pixels == expected[name], name


def test_one_file_in_both_slots_has_the_sum_of_their_scales(
    cog: CogServer, server: Server, studio: Studio
) -> None:
    one, _ = serve_both(server, studio)
    expected = studio.picture((studio.first, 0.75))
    assert predict(cog, (one, 0.25), (one, 0.5)).pixels == expected


def test_metrics_tell_what_was_fetched(cog: CogServer, server: Server, studio: Studio) -> None:
    one, two = serve_both(server, studio)
    assert predict(cog, (one, 1.0), (two, 1.0)).cache == (0, 2)
    assert predict(cog, (one, 0.5), (two, 1.0)).cache == (2, 0)
    assert predict(cog).cache == (0, 0)
    assert len(server.asked("/first.safetensors")) == 1


# --------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("fault", "said"),
    [("missing", "404"), ("page", "not a weights file"), ("cut off", "safetensors")],
)
def test_after_a_url_that_fails_all_others_work_as_before(
    cog: CogServer, server: Server, studio: Studio, fault: str, said: str
) -> None:
    one, _ = serve_both(server, studio)
    whole = studio.second.read_bytes()
    bodies = {"page": b"<html>not here</html>", "cut off": whole[:-1000]}
    bad = server.url("/bad.safetensors")
    if fault in bodies:
        serve(server, bodies[fault], "/bad.safetensors")
    failed = fails_between(cog, studio, one, bad)
    assert said in failed.error
    serve(server, whole, "/bad.safetensors")
    assert predict(cog, (bad, 1.0)).pixels == studio.picture((studio.second, 1.0))


def test_a_lora_of_another_model_is_refused_and_leaves_no_trace(
    cog: CogServer, server: Server, studio: Studio, tmp_path: Path
) -> None:
    one, _ = serve_both(server, studio)
    other = save_transformer_lora(tmp_path / "other.safetensors", 3)
    failed = fails_between(cog, studio, one, serve(server, other.read_bytes(), "/other"))
    assert "WrongBaseModelError" in failed.error


def fails_between(cog: CogServer, studio: Studio, good: str, bad: str) -> Reply:
    """The prediction with `bad`, between others that come out as if it had not been."""
    expected = studio.picture((studio.first, 0.7))
    assert predict(cog, (good, 0.7)).pixels == expected
    failed = predict(cog, (good, 0.3), (bad, 1.0))
    assert failed.status == "failed"
    assert predict(cog, (good, 0.7)).pixels == expected
    assert predict(cog).pixels == studio.picture()
    return failed


def test_a_prediction_that_is_cancelled_while_it_downloads_leaves_no_trace(
    cog: CogServer, server: Server, studio: Studio
) -> None:
    one, two = serve_both(server, studio)
    gate = Gate()
    held = GateAfter(1000, gate, when=When(times=1))
    server.change("/second.safetensors", faults=[held])
    assert predict(cog, (one, 0.7)).pixels == studio.picture((studio.first, 0.7))

    cancelled = cog.begin(**inputs((one, 0.3), (two, 1.0)))
    gate.wait_reached()
    cancelled.cancel()
    assert cancelled.reply().status == "canceled"

    assert predict(cog, (one, 0.7)).pixels == studio.picture((studio.first, 0.7))
    assert predict(cog).pixels == studio.picture()
    gate.open()
    assert predict(cog, (two, 1.0)).pixels == studio.picture((studio.second, 1.0))


def test_a_prediction_that_is_cancelled_while_it_computes_leaves_no_trace(
    cog: CogServer, server: Server, studio: Studio
) -> None:
    one, two = serve_both(server, studio)
    cancelled = cog.begin(**{**inputs((one, 0.3), (two, 1.0)), "steps": 100})
    # The pipeline's own bar, which is drawn first when none of its steps has been made.
    eventually(lambda: "/100" in cancelled.log, 60, "the first step")
    cancelled.cancel()
    assert cancelled.reply().status == "canceled"
    assert predict(cog, (one, 0.7)).pixels == studio.picture((studio.first, 0.7))
    assert predict(cog).pixels == studio.picture()


def test_a_machine_whose_worker_was_killed_starts_again_with_whole_files_alone(
    machine: Machine,
) -> None:
    one, two = serve_both(machine.origin, machine.studio)
    gate = Gate()
    held = GateAfter(1000, gate, when=When(times=1))
    machine.origin.change("/second.safetensors", faults=[held])
    with running("loras", **machine.env) as cog:
        assert predict(cog, (one, 1.0)).status == "succeeded"
        lost = cog.begin(**inputs((one, 1.0), (two, 1.0)))
        gate.wait_reached()
        cog.kill_worker()
        assert lost.reply().status == "failed"
    gate.open()
    with opened(machine.cache) as cache:
        assert cache.lookup(one) is not None
        assert cache.lookup(two) is None
    kept = [machine.origin.asked(path) for path in ("/base.tar", "/first.safetensors")]
    with running("loras", **machine.env) as cog:
        again = predict(cog, (one, 0.7), (two, 0.4))
    studio = machine.studio
    assert again.pixels == studio.picture((studio.first, 0.7), (studio.second, 0.4))
    assert again.cache == (1, 1)
    assert [machine.origin.asked(path) for path in ("/base.tar", "/first.safetensors")] == kept
    assert_nothing_left(machine.cache)


# ------------------------------------------------------------------------------------------ setup


def test_a_setup_that_cannot_have_its_weights_says_why_in_one_sentence(machine: Machine) -> None:
    machine.origin.change("/base.tar", faults=[Status(404)])
    with starting("loras", **machine.env) as cog:
        health = cog.wait_for_setup()
    assert health["status"] == "SETUP_FAILED"
    assert "/base.tar" in health["setup"]["logs"]
    assert "404" in health["setup"]["logs"]
    assert not machine.base.exists()


def test_a_machine_that_goes_during_setup_is_followed_by_one_that_starts(machine: Machine) -> None:
    gate = Gate()
    held = GateAfter(None, gate, when=When(covers=len(machine.studio.archive) // 2, times=1))
    machine.origin.change("/base.tar", faults=[held])
    with starting("loras", **machine.env) as cog:
        gate.wait_reached(within=40)
        cog.kill()
    assert not machine.base.exists()
    gate.open()
    with running("loras", **machine.env) as cog:
        assert predict(cog).pixels == machine.studio.picture()
