"""Tensors of a file: from the network, from the cache, from a path; and what they outlive."""

from __future__ import annotations

import gc
import json
import os
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pgetpy import WeightsDownloadCache, tensors
from pgetpy.errors import (
    BadReferenceError,
    BadSettingError,
    CacheError,
    DigestMismatchError,
    MissingPackageError,
    NotOneFileError,
    NotWeightsError,
    UsageError,
)
from tests.support.bodies import body
from tests.support.checkpoints import Made, file_of, floats, same
from tests.support.entries import sha256
from tests.support.processes import environment
from tests.support.server import Server
from tests.support.waiting import eventually
from tests.support.weights import MIB, opened, serve, serve_many, tar_of

MADE = {"a.weight": floats(MIB // 2, "a"), "a.bias": floats(100, "b"), "b.weight": floats(MIB, "c")}
DATA = file_of(MADE)
# All of the format, with what numpy is to make of each: with ml_dtypes, and else with a dtype.
BY_NUMPY = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "F16": "float16",
    "I32": "int32", "U32": "uint32", "F32": "float32", "I64": "int64", "U64": "uint64",
    "F64": "float64", "C64": "complex64",
}  # fmt: skip
BY_ML_DTYPES = {
    "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
BYTES = {"16": 2, "32": 4, "64": 8}


def loaded(reference: str | Path, cache: WeightsDownloadCache, **options: Any) -> dict[str, Any]:
    return tensors.load(reference, cache=cache, framework="numpy", **options)


def of_each(names: Any) -> dict[str, Made]:
    """A tensor of 2 x 3 of each dtype."""
    made = {}
    for name in names:
        data = body(6 * BYTES.get(name[-2:], 1), name)
        made[name] = Made(name, [2, 3], bytes(6) if name == "BOOL" else data)
    return made


def at(folder: Path, data: bytes) -> Path:
    path = folder / "here.safetensors"
    path.write_bytes(data)
    return path


# ----------------------------------------------------------------------------- where they come from


def test_tensors_come_from_the_network_and_then_from_the_cache(
    server: Server, cache: WeightsDownloadCache
) -> None:
    url = serve(server, DATA, "/model.safetensors")
    for _ in range(2):
        found = loaded(url, cache)
        assert list(found) == list(MADE)
        assert same(found, MADE)
        for name, made in MADE.items():
            assert (found[name].dtype, list(found[name].shape)) == (np.float32, list(made.shape))
    assert cache.cache_info()[:2] == (1, 1)
    assert cache.ensure(url).read_bytes() == DATA
    assert cache.verify(url).name == "SOUND"


def test_tensors_come_from_a_path_and_from_a_folder_with_one_file(
    tmp_path: Path, cache: WeightsDownloadCache
) -> None:
    path = at(tmp_path, DATA)
    for reference in (path, tmp_path, path.as_uri()):
        assert same(loaded(reference, cache), MADE)
        assert same(loaded(reference, cache, only=["a.bias"]), {"a.bias": MADE["a.bias"]})
    at(tmp_path / "..", DATA).rename(tmp_path / "two.safetensors")
    with pytest.raises(NotOneFileError, match=r"here\.safetensors, two\.safetensors"):
        loaded(tmp_path, cache)


def test_a_path_where_nothing_is_or_what_is_none_is_an_error(
    tmp_path: Path, cache: WeightsDownloadCache
) -> None:
    with pytest.raises(BadReferenceError, match="cannot be read: no such file"):
        loaded(tmp_path / "nothing.safetensors", cache)
    with pytest.raises(NotOneFileError):
        loaded(tmp_path, cache)
    for data in (b"", b"1234567", DATA[:-1], bytes(9)):
        with pytest.raises(NotWeightsError):
            loaded(at(tmp_path, data), cache)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x80\x04}q\x00.", "a pickle, which may run any code"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs"),
        (b"", "empty"),
        (DATA[:-1], "broken safetensors"),
    ],
    ids=["pickle", "pointer", "empty", "cut off"],
)
def test_what_is_at_a_path_instead_is_said_as_for_a_url(
    tmp_path: Path, cache: WeightsDownloadCache, data: bytes, said: str
) -> None:
    with pytest.raises(NotWeightsError, match=said):
        loaded(at(tmp_path, data), cache)


def test_the_digest_of_a_path_is_compared(tmp_path: Path, cache: WeightsDownloadCache) -> None:
    path = at(tmp_path, DATA)
    assert same(loaded(path, cache, digest=sha256(DATA)), MADE)
    with pytest.raises(DigestMismatchError):
        loaded(path, cache, digest="0" * 64)


def test_tensors_come_out_of_an_archive(server: Server, cache: WeightsDownloadCache) -> None:
    data = tar_of({"folder/lora.safetensors": DATA, "readme": b"words"})
    url = serve(server, data, "/lora.tar")
    assert same(loaded(url, cache, only="a."), {name: MADE[name] for name in MADE if "a." in name})
    assert same(loaded(url, cache), MADE)


def test_without_a_cache_it_is_the_one_that_the_environment_names(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGET_CACHE_DIR", str(tmp_path / "usual"))
    monkeypatch.setenv("PGET_MIN_DISK_FREE", "0")
    url = serve(server, DATA, "/model.safetensors")
    assert same(tensors.load(url, framework="numpy"), MADE)
    with opened(tmp_path / "usual") as cache:
        assert cache.lookup(url) is not None


# ------------------------------------------------------------------------------------ what they are


@pytest.mark.parametrize("pad", range(8))
def test_every_dtype_is_the_one_of_the_format(
    tmp_path: Path, cache: WeightsDownloadCache, pad: int
) -> None:
    made = {"odd": Made("U8", [3], b"abc"), **of_each([*BY_NUMPY, *BY_ML_DTYPES])}
    found = loaded(at(tmp_path, file_of(made, pad=pad)), cache)
    assert same(found, made)
    for name, dtype in {**BY_NUMPY, **BY_ML_DTYPES}.items():
        assert (found[name].dtype.name, found[name].shape) == (dtype, (2, 3))
        assert found[name].flags.aligned
        assert found[name].flags.writeable


def test_scalars_and_what_is_empty_are_what_they_are(
    tmp_path: Path, cache: WeightsDownloadCache
) -> None:
    made = {
        "nothing": Made("F32", [0], b""),
        "scalar": Made("F64", [], struct.pack("<d", 1.5)),
        "flat": Made("F16", [3, 0, 2], b""),
        "one": Made("I64", [1, 1], struct.pack("<q", -7)),
        "last": Made("BF16", [0], b""),
    }
    found = loaded(at(tmp_path, file_of(made)), cache)
    assert list(found) == list(made)
    assert [found[name].shape for name in made] == [tuple(each.shape) for each in made.values()]
    assert (found["scalar"][()], found["one"][0, 0]) == (1.5, -7)
    assert loaded(at(tmp_path, file_of({})), cache) == {}


def test_dtype_is_for_what_is_of_floating_point(
    tmp_path: Path, cache: WeightsDownloadCache
) -> None:
    names = ["F16", "F32", "F64", "BF16", "F8_E4M3", "I32", "BOOL", "C64"]
    path = at(tmp_path, file_of({**of_each(names), "v": Made("F32", [1], struct.pack("<f", 0.5))}))
    plain = loaded(path, cache)
    for dtype in ("float32", np.float16, "bfloat16"):
        with np.errstate(all="ignore"):
            found = loaded(path, cache, dtype=dtype)
        kinds = {name: found[name].dtype.name for name in names}
        wanted = getattr(dtype, "__name__", dtype)
        assert kinds == {**dict.fromkeys(names[:5], wanted), "I32": "int32", "BOOL": "bool",
                         "C64": "complex64"}  # fmt: skip
        assert found["v"][0] == 0.5
        for name in names:
            with np.errstate(all="ignore"):
                expected = plain[name].astype(found[name].dtype)
            assert found[name].tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", ["float33", "torch.float32", object()])
def test_what_is_no_dtype_is_said_to_be_none(cache: WeightsDownloadCache, dtype: Any) -> None:
    if not isinstance(dtype, str):
        dtype = [dtype]
    with pytest.raises(BadSettingError, match="dtype"):
        loaded("https://host/x.safetensors", cache, dtype=dtype)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda name: monkeypatch.setitem(sys.modules, name, None)


def test_without_ml_dtypes_bfloat16_is_widened_and_the_rest_is_refused(
    tmp_path: Path, cache: WeightsDownloadCache, without: Any
) -> None:
    made = of_each(BY_ML_DTYPES)
    path = at(tmp_path, file_of({"odd": Made("U8", [1], b"a"), **made}))
    right = loaded(path, cache, only=["BF16"])["BF16"].astype("float32")
    without("ml_dtypes")
    for name in BY_ML_DTYPES:
        with pytest.raises(MissingPackageError, match="ml_dtypes"):
            loaded(path, cache, only=[name])
    found = loaded(path, cache, dtype="float32", only=["BF16"])["BF16"]
    assert (found.dtype, found.tobytes()) == (np.float32, right.tobytes())
    assert loaded(path, cache, dtype="float64", only=["BF16"])["BF16"].dtype == np.float64
    with pytest.raises(MissingPackageError, match="ml_dtypes"):
        loaded(path, cache, dtype="bfloat16", only=["BF16"])
    with pytest.raises(MissingPackageError, match="ml_dtypes"):
        loaded(path, cache, dtype="float32", only=["F8_E5M2"])


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F99_NEW"])
def test_a_dtype_that_numpy_has_not_is_named_and_does_not_hinder_others(
    tmp_path: Path, cache: WeightsDownloadCache, dtype: str
) -> None:
    size = {"F4": 4, "F6_E2M3": 6}.get(dtype, 5)
    made = {"strange": Made(dtype, [8], bytes(size)), "usual": floats(4)}
    path = at(tmp_path, file_of(made))
    with pytest.raises(MissingPackageError, match=f"strange.*{dtype}"):
        loaded(path, cache)
    assert same(loaded(path, cache, only=["usual"]), {"usual": made["usual"]})


def test_frameworks_and_devices_that_are_not_there_are_named(
    cache: WeightsDownloadCache, without: Any
) -> None:
    url = "https://host/x.safetensors"
    with pytest.raises(BadSettingError, match="framework"):
        tensors.load(url, cache=cache, framework="jax")
    with pytest.raises(BadSettingError, match="device"):
        loaded(url, cache, device="cuda")
    without("torch")
    with pytest.raises(MissingPackageError, match="torch is not installed"):
        tensors.load(url, cache=cache, framework="torch")
    with pytest.raises(MissingPackageError, match="torch is not installed"):
        tensors.load_into(object(), url, cache=cache)
    without("numpy")
    with pytest.raises(MissingPackageError, match="torch or numpy is not installed"):
        tensors.load(url, cache=cache)


def test_the_package_needs_neither_torch_nor_numpy_to_be_imported() -> None:
    code = (
        "import sys, pgetpy\n"
        "for name in ('numpy', 'torch', 'ml_dtypes'): sys.modules[name] = None\n"
        "import pgetpy.tensors\n"
        "try: pgetpy.tensors.load('https://host/x')\n"
        "except pgetpy.errors.MissingPackageError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert "torch or numpy is not installed" in ended.stdout


def test_a_folder_is_no_tensors(cache: WeightsDownloadCache) -> None:
    with pytest.raises(UsageError, match="folder"):
        loaded("https://host/x.tar", cache, wanted="folder")


# ------------------------------------------------------------------------------ what they outlive


def test_to_change_a_tensor_does_not_change_the_cache(
    server: Server, cache: WeightsDownloadCache
) -> None:
    url = serve(server, DATA, "/model.safetensors")
    for _ in range(2):
        for array in loaded(url, cache).values():
            array[:] = -1
    assert cache.ensure(url).read_bytes() == DATA
    assert same(loaded(url, cache), MADE)


def test_tensors_outlive_their_entry_and_the_cache(server: Server, tmp_path: Path) -> None:
    url = serve(server, DATA, "/model.safetensors")
    with opened(tmp_path / "cache", max_bytes=len(DATA) + 100_000) as cache:
        fetched, mapped = loaded(url, cache), loaded(url, cache)
        parts = loaded(url, cache, only="a.")
        other = serve_many(server, "x", len(DATA))["x"]
        path = cache.ensure(url)
        with opened(tmp_path / "cache", max_bytes=len(DATA) + 100_000) as same_cache:
            same_cache.ensure(other)
        cache.remove(url)
        assert not path.exists()
        assert same(fetched, MADE)
    gc.collect()
    assert same(mapped, MADE)
    assert same(parts, {name: MADE[name] for name in parts})
    mapped["a.bias"][:] = 0
    assert not mapped["a.bias"].any()


def open_files(folder: Path) -> list[str]:
    """The files below `folder`, and those in memory, that are open or mapped by a descriptor."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return sorted(each for each in found if each.startswith((str(folder), "/memfd:pgetpy")))


def readers() -> int:
    return sum(thread.name == "pgetpy-reader" for thread in threading.enumerate())


def test_what_is_being_loaded_does_not_leave_the_cache(
    server: Server, cache: WeightsDownloadCache
) -> None:
    url = serve(server, DATA, "/model.safetensors")
    cache.ensure(url)
    with opened(cache.path) as other:
        coming = tensors.stream(url, cache=cache, framework="numpy")
        next(coming)
        with pytest.raises(CacheError, match="held by"):
            other.remove(url)
        coming.close()  # type: ignore[attr-defined]
        other.remove(url)
        assert same(loaded(url, cache), MADE)
        other.remove(url)
        with pytest.raises(BadSettingError):
            loaded(url, cache, only="q")
        cache.ensure(url)
        other.remove(url)


@pytest.mark.skipif(sys.platform != "linux", reason="counts what /proc tells of")
def test_descriptors_and_threads_are_given_back(
    server: Server, cache: WeightsDownloadCache, tmp_path: Path
) -> None:
    url = serve(server, DATA, "/model.safetensors")
    there = at(tmp_path, DATA)

    def use() -> None:
        loaded(url, cache)
        loaded(there, cache)
        cache.remove(url)
        loaded(url, cache, only="a.")
        for _ in tensors.stream(there, cache=cache, framework="numpy"):
            pass
        next(tensors.stream(url, cache=cache, framework="numpy"))
        with pytest.raises(DigestMismatchError):
            loaded(url, cache, digest="0" * 64)

    use()
    eventually(lambda: server.open == 0 and readers() == 0)
    cache.settle(30)
    gc.collect()
    before = open_files(tmp_path)
    for _ in range(5):
        use()
    eventually(lambda: server.open == 0)
    cache.settle(30)
    eventually(lambda: readers() == 0)
    gc.collect()
    eventually(lambda: open_files(tmp_path) == before)


@pytest.mark.skipif(sys.platform != "linux", reason="counts what /proc tells of")
def test_what_is_held_is_one_descriptor_a_file(cache: WeightsDownloadCache, tmp_path: Path) -> None:
    many = {f"{number}": floats(1000, str(number)) for number in range(300)}
    path = at(tmp_path, file_of(many))
    found = loaded(path, cache)
    eventually(lambda: readers() == 0)
    gc.collect()
    assert len(open_files(path)) <= 1
    assert same(found, many)
    del found
    gc.collect()
    assert open_files(path) == []


def test_metadata_is_no_tensor(tmp_path: Path, cache: WeightsDownloadCache) -> None:
    header = {"__metadata__": {"format": "pt"}, "x": {"dtype": "U8", "shape": [1],
              "data_offsets": [0, 1]}}  # fmt: skip
    head = json.dumps(header).encode()
    path = at(tmp_path, struct.pack("<Q", len(head)) + head + b"a")
    assert list(loaded(path, cache)) == ["x"]
