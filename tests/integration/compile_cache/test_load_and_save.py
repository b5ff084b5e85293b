"""What one machine saves, another one loads: whole, exact, and no more than it should."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pgetpy.compile_cache import CompileCache, CompileCacheResult
from pgetpy.core.references.policy import Policy
from pgetpy.errors import BadSettingError, NotAllowedError
from pgetpy.settings import Settings
from tests.support.compile_trees import Machine, contents, elf, install_torch

Machines = Callable[[str], Machine]


@pytest.fixture
def location(tmp_path: Path) -> Path:
    return tmp_path / "location"


def filled(machine: Machine) -> Machine:
    for _ in range(3):
        machine.inductor.graph()
        machine.inductor.kernel("triton/0/")
        machine.triton.kernel()
    machine.inductor.table("k1", {"a": 1})
    machine.inductor.write("locks/x.lock", b"")
    headers = machine.home / f"torchinductor_{_user()}" / "precompiled_headers"
    headers.mkdir(parents=True)
    (headers / "cabc.h").write_bytes(b"#include <x>\n")
    (headers / "cabc.h.gch").write_bytes(b"gpch" * 1000)
    return machine


def _user() -> str:
    import getpass

    return getpass.getuser()


def saved(machine: Machine, location: Path, **options: object) -> CompileCacheResult:
    result = machine.cache(location, **options).save()
    assert result.outcome == "saved", result
    return result


def test_another_machine_gets_every_file_and_nothing_else(
    machine: Machines, location: Path
) -> None:
    one, two = filled(machine("one")), machine("two")
    there = saved(one, location)
    result = two.cache(location).load()
    assert (result.outcome, result.reason, result.key) == ("loaded", "", there.key)
    assert result.entries == there.entries
    expected = {name: data for name, data in contents(one.home).items() if "locks/" not in name}
    expected["inductor/cache/k1"] = b'{"a":1}'
    found = contents(two.home)
    assert found.keys() == expected.keys()
    for name, data in expected.items():
        mine = data.replace(str(one.home).encode(), str(two.home).encode())
        assert found[name] == mine, name


@pytest.mark.parametrize("first", [1, 4, 40, 63])
def test_a_shared_object_may_begin_just_before_the_end_of_a_block(
    machine: Machines, location: Path, first: int
) -> None:
    """Packs are read in blocks of 1 MiB; where a file begins in one depends on those before it."""
    one, two = machine("one"), machine("two")
    one.inductor.write("ab/cab.py", b"#" * (2**20 - first))
    one.inductor.write("ab/cab.so", elf(b"code"))
    saved(one, location)
    result = two.cache(location).load()
    assert (result.outcome, result.left_out) == ("loaded", [])
    assert contents(two.home) == contents(one.home)


def test_files_are_their_owners_alone(machine: Machines, location: Path) -> None:
    two = machine("two")
    saved(filled(machine("one")), location)
    two.cache(location).load()
    for root in (two.inductor.root, two.triton.root, location / "v1"):
        for path in root.rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_times_are_kept_for_compilers_that_compare_them(machine: Machines, location: Path) -> None:
    one, two = machine("one"), machine("two")
    wrapper = one.inductor.graph()[0]
    os.utime(wrapper, ns=(10**18, 10**18 + 7))
    saved(one, location)
    two.cache(location).load()
    there = two.inductor.root / wrapper.relative_to(one.inductor.root)
    assert there.stat().st_mtime_ns == 10**18 + 7


def test_what_is_saved_already_is_not_saved_again(machine: Machines, location: Path) -> None:
    one = filled(machine("one"))
    saved(one, location)
    before = contents(location)
    result = one.cache(location).save()
    assert (result.outcome, result.bytes) == ("unchanged", 0)
    assert contents(location) == before


def test_a_second_save_holds_only_what_is_new(machine: Machines, location: Path) -> None:
    one, two = filled(machine("one")), machine("two")
    first = saved(one, location)
    one.inductor.graph()
    second = saved(one, location)
    assert second.entries == 5
    assert second.bytes < first.bytes
    two.cache(location).load()
    assert len(list((two.inductor.root / "fxgraph").rglob("f*"))) >= 4


def test_what_is_here_stays(machine: Machines, location: Path) -> None:
    one, two = machine("one"), machine("two")
    wrapper, _, library, *_ = one.inductor.graph()
    saved(one, location)
    mine = two.inductor.write(str(library.relative_to(one.inductor.root)), elf(b"another build"))
    two.cache(location).load()
    assert mine.read_bytes() == elf(b"another build")
    assert (two.inductor.root / wrapper.relative_to(one.inductor.root)).exists()


def test_replicas_that_save_at_different_times_are_united(
    machine: Machines, location: Path
) -> None:
    machines = [machine(f"m{n}") for n in range(3)]
    for number, each in enumerate(machines):
        each.inductor._random.seed(number)
        each.inductor.graph()
        each.inductor.table("k", {f"of {number}": number})
        saved(each, location)
    last = machine("last")
    result = last.cache(location).load()
    assert result.outcome == "loaded"
    assert len(list(last.inductor.root.rglob("*.so"))) == 3
    table = json.loads((last.inductor.root / "cache/k").read_bytes())
    assert table == {"of 0": 0, "of 1": 1, "of 2": 2}
    # What was united is saved once, and then there is nothing new.
    assert last.cache(location).save().outcome == "saved"
    assert last.cache(location).save().outcome == "unchanged"


def test_a_kernel_whose_group_lacks_a_file_is_not_saved(machine: Machines, location: Path) -> None:
    one = machine("one")
    folder = one.triton.kernel()
    (folder / "kernel.ptx").unlink()
    result = one.cache(location).save()
    assert result.outcome == "unchanged"
    assert "lacks kernel.ptx" in result.reason


def test_a_kernel_that_is_half_there_is_completed(machine: Machines, location: Path) -> None:
    one, two = machine("one"), machine("two")
    folder = one.triton.kernel()
    saved(one, location)
    two.triton.write(f"{folder.name}/kernel.ptx", (folder / "kernel.ptx").read_bytes())
    two.cache(location).load()
    group = json.loads((two.triton.root / folder.name / "__grp__kernel.json").read_bytes())
    for path in group["child_paths"].values():
        assert Path(path).is_file()
        assert Path(path).is_relative_to(two.triton.root)


def test_a_rank_of_vllm_travels_whole_and_is_never_mixed(machine: Machines, location: Path) -> None:
    one, two, three = machine("one"), machine("two"), machine("three")
    for each in (one, three):
        root = each.home / "vllm" / "torch_compile_cache" / "0a1b2c3d4e" / "rank_0_0" / "backbone"
        root.mkdir(parents=True)
    (root / "of_three").write_bytes(b"3")
    mine = one.home / "vllm" / "torch_compile_cache" / "0a1b2c3d4e" / "rank_0_0" / "backbone"
    (mine / "vllm_compile_cache.py").write_bytes(b"{}\n")
    (mine / "artifact_0").write_bytes(b"x" * 100)
    saved(one, location, kinds=("vllm",))
    assert two.cache(location, kinds=("vllm",)).load().entries == 2
    found = contents(two.home / "vllm")
    assert found == contents(one.home / "vllm")
    assert three.cache(location, kinds=("vllm",)).load().entries == 0
    assert list(contents(three.home / "vllm").values()) == [b"3"]


# -------------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"capability": "default"},
        {"version": "__version__ = '2.14.0'\ngit_version = 'abc'\ncuda = None\n"},
    ],
)
def test_another_key_is_a_miss_that_names_the_difference(
    machine: Machines,
    location: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str],
) -> None:
    monkeypatch.setattr("pgetpy.compile_cache.host.cpu_flags", lambda: frozenset({"avx2", "fma"}))
    there = saved(filled(machine("one")), location)
    if "capability" in change:
        monkeypatch.setenv("ATEN_CPU_CAPABILITY", change["capability"])
    if "version" in change:
        install_torch(tmp_path / "newer", monkeypatch, change["version"])
    result = machine("two").cache(location, name=change.get("name", "")).load()
    assert (result.outcome, result.nearest) == ("miss", there.key)
    name = {"capability": "isa", "version": "torch", "name": "name"}[next(iter(change))]
    assert any(each.startswith(f"{name}: ") for each in result.differing)
    assert contents(machine("two").inductor.root) == {}


def test_shared_objects_that_need_more_than_the_processor_has_stay_away(
    machine: Machines, location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"avx2", "fma", "gfni"}
    monkeypatch.setattr("pgetpy.compile_cache.host.cpu_flags", lambda: frozenset(flags))
    saved(filled(machine("one")), location)
    flags.remove("gfni")
    two = machine("two")
    result = two.cache(location).load()
    assert result.outcome == "partial"
    assert "the processor lacks gfni" in result.reason
    assert not list(two.inductor.root.rglob("*.so"))
    assert list(two.inductor.root.rglob("*.py"))


def test_a_lesser_processor_saves_its_own_shared_objects_and_finds_them_again(
    machine: Machines, location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"avx2", "fma", "gfni"}
    monkeypatch.setattr("pgetpy.compile_cache.host.cpu_flags", lambda: frozenset(flags))
    one = filled(machine("one"))
    saved(one, location)
    flags.remove("gfni")
    two = machine("two")
    cache = two.cache(location)
    cache.load()
    # What a compiler does then.
    for path, data in contents(one.inductor.root).items():
        if path.endswith(".so"):
            two.inductor.write(path, data + b"for less")
    compiled = contents(two.inductor.root)
    saving = cache.save()
    assert saving.entries == sum(path.endswith(".so") for path in compiled)
    assert cache.save().outcome == "unchanged"
    three = machine("three")
    result = three.cache(location).load()
    assert (result.outcome, result.reason) == ("loaded", "")
    assert contents(three.inductor.root) == compiled
    cache.keeper().prune(saving.key)
    machine("four").cache(location).load()
    assert contents(machine("four").inductor.root) == compiled
    flags.add("gfni")
    five = machine("five")
    five.cache(location).load()
    objects = {name: data for name, data in contents(one.inductor.root).items() if ".so" in name}
    assert objects.items() <= contents(five.inductor.root).items()


def test_kernels_of_a_gpu_are_whole_on_any_processor(
    machine: Machines, location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {"avx2", "fma", "gfni"}
    monkeypatch.setattr("pgetpy.compile_cache.host.cpu_flags", lambda: frozenset(flags))
    one = machine("one")
    one.triton.write(f"{one.triton.kernel().name}/kernel.cubin", elf(b"for a GPU"))
    saved(one, location)
    flags.remove("gfni")
    two = machine("two")
    assert two.cache(location).load().outcome == "loaded"
    assert contents(two.triton.root).keys() == contents(one.triton.root).keys()


def test_torch_is_told_the_instruction_set(machine: Machines, location: Path) -> None:
    os.environ["TORCH_COMPILE_CACHE_KEY_TAG"] = "mine"
    result = machine("one").cache(location).load()
    assert result.outcome == "miss"
    assert os.environ["TORCH_COMPILE_CACHE_KEY_TAG"].startswith("mine+isa-")
    machine("one").cache(location).load()
    assert os.environ["TORCH_COMPILE_CACHE_KEY_TAG"].count("isa-") == 1


# --------------------------------------------------------------------- a cache breaks no start


def test_without_torch_nothing_is_done(
    machine: Machines, location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgetpy.compile_cache.host._torch_version", lambda: None)
    cache = machine("one").cache(location)
    for result in (cache.load(), cache.save()):
        assert (result.outcome, result.reason) == (
            "skipped",
            "torch is not installed, so nothing is compiled here",
        )


def test_a_location_that_is_a_file_is_said_to_be_unusable(
    machine: Machines, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    one = filled(machine("one"))
    cache = one.cache(tmp_path / "file")
    assert cache.load().outcome == "miss"
    result = cache.save()
    assert result.outcome == "failed"
    assert "not a directory" in result.reason


def test_a_live_folder_that_cannot_be_written_is_replaced(
    machine: Machines, location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = filled(machine("one")), machine("two")
    saved(one, location)
    two.inductor.graph()
    cache = two.cache(location)
    monkeypatch.setattr(
        "pgetpy.compile_cache.cache.is_ours", lambda folder: folder != two.inductor.root
    )
    assert cache.load().outcome == "loaded"
    own = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert own != two.inductor.root
    assert contents(two.inductor.root).keys() < contents(own).keys()


def test_a_noexec_folder_is_named(
    machine: Machines, location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgetpy.compile_cache.cache.is_noexec", lambda folder: True)
    result = machine("one").cache(location).load()
    assert result.outcome == "skipped"
    assert "noexec" in result.reason


def test_a_uid_without_a_name_has_folders_of_its_number(
    machine: Machines, location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    saved(filled(machine("one")), location)
    monkeypatch.setattr("getpass.getuser", nameless)
    two = machine("two")
    two.boot()
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    cache = CompileCache(location)
    assert cache.folders["inductor"] == two.home / f"torchinductor_uid_{os.getuid()}"
    assert cache.load().outcome == "loaded"
    assert list(cache.folders["inductor"].rglob("*.so"))


def test_without_a_compiler_what_is_saved_is_loaded_all_the_same(
    machine: Machines, location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(filled(machine("one")), location)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert machine("two").cache(location).load().outcome == "loaded"


def test_what_is_too_large_is_not_saved(machine: Machines, location: Path) -> None:
    one = filled(machine("one"))
    result = one.cache(location, max_bytes=1000).save()
    assert result.outcome == "skipped"
    assert "more than max_bytes allows" in result.reason
    assert not location.exists()


def test_a_full_disk_is_a_failed_save_and_nothing_is_left(
    machine: Machines, location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = filled(machine("one"))

    def full(file: object) -> None:
        raise OSError(28, "No space left on device", "pack")

    monkeypatch.setattr("pgetpy.compile_cache.saving.fsync_file", full)
    result = one.cache(location).save()
    assert result.outcome == "failed"
    assert "no space left" in result.reason
    assert contents(location) == {}


@pytest.mark.parametrize(
    "arguments",
    [{"kinds": ("cuda",)}, {"kinds": "inductor"}, {"kinds": ()}, {"mode": "append"}],
)
def test_arguments_that_make_no_sense(
    machine: Machines, location: Path, arguments: dict[str, object]
) -> None:
    with pytest.raises(BadSettingError):
        machine("one").cache(location, **arguments)


@pytest.mark.parametrize("location", ["", "ftp://x/y"])
def test_locations_that_make_no_sense(machine: Machines, location: str) -> None:
    with pytest.raises(BadSettingError):
        machine("one").cache(location)


def test_nothing_is_loaded_for_strangers(machine: Machines, location: Path) -> None:
    with pytest.raises(NotAllowedError):
        machine("one").cache(location, settings=Settings(policy=Policy.public()))


def test_nothing_is_loaded_where_the_environment_says_that_strangers_call(
    machine: Machines, location: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGET_POLICY", "public")
    with pytest.raises(NotAllowedError, match="for URLs from strangers"):
        machine("one").cache(location)


def test_modes(machine: Machines, location: Path) -> None:
    one = filled(machine("one"))
    assert one.cache(location, mode="read").save().outcome == "skipped"
    saved(one, location, mode="write")
    assert machine("two").cache(location, mode="write").load().outcome == "skipped"
    assert machine("two").cache(location, mode="read").load().outcome == "loaded"


def test_torch_is_never_imported(machine: Machines, location: Path) -> None:
    saved(filled(machine("one")), location)
    machine("two").cache(location).load()
    assert "torch" not in sys.modules


# ------------------------------------------------------------------------------------ around


def test_around_loads_before_and_saves_after(machine: Machines, location: Path) -> None:
    one, two = machine("one"), machine("two")
    cache = one.cache(location)
    with cache.around() as loaded:
        assert loaded.outcome == "miss"
        one.inductor.graph()
    assert cache.report().new_files == 0
    one.inductor.graph()
    assert cache.report().new_files == 5
    with two.cache(location).around() as loaded:
        assert (loaded.outcome, loaded.entries) == ("loaded", 5)


def test_a_failed_warm_up_is_not_saved(machine: Machines, location: Path) -> None:
    one = machine("one")

    def fail(cache: CompileCache) -> None:
        with cache.around():
            one.inductor.graph()
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail(one.cache(location))
    assert not location.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_a_live_folder_of_another_user_is_copied_to_the_same_place_at_each_start(
    machine: Machines, location: Path
) -> None:
    one, two = filled(machine("one")), machine("two")
    saved(one, location)
    two.inductor.write("aa/theirs.py", b"# theirs\n")
    os.chown(two.inductor.root, 12345, 12345)
    used = []
    for _ in range(2):
        cache = two.cache(location)
        assert cache.load().outcome == "loaded"
        used.append(cache.folders["inductor"])
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(used[-1])
        assert (used[-1] / "aa/theirs.py").read_bytes() == b"# theirs\n"
        assert contents(used[-1]).items() >= contents(two.inductor.root).items()
    assert used[0] == used[1]
    assert used[0].stat().st_mode & 0o077 == 0
    used[0].chmod(0o777)
    cache = two.cache(location)
    cache.load()
    assert cache.folders["inductor"] != used[0]


def test_tables_with_infinite_times_are_saved_and_united(machine: Machines, location: Path) -> None:
    one, two, three = machine("one"), machine("two"), machine("three")
    one.inductor.graph()
    one.inductor.table("k", {"a": {"x": 1.0}})
    saved(one, location)
    table = two.inductor.table("k", {"a": {"y": float("inf")}})
    assert two.cache(location).load().outcome == "loaded"
    assert json.loads(table.read_bytes()) == {"a": {"x": 1.0, "y": float("inf")}}
    assert contents(two.inductor.root).keys() == contents(one.inductor.root).keys()
    assert two.cache(location).save().entries == 1
    three.cache(location).load()
    assert (three.inductor.root / "cache/k").read_bytes() == table.read_bytes()


def test_a_table_that_is_being_rewritten_does_not_replace_the_one_that_is_loaded(
    machine: Machines, location: Path
) -> None:
    one, two = machine("one"), machine("two")
    one.inductor.table("k", {"a": 1})
    saved(one, location)
    table = two.inductor.table("k", {"b": 2})
    # Between the look at what is here and the rename; older versions of torch write in place.
    two.cache(location).load(lambda *_: table.write_bytes(b""))
    assert json.loads(table.read_bytes()) == {"a": 1}
