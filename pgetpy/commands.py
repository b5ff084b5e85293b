"""The commands: arguments and environment to a call of the engine, and its outcome to a status.

Everything that is printed is one line of printable characters with redacted URLs.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgetpy import __version__, outcomes
from pgetpy.arguments import Arguments, help_text, parse_arguments
from pgetpy.completion import completion_script
from pgetpy.core.digests import Checksum
from pgetpy.core.jobs import Job
from pgetpy.core.manifest import Manifest, parse_manifest
from pgetpy.core.names import check_url
from pgetpy.core.results import DownloadFailure, DownloadResult
from pgetpy.errors import (
    BadManifestError,
    BadSettingError,
    DestinationError,
    InterruptedTransferError,
    PgetError,
    UsageError,
)
from pgetpy.flags import SHELLS
from pgetpy.process import (
    STANDARD_OUTPUT,
    Terminated,
    print_beside,
    print_line,
    say,
    say_raw,
    silence_output,
    terminable,
)
from pgetpy.progress import LogLines, Progress, open_progress
from pgetpy.redact import redact_text
from pgetpy.settings import CONSOLE_FLAGS, FLAGS, Console, Settings

DONE, FAILED, MISUSED = 0, 1, 2
# 128 and the number of the signal, as shells have it.
INTERRUPTED, PIPE_CLOSED, TERMINATED = 130, 141, 143

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}


@dataclass(frozen=True)
class Call:
    """One run of a command that downloads."""

    arguments: Arguments
    settings: Settings
    console: Console
    api: Any

    @property
    def to_null(self) -> bool:
        return self.console.output == "null"

    @property
    def extracts(self) -> bool:
        return self.console.output == "tar-extractor"

    @property
    def json(self) -> bool:
        return self.arguments.has("json")

    def shows(self, level: str) -> bool:
        """Whether a line of `level` is to be printed."""
        return _LEVELS[self.console.log_level] <= _LEVELS[level]


class Stopped(BaseException):
    """A download was interrupted; `sentence` says what is left of it."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence, status)
        self.sentence = sentence
        self.status = status


def run(arguments: Sequence[str], *, api: Any, environ: Mapping[str, str] | None) -> int:
    """Carry out what `arguments` ask for and return the exit status."""
    try:
        with terminable():
            parsed = parse_arguments(arguments)
            return _run_command(parsed, api, os.environ if environ is None else environ)
    except Stopped as stop:
        say(stop.sentence)
        return stop.status
    except (KeyboardInterrupt, Terminated) as signal:
        say("interrupted")
        return _status_of(signal)
    except BrokenPipeError:
        silence_output()
        return PIPE_CLOSED
    except PgetError as error:
        return _failed(error)


def _failed(error: PgetError) -> int:
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        silence_output()
        return PIPE_CLOSED
    # An argument that is in the wrong place may be a URL.
    say(redact_text(str(error)) if isinstance(error, UsageError) else str(error))
    if isinstance(error, InterruptedTransferError):
        return INTERRUPTED
    return MISUSED if isinstance(error, UsageError) else FAILED


def _status_of(signal: BaseException) -> int:
    return TERMINATED if isinstance(signal, Terminated) else INTERRUPTED


def _run_command(arguments: Arguments, api: Any, environ: Mapping[str, str]) -> int:
    command, operands = arguments.command, arguments.operands
    if command == "help":
        print_line(help_text(operands[0] if operands else "download"))
    elif arguments.has("help"):
        print_line(help_text(command))
    elif arguments.has("version") or command == "version":
        print_line(f"pgetpy {__version__}")
    elif command == "completion":
        if len(operands) != 1 or operands[0] not in SHELLS:
            raise UsageError(f"completion is for one of {', '.join(SHELLS)}")
        print_line(completion_script(operands[0]))
    else:
        call = _call(arguments, api, environ)
        return _multifile(call) if command == "multifile" else _download(call)
    return DONE


def _call(arguments: Arguments, api: Any, environ: Mapping[str, str]) -> Call:
    console = Console.from_environment(environ).with_flags(
        {flag: text for flag, text in arguments.values.items() if flag in CONSOLE_FLAGS}
    )
    warnings = [
        f"Flag --{old} has been deprecated, use --{new} instead"
        for old, new in arguments.deprecated.items()
    ]
    if arguments.has("force-http2"):
        warnings.append("--force-http2 has no effect: ranges go over several HTTP/1.1 connections")
    settings = _settings(arguments, environ, warnings.append)
    call = Call(arguments, settings, console, api)
    _warn(call, warnings)
    return call


def _settings(
    arguments: Arguments, environ: Mapping[str, str], warn: Callable[[str], None]
) -> Settings:
    given = {flag: text for flag, text in arguments.values.items() if flag in FLAGS}
    given |= {flag: ",".join(texts) for flag, texts in arguments.lists.items() if flag in FLAGS}
    headers = [_header(line) for line in arguments.lists.get("header", ())]
    settings = Settings.from_environment(environ, warn=warn).with_flags(given)
    if settings.cacert is not None and not os.access(settings.cacert, os.R_OK):
        name = "--cacert" if "cacert" in given else "certificate file"
        raise BadSettingError(name, settings.cacert, "there is no such file, or it is unreadable")
    return settings.with_headers(headers, "--header")


def _warn(call: Call, warnings: Sequence[str]) -> None:
    for warning in warnings if call.shows("warn") else ():
        say(f"warning: {warning}")


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    return (name.strip(), value.strip()) if colon else ("", "")


def _download(call: Call) -> int:
    job = _job(call)
    try:
        _check_free(job, "", call.settings)
        with _progress(call, keeps=job.dest not in STANDARD_OUTPUT) as progress:
            result: DownloadResult = _api(call).download_job(
                job, settings=call.settings, progress=progress
            )
    except PgetError as error:
        if call.json and not isinstance(error, UsageError):
            print_beside(job.dest, outcomes.json_failure(job.url, job.dest, error))
        raise
    if call.shows("info"):
        say_raw(outcomes.complete_line(result))
    if call.json:
        print_beside(job.dest, outcomes.json_result(result))
    return DONE


def _job(call: Call) -> Job:
    operands = call.arguments.operands
    least = 1 if call.to_null else 2
    if not least <= len(operands) <= 2:
        raise UsageError(
            f"expected {'URL [DEST]' if call.to_null else 'URL and DEST'}, "
            f"got {len(operands) or 'nothing'}; see pgetpy --help"
        )
    mirrors = call.arguments.lists.get("mirror", ())
    for url in (operands[0], *mirrors):
        check_url(url)
    checksum = call.arguments.values.get("checksum")
    dest = None if call.to_null else operands[1]
    if dest is not None and (not dest or "\0" in dest):
        raise UsageError("DEST is empty or holds a null character")
    if call.extracts and dest in STANDARD_OUTPUT:
        raise UsageError("an archive is extracted into a folder, not to standard output")
    parsed = Checksum.parse(checksum) if checksum else None
    return Job(operands[0], dest, parsed, mirrors, extract=call.extracts)


def _multifile(call: Call) -> int:
    operands = call.arguments.operands
    if len(operands) != 1:
        raise UsageError(f"expected one MANIFEST or -, got {len(operands) or 'nothing'}")
    path = "standard input" if operands[0] == "-" else operands[0]
    text = _manifest_text(operands[0], path)
    manifest = parse_manifest(
        text, path, to_null=call.to_null, extract=call.extracts, is_folder=_is_folder
    )
    _warn(call, manifest.warnings)
    _check_all_free(manifest, path, call.settings)
    started = time.monotonic()
    with _progress(call, keeps=True) as progress:
        found: Sequence[DownloadResult | DownloadFailure] = _api(call).download_jobs(
            manifest.jobs,
            settings=call.settings,
            progress=progress,
            fail_fast=call.arguments.has("fail-fast"),
        )
    failures = [outcome for outcome in found if isinstance(outcome, DownloadFailure)]
    for line in outcomes.failure_table(failures, len(found)):
        say_raw(line)
    if call.shows("info"):
        say_raw(outcomes.metrics_line(found, time.monotonic() - started))
    for outcome in found if call.json else ():
        print_line(outcomes.json_outcome(outcome))
    return FAILED if failures else DONE


def _manifest_text(operand: str, path: str) -> str:
    try:
        if operand == "-":
            return sys.stdin.buffer.read().decode(errors="surrogateescape")
        with open(operand, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except FileNotFoundError:
        raise BadManifestError(path, 0, "there is no such file") from None
    except OSError as error:
        raise BadManifestError(path, 0, error.strerror or str(error)) from None


def _check_all_free(manifest: Manifest, path: str, settings: Settings) -> None:
    for job, line in zip(manifest.jobs, manifest.lines, strict=True):
        _check_free(job, f" ({path}:{line})", settings)


def _check_free(job: Job, place: str, settings: Settings) -> None:
    """Raise DestinationError if a file stands at the destination and may not be overwritten."""
    if settings.force or job.dest is None or job.dest in STANDARD_OUTPUT:
        return
    try:
        mode = os.stat(job.dest).st_mode
    except (OSError, ValueError):
        # Nothing there, or nothing that can be seen: whoever writes it will say so.
        return
    if job.extract:
        from pgetpy.extraction.staging import check_empty

        if stat.S_ISDIR(mode):
            check_empty(Path(os.path.realpath(job.dest)), place)
    elif stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        raise DestinationError(
            job.dest, f"already exists{place}", hint="use -f to overwrite it", code=errno.EEXIST
        )


def _is_folder(dest: str) -> bool:
    return dest.endswith("/") or os.path.isdir(dest)


def _api(call: Call) -> Any:
    if call.api is not None:
        return call.api
    from pgetpy import api

    return api


@contextlib.contextmanager
def _progress(call: Call, *, keeps: bool) -> Iterator[Progress]:
    """A Progress that also carries the log lines while it lasts.

    Raises Stopped on an interruption; `keeps` says whether what has arrived is of use to a rerun.
    """
    mode = call.console.progress
    if mode == "auto" and not call.shows("info"):
        mode = "none"
    progress = open_progress(
        mode,
        stream=sys.stderr,
        is_terminal=bool(sys.stderr and sys.stderr.isatty()),
        rows=shutil.get_terminal_size().lines,
        endings=not call.shows("info"),
    )
    try:
        with progress, _logging_to(progress, _LEVELS[call.console.log_level]):
            yield progress
    except (KeyboardInterrupt, Terminated) as signal:
        keeps = keeps and call.settings.resume and not call.to_null
        sentence = outcomes.interrupted_line(
            progress.tally, keeps=keeps, overwrites=call.settings.force
        )
        raise Stopped(sentence, _status_of(signal)) from None


@contextlib.contextmanager
def _logging_to(progress: Progress, level: int) -> Iterator[None]:
    logger = logging.getLogger("pgetpy")
    handler = LogLines(progress)
    before = (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
