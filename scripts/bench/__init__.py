"""Whole-process timing of pgetpy against its peers, in alternating rounds on one machine.

    python -m scripts.bench --help

`cases` says what is compared, `peers` how each program is called, `servers` what they download
from, `archives` what they extract, `measure` how one run is timed, `report` how the figures are
shown.
"""
