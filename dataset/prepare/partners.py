"""Whose an X-ray may be that does not fit its CT: found on what the CTs of the other patients would show."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from dataset.prepare.registered import OF_ONE_RULE, RIGHT_WAY_RULE
from dataset.scans.pair_check import CHANGES, CLEARLY, MAGNIFICATIONS, NEGATIVE, TURNS_DEG, mended
from dataset.scans.sketch import Sketch
from dataset.store.case import Case, Problem

_ROUGHLY = (0.97, 1.07, 1.17)  # magnifications by which all are looked at
_CLOSER = 5  # so many of them are then looked at as their own CT was
_MOST = 10_000  # comparisons in all: a minute or two
_LEAST, _AHEAD = (
    0.78,
    0.03,
)  # likeness of a partner, and ahead of the next: of 14 films with CTs of others 12 were named


class Sketched(Protocol):
    """What is known of a case: the sketch of its X-ray and CT, empty where none was made."""

    @property
    def sketch(self) -> str: ...


def with_partners(problems: Iterable[Problem], found: Mapping[str, Sketched], cases: Iterable[Case]) -> list[Problem]:
    """The problems; those of X-rays that do not fit name the case whose CT they fit clearly better, if there is one."""
    patients = {case.name: case.patient_id for case in cases}
    told, left = [], _MOST
    sketches: dict[str, Sketch] = {}
    for problem in problems:
        name = problem.patient_id
        if problem.rule in (OF_ONE_RULE, RIGHT_WAY_RULE) and name in found and found[name].sketch and left > 0:
            sketches = sketches or {n: Sketch.read(one.sketch) for n, one in found.items() if one.sketch}
            others = {n: s for n, s in sketches.items() if patients[n] != patients[name]}
            left -= len(others)
            problem = _told(problem, sketches[name], others)
        told.append(problem)
    return told


def _told(problem: Problem, own: Sketch, others: Mapping[str, Sketch]) -> Problem:
    rough = {name: own.likeness(other, _ROUGHLY, (0.0,)) for name, other in others.items()}
    near = sorted(rough, key=lambda name: -rough[name])[:_CLOSER]
    scores = sorted((own.likeness(others[name], MAGNIFICATIONS, TURNS_DEG), name) for name in near)
    if not scores:
        return problem
    score, best = scores[-1]
    nearest = scores[-2][0] if len(scores) > 1 else 0.0
    itself = max(_taken_for(change, own).likeness(own, MAGNIFICATIONS, TURNS_DEG) for change in (*CHANGES, NEGATIVE))
    if score < max(_LEAST, itself + CLEARLY, nearest + _AHEAD):
        return problem
    found = f"{problem.found}; it fits the CT of {best} better: {score:.2f}, its own {itself:.2f}"
    return replace(problem, found=found, remedy=f"Check whether it is that of {best}. {problem.remedy}")


def _taken_for(change: str, own: Sketch) -> Sketch:
    """With its film as it should be, were it what `pair_check.CHANGES` call it, or a negative."""
    if change == NEGATIVE:
        return replace(own, film=-own.film)
    return replace(own, film=mended(own.film, change), film_open=mended(own.film_open, change))
