"""uv as a program: what it is given, and what its failures become."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pgetpy.errors import BadEnvironmentError, MissingPackageError
from pgetpy.generations import EnvironmentLine
from pgetpy.generations.environment_uv import Uv, UvError
from pgetpy.generations.environments import lock


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of all programs: uv is looked for in PATH, not among Python's packages."""
    monkeypatch.setitem(sys.modules, "uv", None)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def write_uv(folder: Path, text: str) -> None:
    (folder / "uv").write_text(text)
    (folder / "uv").chmod(0o755)


def test_without_uv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPackageError, match=r"pip install 'pgetpy\[env\]'"):
        Uv(tmp_path)


def test_uv_gets_its_cache_and_nothing_that_would_mislead_it(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("UV_INDEX_URL", "https://example.com/simple")
    write_uv(programs, '#!/bin/sh\necho "$UV_CACHE_DIR|$UV_INDEX_URL|$PYTHONPATH|$*"; cat\n')
    printed = Uv(Path("/cache")).run("pip", stdin="x")
    assert printed == "/cache|https://example.com/simple||--no-progress pip\nx"


def test_the_words_of_uv_are_told_without_secrets(programs: Path) -> None:
    words = "error: failed at https://me:secret@example.com/a\\n  Caused by: 401"
    write_uv(programs, f"#!/bin/sh\nprintf '{words}' >&2\nexit 2\n")
    with pytest.raises(BadEnvironmentError) as caught:
        lock(EnvironmentLine("e", "3.12", ("x",)))
    assert "secret" not in str(caught.value)
    assert str(caught.value).startswith("environment e: it cannot be locked: failed at https://")
    assert str(caught.value).endswith("Caused by: 401")


def test_a_program_that_does_not_work_is_an_error(programs: Path) -> None:
    write_uv(programs, "#!/no/such/program\n")
    with pytest.raises(UvError, match="cannot be started: no such file"):
        Uv(programs).run("pip")
    assert Uv(programs).find_python("3.12") is None
