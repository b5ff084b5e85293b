"""What a composition is, what each step to another costs, what is refused before it is taken."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import pytest

from pgetpy import Policy, WeightsDownloadCache
from pgetpy.errors import (
    BadLoraError,
    BadReferenceError,
    BadSettingError,
    CacheError,
    GatedError,
    HttpStatusError,
    NotAllowedError,
    NotWeightsError,
    PgetError,
    UsageError,
    WrongBaseModelError,
)
from pgetpy.lora import LoraComposer
from pgetpy.settings import SourceSettings
from pgetpy.weights.cache import usual_cache
from tests.support.blob_store import BlobStore
from tests.support.delivery import Gate
from tests.support.faults import GateAfter, Status
from tests.support.hub import Hub
from tests.support.hub_caches import opened_at
from tests.support.loras import BASE, FakePipeline, lora, safetensors, without
from tests.support.object_store import started_store
from tests.support.resources import Resource
from tests.support.server import Server
from tests.support.waiting import eventually
from tests.support.weights import opened, weights

Urls = dict[str, str]


def leased(cache: WeightsDownloadCache) -> set[str]:
    """What is leased, as another user of the folder sees it."""
    with opened(cache.path) as other:
        found = [listing for listing in other.entries() if listing.leased_by]
    return {listing.record.about.reference.rpartition("/")[2][:1] for listing in found}


# ------------------------------------------------------------------------- compositions


def test_slots_are_added_to_the_base_in_their_order(
    loras: LoraComposer, pipeline: FakePipeline, urls: Urls
) -> None:
    loras.apply({"main": (urls["a"], 0.8), "extra": (urls["b"], -1)})
    assert pipeline.picture() == (("a", 0.8), ("b", -1.0))
    assert loras.active == {"main": (urls["a"], 0.8), "extra": (urls["b"], -1.0)}
    loras.apply({"extra": (urls["b"], 1), "main": (urls["a"], 0.8)})
    assert pipeline.picture() == (("b", 1.0), ("a", 0.8))


def test_nothing_is_done_to_a_pipeline_that_is_as_it_should_be(
    cache: WeightsDownloadCache, loras: LoraComposer, pipeline: FakePipeline, urls: Urls
) -> None:
    loras.apply({})
    loras.close()
    assert pipeline.calls == []
    loras = LoraComposer(pipeline, cache)
    slots = {"main": (urls["a"], 0.8)}
    loras.apply(slots)
    pipeline.drain()
    loras.apply(slots)
    loras.apply({"another name": slots["main"]})
    assert pipeline.calls == []
    assert loras.active == {"another name": slots["main"]}


def test_a_new_scale_is_set_and_nothing_else(
    loras: LoraComposer, pipeline: FakePipeline, urls: Urls
) -> None:
    loras.apply({"main": (urls["a"], 0.8)})
    pipeline.drain()
    loras.apply({"main": (urls["a"], 0.5)})
    assert (pipeline.drain(), pipeline.picture()) == (["set"], (("a", 0.5),))


def test_a_slot_that_is_added_loads_its_own_lora_alone(
    loras: LoraComposer, pipeline: FakePipeline, urls: Urls
) -> None:
    loras.apply({"main": (urls["a"], 0.8)})
    pipeline.drain()
    loras.apply({"main": (urls["a"], 0.8), "extra": (urls["b"], 1)})
    assert pipeline.drain() == ["load", "set"]
    loras.apply({"extra": (urls["b"], 1)})
    assert (pipeline.drain(), pipeline.picture()) == (["set"], (("b", 1.0),))


def test_the_base_comes_back_while_loras_stay_loaded(
    loras: LoraComposer, pipeline: FakePipeline, urls: Urls
) -> None:
    loras.apply({"main": (urls["a"], 0.8)})
    pipeline.drain()
    loras.clear()
    assert (pipeline.drain(), pipeline.picture()) == (["disable"], BASE)
    assert (dict(loras.active), loras.loaded) == ({}, (urls["a"],))
    loras.clear()
    assert pipeline.drain() == []
    loras.apply({"main": (urls["a"], 0.8)})
    assert (pipeline.drain(), pipeline.picture()) == (["enable", "set"], (("a", 0.8),))


def test_what_was_used_longest_ago_leaves_first(
    pipeline: FakePipeline, cache: WeightsDownloadCache, urls: Urls
) -> None:
    loras = LoraComposer(pipeline, cache, keep_loaded=2)
    for name in "abca":
        loras.apply({"main": (urls[name], 1)})
    assert loras.loaded == (urls["b"], urls["c"], urls["a"])
    pipeline.drain()
    loras.apply({"main": (urls["d"], 1)})
    assert pipeline.drain() == ["load", "set", "delete"]
    assert loras.loaded == (urls["c"], urls["a"], urls["d"])
    loras.apply({"main": (urls["b"], 1)})
    assert pipeline.drain() == ["load", "set", "delete"]
    assert sorted(pipeline.adapters.values()) == ["a", "b", "d"]


def test_nothing_is_kept_where_nothing_is_to_be_kept(
    pipeline: FakePipeline, cache: WeightsDownloadCache, urls: Urls
) -> None:
    loras = LoraComposer(pipeline, cache, keep_loaded=0)
    loras.apply({"main": (urls["a"], 1), "extra": (urls["b"], 1)})
    loras.apply({"main": (urls["c"], 1)})
    assert (loras.loaded, pipeline.picture()) == ((urls["c"],), (("c", 1.0),))
    loras.clear()
    assert (loras.loaded, pipeline.adapters, pipeline.picture()) == ((), {}, BASE)


def test_one_file_in_two_slots_is_one_adapter_with_the_sum_of_the_scales(
    cache: WeightsDownloadCache,
    loras: LoraComposer,
    pipeline: FakePipeline,
    urls: Urls,
    server: Server,
) -> None:
    copy = server.add("/copy.safetensors", Resource(lora("a")))
    loras.apply({"main": (urls["a"], 0.25), "extra": (urls["a"], 0.5)})
    assert (pipeline.drain(), pipeline.picture()) == (["load", "set"], (("a", 0.75),))
    cache.ensure(copy)
    assert cache.settle(30)  # one file from now on
    loras.apply({"main": (urls["a"], 0.25), "extra": (copy, 1)})
    loras.apply({"main": (urls["a"], 0.5), "extra": (copy, 1)})
    assert (pipeline.picture(), set(loras.loaded)) == ((("a", 1.5),), {urls["a"], copy})


def test_other_content_at_the_same_url_is_another_lora(
    pipeline: FakePipeline, tmp_path: Path, server: Server, urls: Urls
) -> None:
    with opened(tmp_path / "cache", refresh="check") as cache:
        loras = LoraComposer(pipeline, cache)
        loras.apply({"main": (urls["a"], 1)})
        server.add("/a.safetensors", Resource(lora("new")))
        loras.apply({"main": (urls["a"], 1)})
        assert pipeline.picture() == (("new", 1.0),)


@pytest.mark.parametrize(
    "missing",
    [
        ("delete_adapters",),
        ("unload_lora_weights",),
        ("disable_lora",),
        ("delete_adapters", "disable_lora", "enable_lora", "_lora_loadable_modules"),
        ("unload_lora_weights", "disable_lora", "enable_lora"),
    ],
)
def test_pipelines_that_can_do_less_come_to_the_same(
    missing: tuple[str, ...], cache: WeightsDownloadCache, urls: Urls
) -> None:
    pipeline = without(*missing)
    loras = LoraComposer(pipeline, cache, keep_loaded=1)
    for names in ("a", "ab", "", "c", "ba", "cde", "", "a", "b", "c", "", "abc"):
        loras.apply({name: (urls[name], 1) for name in names})
        assert pipeline.picture() == tuple((name, 1.0) for name in names)
        assert len(loras.loaded) <= len(names) + 1
    loras.close()
    assert (pipeline.picture(), pipeline.adapters) == (BASE, {})


def test_a_pipeline_that_only_deletes_is_not_left_disabled(
    cache: WeightsDownloadCache, urls: Urls
) -> None:
    pipeline = without("unload_lora_weights")
    loras = LoraComposer(pipeline, cache, keep_loaded=1)
    loras.apply({"main": (urls["a"], 1)})
    loras.clear()
    assert pipeline.disabled
    pipeline.before = lambda name: 1 / (name != "load")
    with pytest.raises(ZeroDivisionError):
        loras.apply({"main": (urls["b"], 1)})
    pipeline.before = lambda name: None
    loras.apply({"main": (urls["b"], 1)})
    assert pipeline.picture() == (("b", 1.0),)


def test_what_changes_the_base_beyond_its_adapter_is_not_kept(
    loras: LoraComposer, pipeline: FakePipeline, urls: Urls, server: Server
) -> None:
    data = lora("norms", extra="unet.mid.attn.norm_q.weight")
    url = server.add("/norms.safetensors", Resource(data))
    loras.apply({"main": (urls["a"], 1), "extra": (url, 1)})
    pipeline.drain()
    loras.apply({"main": (urls["a"], 1)})
    assert pipeline.drain() == ["unload", "load", "set"]
    assert loras.loaded == (urls["a"],)


def test_what_was_made_wider_is_made_narrow_again(
    cache: WeightsDownloadCache, server: Server
) -> None:
    class Widening(FakePipeline):
        narrow = True
        transformer_name = "unet"

        def _maybe_expand_transformer_param_shape_or_error_(self) -> None:
            """Its name tells that it does."""

        def load_lora_weights(self, path: str, *, adapter_name: str) -> None:
            super().load_lora_weights(path, adapter_name=adapter_name)
            self.narrow = False

        def unload_lora_weights(self, reset_to_overwritten_params: bool = False) -> None:
            super().unload_lora_weights()
            self.narrow = self.narrow or reset_to_overwritten_params

    pipeline = Widening()
    loras = LoraComposer(pipeline, cache)
    wide = server.add("/wide.safetensors", Resource(lora("wide", width=64)))
    thin = server.add("/thin.safetensors", Resource(lora("thin", width=16)))
    loras.apply({"main": (wide, 1)})
    assert not pipeline.narrow
    with pytest.raises(WrongBaseModelError):
        loras.apply({"main": (thin, 1)})
    loras.clear()
    assert (pipeline.narrow, pipeline.picture()) == (True, BASE)


# --------------------------------------------------------- before the pipeline is touched


def test_all_are_fetched_side_by_side_and_before_the_first_is_loaded(
    loras: LoraComposer, pipeline: FakePipeline, server: Server
) -> None:
    gate = Gate()
    faults = [GateAfter(10, gate)]
    slots = {
        name: (server.add(f"/{name}.safetensors", Resource(lora(name), faults=faults)), 1.0)
        for name in "xy"
    }
    thread = threading.Thread(target=loras.apply, args=(slots,))
    thread.start()
    server.wait_until(lambda: all(server.seen(f"/{name}.safetensors") for name in "xy"))
    assert pipeline.calls == []
    gate.open()
    thread.join(10)
    assert pipeline.picture() == (("x", 1.0), ("y", 1.0))


def test_a_failure_before_leaves_the_composition_as_it_was(
    cache: WeightsDownloadCache,
    loras: LoraComposer,
    pipeline: FakePipeline,
    server: Server,
    urls: Urls,
) -> None:
    good = {"main": (urls["a"], 0.8)}
    loras.apply(good)
    pipeline.drain()
    whole = lora("b")
    bad: list[tuple[bytes, dict[str, Any], type[PgetError], str]] = [
        (whole, {"faults": [Status(404)]}, HttpStatusError, "404"),
        (whole[:-1], {}, NotWeightsError, "safetensors"),
        (b"<html>no</html>", {}, NotWeightsError, "/bad"),
        (weights(), {}, BadLoraError, "'extra' .*/bad.*none of its 1 tensors.*'weight'"),
        (safetensors({}), {}, BadLoraError, "none of its 0 tensors"),
        (lora("w", width=64), {}, WrongBaseModelError, "mid.attn.to_q of unet has 64.* has 32"),
        (lora("t", component="transformer"), {}, WrongBaseModelError, "changes transformer, .*une"),
    ]
    for number, (data, fields, error, words) in enumerate(bad):
        url = server.add(f"/bad{number}.safetensors", Resource(data, **fields))
        with pytest.raises(error, match=words):
            loras.apply({"main": (urls["c"], 1), "extra": (url, 1)})
        assert (pipeline.calls, dict(loras.active)) == ([], good)
        assert leased(cache) == {"a"}
    with pytest.raises(BadReferenceError):
        loras.apply({"main": ("ftp://host/x", 1)})
    assert (pipeline.calls, pipeline.picture()) == ([], (("a", 0.8),))


def test_a_folder_is_no_lora(loras: LoraComposer, pipeline: FakePipeline, server: Server) -> None:
    from tests.support.weights import tar_of

    url = server.add("/all.tar", Resource(tar_of({"a.safetensors": lora("a")})))
    with pytest.raises(BadLoraError, match="folder"):
        loras.apply({"main": (url, 1)}, wanted="folder")
    loras.apply({"main": (url, 1)})
    assert pipeline.picture() == (("a", 1.0),)


def test_a_file_without_a_suffix_gets_the_one_that_loaders_go_by(
    loras: LoraComposer, pipeline: FakePipeline, server: Server
) -> None:
    loras.apply({"main": (server.add("/api/download/123", Resource(lora("a"))), 1)})
    assert pipeline.picture() == (("a", 1.0),)


def test_an_error_shows_no_secret_and_says_what_to_try(loras: LoraComposer, server: Server) -> None:
    server.add("/wide.safetensors", Resource(lora("wide", width=64)))
    url = server.url("/wide.safetensors?token=SECRET")
    with pytest.raises(WrongBaseModelError) as caught:
        loras.apply({"main": (url, 1)})
    error = caught.value
    assert "SECRET" not in str(error) + repr(error.__dict__)
    assert (error.slot, error.hint in str(error)) == ("main", True)


@pytest.mark.parametrize(
    "slots",
    [
        None,
        ["main"],
        {"main": "url"},
        {"main": ("url",)},
        {"main": (None, 1)},
        {"main": ("", 1)},
        {"": ("url", 1)},
        {1: ("url", 1)},
        {"main": ("url", "1")},
        {"main": ("url", None)},
        {"main": ("url", True)},
        {"main": ("url", float("nan"))},
        {"main": ("url", float("inf"))},
        {"main": ("url", 10**400)},
    ],
)
def test_slots_that_make_no_sense_are_refused_first(
    loras: LoraComposer, pipeline: FakePipeline, slots: Any
) -> None:
    with pytest.raises(BadSettingError):
        loras.apply(slots)
    assert pipeline.calls == []


@pytest.mark.parametrize(
    "missing",
    [("load_lora_weights",), ("set_adapters",), ("delete_adapters", "unload_lora_weights")],
)
def test_a_pipeline_that_cannot_take_loras_is_refused(
    missing: tuple[str, ...], cache: WeightsDownloadCache
) -> None:
    with pytest.raises(BadSettingError, match="pipeline 'Poorer': has "):
        LoraComposer(without(*missing), cache)


@pytest.mark.parametrize("keep", [-1, 1.5])
def test_a_number_to_keep_that_makes_no_sense_is_refused(
    pipeline: FakePipeline, cache: WeightsDownloadCache, keep: Any
) -> None:
    with pytest.raises(BadSettingError, match="keep_loaded"):
        LoraComposer(pipeline, cache, keep_loaded=keep)


def test_who_may_not_have_a_lora_does_not_get_it_because_it_is_loaded(
    pipeline: FakePipeline, tmp_path: Path, server: Server
) -> None:
    with Hub(server, tokens={"hf_other"}) as hub:
        hub.repo("o/n", {"a.safetensors": lora("a")}, gated=True, readers={"hf_reader"})
        with opened_at(hub, tmp_path / "cache") as cache:
            loras = LoraComposer(pipeline, cache)
            slots = {"main": ("hf://o/n", 1.0)}
            loras.apply(slots, hf_api_token="hf_reader")
            pipeline.drain()
            for token in (None, "hf_other"):
                with pytest.raises(GatedError):
                    loras.apply(slots, hf_api_token=token)
            assert (pipeline.calls, dict(loras.active)) == ([], slots)
            loras.apply(slots, hf_api_token="hf_reader")
    assert hub.violations == []


def test_a_policy_is_heeded_before_anything_is_fetched(
    pipeline: FakePipeline, tmp_path: Path, urls: Urls, server: Server
) -> None:
    with opened(tmp_path / "cache", policy=Policy.public()) as cache:
        loras = LoraComposer(pipeline, cache)
        with pytest.raises(NotAllowedError):
            loras.apply({"main": (urls["a"], 1)})
    assert (pipeline.calls, server.requests) == ([], [])


# -------------------------------------------------------------------------------- leases


def test_what_is_loaded_is_leased_and_nothing_else(
    pipeline: FakePipeline, cache: WeightsDownloadCache, urls: Urls
) -> None:
    loras = LoraComposer(pipeline, cache, keep_loaded=1)
    loras.apply({"main": (urls["a"], 1), "extra": (urls["b"], 1)})
    assert leased(cache) == {"a", "b"}
    with opened(cache.path) as other, pytest.raises(CacheError, match="lease"):
        other.remove(urls["a"])
    loras.apply({"main": (urls["c"], 1)})
    assert leased(cache) == {"b", "c"}
    with opened(cache.path, max_bytes=1) as other:
        other.remove(urls["a"])
    loras.apply({"main": (urls["c"], 2)})
    loras.clear()
    assert leased(cache) == {"c"}
    loras.close()
    assert (leased(cache), pipeline.picture(), pipeline.adapters) == (set(), BASE, {})


def test_leases_end_with_the_composer_or_with_the_pipeline(
    cache: WeightsDownloadCache, urls: Urls
) -> None:
    pipeline = FakePipeline()
    loras = LoraComposer(pipeline, cache)
    loras.apply({"main": (urls["a"], 1)})
    del pipeline
    gc.collect()
    assert leased(cache) == set()
    with pytest.raises(UsageError, match="outlived"):
        loras.apply({})
    pipeline = FakePipeline()
    loras = LoraComposer(pipeline, cache)
    loras.apply({"main": (urls["a"], 1)})
    del loras
    gc.collect()
    assert leased(cache) == set()


def test_a_composer_that_was_closed_says_so(
    loras: LoraComposer, pipeline: FakePipeline, urls: Urls
) -> None:
    with loras:
        loras.apply({"main": (urls["a"], 1)})
    loras.close()
    assert pipeline.picture() == BASE
    with pytest.raises(UsageError, match="closed"):
        loras.apply({})


def test_without_a_cache_the_one_that_the_environment_names_is_used(
    pipeline: FakePipeline, tmp_path: Path, urls: Urls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGET_CACHE_DIR", str(tmp_path / "usual"))
    monkeypatch.setenv("PGET_MIN_DISK_FREE", "0")
    loras = LoraComposer(pipeline)
    loras.apply({"main": (urls["a"], 1)})
    assert pipeline.picture() == (("a", 1.0),)
    with usual_cache() as cache:
        assert cache.path == tmp_path / "usual"
        assert cache.lookup(urls["a"]) is not None
    loras.close()


# ------------------------------------------------------------------------------- threads


def test_threads_that_apply_at_once_take_turns(
    loras: LoraComposer, pipeline: FakePipeline, urls: Urls
) -> None:
    inside: list[str] = []

    def alone(name: str) -> None:
        inside.append(name)
        assert len(inside) == 1
        inside.pop()

    pipeline.before = pipeline.midway = alone
    failures: list[BaseException] = []

    def work(names: str) -> None:
        try:
            for _ in range(5):
                loras.apply({name: (urls[name], 1) for name in names})
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(names,)) for names in ("ab", "cd", "ef", "")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    assert [name for name, _ in pipeline.picture()] == list(loras.active)


def test_who_waits_for_another_thread_can_be_interrupted(
    loras: LoraComposer, pipeline: FakePipeline, urls: Urls
) -> None:
    import ctypes

    class Cancelled(BaseException):
        pass

    held, go_on = threading.Event(), threading.Event()

    def hold(name: str) -> None:
        held.set()
        assert go_on.wait(20)

    pipeline.midway = hold
    first = threading.Thread(target=loras.apply, args=({"main": (urls["a"], 1)},))
    first.start()
    assert held.wait(10)
    ended: list[type[BaseException]] = []
    started = threading.Event()

    def wait() -> None:
        started.set()
        try:
            loras.apply({"main": (urls["b"], 1)})
        except BaseException as error:
            ended.append(type(error))

    second = threading.Thread(target=wait)
    second.start()
    assert started.wait(10)

    def cancelled() -> bool:
        if not ended:
            assert second.ident is not None
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(second.ident), ctypes.py_object(Cancelled)
            )
        return bool(ended)

    eventually(cancelled, 10, "the second thread to end")
    assert first.is_alive()
    go_on.set()
    first.join(10)
    second.join(10)
    assert (ended, pipeline.picture()) == ([Cancelled], (("a", 1.0),))


# ------------------------------------------------------------------------- where they lie


@pytest.mark.parametrize("scheme", ["s3", "az"])
def test_loras_of_object_stores_are_slots_like_any_other(tmp_path: Path, scheme: str) -> None:
    with started_store("loras") if scheme == "s3" else BlobStore() as store:
        for name in "ab":
            store.put("loras", f"{name}.safetensors", lora(name))
        pipeline = FakePipeline()
        with opened(tmp_path / "cache", sources=SourceSettings(environ=store.environ)) as cache:
            loras = LoraComposer(pipeline, cache)
            one, two = (f"{scheme}://loras/{name}.safetensors" for name in "ab")
            loras.apply({"main": (one, 0.8), "extra": (two, 0.5)})
            assert pipeline.picture() == (("a", 0.8), ("b", 0.5))
            asked = len(store.requests)
            loras.apply({"main": (one, 0.3)})
            assert pipeline.picture() == (("a", 0.3),)
            assert len(store.requests) == asked
