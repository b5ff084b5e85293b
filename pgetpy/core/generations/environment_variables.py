"""Which generation and which environments a container asks for, and the variables that this sets.

A container says so by PGET_GENERATION and PGET_ENV, or by the variables of images that are built
for monobase, whose environments have fixed names:

    cog{R8_COG_VERSION}-python{R8_PYTHON_VERSION}
    python{R8_PYTHON_VERSION}-torch{R8_TORCH_VERSION}-cu{R8_CUDA_VERSION without its dot}

The names, and their order in PYTHONPATH, are those of monobase's `activate.sh`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pgetpy.errors import UsageError

# The variables of ours.
NAME_VARIABLE = "PGET_GENERATION"
ENVIRONMENTS_VARIABLE = "PGET_ENV"
_SEPARATORS = re.compile(r"[,:\s]+")
_ADDRESS = re.compile(r"(?:https|file)://")
# What monobase calls its default environment: R8_COG_VERSION was not given.
_DEFAULT = "default"


@dataclass(frozen=True)
class EnvironmentFolders:
    """The folders of one environment.

    Attributes:
        name: of the environment.
        path: the folder that the packages are in.
        python: the version that they were installed for, such as `3.12`.
        compiled: whether byte code is there for all of them.
        scripts: whether there is a folder `bin`.
        libraries: folders with shared libraries, below `path`.
    """

    name: str
    path: str
    python: str
    compiled: bool
    scripts: bool
    libraries: tuple[str, ...]


def wanted_generation(environ: Mapping[str, str]) -> str:
    """Return the number or digest of the generation that is asked for; empty for the latest."""
    return environ.get(NAME_VARIABLE) or environ.get("MONOBASE_GEN_ID") or ""


def wanted_environments(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the environments that are asked for, the one to be searched first first.

    PGET_ENV holds one or several, separated by commas, colons or blanks. Where it is unset, the
    variables of monobase are looked at; without R8_PYTHON_VERSION they ask for nothing. Names are
    as they were written: they must be looked up before they become paths.
    """
    names = [name for name in _SEPARATORS.split(environ.get(ENVIRONMENTS_VARIABLE, "")) if name]
    if names:
        return tuple(dict.fromkeys(names))
    python = environ.get("R8_PYTHON_VERSION", "")
    if not python:
        return ()
    wanted = [f"{_cog_name(environ.get('R8_COG_VERSION', ''))}-python{python}"]
    torch = environ.get("R8_TORCH_VERSION", "")
    if torch:
        wanted.append(f"python{python}-torch{torch}-{_build_of(environ)}")
    return tuple(wanted)


def _cog_name(version: str) -> str:
    if not version:
        return _DEFAULT
    if _ADDRESS.match(version):
        package = "coglet" if "coglet" in version else "cog"
        return f"{package}{hashlib.sha256(version.encode()).hexdigest()[:8]}"
    if version == "coglet":
        return "cogletlatest"
    if version.startswith("coglet"):
        return version.replace("==", "", 1)
    return f"cog{version}"


def _build_of(environ: Mapping[str, str]) -> str:
    """Return which build of torch is asked for. cuDNN must be given, but is not in the name."""
    cuda = environ.get("R8_CUDA_VERSION", "")
    if not (cuda and environ.get("R8_CUDNN_VERSION")):
        return "cpu"
    return f"cu{cuda.replace('.', '', 1)}"


def composed_variables(
    environ: Mapping[str, str], environments: Sequence[EnvironmentFolders]
) -> dict[str, str]:
    """Return the variables that make a program find the environments, and the values they get.

    What the variables hold already is searched after the environments.

    Raises:
        UsageError: the environments are for different versions of Python.
    """
    pythons = {each.python: each.name for each in environments}
    if len(pythons) > 1:
        found = " and ".join(f"{name} is for Python {python}" for python, name in pythons.items())
        raise UsageError(f"environments cannot be combined: {found}")
    first = {
        "PYTHONPATH": [each.path for each in environments],
        "PATH": [f"{each.path}/bin" for each in environments if each.scripts],
        "LD_LIBRARY_PATH": [
            f"{each.path}/{folder}" for each in environments for folder in each.libraries
        ],
    }
    composed = {
        name: ":".join([*folders, *filter(None, [environ.get(name, "")])])
        for name, folders in first.items()
        if folders
    }
    if not all(each.compiled for each in environments):
        # Python would write its byte code into what is published.
        composed["PYTHONDONTWRITEBYTECODE"] = "1"
    return composed


def library_folders(paths: Sequence[str]) -> tuple[str, ...]:
    """Return those folders of an environment whose shared libraries programs look for by name.

    Libraries of wheels are found relative to what needs them. This is for those that are loaded by
    name alone: in `lib` and, of NVIDIA's packages, in `nvidia/PACKAGE/lib`.
    """
    folders = {path.rpartition("/")[0] for path in paths if _SHARED_LIBRARY.search(path)}
    return tuple(sorted(filter(_SEARCHED.fullmatch, folders)))


_SHARED_LIBRARY = re.compile(r"\.so(?:\.\d+)*\Z")
_SEARCHED = re.compile(r"lib|nvidia/[^/]+/lib")
