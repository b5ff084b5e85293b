"""Damage, malice, kills and crowds: a live folder never holds a wrong or half file."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from pgetpy.compile_cache import CompileCache
from pgetpy.compile_cache.live import STAGE, being_written, remove_damaged, scan_folders
from pgetpy.compile_cache.maintenance import LocationKeeper
from pgetpy.compile_cache.stages import remove_dead_stages, staging
from pgetpy.core.compile_cache.seals import Seal, SealedFile, parse_seal, seal_name
from pgetpy.system.file_locks import try_lock
from tests.support.compile_trees import Machine, contents, elf

Machines = Callable[[str], Machine]


@pytest.fixture
def location(tmp_path: Path) -> Path:
    return tmp_path / "location"


def filled(machine: Machine, graphs: int = 2) -> Machine:
    for _ in range(graphs):
        machine.inductor.graph()
        machine.triton.kernel()
    return machine


def files_of(machine: Machine) -> dict[str, bytes]:
    return {**contents(machine.inductor.root), **contents(machine.triton.root)}


def keeper_of(cache: CompileCache) -> LocationKeeper:
    return cache.keeper()


# -------------------------------------------------------------------------------------- damage


def test_a_flipped_bit_in_any_object_is_never_laid_down(machine: Machines, location: Path) -> None:
    one = filled(machine("one"))
    one.cache(location).save()
    good = files_of(one)
    objects = [path for path in location.rglob("*") if path.is_file()]
    chance = random.Random(5)
    for number in range(60):
        path = objects[number % len(objects)]
        before = path.read_bytes()
        wrong = bytearray(before)
        wrong[chance.randrange(len(wrong))] ^= 1 << chance.randrange(8)
        path.write_bytes(bytes(wrong))
        two = machine(f"two{number}")
        result = two.cache(location).load()
        found = files_of(two)
        assert all(good[name] == data for name, data in found.items())
        if path.name != "env.json":
            assert result.outcome in ("partial", "miss")
            assert not found
        path.write_bytes(before)


def test_the_next_save_replaces_what_is_damaged(machine: Machines, location: Path) -> None:
    one = filled(machine("one"))
    one.cache(location).save()
    (pack,) = (location / "v1").rglob("*.zst")
    pack.write_bytes(pack.read_bytes()[:-100])
    assert machine("two").cache(location).load().outcome == "partial"
    assert one.cache(location).save().outcome == "saved"
    three = machine("three")
    assert three.cache(location).load().outcome in ("loaded", "partial")
    assert files_of(three) == files_of(one)


def test_what_a_damaged_pack_held_is_taken_from_another_one(
    machine: Machines, location: Path
) -> None:
    one, two = filled(machine("one")), machine("two")
    one.cache(location).save()
    (pack,) = (location / "v1").rglob("*.zst")
    pack.write_bytes(bytes(pack.stat().st_size))
    other = two.cache(location)
    # Its size is right, so that reading it is what shows the damage.
    assert other.load().outcome == "partial"
    two.inductor.graph()
    assert other.save().outcome == "saved"
    fresh = machine("fresh")
    assert fresh.cache(location).load().entries == 5
    assert files_of(fresh) == files_of(two)


def test_damaged_files_here_are_removed_so_that_they_are_compiled_again(
    machine: Machines, location: Path
) -> None:
    one, two = machine("one"), machine("two")
    wrapper, _, library, *_ = one.inductor.graph()
    one.cache(location).save()
    two.inductor.write(str(library.relative_to(one.inductor.root)), b"")
    other = two.inductor.write("zz/czz.so", b"\x7fELF")
    result = two.cache(location).load()
    assert len(result.removed) == 2
    assert not other.exists()
    assert (two.inductor.root / library.relative_to(one.inductor.root)).read_bytes() == (
        library.read_bytes()
    )
    assert (two.inductor.root / wrapper.relative_to(one.inductor.root)).exists()


def test_what_is_being_compiled_is_neither_removed_nor_saved(
    machine: Machines, location: Path
) -> None:
    import fcntl

    one = machine("one")
    one.inductor.write("zz/czz.so", b"")
    one.inductor.write("zz/cyy.so", elf(b"whole so far"))
    for name in ("czz", "cyy"):
        one.inductor.write(f"locks/{name}.lock", b"")
    folder = one.inductor.root / "locks"
    locks = [os.open(folder / f"{name}.lock", os.O_RDWR) for name in ("czz", "cyy")]
    for lock in locks:
        fcntl.flock(lock, fcntl.LOCK_EX)
    cache = one.cache(location)
    assert cache.load().removed == []
    assert (one.inductor.root / "zz/czz.so").exists()
    assert cache.save().outcome == "unchanged"
    for lock in locks:
        os.close(lock)
    assert cache.save().entries == 1


def test_two_processes_that_ask_what_is_being_compiled_do_not_see_each_other(
    machine: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = machine("one")
    one.inductor.write("locks/czz.lock", b"")
    folders = {"inductor": one.inductor.root}
    seen = []

    def lock(fd: int, *, shared: bool = False) -> bool:
        got = try_lock(fd, shared=shared)
        monkeypatch.undo()
        seen.append(being_written(folders))  # another one, while this has the lock
        return got

    monkeypatch.setattr("pgetpy.compile_cache.live.try_lock", lock)
    assert being_written(folders) == set()
    assert seen == [set()]


def test_what_was_being_compiled_when_it_was_found_is_not_removed(machine: Machines) -> None:
    one = machine("one")
    folders = {"inductor": one.inductor.root}
    finished = one.inductor.write("zz/czz.so", b"")
    killed = one.inductor.write("zz/cyy.so", b"")
    scan = scan_folders(folders)
    finished.write_bytes(elf(b"whole by now"))
    assert remove_damaged(folders, scan) == ["zz/cyy.so is empty"]
    assert finished.exists()
    assert not killed.exists()


def test_damaged_files_are_not_saved(machine: Machines, location: Path) -> None:
    one = machine("one")
    one.inductor.write("zz/cab.so", elf(b"x" * 1000)[:-1])
    one.inductor.write("cache/k", b"{")
    result = one.cache(location).save()
    assert result.outcome == "unchanged"
    assert len(result.left_out) == 2


# -------------------------------------------------------------------------------------- malice


def forged(location: Path, key: str, files: list[SealedFile], data: bytes) -> None:
    """Write a pack and a seal as somebody who may write to the location."""
    import zstandard

    base = location / "v1" / key
    pack = zstandard.ZstdCompressor().compress(data)
    digest = hashlib.sha256(pack).hexdigest()
    (base / "packs" / f"{digest}.zst").write_bytes(pack)
    (old,) = list((base / "seals").iterdir())
    seal = parse_seal(old.read_bytes(), old.name, key, None)
    sealed = Seal(digest, len(pack), files, seal.environment).to_json(None)
    (base / "seals" / seal_name(sealed, 1)).write_bytes(sealed)


@pytest.mark.parametrize(
    "path",
    [
        "../outside.py",
        "../../outside.py",
        "/tmp/pgetpy-outside.py",
        "aa/../../outside.py",
        "aa/..",
        "locks/x.lock",
        ".bashrc",
        "aa/x.py/../../../outside.py",
    ],
)
def test_hostile_names_are_never_laid_down(
    machine: Machines, location: Path, tmp_path: Path, path: str
) -> None:
    key = filled(machine("one")).cache(location).save().key
    data = b"import os\n"
    forged(
        location,
        key,
        [SealedFile("inductor", path, len(data), hashlib.sha256(data).hexdigest())],
        data,
    )
    two = machine("two")
    two.cache(location).load()
    assert not list(tmp_path.rglob("outside.py"))
    assert not Path("/tmp/pgetpy-outside.py").exists()
    assert files_of(two).keys() == files_of(machine("one")).keys()


def test_links_in_live_folders_are_not_followed(
    machine: Machines, location: Path, tmp_path: Path
) -> None:
    one = filled(machine("one"))
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "cab.py").write_text("password = 1\n")
    (one.inductor.root / "zz").symlink_to(secret)
    (one.inductor.root / "yy").mkdir()
    (one.inductor.root / "yy" / "cab.py").symlink_to(secret / "cab.py")
    one.cache(location).save()
    two = machine("two")
    two.cache(location).load()
    assert not list(two.inductor.root.rglob("cab.py"))


def test_unsigned_seals_are_ignored_where_there_is_a_secret(
    machine: Machines, location: Path
) -> None:
    filled(machine("one")).cache(location).save()
    result = machine("two").cache(location, secret="s").load()
    assert result.outcome == "miss"
    assert "not signed" in result.reason
    assert files_of(machine("two")) == {}
    assert machine("one").cache(location, secret="s").save().outcome == "saved"
    assert machine("three").cache(location, secret=b"s").load().entries


def test_a_folder_that_anybody_may_write_to_is_not_trusted(
    machine: Machines, location: Path
) -> None:
    filled(machine("one")).cache(location).save()
    location.chmod(0o777)
    result = machine("two").cache(location).load()
    assert result.outcome == "failed"
    assert "can be written by anyone" in result.reason
    # As in /tmp, others may not replace what is ours.
    location.chmod(0o1777)
    assert machine("two").cache(location).load().outcome == "loaded"


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_a_folder_of_another_user_is_not_trusted(machine: Machines, location: Path) -> None:
    filled(machine("one")).cache(location, secret="s").save()
    os.chown(location, 12345, 12345)
    result = machine("two").cache(location).load()
    assert result.outcome == "failed"
    assert "belongs to another user" in result.reason
    assert machine("two").cache(location, secret="s").load().outcome == "loaded"


def test_a_pack_that_claims_to_be_huge_stays_small_in_memory(
    machine: Machines, location: Path
) -> None:
    key = filled(machine("one")).cache(location).save().key
    size = 1 << 40
    forged(location, key, [SealedFile("inductor", "aa/c.py", size, "0" * 64)], b"x" * 1000)
    result = machine("two").cache(location).load()
    assert result.outcome == "partial"
    assert "larger than any such file" in result.reason


# --------------------------------------------------------------------------------------- kills

_KILLED = """
import os, sys
sys.path.insert(0, os.environ["MADE_UP_TORCH"])
from pgetpy.compile_cache import CompileCache
from pgetpy.compile_cache import host
host.gpu_names = lambda: []
left = int(sys.argv[3])
def hook(event, args):
    global left
    if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.unlink", "os.utime", "os.rmdir"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), 9)
cache = CompileCache(sys.argv[1])
sys.addaudithook(hook)
result = getattr(cache, sys.argv[2])()
left = 0
print(result.outcome)
"""


def killed(machine: Machine, location: Path, what: str, calls: int) -> bool:
    """Run `what` in a process that is killed at one of its calls; whether it came that far."""
    machine.boot()
    site = next(path for path in sys.path if (Path(path) / "torch" / "version.py").exists())
    environ = {**os.environ, "MADE_UP_TORCH": site, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(location), what, str(calls)],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def check_kills(machine: Machines, location: Path, what: str, steps: Iterable[int]) -> int:
    """Kill `what` at each of these calls; return how many runs came so far."""
    one = filled(machine("one"))
    good = files_of(one)
    if what == "load":
        one.cache(location).save()
    kills = 0
    for calls in steps:
        two = machine(f"two{calls}")
        if what == "load":
            kills += killed(two, location, what, calls)
            assert all(good[name] == data for name, data in files_of(two).items())
            there = location
        else:
            there = location.with_name(f"location{calls}")
            kills += killed(one, there, what, calls)
            two.cache(there).load()
            assert all(good[name] == data for name, data in files_of(two).items())
            assert one.cache(there).save().outcome in ("saved", "unchanged")
        # The next one completes it, and clears away what was left.
        assert machine(f"two{calls}").cache(there).load().outcome == "loaded"
        assert files_of(two) == good
    return kills


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("what", "most"), [("load", 150), ("save", 90)])
def test_a_process_that_is_killed_at_some_call_leaves_whole_files(
    machine: Machines, location: Path, what: str, most: int
) -> None:
    assert check_kills(machine, location, what, range(1, most, most // 5)) >= 3


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("what", "most", "least"), [("load", 200, 120), ("save", 60, 40)])
def test_a_process_that_is_killed_at_any_of_its_calls_leaves_whole_files(
    machine: Machines, location: Path, what: str, most: int, least: int
) -> None:
    assert check_kills(machine, location, what, range(1, most)) >= least


# -------------------------------------------------------------------------------------- crowds


def test_eight_savers_at_once_lose_nothing(machine: Machines, location: Path) -> None:
    machines = [machine(f"m{number}") for number in range(8)]
    caches = []
    for number, each in enumerate(machines):
        each.inductor._random.seed(number)
        each.triton._random.seed(100 + number)
        filled(each, 1)
        caches.append(each.cache(location))
    threads = [threading.Thread(target=cache.save) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = machine("last")
    assert last.cache(location).load().outcome == "loaded"
    expected: dict[str, bytes] = {}
    for each in machines:
        expected |= files_of(each)
    assert files_of(last) == expected
    keeper = keeper_of(last.cache(location))
    (listed,) = keeper.listings()
    assert keeper.verify(listed.key, repair=False).damaged == []


def test_a_seal_that_is_seen_before_its_pack_is_left_out(
    machine: Machines, location: Path, tmp_path: Path
) -> None:
    filled(machine("one")).cache(location).save()
    (pack,) = (location / "v1").rglob("*.zst")
    hidden = tmp_path / "hidden"
    pack.rename(hidden)
    two = machine("two")
    result = two.cache(location).load()
    assert files_of(two) == {}
    assert "its pack is not there" in result.reason
    hidden.rename(pack)
    assert machine("two").cache(location).load().outcome == "loaded"


def test_two_loads_at_once_agree(machine: Machines, location: Path) -> None:
    one = filled(machine("one"), 10)
    one.cache(location).save()
    two = machine("two")
    caches = [two.cache(location) for _ in range(4)]
    threads = [threading.Thread(target=cache.load) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert files_of(two) == files_of(one)
    assert not list(two.home.rglob(".pgetpy-stage-*"))


@pytest.mark.parametrize("moment", ["mkdir", "open"])
def test_a_new_stage_that_another_process_takes_for_a_dead_one_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Ranks of a model start at once: one makes its stage while another looks for dead ones."""
    live, removed = tmp_path / "live", []
    call: Callable[..., object] = getattr(os, moment)

    def then_another_cleans(path: Path, *args: object, **options: object) -> object:
        done = call(path, *args, **options)
        if Path(path).name.startswith(STAGE) and not removed:
            removed.append(path)
            remove_dead_stages(live)
        return done

    monkeypatch.setattr(os, moment, then_another_cleans)
    with staging(live) as stage:
        remove_dead_stages(live)
        assert list(live.iterdir()) == [stage] != removed
    assert not list(live.iterdir())


def test_a_new_stage_that_another_process_is_removing_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, locks = tmp_path / "live", []
    make = os.mkdir

    def another_locks(path: Path, *args: int) -> None:
        make(path, *args)
        if Path(path).name.startswith(STAGE) and not locks:
            locks.append(os.open(path, os.O_RDONLY))
            assert try_lock(locks[0])

    monkeypatch.setattr(os, "mkdir", another_locks)
    with staging(live) as stage:
        assert os.fstat(locks[0]).st_ino != stage.stat().st_ino
    os.close(locks[0])


def test_a_load_is_really_cancelled(machine: Machines, location: Path) -> None:
    one = filled(machine("one"), 30)
    one.cache(location).save()
    two = machine("two")
    begun, go_on = threading.Event(), threading.Event()

    def progress(done: int, total: int) -> None:
        begun.set()
        go_on.wait(30)

    operation = two.cache(location).load_async(progress)
    assert begun.wait(30)
    canceller = threading.Thread(target=operation.cancel)
    canceller.start()
    while not operation._flag.is_set:
        pass
    go_on.set()
    canceller.join(30)
    assert operation.result.outcome == "cancelled"
    assert files_of(two) == {}
    assert not list(two.home.rglob(".pgetpy-stage-*"))


# ---------------------------------------------------------------------------------- maintenance


def test_verify_finds_damage_and_repair_makes_room_for_the_next_save(
    machine: Machines, location: Path
) -> None:
    one = filled(machine("one"))
    key = one.cache(location).save().key
    (pack,) = (location / "v1").rglob("*.zst")
    pack.write_bytes(bytes(pack.stat().st_size))
    keeper = keeper_of(one.cache(location))
    assert len(keeper.verify(key, repair=False).damaged) == 1
    assert len(keeper.verify(key, repair=True).removed) == 2
    assert keeper.verify(key, repair=False).damaged == []
    assert one.cache(location).save().outcome == "saved"
    three = machine("three")
    three.cache(location).load()
    assert files_of(three) == files_of(one)


def test_prune_joins_packs_and_changes_nothing_for_a_load(
    machine: Machines, location: Path
) -> None:
    first = filled(machine("m0"))
    first.cache(location).save()
    # Seven replicas that saw no seal yet have saved nearly the same, each with something new.
    for number in range(1, 8):
        each = machine(f"m{number}")
        for path, data in contents(first.inductor.root).items():
            each.inductor.write(path, data)
        each.inductor._random.seed(number)
        each.inductor.graph(500)
        hidden = location.with_name("hidden")
        location.rename(hidden)
        each.cache(location).save()
        for path in [path for path in location.rglob("*") if path.is_file()]:
            target = hidden / path.relative_to(location)
            path.replace(target)
        for folder in sorted(location.rglob("*"), reverse=True):
            folder.rmdir()
        location.rmdir()
        hidden.rename(location)
    two = machine("two")
    two.cache(location).load()
    before = files_of(two)
    keeper = keeper_of(two.cache(location))
    (listed,) = keeper.listings()
    assert listed.packs == 8
    gained = keeper.prune(listed.key)
    assert gained > 0
    (after,) = keeper.listings()
    assert after.packs < listed.packs
    assert after.size == listed.size - gained
    three = machine("three")
    assert three.cache(location).load().outcome == "loaded"
    assert files_of(three) == before
    assert keeper.prune(listed.key) == 0
    assert keeper.verify(listed.key, repair=False).damaged == []


def test_rm_leaves_nothing_of_a_key(machine: Machines, location: Path) -> None:
    one = filled(machine("one"))
    key = one.cache(location, name="a").save().key
    one.cache(location, name="b").save()
    keeper = keeper_of(one.cache(location))
    assert keeper.remove(keeper.find(key[:8])) > 0
    (left,) = keeper.listings()
    assert left.environment is not None
    assert left.environment.required["name"] == "b"
    assert not list((location / "v1").glob(f"{key}*"))


def test_a_seal_with_an_offset_that_is_wrong_is_damage(machine: Machines, location: Path) -> None:
    one = filled(machine("one"))
    key = one.cache(location).save().key
    (old,) = (location / "v1" / key / "seals").iterdir()
    seal = parse_seal(old.read_bytes(), old.name, key, None)
    shifted = [replace(each, offset=each.offset + 1) for each in seal.files]
    data = replace(seal, files=shifted).to_json(None)
    old.unlink()
    (old.parent / seal_name(data, 1)).write_bytes(data)
    result = machine("two").cache(location).load()
    assert result.outcome == "partial"
    assert files_of(machine("two")) == {}
    assert json.dumps(result.as_record())


def test_a_kernel_that_loses_a_file_while_it_is_saved_is_not_saved(
    machine: Machines, location: Path
) -> None:
    one = machine("one")
    one.inductor.graph()
    lost = one.triton.kernel() / "kernel.ttir"
    result = one.cache(location).save(lambda *_: lost.unlink(missing_ok=True))
    assert result.outcome == "saved"
    assert len(result.left_out) == 1
    two = machine("two")
    assert two.cache(location).load().entries == 5
    assert not contents(two.triton.root)


def test_a_kernel_of_which_a_file_cannot_be_used_is_not_laid_down(
    machine: Machines, location: Path
) -> None:
    one, two = filled(machine("one")), machine("two")
    key = one.cache(location).save().key
    (old,) = (location / "v1" / key / "seals").iterdir()
    seal = parse_seal(old.read_bytes(), old.name, key, None)
    wrong = seal.files[-1]
    assert wrong.kind == "triton"
    files = [*seal.files[:-1], replace(wrong, sha256="0" * 64)]
    data = replace(seal, files=files).to_json(None)
    old.unlink()
    (old.parent / seal_name(data, 1)).write_bytes(data)
    assert two.cache(location).load().outcome == "partial"
    kernels = [path for path in contents(two.triton.root) if path.endswith(".ttir")]
    assert len(kernels) == 1
    assert len(contents(two.triton.root)) == 5


def test_an_empty_file_of_a_joined_pack_may_share_its_offset(
    machine: Machines, location: Path
) -> None:
    key = filled(machine("one")).cache(location, kinds=("inductor", "triton", "vllm")).save().key
    text = b"# text\n"
    files = [
        SealedFile("vllm", "abc/rank_0_0/__init__.py", 0, hashlib.sha256().hexdigest()),
        SealedFile("inductor", "zz/czz.py", len(text), hashlib.sha256(text).hexdigest()),
    ]
    forged(location, key, files, text)
    two = machine("two")
    result = two.cache(location, kinds=("inductor", "triton", "vllm")).load()
    assert result.outcome == "loaded", result.reason
    assert (two.inductor.root / "zz/czz.py").read_bytes() == text
    assert (two.home / "vllm/torch_compile_cache/abc/rank_0_0/__init__.py").exists()
