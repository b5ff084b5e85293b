"""The commands below `pgetpy compile-cache`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pgetpy.cli import main
from pgetpy.cli.command_table import SUBCOMMANDS
from tests.support.compile_trees import Machine, contents
from tests.support.waiting import eventually

Machines = Callable[[str], Machine]


@pytest.fixture
def location(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PGET_COMPILE_CACHE", str(tmp_path / "location"))
    return tmp_path / "location"


def filled(machine: Machine) -> Machine:
    machine.boot()
    machine.inductor.graph()
    return machine


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["compile-cache", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def record(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    status, out, _ = run(capsys, *arguments, "--json")
    assert status == 0
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_save_and_load(
    machine: Machines, location: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = filled(machine("one"))
    status, out, _ = run(capsys, "save")
    assert status == 0
    assert out.startswith("saved 5 files, ")
    two = machine("two")
    two.boot()
    assert record(capsys, "load")["entries"] == 5
    assert contents(two.inductor.root) == contents(one.inductor.root)
    status, out, _ = run(capsys, "save")
    assert (status, out) == (0, "compile cache: unchanged, nothing to do\n")


def test_ls_info_and_explain(
    machine: Machines, location: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(machine("one"))
    assert run(capsys, "ls")[1] == "nothing is saved there\n"
    status, out, _ = run(capsys, "explain")
    assert status == 1
    assert "there is no other key either" in out
    key = str(record(capsys, "save", "--name", "flux")["key"])
    listed = run(capsys, "ls")[1]
    assert listed.startswith(key[:12])
    assert "name flux, torch 2.13.0+made.up" in listed
    assert record(capsys, "ls")["key"] == key
    assert record(capsys, "info")["torch"] == "2.13.0+made.up"
    assert "torch     2.13.0+made.up\n" in run(capsys, "info")[1]
    status, out, _ = run(capsys, "explain", "--name", "other")
    assert status == 1
    assert f"the nearest key is {key}; it differs in\n- name: flux, here other\n" in out
    status, out, _ = run(capsys, "explain", "--name", "flux")
    assert status == 0
    assert "5 files are saved for it, 0 of which are not here" in out


def test_verify_prune_publish_and_rm(
    machine: Machines, location: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(machine("one"))
    key = str(record(capsys, "save")["key"])
    assert run(capsys, "verify")[:2] == (0, f"{key[:12]}  1 packs, 0 damaged\n")
    assert run(capsys, "prune")[0] == 0
    assert run(capsys, "publish")[:2] == (0, "indexed 1 keys\n")
    (pack,) = location.rglob("*.zst")
    pack.write_bytes(bytes(pack.stat().st_size))
    assert run(capsys, "verify", key[:12])[0] == 1
    assert run(capsys, "verify", "--repair")[0] == 1
    assert run(capsys, "verify")[0] == 0
    assert run(capsys, "rm", key[:12])[0] == 0
    assert run(capsys, "ls")[1] == "nothing is saved there\n"


def test_a_secret_comes_from_the_environment_alone(
    machine: Machines,
    location: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    filled(machine("one"))
    record(capsys, "save")
    monkeypatch.setenv("PGET_COMPILE_CACHE_SECRET", "very-secret-word")
    machine("two").boot()
    status, out, err = run(capsys, "load")
    assert status == 0
    assert "not signed with our secret" in err
    assert "very-secret-word" not in out + err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "expected one of load, save"),
        (("frobnicate",), "expected one of load, save"),
        (("load", "x"), "takes no arguments"),
        (("rm",), "expected KEY..."),
        (("rm", "abc"), "give at least 12 digits of the key"),
        (("run",), "expected -- PROGRAM"),
        (("load", "--kind", "cuda"), "cuda"),
        (("load", "--repair"), "--repair"),
    ],
)
def test_wrong_usage(
    machine: Machines,
    location: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    words: str,
) -> None:
    machine("one").boot()
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert words in err


def test_no_location(
    machine: Machines, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGET_COMPILE_CACHE", raising=False)
    status, _, err = run(capsys, "load")
    assert status == 2
    assert "give --location" in err


def test_an_unknown_key_is_a_failure(
    machine: Machines, location: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine("one").boot()
    status, _, err = run(capsys, "rm", "0" * 12)
    assert status == 1
    assert "no keys begin with" in err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--help")
    assert status == 0
    assert all(f"\n  {name} " in out for name in SUBCOMMANDS["compile-cache"])
    for shell in ("bash", "zsh", "fish", "powershell"):
        assert main(["completion", shell]) == 0
        script = capsys.readouterr().out
        assert all(name in script for name in SUBCOMMANDS["compile-cache"])


# ---------------------------------------------------------------------------------------- run

_COMPILES = """
import os, sys
sys.path.insert(0, os.getcwd())
from pathlib import Path
from tests.support.compile_trees import Machine, Tree
Tree(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])).graph()
assert os.environ["TORCH_COMPILE_CACHE_KEY_TAG"].startswith("isa-")
"""


def test_run_saves_what_a_program_compiles(
    machine: Machines, location: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    machine("one").boot()
    status, out, _ = run(capfd, "run", "--", sys.executable, "-c", _COMPILES)
    assert status == 0
    assert "saved 5 files" in out
    two = machine("two")
    two.boot()
    status, out, _ = run(capfd, "run", "--", sys.executable, "-c", "print('it runs')")
    assert status == 0
    assert "loaded 5 files" in out
    assert "it runs" in out


@pytest.mark.parametrize("code", ["sys.exit(3)", "os.kill(os.getpid(), 9)"])
def test_a_program_that_fails_is_not_saved(
    machine: Machines, location: Path, capfd: pytest.CaptureFixture[str], code: str
) -> None:
    machine("one").boot()
    status, _, _ = run(capfd, "run", "--", sys.executable, "-c", _COMPILES + code)
    assert status == (3 if "exit" in code else 137)
    assert not list(location.rglob("*.zst"))


def test_a_program_that_cannot_be_started(
    machine: Machines, location: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    machine("one").boot()
    status, _, err = run(capfd, "run", "--", "no-such-program")
    assert status == 127
    assert "no-such-program cannot be started" in err


class _Health(BaseHTTPRequestHandler):
    status = "STARTING"

    def do_GET(self) -> None:
        body = json.dumps({"status": self.status}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


_SERVES = _COMPILES + "\nimport time\nPath('compiled').touch()\ntime.sleep(600)\n"


def test_a_server_is_saved_as_soon_as_it_is_ready_and_gets_sigterm(
    machine: Machines, location: Path, tmp_path: Path
) -> None:
    one = machine("one")
    one.boot()
    site = next(path for path in sys.path if (Path(path) / "torch" / "version.py").exists())
    health = ThreadingHTTPServer(("127.0.0.1", 0), _Health)
    serving = threading.Thread(target=health.serve_forever, daemon=True)
    serving.start()
    try:
        url = f"http://127.0.0.1:{health.server_port}/health-check"
        environ = {**os.environ, "PYTHONPATH": f"{Path.cwd()}:{site}"}
        program = _SERVES.replace("Path('compiled')", f"Path({str(tmp_path / 'compiled')!r})")
        runner = subprocess.Popen(
            [
                *(sys.executable, "-m", "pgetpy", "compile-cache", "run", "--ready-url", url),
                *("--", sys.executable, "-c", program),
            ],
            env=environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            eventually((tmp_path / "compiled").exists, 60, "the program to compile")
            assert not list(location.rglob("seals/*.json"))
            _Health.status = "READY"
            eventually(lambda: list(location.rglob("seals/*.json")), 60, "the save")
            runner.send_signal(signal.SIGTERM)
            out, _ = runner.communicate(timeout=60)
        finally:
            runner.kill()
        assert runner.returncode == 143
        assert out.count("saved 5 files") == 1
    finally:
        _Health.status = "STARTING"
        health.shutdown()
        health.server_close()
