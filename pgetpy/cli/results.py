"""What is printed of a call when it is over: lines for people, JSON for programs.

The lines `[ Complete ]` and `[ Metrics ]` have pget's form, which scripts parse: `name=value`,
quoted if it holds a blank. Fields of ours are added behind pget's.

Rates count what was moved: bytes of an earlier run, and files that another process fetched, are in
the sizes and not in the bytes a second. URLs and paths may hold anything a server says, so every
text is made one line of printable characters before it is shown.
"""

from __future__ import annotations

from collections.abc import Sequence

from pgetpy.core.report.results import DownloadFailure, DownloadResult
from pgetpy.core.report.tally import Tally
from pgetpy.core.report.text import one_line
from pgetpy.core.text.units import format_rate, format_size
from pgetpy.errors import PgetError
from pgetpy.errors.redact import redact, redact_text


def complete_line(result: DownloadResult) -> str:
    """Return pget's line on a file that is complete, with the rate added."""
    if result.skipped:
        return _log_line("Skipped", _skipped_fields(result))
    said = {
        "dest": result.dest,
        "size": format_size(result.size),
        "total_elapsed": f"{result.seconds:.3f}s",
        "bytes_per_second": format_rate(result.bytes_per_second),
        "url": redact(result.url),
    }
    if result.resumed:
        said["resumed"] = format_size(result.resumed)
    if result.digest or result.store_checksum:
        said["checksum"] = result.digest or result.store_checksum
    return _log_line("Complete", said)


def _skipped_fields(result: DownloadResult) -> dict[str, str]:
    said = {"dest": result.dest, "size": format_size(result.size), "url": redact(result.url)}
    if result.digest:
        said["checksum"] = result.digest
    return said


def metrics_line(found: Sequence[DownloadResult | DownloadFailure], seconds: float) -> str:
    """Return pget's line on a manifest: files, bytes, bytes a second, time; and what was there.

    Args:
        found: the outcomes; failures are left out, as pget would have stopped at the first.
        seconds: from the first request to the end.
    """
    complete = [outcome for outcome in found if isinstance(outcome, DownloadResult)]
    results = [result for result in complete if not result.skipped]
    moved = sum(result.size - result.resumed for result in results if not result.shared)
    said = {
        "file_count": str(len(results)),
        "total_bytes_downloaded": format_size(sum(result.size for result in results)),
        "bytes_per_second": format_rate(moved / seconds if seconds else 0.0),
        "elapsed_time": f"{seconds:.3f}s",
    }
    if len(results) < len(complete):
        said["skipped"] = str(len(complete) - len(results))
    return _log_line("Metrics", said)


def failure_table(failures: Sequence[DownloadFailure], files: int) -> list[str]:
    """Return a heading and a line for each failure; nothing where there is none."""
    if not failures:
        return []
    rows = [(one_line(item.dest or "-"), redact(item.url), _reason(item)) for item in failures]
    dest_width = max(len(dest) for dest, _, _ in rows)
    url_width = max(len(url) for _, url, _ in rows)
    heading = f"pgetpy: {len(failures)} of {files} files failed:"
    lines = [f"  {dest:<{dest_width}}  {url:<{url_width}}  {why}" for dest, url, why in rows]
    return [heading, *lines]


def interrupted_line(tally: Tally, *, keeps: bool) -> str:
    """Return a sentence on what an interrupted call has left, and how to go on.

    Args:
        tally: the state of its transfers.
        keeps: whether the same command can use what has arrived.
    """
    states = [*tally.active.values(), *tally.stopped.values()]
    held = sum(state.done for state in states if state.keeps)
    parts = ["interrupted"]
    how = "run the same command to continue"
    if tally.files > 1 and tally.finished:
        parts.append(f"{tally.finished} of {tally.files} files are finished")
    if keeps and held:
        known = len(states) == 1 and states[0].total is not None
        of = f" of {format_size(states[0].total or 0)}" if known else ""
        others = " of the others" if len(parts) > 1 else ""
        parts.append(f"{format_size(held)}{of}{others} is kept: {how}")
    elif keeps and len(parts) > 1:
        parts[-1] += ": run the same command for the others"
    return "; ".join(parts)


def json_outcome(outcome: DownloadResult | DownloadFailure) -> str:
    """Return an outcome as one JSON object."""
    import json

    if isinstance(outcome, DownloadResult):
        from dataclasses import asdict

        return json.dumps(asdict(outcome))
    about = {"url": redact(outcome.url), "dest": outcome.dest}
    return json.dumps({**about, **failure_record(outcome.error)})


def failure_record(error: PgetError) -> dict[str, str]:
    """Return an error for programs.

    `error` is the sentence with its hint, which may change between releases; `error_type` is the
    class, which is an interface.
    """
    return {"error": redact_text(str(error)), "error_type": type(error).__name__}


def _log_line(message: str, fields: dict[str, str]) -> str:
    said = " ".join(f"{name}={_quoted(one_line(value))}" for name, value in fields.items())
    return f"[ {message} ] {said}"


def _quoted(value: str) -> str:
    if " " not in value and '"' not in value:
        return value
    # As in JSON: one line holds no other characters that JSON escapes.
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _reason(failure: DownloadFailure) -> str:
    # The URL has its own column.
    return one_line(str(failure.error).replace(f" for {redact(failure.url)}", "", 1))
