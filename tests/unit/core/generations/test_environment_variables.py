"""What containers ask for, and the variables that a program gets."""

from __future__ import annotations

import pytest

from pgetpy.core.generations.environment_variables import (
    EnvironmentFolders,
    composed_variables,
    library_folders,
    wanted_environments,
    wanted_generation,
)
from pgetpy.errors import UsageError

URL = "https://example.com/cog-0.14.0-py3-none-any.whl"
COGLET = "https://example.com/coglet-0.1.0-py3-none-any.whl"


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, ""),
        ({"PGET_GENERATION": ""}, ""),
        ({"PGET_GENERATION": "7", "MONOBASE_GEN_ID": "6"}, "7"),
        ({"MONOBASE_GEN_ID": "6"}, "6"),
    ],
)
def test_the_generation_is_asked_for_by_either_name(environ: dict[str, str], wanted: str) -> None:
    assert wanted_generation(environ) == wanted


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, ()),
        ({"R8_COG_VERSION": "0.14.0"}, ()),
        ({"PGET_ENV": "a"}, ("a",)),
        ({"PGET_ENV": "a,b:c d a"}, ("a", "b", "c", "d")),
        ({"PGET_ENV": "a", "R8_PYTHON_VERSION": "3.12"}, ("a",)),
        ({"R8_PYTHON_VERSION": "3.12"}, ("default-python3.12",)),
        (
            {"R8_PYTHON_VERSION": "3.12", "R8_COG_VERSION": "0.14.0"},
            ("cog0.14.0-python3.12",),
        ),
        (
            {"R8_PYTHON_VERSION": "3.12", "R8_COG_VERSION": "coglet"},
            ("cogletlatest-python3.12",),
        ),
        (
            {"R8_PYTHON_VERSION": "3.12", "R8_COG_VERSION": "coglet==0.1.0"},
            ("coglet0.1.0-python3.12",),
        ),
        # printf %s URL | sha256sum | cut -c 1-8
        ({"R8_PYTHON_VERSION": "3.12", "R8_COG_VERSION": URL}, ("cogc15f6917-python3.12",)),
        ({"R8_PYTHON_VERSION": "3.12", "R8_COG_VERSION": COGLET}, ("coglet6df6053a-python3.12",)),
        (
            {
                "R8_PYTHON_VERSION": "3.12",
                "R8_COG_VERSION": "0.14.0",
                "R8_TORCH_VERSION": "2.5.1",
                "R8_CUDA_VERSION": "12.4",
                "R8_CUDNN_VERSION": "9",
            },
            ("cog0.14.0-python3.12", "python3.12-torch2.5.1-cu124"),
        ),
        (
            {
                "R8_PYTHON_VERSION": "3.12",
                "R8_TORCH_VERSION": "2.5.1",
                "R8_CUDA_VERSION": "12.4",
            },
            ("default-python3.12", "python3.12-torch2.5.1-cpu"),
        ),
    ],
)
def test_environments_are_asked_for_by_name_or_by_the_variables_of_monobase(
    environ: dict[str, str], wanted: tuple[str, ...]
) -> None:
    assert wanted_environments(environ) == wanted


def _environment(name: str, *, python: str = "3.12", compiled: bool = True) -> EnvironmentFolders:
    return EnvironmentFolders(name, f"/g/{name}", python, compiled, name == "a", ("lib",))


def test_what_is_set_already_is_searched_after_the_environments() -> None:
    environ = {"PATH": "/usr/bin", "PYTHONPATH": "/mine", "LD_LIBRARY_PATH": ""}
    assert composed_variables(environ, [_environment("a"), _environment("b")]) == {
        "PYTHONPATH": "/g/a:/g/b:/mine",
        "PATH": "/g/a/bin:/usr/bin",
        "LD_LIBRARY_PATH": "/g/a/lib:/g/b/lib",
    }


def test_without_environments_nothing_is_set() -> None:
    assert composed_variables({"PATH": "/usr/bin"}, []) == {}


def test_python_writes_no_byte_code_into_what_is_published() -> None:
    found = composed_variables({}, [_environment("a"), _environment("b", compiled=False)])
    assert found["PYTHONDONTWRITEBYTECODE"] == "1"


def test_environments_for_two_pythons_cannot_be_combined() -> None:
    with pytest.raises(UsageError, match=r"a is for Python 3\.12 and b is for Python 3\.11"):
        composed_variables({}, [_environment("a"), _environment("b", python="3.11")])


def test_only_libraries_that_are_loaded_by_name_are_searched() -> None:
    paths = [
        "lib/libx.so.1.2",
        "nvidia/nccl/lib/libnccl.so.2",
        "numpy.libs/libopenblas.so",
        "numpy/core/x.cpython-312.so",
        "nvidia/cublas/include/cublas.h",
        "lib/notes.so.txt",
    ]
    assert library_folders(paths) == ("lib", "nvidia/nccl/lib")
