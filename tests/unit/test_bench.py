"""The benchmark's own rules: who runs how often, what a failure costs, what the page says."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import pytest

from scripts.bench import report
from scripts.bench.cases import CASES, GROUPS, QUICK
from scripts.bench.measure import Attempt, CutShortError, RunFailedError, Sample, Series, alternate

Run = tuple[Sample, str]
_SEVEN = range(3, 8)


def takes(seconds: float) -> Attempt:
    return lambda thorough: (Sample(seconds, seconds, 1), "")


def run(
    rounds: range = _SEVEN, deadline: float = math.inf, **attempts: Attempt
) -> dict[str, Series]:
    versions = {name: ("1.0", attempt) for name, attempt in attempts.items()}
    return {one.name: one for one in alternate(versions, rounds, deadline, lambda line: None)}


def test_a_trial_comes_before_the_rounds() -> None:
    seen: list[bool] = []

    def attempt(thorough: bool) -> tuple[Sample, str]:
        seen.append(thorough)
        return Sample(1.0, 1.0, 1), ""

    assert len(run(quick=attempt)["quick"].samples) == 7
    assert seen == [True] + 7 * [False]


@pytest.mark.parametrize("most", [3, 5, 7])
def test_what_takes_long_runs_three_times_with_its_trial(most: int) -> None:
    series = run(range(3, most + 1), short=takes(1.0), long=takes(9.0))
    assert {name: len(one.samples) for name, one in series.items()} == {"short": most, "long": 3}


def test_after_the_deadline_the_fewest_rounds_are_done() -> None:
    series = run(deadline=time.monotonic() - 1, short=takes(1.0), long=takes(9.0))
    assert {len(one.samples) for one in series.values()} == {3}


@pytest.mark.parametrize("failure", [RunFailedError("exit 1: no"), OSError("disk full")])
def test_one_program_that_fails_costs_the_others_nothing(failure: Exception) -> None:
    calls = iter(range(9))

    def attempt(thorough: bool) -> tuple[Sample, str]:
        if next(calls) == 2:
            raise failure
        return Sample(1.0, 1.0, 1), ""

    series = run(fails=attempt, works=takes(1.0))
    assert str(failure) in series["fails"].error
    assert (series["fails"].samples, len(series["works"].samples)) == ([], 7)


def test_what_was_measured_before_an_interruption_is_kept() -> None:
    for good, kept, note in ((2, 1, ""), (1, 1, "the trial"), (0, 0, "")):
        calls = iter(range(9))

        def attempt(thorough: bool, calls: Iterator[int] = calls, good: int = good) -> Run:
            if next(calls) == good:
                raise KeyboardInterrupt
            return Sample(1.0, 1.0, 1), ""

        with pytest.raises(CutShortError) as cut:
            run(stopped=attempt)
        [series] = cut.value.series
        assert len(series.samples) == kept
        assert series.note.startswith(note)
        assert bool(series.error) is not bool(kept)
        result = {**report.as_result(CASES[0], [series], [], 1.0), "commit": "abc1234"}
        assert not report.is_whole(result, "abc1234")
        assert report.table(result)[1][2] == ("1.00 s" if kept else "failed")


def measured(commit: str) -> dict[str, report.Result]:
    """Return what a run of all cases leaves, each program a tenth slower than the one before."""
    results = {}
    for case in CASES:
        series = [
            Series(entrant.name, "1.0", [Sample(1 + at / 10, 1.0, 1_000_000)] * case.rounds)
            for at, entrant in enumerate(case.entrants)
        ]
        own = {"commit": commit, "when": "2026-01-02", "seconds": 9}
        results[case.name] = {**report.as_result(case, series, [], 1.0), **own}
    return results


def test_the_page_names_the_commit_and_the_cases_that_are_not_of_it() -> None:
    results = measured("abc1234")
    results["many"] = {**results["many"], "commit": "0ld0000"}
    del results["gpu"]
    said = report.page(results, {"processor": "2 cores"})
    assert "The figures are of commit abc1234" in said
    assert "but those of many of 0ld0000, 2026-01-02" in said
    assert "Not measured here: gpu." in said


def test_the_page_says_of_a_case_that_misses_a_goal_what_its_time_is_spent_on() -> None:
    results = measured("abc1234")
    [case] = [case for case in CASES if case.name == "many"]
    assert case.profile not in report.page(results, {})
    ours, *others = results["many"]["series"]
    results["many"] = {**results["many"], "series": [{**ours, "wall": [9.0]}, *others]}
    assert f"- {case.title}: {case.profile}" in report.page(results, {})


def test_only_what_was_measured_whole_of_this_commit_is_left_out_of_a_resumed_run() -> None:
    result = measured("abc1234")["many"]
    failed = {**result, "series": [{**result["series"][0], "error": "exit 1"}]}
    assert report.is_whole(result, "abc1234")
    assert [
        report.is_whole(result, "def5678"),
        report.is_whole({**result, "rounds": 2}, "abc1234"),
        report.is_whole(failed, "abc1234"),
        report.is_whole(None, "abc1234"),
    ] == 4 * [False]


def test_each_goal_is_about_programs_of_its_case() -> None:
    for case in CASES:
        names = {entrant.name for entrant in case.entrants}
        for goal in case.goals:
            assert goal.entrant in names, case.name
            assert goal.against is None or goal.given is not None or goal.against in names


def test_names_are_unambiguous_and_every_case_says_what_it_is_good_for() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert not set(names) & {group.name for group in GROUPS}
    assert set(QUICK) <= set(names)
    assert [case.name for case in CASES if not case.about] == []
