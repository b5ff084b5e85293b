"""The commands: arguments and environment to a call of the API, and its outcome to a status.

    argv --parser--> Arguments --_invocation--> Invocation --> a command --> status
                                 (environment,                  (api call,
                                  settings, warnings)            output)

Everything that is printed is one line of printable characters with redacted URLs.

Start-up counts: a small download takes about as long as the imports. So modules of single commands
are imported where they run, and existing files are looked for (`_check_free`) before the API, which
is most of the code, is imported.

Statuses are pget's and the shell's: 0, 1 for a failure, 2 for a usage error, 128 and the number of
a signal. A reader that closes the pipe ends the program silently, as with other Unix tools.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pgetpy._version import __version__
from pgetpy.cli import results
from pgetpy.cli.command_table import SHELLS, SUBCOMMANDS
from pgetpy.cli.invocation import (
    DONE,
    FAILED,
    MISUSED,
    PIPE_CLOSED,
    Invocation,
    Stopped,
    status_of,
)
from pgetpy.cli.parser import Arguments, parse_arguments
from pgetpy.cli.progress import log_lines, progress_of
from pgetpy.cli.terminal import (
    STANDARD_OUTPUT,
    Terminated,
    complain,
    print_beside,
    print_line,
    say,
    say_raw,
    silence_output,
)
from pgetpy.core.destinations.names import check_url
from pgetpy.core.lazy_dataclass import replace
from pgetpy.core.references.jobs import Job
from pgetpy.core.references.reference import Reference
from pgetpy.core.report.events import Report, Verifying
from pgetpy.core.report.results import DownloadFailure, DownloadResult
from pgetpy.errors import (
    BadSettingError,
    DestinationError,
    PgetError,
    UsageError,
)
from pgetpy.errors.redact import redact, redact_text
from pgetpy.settings import Console, Settings
from pgetpy.settings.command_options import CommandOptions
from pgetpy.settings.options import DOWNLOAD
from pgetpy.sources.table import check_settings, parse_reference
from pgetpy.system.filesystem import cache_error, is_folder

# Those of `_run_group`.
_GROUPS = frozenset({"compile-cache", "generation", "node", "pipeline"})


def run(arguments: Sequence[str], *, api: Any, environ: Mapping[str, str] | None) -> int:
    """Carry out what `arguments` ask for and return the exit status.

    Args:
        arguments: without the program's name.
        api: replaces pgetpy.api in tests.
        environ: replaces the process's environment.
    """
    try:
        parsed = parse_arguments(arguments)
        return _run_command(parsed, api, os.environ if environ is None else environ)
    except Stopped as stop:
        say(stop.sentence)
        return stop.status
    except (KeyboardInterrupt, Terminated) as signal:
        say("interrupted")
        return status_of(signal)
    except BrokenPipeError:
        silence_output()
        return PIPE_CLOSED
    except PgetError as error:
        return _report_failure(error)


def _report_failure(error: PgetError) -> int:
    """Print why it failed, in one line; return the status."""
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        silence_output()
        return PIPE_CLOSED
    # Errors quote arguments, and one in the wrong place may be a URL with a signature.
    complain(redact_text(str(error)))
    return MISUSED if isinstance(error, UsageError) else FAILED


def _run_command(arguments: Arguments, api: Any, environ: Mapping[str, str]) -> int:
    command, operands = arguments.command, arguments.operands
    everything = operands[-1:] == ("all",)
    if arguments.help or command == "help":
        from pgetpy.cli.help import help_text

        if not arguments.help:
            command = _topic(operands[:-1] if everything else operands)
        print_line(help_text(command, everything=everything))
    elif arguments.version or command == "version":
        print_line(f"pgetpy {__version__}")
    elif command == "completion":
        if len(operands) != 1 or operands[0] not in SHELLS:
            raise UsageError(f"completion is for one of {', '.join(SHELLS)}")
        from pgetpy.cli.completion import completion_script

        print_line(completion_script(operands[0]))
    else:
        invocation = _invocation(arguments, api, environ)
        if command in {"ensure", "prefetch"} or command.partition(" ")[0] == "cache":
            return _run_cache_command(invocation, environ)
        if command.partition(" ")[0] in _GROUPS:
            return _run_group(invocation, environ)
        if command == "snapshot":
            from pgetpy.cli.snapshot import run_snapshot

            return run_snapshot(invocation, environ, _api(invocation))
        if command == "put":
            from pgetpy.cli.put import run_put

            return run_put(invocation, _api(invocation))
        return _multifile(invocation) if command == "multifile" else _download(invocation)
    return DONE


def _run_group(invocation: Invocation, environ: Mapping[str, str]) -> int:
    """Carry out a command of a group whose modules no other command imports."""
    group = invocation.arguments.command.partition(" ")[0]
    if group == "node":
        from pgetpy.cli.node import run_node

        return run_node(invocation)
    if group == "generation":
        from pgetpy.cli.generation import run_generation

        return run_generation(invocation, environ)
    if group == "pipeline":
        from pgetpy.cli.pipeline import run_pipeline

        return run_pipeline(invocation, environ)
    from pgetpy.cli.compile_cache import run_compile_cache

    return run_compile_cache(invocation, environ)


def _topic(operands: Sequence[str]) -> str:
    """Return the command that help is asked about: `help cache ls` names one in two words."""
    command, *rest = operands or ["download"]
    return f"{command} {rest[0]}" if command in SUBCOMMANDS and rest else command


def _run_cache_command(invocation: Invocation, environ: Mapping[str, str]) -> int:
    """Carry out a command on the cache; its modules are imported only for these commands."""
    from pgetpy.settings.cache_settings import CacheSettings

    command = invocation.arguments.command
    settings = CacheSettings.from_environment(environ).with_flags(invocation.arguments.values)
    try:
        settings = replace(settings, folder=settings.folder.absolute())
        if command in {"ensure", "cache ensure", "cache verify"}:
            from pgetpy.cli.ensure import run_filling

            return run_filling(invocation, settings)
        if command == "prefetch":
            from pgetpy.cli.prefetch import run_prefetch

            return run_prefetch(invocation, settings)
        from pgetpy.cli.cache import run_upkeep

        with log_lines(invocation):
            return run_upkeep(invocation, settings)
    except OSError as error:
        if isinstance(error, (PgetError, BrokenPipeError)):
            raise
        raise cache_error(error, settings.folder) from error


def _invocation(arguments: Arguments, api: Any, environ: Mapping[str, str]) -> Invocation:
    """Read settings from flags and environment, and warn about those without an effect.

    Raises:
        UsageError: a value is not valid, two flags contradict each other, or it is not said which
            command of a group is meant.
    """
    console = Console.from_environment(environ).with_flags(arguments.values)
    warnings = [
        f"Flag --{old} has been deprecated, use --{new} instead"
        for old, new in arguments.deprecated.items()
    ]
    if console.force_http2 and "force-http2" in arguments.values:
        warnings.append("--force-http2 has no effect: ranges go over several HTTP/1.1 connections")
    settings = _settings(arguments, environ, warnings.append)
    if settings.policy is not None and (settings.headers or settings.origin_authorization):
        warnings.append("headers and Authorization are not sent under --policy")
    options = CommandOptions().with_flags(arguments.values)
    invocation = Invocation(arguments, settings, console, options, api)
    _warn(invocation, warnings)
    if arguments.command in SUBCOMMANDS:
        names = ", ".join(SUBCOMMANDS[arguments.command])
        found = redact(next(iter(arguments.operands), "nothing"))
        raise UsageError(f"expected one of {names}, got {found}")
    return invocation


def _settings(
    arguments: Arguments, environ: Mapping[str, str], warn: Callable[[str], None]
) -> Settings:
    settings = Settings.from_environment(environ, warn=warn).with_flags(arguments.values)
    if settings.skip_existing and arguments.values.get("force") == "true":
        raise UsageError("--force replaces what exists and --skip-existing keeps it: give one")
    if arguments.command not in DOWNLOAD:
        # Those read the settings of the sources that they need before the first request.
        check_settings(settings.sources)
    if settings.cacert is not None and not os.access(settings.cacert, os.R_OK):
        name = "--cacert" if "cacert" in arguments.values else "PGET_CACERT"
        raise BadSettingError(name, settings.cacert, "there is no such file, or it is unreadable")
    return settings


def _warn(invocation: Invocation, warnings: Sequence[str]) -> None:
    for warning in warnings if invocation.console.shows("warn") else ():
        say(f"warning: {warning}")


def _download(invocation: Invocation) -> int:
    job = _job(invocation)
    try:
        with progress_of(invocation, keeps=job.dest not in STANDARD_OUTPUT) as progress:
            _check_free(job, invocation.settings, progress)
            result: DownloadResult = _api(invocation).download_job(
                job, settings=invocation.settings, progress=progress
            )
    except PgetError as error:
        invocation.tell_programs(error, {"url": redact(job.url), "dest": job.dest}, job.dest)
        raise
    if invocation.console.shows("info"):
        say_raw(results.complete_line(result))
    if invocation.options.json:
        print_beside(job.dest, results.json_outcome(result))
    return DONE


def _job(invocation: Invocation) -> Job:
    """Return the download that the operands ask for.

    Raises:
        UsageError: there are too few or too many operands, or one cannot be used.
    """
    operands = invocation.arguments.operands
    extracts = invocation.console.extracts
    if not (2 if extracts else 1) <= len(operands) <= 2:
        raise UsageError(
            f"expected {'URL and DEST' if extracts else 'URL [DEST]'}, "
            f"got {len(operands) or 'nothing'}; see pgetpy --help"
        )
    options = invocation.options
    reference = _reference(operands[0], invocation.settings)
    for url in options.mirror:
        check_url(url)
    # Without DEST the file is named as in a folder, by the server or the URL.
    dest = None if invocation.console.to_null else (*operands, "./")[1]
    if dest is not None and (not dest or "\0" in dest):
        raise UsageError("DEST is empty or holds a null character")
    if extracts and dest in STANDARD_OUTPUT:
        raise UsageError("an archive is extracted into a folder, not to standard output")
    return Job(
        operands[0],
        dest,
        options.checksum,
        options.mirror,
        extract=extracts,
        reference=reference,
    )


def _reference(text: str, settings: Settings) -> Reference:
    """Return what `text` refers to.

    Raises:
        BadReferenceError: no source knows it, or it is a URL without a usable host.
    """
    # The policy takes away the operator's tokens, which a reference would carry.
    reference = parse_reference(text, settings=settings.under_policy().sources)
    if reference.link is not None and not reference.local:
        check_url(text, reference.link)
    return reference


def _multifile(invocation: Invocation) -> int:
    (operand,) = invocation.take({1}, "one MANIFEST or -")
    from pgetpy.cli.manifest_file import read_manifest
    from pgetpy.core.references.manifest import parse_manifest

    text, path = read_manifest(operand)
    manifest = parse_manifest(
        text,
        path,
        to_null=invocation.console.to_null,
        extract=invocation.console.extracts,
        is_folder=is_folder,
        read=lambda text: _reference(text, invocation.settings),
    )
    _warn(invocation, manifest.warnings)
    started = time.monotonic()
    with progress_of(invocation) as progress:
        _check_all_free(manifest.jobs, invocation.settings, progress)
        found: Sequence[DownloadResult | DownloadFailure] = _api(invocation).download_jobs(
            manifest.jobs,
            settings=invocation.settings,
            progress=progress,
            fail_fast=invocation.options.fail_fast,
        )
    failures = [outcome for outcome in found if isinstance(outcome, DownloadFailure)]
    for line in results.failure_table(failures, len(found)):
        say_raw(line)
    if invocation.console.shows("info"):
        say_raw(results.metrics_line(found, time.monotonic() - started))
    for outcome in found if invocation.options.json else ():
        print_line(results.json_outcome(outcome))
    return FAILED if failures else DONE


def _check_all_free(jobs: Sequence[Job], settings: Settings, report: Report) -> None:
    """Raise DestinationError if a file is in the way, unless an earlier run of these finished it.

    All lines are checked before the first request, so that a mistake in the last line is reported
    at once.
    """
    journal = None
    for number, job in enumerate(jobs):
        try:
            _check_free(job, settings, report, number)
        except DestinationError:
            from pgetpy.destinations.manifest_journal import ManifestJournal

            journal = journal or ManifestJournal(jobs, os.environ, settings)
            if journal.finished(number) is None:
                raise


def _check_free(job: Job, settings: Settings, report: Report, number: int = 0) -> None:
    """Raise DestinationError if a file is at the destination and may not be overwritten.

    A file with the wanted checksum is not in the way. The engine checks the same again: this is
    only the fast way to say no.
    """
    if job.dest is None or job.dest in STANDARD_OUTPUT or settings.force or settings.skip_existing:
        return
    try:
        mode = os.stat(job.dest).st_mode
    except (OSError, ValueError):
        # Nothing there, or no permission to look: then opening it reports the error.
        return
    if job.extract:
        from pgetpy.archives.staging import check_empty

        if stat.S_ISDIR(mode):
            check_empty(Path(os.path.realpath(job.dest)), job.place)
    elif job.checksum is not None and stat.S_ISREG(mode):
        from pgetpy.destinations.existing import result_of_existing

        def hashed(done: int, total: int) -> None:
            report(Verifying(number, job.dest or "", done, total))

        result_of_existing(job, settings, hashed)
    elif stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        reason = f"already exists{job.place}"
        raise DestinationError(job.dest, reason, hint="use -f to overwrite it", code=errno.EEXIST)


def _api(invocation: Invocation) -> Any:
    if invocation.api is not None:
        return invocation.api
    import pgetpy.api

    return pgetpy.api
