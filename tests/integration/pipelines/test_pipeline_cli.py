"""`pgetpy pipeline`: what people and programs see of plans and of pipelines on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pgetpy.cli import main
from pgetpy.cli.command_table import SUBCOMMANDS
from tests.support.hub import Hub
from tests.support.resources import Resource
from tests.support.secrets import TOKEN
from tests.support.server import Server
from tests.support.weights import weights

Run = Callable[..., tuple[int, str, str]]

UNET = "unet/diffusion_pytorch_model.safetensors"
FILES = {
    "model_index.json": b'{"_class_name": "P", "unet": ["diffusers", "UNet2DConditionModel"]}',
    "unet/config.json": b'{"a": 1}',
    UNET: weights(5000, "unet"),
}
BASE = "hf://owner/name"
LORA = weights(700, "lora")


@pytest.fixture
def run(
    hub: Hub, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Run the command line in an empty folder, with one repository on the Hub."""
    hub.repo("owner/name", FILES)
    monkeypatch.chdir(tmp_path)
    environ = {
        "PGET_MIN_DISK_FREE": "0",
        "PGET_CACHE_DIR": str(tmp_path / "cache"),
        "HF_ENDPOINT": hub.url(""),
    }

    def carry_out(*argv: str) -> tuple[int, str, str]:
        status = main(["pipeline", *argv], environ=environ)
        out, err = capsys.readouterr()
        return status, out, err

    return carry_out


def build(run: Run, *flags: str) -> dict[str, str]:
    status, out, _ = run("build", BASE, "--json", "--progress=none", *flags)
    assert status == 0
    found: dict[str, str] = json.loads(out)
    return found


def test_a_plan_says_what_would_be_fetched_and_from_where(run: Run, hub: Hub) -> None:
    status, out, _ = run("plan", BASE, "--progress=none")
    lines = out.splitlines()
    assert status == 0
    assert lines[0] == "P"
    assert any(line.split()[:1] == ["fetch"] and UNET in line for line in lines)
    host = hub.url("").partition("//")[2].rstrip("/")
    assert "2 to fetch" in lines[-1]
    assert host in lines[-1]
    build(run)
    _, out, _ = run("plan", BASE, "--json")
    plan = json.loads(out)
    assert plan["bytes_to_fetch"] == 0
    assert {each["path"] for each in plan["files"]} == set(FILES)


def test_a_key_is_the_same_in_all_ways_to_say_it(run: Run, tmp_path: Path) -> None:
    _, key, _ = run("key", BASE, "--dtype", "float16")
    (tmp_path / "spec.json").write_text(json.dumps({"base": BASE, "dtype": "float16"}))
    assert run("key", "spec.json") == (0, key, "")
    _, other, _ = run("key", "spec.json", "--dtype", "float32")
    assert len(key.strip()) == 64
    assert other != key


def test_build_prints_the_folder_and_the_loras(run: Run, server: Server) -> None:
    url = server.add("/lora.safetensors", Resource(LORA))
    status, out, _ = run("build", BASE, "--lora", f"{url} 0.5", "--lora", url, "--progress=none")
    folder, *loras = out.splitlines()
    assert status == 0
    assert {name: (Path(folder) / name).read_bytes() for name in FILES} == FILES
    assert [Path(each).read_bytes() for each in loras] == [LORA, LORA]
    base = json.loads(run("ls", "--json")[1])["key"]
    (key,) = json.loads(run("show", base[:8], "--json")[1])["compositions"]
    assert f"{key[:8]}  {url} 0.5, {url} 1.0" in run("show", base[:8])[1]
    shown = json.loads(run("show", key[:12], "--json")[1])
    assert (shown["key"], shown["base_key"]) == (key, base)
    assert [each["scale"] for each in shown["asked"]["loras"]] == [0.5, 1.0]


def test_progress_counts_each_file_once(run: Run) -> None:
    _, _, err = run("build", BASE, "--progress=json")
    events = [json.loads(line) for line in err.splitlines()]
    queued = [(each["files"], each["total"]) for each in events if each["event"] == "queued"]
    assert queued == [(3, sum(map(len, FILES.values())))]
    ended = [each["key"] for each in events if each["event"] == "finished"]
    assert len(ended) == len(set(ended)) == len(FILES)


def test_what_is_on_disk_is_listed_shown_verified_and_removed(run: Run) -> None:
    built = build(run)
    beginning = built["base_key"][:8]
    _, out, _ = run("ls")
    assert beginning in out
    assert BASE in out
    assert "1 pipeline, " in out
    listed = json.loads(run("ls", "--json")[1])
    assert listed["path"] == built["path"]
    _, out, _ = run("show", beginning)
    assert UNET in out
    shown = json.loads(run("show", beginning, "--json")[1])
    assert shown["asked"]["base"] == BASE
    assert run("verify")[:2] == (0, f"{beginning}  sound\n")
    assert run("gc", "--json")[:2] == (0, f'{{"removed": [], "kept": {listed["size"]}}}\n')
    assert run("rm", beginning)[:2] == (0, f"removed {beginning}\n")
    status, out, _ = run("ls")
    assert status == 0
    assert out.startswith("There are no pipelines in ")


def test_a_damaged_file_is_named(run: Run) -> None:
    built = build(run)
    content = (Path(built["path"]) / UNET).resolve()
    content.chmod(0o644)
    content.write_bytes(weights(5000, "other"))
    beginning = built["base_key"][:8]
    assert run("verify")[:2] == (1, f"{beginning}  damaged or missing: {UNET}\n")
    status, out, _ = run("verify", "--json", beginning)
    assert (status, json.loads(out)["damaged"]) == (1, [UNET])


def test_a_damaged_manifest_can_be_removed(run: Run) -> None:
    built = build(run)
    (Path(built["path"]).parent / "manifest.json").write_bytes(b"{")
    beginning = built["base_key"][:8]
    status, _, err = run("show", beginning)
    assert status == 1
    assert "damaged manifest" in err
    assert run("verify")[0] == 1
    assert run("rm", beginning)[0] == 0


def test_pipelines_over_the_budget_are_collected(run: Run) -> None:
    key = build(run)["base_key"]
    status, out, _ = run("gc", "--pipeline-max-bytes", "1", "--json")
    assert (status, json.loads(out)) == (0, {"removed": [key], "kept": 0})


def test_looking_creates_nothing(run: Run, tmp_path: Path) -> None:
    for command in ("ls", "verify", "gc"):
        assert run(command)[0] == 0
    status, _, err = run("rm", "0123abcd")
    assert status == 1
    assert "has no pipeline 0123abcd" in err
    assert list(tmp_path.iterdir()) == []


def test_a_url_in_the_place_of_a_key_shows_no_secret(run: Run) -> None:
    for flags in ([], ["--json"]):
        status, out, err = run("rm", "https://user:hunter2@host/?sig=hunter2", *flags)
        assert status == 1
        assert "has no pipeline https://***@host/?sig=***" in err
        assert "hunter2" not in out + err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((), "expected one of plan, key, build"),
        (("plan",), "expected one SPEC, got nothing"),
        (("plan", BASE, "--lora", "hf://a/b half"), "write 'REF SCALE'"),
        (("plan", BASE, "--lora", ""), "the reference of a LoRA is empty"),
        (("plan", BASE, "--dtype", "float8"), "is not one of"),
        (("plan", "./missing"), "there is no such file or folder"),
        (("plan", "wrong.json"), "config 7: is not a reference"),
        (
            ("plan", "misspelt.json", "--progress=none"),
            "dtype 'unett': is not a component; there are unet",
        ),
        (("plan", "missing.json"), "there is no such file"),
        (("plan", "list.json"), 'not an object with a "base"'),
        (("plan", "odd.json"), "'bases' is not one of base, "),
        (("show", "0123abc"), "too short"),
        (("show",), "expected KEY"),
        (("ls", "0123abcd"), "takes no KEY"),
        (("ls", "--lora", "x"), "cannot use --lora with pgetpy pipeline ls"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    run: Run, tmp_path: Path, argv: tuple[str, ...], words: str
) -> None:
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "wrong.json").write_text(json.dumps({"base": BASE, "config": 7}))
    misspelt = {"base": BASE, "dtype": {"unett": "float16"}}
    (tmp_path / "misspelt.json").write_text(json.dumps(misspelt))
    (tmp_path / "odd.json").write_text('{"base": "x", "bases": 1}')
    status, out, err = run(*argv)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_a_refusal_names_the_base_and_no_secret(run: Run) -> None:
    status, out, err = run("plan", "hf://owner/absent", "--json", "--hf-token", TOKEN)
    assert status == 1
    assert json.loads(out)["base"] == "hf://owner/absent"
    assert "owner/absent" in err
    assert TOKEN not in out + err


@pytest.mark.parametrize("name", SUBCOMMANDS["pipeline"])
def test_help_has_an_example(run: Run, name: str) -> None:
    status, out, _ = run(name, "--help")
    assert status == 0
    assert f"  pgetpy pipeline {name}" in out
