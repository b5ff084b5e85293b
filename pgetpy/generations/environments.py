"""Python environments of a generation, each in a folder of its own.

uv installs the wheels of a lock as links into its cache. What follows makes the folder independent
of the machine and of its own place, adds byte code, compares every file with its digest, and lets
it share all files that exist already: in other environments of this generation and of earlier ones.
So a cache of uv that was cleaned, or another wheel with the same files, costs no disk space.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from pgetpy.core.generations.environment_marks import MARK, EnvironmentMark
from pgetpy.core.generations.environment_records import (
    RecordLine,
    compiled_path,
    corrected_records,
    format_record,
    source_path,
)
from pgetpy.core.generations.environment_requirements import (
    environment_digest,
    parse_requirements,
    short_version,
)
from pgetpy.core.generations.environment_variables import library_folders
from pgetpy.core.generations.lock import EnvironmentLine, LockedEnvironment
from pgetpy.core.generations.record import RecordedEnvironment
from pgetpy.errors import BadEnvironmentError, IntegrityError, UsageError
from pgetpy.generations.environment_bytecode import cache_tag, compile_files
from pgetpy.generations.environment_check import digests_of, read_mark
from pgetpy.generations.environment_files import (
    SharedFiles,
    empty_folder,
    files_below,
    finish_file,
    hash_file,
    link_environment,
    link_or_copy,
    replace_file,
)
from pgetpy.generations.environment_install import install_packages, sizes_of
from pgetpy.generations.environment_uv import Uv, UvError


def lock(environment: EnvironmentLine) -> LockedEnvironment:
    """Return `environment` with the versions and hashes of all its packages.

    Raises:
        BadEnvironmentError: uv finds no versions that go together, or no wheels.
        MissingPackageError: uv is not installed.
    """
    uv = Uv()
    try:
        text = uv.compile_requirements(environment.requirements, environment.python)
        requirements = parse_requirements(text)
    except (UvError, UsageError) as error:
        raise BadEnvironmentError(environment.name, f"it cannot be locked: {error}") from None
    if not requirements:
        reason = f"no package of it is for Python {environment.python}: see its markers"
        raise BadEnvironmentError(environment.name, reason)
    return LockedEnvironment(
        environment.name, environment.python, requirements, line=environment.line
    )


class EnvironmentBuilder:
    """Builds the environments of one generation.

    Args:
        uv_cache: the folder of uv's cache, on the file system of the environments.
        complete: the folders of environments that exist already. Unfinished ones are passed over.
        copy: whether files may be copied where they cannot be linked.
        clean: whether to empty uv's cache first, so that packages are downloaded again.

    Raises:
        MissingPackageError: uv is not installed.
    """

    def __init__(
        self,
        uv_cache: Path,
        complete: Iterable[Path] = (),
        *,
        copy: bool = False,
        clean: bool = False,
    ) -> None:
        self._uv = Uv(uv_cache)
        self._uv_cache = uv_cache
        self._copy = copy
        self._clean = clean
        self._compilers: dict[str, tuple[str, str] | None] = {}
        self._shared = SharedFiles()
        self._complete: dict[str, list[Path]] = {}
        # By version of Python, path of the source and its digest.
        self._bytecode: dict[tuple[str, str, str], tuple[Path, str]] = {}
        for folder in complete:
            with contextlib.suppress(OSError, IntegrityError):  # pruned, or damaged
                self._learn(folder)

    def build(self, locked: LockedEnvironment, folder: Path) -> RecordedEnvironment:
        """Build `locked` in `folder`, which exists and is empty; return what to remember of it.

        Raises:
            BadEnvironmentError: uv cannot install it.
            NotOneFileSystemError: uv's cache and `folder` cannot share files.
        """
        digest = environment_digest(locked)
        compiler = self._compiler(short_version(locked.python))
        for source in self._complete.get(digest, ()):
            mark = self._link(source, folder, compiled=compiler is not None)
            if mark is not None:
                return _recorded(locked.name, mark, folder)
        try:
            if self._clean:
                self._uv.forget()
                self._clean = False
            records, actual = install_packages(self._uv, locked, folder, copy=self._copy)
        except UvError as error:
            raise BadEnvironmentError(locked.name, f"uv cannot install it: {error}") from None
        if compiler is not None:
            self._add_bytecode(*compiler, folder, locked.python, actual)
        mark = _seal(folder, records, actual, locked, compiled=compiler is not None)
        whole = actual | dict(mark.records)
        self._shared.share(folder, whole, uv_cache=self._uv_cache)
        self._learn(folder)
        return _recorded(locked.name, mark, folder)

    def _learn(self, folder: Path) -> None:
        """Take in a complete environment, for others to share files with."""
        mark = read_mark(folder)
        digests = digests_of(folder, mark)
        self._complete.setdefault(mark.digest, []).append(folder)
        self._shared.learn(folder, digests)
        for path, digest in digests.items():
            source = source_path(path)
            if source in digests:
                key = (short_version(mark.python), source, digests[source])
                self._bytecode.setdefault(key, (folder / path, digest))

    def _link(self, source: Path, folder: Path, *, compiled: bool) -> EnvironmentMark | None:
        """Make an environment of links to one with the same lock; None if that is not possible."""
        try:
            mark = read_mark(source)
            if compiled and not mark.compiled:
                return None
            if link_environment(source, folder, digests_of(source, mark)):
                link_or_copy(source / MARK, folder / MARK)
                return mark
        except (FileNotFoundError, IntegrityError):  # pruned meanwhile, or damaged
            pass
        empty_folder(folder)
        return None

    def _compiler(self, python: str) -> tuple[str, str] | None:
        """Return a program that is Python `python`, and the tag of its byte code."""
        if python not in self._compilers:
            program = self._uv.find_python(python)
            tag = cache_tag(program) if program else ""
            self._compilers[python] = (program, tag) if program and tag else None
        return self._compilers[python]

    def _add_bytecode(
        self, program: str, tag: str, folder: Path, python: str, actual: dict[str, str]
    ) -> None:
        """Compile what no other environment has compiled; `actual` gets the digests."""
        missing = {}
        for path, digest in list(actual.items()):
            compiled = compiled_path(path, tag)
            if not path.endswith(".py") or compiled in actual:
                continue
            known = self._bytecode.get((short_version(python), path, digest))
            if known is None or not _take(*known, folder / compiled):
                missing[path] = compiled
            else:
                actual[compiled] = known[1]
        compile_files(program, folder, list(missing))
        for compiled in missing.values():
            if (folder / compiled).exists():
                actual[compiled] = hash_file(folder / compiled)


def _recorded(name: str, mark: EnvironmentMark, folder: Path) -> RecordedEnvironment:
    return RecordedEnvironment(name, mark.files, mark.size, hash_file(folder / MARK))


def _take(source: Path, digest: str, dest: Path) -> bool:
    """Link byte code of another environment to `dest`; return whether it is what it should be."""
    try:
        if hash_file(source) != digest:
            return False
        dest.parent.mkdir(exist_ok=True)
        link_or_copy(source, dest)
    except FileNotFoundError:
        return False
    return True


def _seal(
    folder: Path,
    records: Mapping[str, Iterable[RecordLine]],
    actual: Mapping[str, str],
    locked: LockedEnvironment,
    *,
    compiled: bool,
) -> EnvironmentMark:
    """Write the RECORDs and the mark, and give all files their final permissions and time."""
    digests = {}
    sizes = sizes_of(folder, actual)
    for name, lines in corrected_records(records, sizes).items():
        replace_file(folder / name, format_record(lines).encode(errors="surrogateescape"))
        digests[name] = hash_file(folder / name)
    mark = EnvironmentMark(
        python=locked.python,
        digest=environment_digest(locked),
        compiled=compiled,
        scripts=(folder / "bin").is_dir(),
        files=len(actual) + len(digests),
        size=sum(size for _, size in sizes.values())
        + sum((folder / name).stat().st_size for name in digests),
        libraries=library_folders(list(actual)),
        records=digests,
    )
    replace_file(folder / MARK, mark.to_json())
    for path in files_below(folder):
        finish_file(folder / path)
    return mark
