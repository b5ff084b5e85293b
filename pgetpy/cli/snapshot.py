"""The command that fills the Hub's own cache: `snapshot`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgetpy.cli.invocation import DONE, Invocation
from pgetpy.cli.progress import progress_of
from pgetpy.cli.terminal import print_line
from pgetpy.errors import UsageError
from pgetpy.errors.redact import redact
from pgetpy.settings.command_options import hub_cache_dir


def run_snapshot(invocation: Invocation, environ: Mapping[str, str], api: Any) -> int:
    """Fetch a repository into the Hub's cache and print its path; return the exit status.

    The layout is huggingface_hub's, so that `from_pretrained` finds the files without a request.
    """
    operands, options = invocation.arguments.operands, invocation.options
    if len(operands) != 1:
        raise UsageError(f"expected one REPOSITORY, got {len(operands) or 'nothing'}")
    about = {"reference": redact(operands[0])}
    with (
        invocation.telling_programs(about),
        progress_of(invocation, into_cache=True) as progress,
    ):
        path: Path = api.snapshot(
            operands[0],
            allow_patterns=options.include,
            ignore_patterns=options.exclude,
            cache_dir=options.hub_cache_dir or hub_cache_dir(environ),
            settings=invocation.settings,
            progress=progress,
        )
    print_line(json.dumps({**about, "path": str(path)}) if invocation.options.json else str(path))
    return DONE
