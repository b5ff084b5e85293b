"""The command that fills the Hub's own cache: `snapshot`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgetpy.cli.invocation import DONE, Invocation
from pgetpy.cli.progress import progress_of
from pgetpy.errors.redact import redact
from pgetpy.settings.command_options import hub_cache_dir


def run_snapshot(invocation: Invocation, environ: Mapping[str, str], api: Any) -> int:
    """Fetch a repository into the Hub's cache and print its path; return the exit status.

    The layout is huggingface_hub's, so that `from_pretrained` finds the files without a request.
    """
    options = invocation.options
    (repository,) = invocation.take({1}, "one REPOSITORY")
    about = {"reference": redact(repository)}
    with (
        invocation.telling_programs(about),
        progress_of(invocation, into_cache=True) as progress,
    ):
        path: Path = api.snapshot(
            repository,
            allow_patterns=options.include,
            ignore_patterns=options.exclude,
            cache_dir=options.hub_cache_dir or hub_cache_dir(environ),
            settings=invocation.settings,
            progress=progress,
        )
    invocation.tell(str(path), {**about, "path": str(path)})
    return DONE
