"""The timeline of a start as a picture: SVG that needs no fonts, scripts or other files.

One row for each stage, in the order in which they began, so that what runs beside what is seen at
once. It follows the reader's light or dark mode.
"""

from __future__ import annotations

from html import escape

from pgetpy.core.pipelines.timeline import BootTimeline, Stage, joined, seconds_text

_WIDTH = 960
_MARGIN = 28
_NAMES = 190
_WORDS = 150
_TOP = 112
_ROW = 30
_BAR = 18
_MOST_ROWS = 28
_LONGEST_NAME = 26
_LETTER = 6.4
# Distances between grid lines, in seconds; the first is taken that gives at most eight lines.
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
# Colours that people who cannot tell red from green can tell apart (Okabe and Ito, softened).
_COLOURS = {
    "python": "#8a94a6",
    "download": "#3b82c4",
    "import": "#e0a030",
    "load": "#2a9d7f",
    "compile": "#b8639b",
    "warm-up": "#d9653b",
    "other": "#7a7fb5",
}
_STYLE = """\
text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  fill: #1f2733 }
.title { font-size: 20px; font-weight: 600 }
.quiet { fill: #68727f }
.end { text-anchor: end }
.middle { text-anchor: middle }
.paper { fill: #ffffff; stroke: #e3e7ec }
.grid { stroke: #dde2e8 }
.words { paint-order: stroke; stroke: #ffffff; stroke-width: 5 }
.failed { stroke: #c0262d; stroke-width: 2 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6eaf0 }
  .quiet { fill: #98a3b1 }
  .paper { fill: #171b21; stroke: #2b323b }
  .words { stroke: #171b21 }
  .grid { stroke: #323a45 }
}"""


def picture(timeline: BootTimeline, title: str = "") -> str:
    """Return the timeline as the text of an SVG file.

    Args:
        timeline: of a start; many short stages of a kind are drawn as one.
        title: what started, for the headline.
    """
    stages = joined(timeline.stages, _MOST_ROWS)
    height = _TOP + _ROW * len(stages) + 44
    headline = f"{title or 'Start'}: {seconds_text(timeline.total)}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img">',
        f"<title>{escape(headline)}</title>",
        f"<desc>{escape(timeline.summary())}</desc>",
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1}" rx="10"/>',
        _text(_MARGIN, 40, headline, "title"),
        _text(_MARGIN, 62, _remark(timeline), "quiet"),
        *_legend(timeline),
        *_grid(timeline.total, height),
    ]
    for number, stage in enumerate(stages):
        parts += _row(stage, timeline.total, _TOP + number * _ROW)
    return "\n".join([*parts, "</svg>", ""])


def _remark(timeline: BootTimeline) -> str:
    parts = []
    if timeline.overlapped >= 0.05:
        parts.append(f"{seconds_text(timeline.overlapped)} saved by working side by side")
    if timeline.unrecorded >= 0.05:
        parts.append(f"{seconds_text(timeline.unrecorded)} between stages, not recorded")
    return ", ".join(parts) or "since the process began"


def _legend(timeline: BootTimeline) -> list[str]:
    """Return the kinds with their seconds, in one line."""
    parts, left = [], float(_MARGIN)
    for kind, seconds in timeline.by_kind().items():
        words = f"{kind} {seconds_text(seconds)}"
        parts.append(f'<circle cx="{left + 5:.1f}" cy="84" r="5" fill="{_COLOURS[kind]}"/>')
        parts.append(_text(left + 16, 88, words))
        left += 34 + _LETTER * len(words)
    return parts


def _grid(total: float, height: int) -> list[str]:
    """Return a line and its time for each tick of the clock."""
    step = next((each for each in _STEPS if total / each <= 8), _STEPS[-1])
    bottom = height - 32
    parts = []
    for number in range(int(total / step) + 1):
        seconds = number * step
        at = _across(seconds, total)
        parts.append(f'<path class="grid" d="M{at:.1f} {_TOP - 6}V{bottom}"/>')
        digits = 1 if step < 1 else 0
        parts.append(_text(at, bottom + 16, f"{seconds:.{digits}f} s", "quiet middle"))
    return parts


def _row(stage: Stage, total: float, top: int) -> list[str]:
    start, stop = _across(stage.start, total), _across(stage.stop, total)
    middle = top + _BAR - 5
    failed = ' class="failed"' if stage.failed else ""
    return [
        f"<g><title>{escape(f'{stage.kind}: {stage.name}, {stage.words}')}</title>",
        _text(_MARGIN + _NAMES - 12, middle, _short(stage.name), "end"),
        f'<rect{failed} x="{start:.1f}" y="{top}" width="{max(3.0, stop - start):.1f}" '
        f'height="{_BAR}" rx="4" fill="{_COLOURS[stage.kind]}"/>',
        _words(stage, start, max(stop, start + 3), middle),
        "</g>",
    ]


def _short(name: str) -> str:
    """Return a name that fits: its end, which says more than its beginning, and its folder."""
    if len(name) <= _LONGEST_NAME:
        return name
    folder, slash, _ = name.partition("/")
    kept = f"{folder}/" if slash and len(folder) < _LONGEST_NAME // 2 else ""
    return f"{kept}…{name[len(kept) - _LONGEST_NAME + 1 :]}"


def _words(stage: Stage, start: float, stop: float, base: int) -> str:
    """Return the stage's words behind its bar, or before it where there is more space."""
    length = _LETTER * len(stage.words)
    before, behind = start - _MARGIN - _NAMES, _WIDTH - _MARGIN - stop
    if length <= behind or behind >= before:
        return _text(stop + 8, base, stage.words, "quiet words")
    return _text(start - 8, base, stage.words, "quiet words end")


def _across(seconds: float, total: float) -> float:
    """Return the horizontal position of a time."""
    left, right = _MARGIN + _NAMES, _WIDTH - _MARGIN - _WORDS
    return left + (right - left) * (seconds / total if total > 0 else 0.0)


def _text(left: float, base: float, words: str, style: str = "") -> str:
    chosen = f' class="{style}"' if style else ""
    return f'<text{chosen} x="{left:.1f}" y="{base}">{escape(words)}</text>'
