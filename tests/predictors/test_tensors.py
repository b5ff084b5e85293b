"""Tensors of torch, judged by safetensors; and modules that are given them."""

from __future__ import annotations

import gc
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pgetpy import WeightsDownloadCache, tensors
from pgetpy.errors import BadSettingError, DigestMismatchError, MissingPackageError, NotWeightsError
from tests.support.checkpoints import Made, file_of, index_of
from tests.support.entries import sha256
from tests.support.weights import opened, serve

from ..support.bodies import body
from ..support.delivery import Gate
from ..support.faults import GateAfter, When, at_least
from ..support.server import Server
from ..support.waiting import eventually

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16,
    "U16": torch.uint16, "F16": torch.float16, "BF16": torch.bfloat16, "I32": torch.int32,
    "U32": torch.uint32, "F32": torch.float32, "I64": torch.int64, "U64": torch.uint64,
    "F64": torch.float64, "C64": torch.complex64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}  # fmt: skip
PATH = "/model.safetensors"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.safetensors"


def bits(tensor: Any) -> bytes:
    return bytes(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())


def same(found: dict[str, Any], judge: dict[str, Any]) -> bool:
    """Whether names, dtypes, shapes and every bit are the same."""
    described = [
        {name: (each.dtype, each.shape, bits(each)) for name, each in state.items()}
        for state in (found, judge)
    ]
    return described[0] == described[1]


def of_every_dtype() -> dict[str, Any]:
    found = {"odd": torch.tensor([7, 8, 9], dtype=torch.uint8)}
    for name, dtype in DTYPES.items():
        size = torch.empty(0, dtype=dtype).element_size()
        raw = bytes(6) if name == "BOOL" else body(6 * size, name)
        flat = torch.frombuffer(bytearray(raw), dtype=dtype)
        found |= {name: flat.reshape(2, 3), f"{name} 0-d": flat[0].clone()}
        found[f"{name} empty"] = torch.empty(0, 3, dtype=dtype)
    return found


def test_every_dtype_is_what_safetensors_makes_of_it(
    server: Server, cache: WeightsDownloadCache, path: Path
) -> None:
    save_file(of_every_dtype(), path)
    judge = load_file(path)
    url = serve(server, path.read_bytes(), PATH)
    for reference in (url, url, path):
        found = tensors.load(reference, cache=cache)
        assert same(found, judge)
        assert same(dict(tensors.stream(reference, cache=cache)), judge)
        assert all(not each.data_ptr() % each.element_size() for each in found.values())


@pytest.mark.parametrize("pad", range(1, 9))
def test_data_that_lies_askew_is_put_straight(
    cache: WeightsDownloadCache, path: Path, pad: int
) -> None:
    made = {
        name: Made(name, [3], body(3 * torch.empty(0, dtype=dtype).element_size(), name))
        for name, dtype in DTYPES.items()
        if name != "BOOL"
    }
    path.write_bytes(file_of(made, pad=pad))
    found = tensors.load(path, cache=cache)
    assert {name: bits(each) for name, each in found.items()} == {
        name: each.data for name, each in made.items()
    }
    assert all(not each.data_ptr() % each.element_size() for each in found.values())


def test_dtype_is_for_what_is_of_floating_point(cache: WeightsDownloadCache, path: Path) -> None:
    save_file(of_every_dtype(), path)
    judge = load_file(path)
    for dtype in (torch.bfloat16, "float32", "torch.float16"):
        wanted = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype.split(".")[-1])
        found = tensors.load(path, dtype=dtype, cache=cache)
        for name, each in judge.items():
            floating = each.dtype.is_floating_point
            assert same({"": found[name]}, {"": each.to(wanted) if floating else each})
    for wrong in ("float33", "nn", 5, "Tensor"):
        with pytest.raises(BadSettingError, match="dtype"):
            tensors.load(path, dtype=wrong, cache=cache)


def test_two_values_in_a_byte_are_an_element_of_torch(
    cache: WeightsDownloadCache, path: Path
) -> None:
    path.write_bytes(file_of({"a": Made("F4", [2, 8], body(8)), "b": Made("F4", [0], b"")}))
    judge = load_file(path)
    for dtype in (None, "float32"):
        found = tensors.load(path, dtype=dtype, cache=cache)
        assert found["a"].dtype == judge["a"].dtype
        assert found["a"].shape == judge["a"].shape
        assert found["a"].view(torch.uint8).equal(judge["a"].view(torch.uint8))


@pytest.mark.parametrize("shape", [[2, 3], [2, 1], [0, 5]])
def test_an_odd_number_of_half_bytes_in_a_row_is_refused_as_load_file_does(
    cache: WeightsDownloadCache, path: Path, shape: list[int]
) -> None:
    size = shape[0] * shape[1] // 2
    path.write_bytes(file_of({"a": Made("F4", shape, bytes(size)), "b": Made("U8", [1], b"b")}))
    with pytest.raises(SafetensorError, match="divisible by 2"):
        load_file(path)
    with pytest.raises(NotWeightsError, match="'a' has an odd last dimension"):
        tensors.load(path, cache=cache)
    assert bits(tensors.load(path, only=["b"], cache=cache)["b"]) == b"b"


def test_a_dtype_that_torch_has_not_is_named(cache: WeightsDownloadCache, path: Path) -> None:
    made = {"a": Made("F6_E2M3", [4], bytes(3)), "b": Made("U8", [1], b"b")}
    path.write_bytes(file_of(made))
    with pytest.raises(MissingPackageError, match="F6_E2M3"):
        tensors.load(path, cache=cache)
    assert bits(tensors.load(path, only=["b"], cache=cache)["b"]) == b"b"


def test_torch_alone_is_enough(
    cache: WeightsDownloadCache, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"a": torch.arange(5.0)}, path)
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert tensors.load(path, cache=cache)["a"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("device", ["tpu9", "cuda", 5.5])
def test_a_device_that_is_not_there_is_named(cache: WeightsDownloadCache, device: Any) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(BadSettingError, match="device"):
        tensors.load("https://host/x", device, cache=cache)


def test_devices_without_a_way_of_their_own_are_reached(
    cache: WeightsDownloadCache, path: Path
) -> None:
    save_file({"a": torch.arange(5.0)}, path)
    assert tensors.load(path, torch.device("cpu"), cache=cache)["a"].device.type == "cpu"
    found = tensors.load(path, "meta", cache=cache)["a"]
    assert (found.device.type, found.shape) == ("meta", (5,))


def test_to_change_a_tensor_changes_neither_the_cache_nor_another(
    server: Server, cache: WeightsDownloadCache, path: Path
) -> None:
    save_file({f"{at:02}": torch.randn(70_001) for at in range(20)}, path)
    judge = load_file(path)
    url = serve(server, path.read_bytes(), PATH)
    for _ in range(2):
        for name, tensor in tensors.stream(url, cache=cache):
            assert tensor.equal(judge[name])
            tensor.zero_()
    cache.remove(url)
    found = tensors.load(url, cache=cache)
    cache.remove(url)
    cache.close()
    gc.collect()
    assert same(found, judge)


# ------------------------------------------------------------------------------------------ modules


class Tied(torch.nn.Module):
    """A module as language models are: the last weight is the first one."""

    def __init__(self, size: int = 50) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(size, 8)
        self.norm = torch.nn.BatchNorm1d(8)
        self.frozen = torch.nn.Linear(8, 8, bias=False).requires_grad_(False)
        self.head = torch.nn.Linear(8, size, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.ones(3))


def on_meta(size: int = 50) -> Tied:
    with torch.device("meta"):
        return Tied(size)


def saved(path: Path, *, leave_out: str = "head.weight", **more: Any) -> dict[str, Any]:
    torch.manual_seed(5)
    module = Tied()
    state = {name: each.clone() for name, each in module.state_dict().items() if name != leave_out}
    save_file({**state, **more}, path)
    return load_file(path)


def snapshot(module: Any) -> dict[str, tuple[int, str, bytes]]:
    """What every parameter and buffer is, by identity, device and content."""
    return {
        name: (id(each), str(each.device), b"" if each.is_meta else bits(each))
        for name, each in module.state_dict(keep_vars=True).items()
    }


@pytest.mark.parametrize("leave_out", ["head.weight", "embedding.weight"])
def test_a_module_on_the_meta_device_is_given_the_tensors_themselves(
    server: Server, cache: WeightsDownloadCache, path: Path, leave_out: str
) -> None:
    judge = saved(path, leave_out=leave_out)
    url = serve(server, path.read_bytes(), PATH)
    for make in (on_meta, Tied):
        module = make()
        result = tensors.load_into(module, url, cache=cache)
        assert (result.missing_keys, result.unexpected_keys) == ([], [])
        state = module.state_dict()
        assert same({name: state[name] for name in judge}, judge)
        assert module.head.weight is module.embedding.weight
        assert isinstance(module.head.weight, torch.nn.Parameter)
        assert module.head.weight.requires_grad
        assert not module.frozen.weight.requires_grad
        with torch.no_grad():
            module.embedding.weight.zero_()
    assert cache.ensure(url).read_bytes() == path.read_bytes()


def test_a_module_is_given_other_dtypes_where_that_is_asked(
    cache: WeightsDownloadCache, path: Path
) -> None:
    judge = saved(path)
    module = on_meta()
    tensors.load_into(module, path, dtype=torch.bfloat16, cache=cache)
    state = module.state_dict()
    for name, each in judge.items():
        floating = each.dtype.is_floating_point
        assert same({"": state[name]}, {"": each.to(torch.bfloat16) if floating else each})


def test_a_checkpoint_of_several_files_fits_a_module_as_a_whole(
    server: Server, cache: WeightsDownloadCache, tmp_path: Path, path: Path
) -> None:
    judge = saved(path)
    names = sorted(judge)
    shards = {"x.safetensors": names[::2], "y.safetensors": names[1::2]}
    for shard, share in shards.items():
        save_file({name: judge[name] for name in share}, tmp_path / shard)
        serve(server, (tmp_path / shard).read_bytes(), f"/{shard}")
    url = serve(server, index_of(shards), "/model.safetensors.index.json")
    module = on_meta()
    tensors.load_into(module, url, cache=cache)
    state = module.state_dict()
    assert same({name: state[name] for name in judge}, judge)

    short = serve(server, index_of({"x.safetensors": names[::2]}), "/a.safetensors.index.json")
    server.requests.clear()
    with pytest.raises(NotWeightsError, match="lacks"):
        tensors.load_into(on_meta(), short, cache=cache)
    assert {seen.path for seen in server.requests} == {"/a.safetensors.index.json"}


@pytest.mark.parametrize(
    ("more", "leave_out", "size", "said"),
    [
        ({}, "scale", 50, "lacks scale"),
        ({"extra": torch.ones(2)}, "", 50, "has extra"),
        ({"scale": torch.ones(4)}, "", 50, r"has scale of shape \(4,\)"),
        ({}, "head.weight", 51, r"module's is \(51, 8\)"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_fetched(
    server: Server,
    tmp_path: Path,
    path: Path,
    more: dict[str, Any],
    leave_out: str,
    size: int,
    said: str,
) -> None:
    judge = saved(path, leave_out=leave_out, **more)
    save_file({**judge, "zz": torch.zeros(1_000_000)}, path)
    module = on_meta(size)
    module.register_buffer("zz", torch.zeros(1_000_000, device="meta"))
    before = snapshot(module)
    gate = Gate()
    late = GateAfter(1000, gate, when=When(request=at_least(2)))
    url = serve(server, path.read_bytes(), PATH, faults=[late])
    with opened(tmp_path / "cache", concurrency=1) as cache:
        with pytest.raises(NotWeightsError, match=said):
            tensors.load_into(module, url, cache=cache)
        assert not gate.is_open
        assert snapshot(module) == before
        eventually(lambda: server.open == 0)
        gate.open()


class Rotary(torch.nn.Module):
    """A part with a buffer that is not saved, and a tensor that is no buffer at all."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("saved", torch.ones(2))
        self.register_buffer("nothing", None, persistent=False)
        self.register_buffer("position_ids", torch.arange(5), persistent=False)
        self.freqs = torch.arange(3)


def with_rotary() -> Tied:
    module = Tied()
    module.rotary = Rotary()
    return module


@pytest.mark.parametrize("strict", [True, False])
def test_what_no_checkpoint_holds_is_not_left_on_the_meta_device(
    server: Server, cache: WeightsDownloadCache, path: Path, strict: bool
) -> None:
    judge = with_rotary().state_dict()
    del judge["head.weight"]
    save_file(judge, path)
    url = serve(server, path.read_bytes(), PATH)
    with torch.device("meta"):
        module = with_rotary()
    before = snapshot(module)
    with pytest.raises(BadSettingError, match="include_buffers=False") as caught:
        tensors.load_into(module, url, strict=strict, cache=cache)
    assert "no checkpoint holds: rotary.freqs, rotary.position_ids; make" in str(caught.value)
    assert snapshot(module) == before
    assert server.requests == []
    module.rotary.freqs = torch.arange(3)
    with pytest.raises(BadSettingError, match=r"'Tied': on the .* holds: rotary.position_ids; "):
        tensors.load_into(module, url, strict=strict, cache=cache)
    module.rotary.position_ids = torch.arange(5)
    tensors.load_into(module, url, strict=strict, cache=cache)
    assert not any(each.is_meta for each in (*module.parameters(), *module.buffers()))
    assert module.rotary.position_ids.tolist() == [0, 1, 2, 3, 4]


def test_a_model_with_unsaved_buffers_computes_as_the_one_that_was_saved(
    cache: WeightsDownloadCache, tmp_path: Path
) -> None:
    from accelerate import init_empty_weights
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=99, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=8,
    )  # fmt: skip
    torch.manual_seed(1)
    judge = CLIPTextModel(config).eval()
    judge.save_pretrained(tmp_path / "clip")
    with torch.device("meta"):
        module = CLIPTextModel(config).eval()
    with pytest.raises(BadSettingError, match="position_ids"):
        tensors.load_into(module, tmp_path / "clip", cache=cache)
    with init_empty_weights(include_buffers=False):
        module = CLIPTextModel(config).eval()
    tensors.load_into(module, tmp_path / "clip", cache=cache)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert module(ids).last_hidden_state.equal(judge(ids).last_hidden_state)


def test_where_it_need_not_be_strict_the_rest_is_left_as_it_is(
    cache: WeightsDownloadCache, path: Path
) -> None:
    judge = saved(path, leave_out="scale", extra=torch.ones(2))
    del judge["head.weight"]
    module = on_meta()
    result = tensors.load_into(module, path, strict=False, cache=cache)
    assert (result.missing_keys, result.unexpected_keys) == (["scale"], ["extra"])
    assert module.scale.is_meta
    assert module.head.weight is module.embedding.weight
    path.unlink()
    saved(path, leave_out="", scale=torch.ones(4))
    with pytest.raises(NotWeightsError, match="scale"):
        tensors.load_into(module, path, strict=False, cache=cache)


def test_a_module_is_as_it_was_where_the_tensors_cannot_be_had(
    server: Server, cache: WeightsDownloadCache, path: Path
) -> None:
    saved(path)
    data = path.read_bytes()
    url = serve(server, data, PATH)
    module = Tied()
    before = snapshot(module)
    with pytest.raises(DigestMismatchError):
        tensors.load_into(module, url, digest="0" * 64, cache=cache)
    assert snapshot(module) == before
    tensors.load_into(module, url, digest=sha256(data), cache=cache)
    assert snapshot(module) != before


def test_a_module_is_as_it_was_where_the_tensors_cannot_be_assigned(
    cache: WeightsDownloadCache, path: Path
) -> None:
    judge = saved(path)
    # Whole numbers cannot be what has a gradient.
    save_file({**judge, "norm.weight": torch.ones(8, dtype=torch.int8)}, path)
    module = Tied()
    before = snapshot(module)
    with pytest.raises(NotWeightsError, match="assigned"):
        tensors.load_into(module, path, cache=cache)
    assert snapshot(module) == before
    assert module.head.weight is module.embedding.weight


def test_nothing_is_left_running(server: Server, cache: WeightsDownloadCache, path: Path) -> None:
    saved(path)
    url = serve(server, path.read_bytes(), PATH)
    for _ in range(3):
        tensors.load_into(on_meta(), url, cache=cache)
    eventually(lambda: not any(t.name == "pgetpy-reader" for t in threading.enumerate()))
