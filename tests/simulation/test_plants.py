"""Planted bugs: the observer finds each of them. `python -m tests.simulation --plants` prints the table."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.simulation.planting import Edit, Plant
from tests.simulation.plants import PLANTS, StalePlant, changed
from tests.simulation.test_simulation import simulate

MOST_SEEDS = 400
QUICK = (
    "a released claim stays counted as used",
    "a lease that is held is taken",
    "a new owner keeps the old epoch",
    "resumed before GO",
    "GO when some are created",
    "the request id is not remembered with the intent",
)
"""A slice for the ordinary tests: bugs that a few seeds find."""


def test_there_are_enough_of_them_with_names_of_their_own() -> None:
    assert len({plant.name for plant in PLANTS}) == len(PLANTS) >= 40


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_a_plant_fits_the_program_as_it_is(plant: Plant) -> None:
    for module in {edit.module for edit in plant.edits}:
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        edits = [edit for edit in plant.edits if edit.module == module]
        compile(changed(Path(spec.origin).read_text(), edits), module, "exec")


def test_a_plant_whose_text_is_gone_fails_loudly() -> None:
    with pytest.raises(StalePlant):
        changed("a = 1\n", [Edit("module", "a = 2\n", "a = 3\n")])
    with pytest.raises(StalePlant):
        changed("a = 1\na = 1\n", [Edit("module", "a = 1\n", "a = 3\n")])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", QUICK)
def test_a_planted_bug_is_found(name: str) -> None:
    _found(name)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [plant.name for plant in PLANTS if plant.name not in QUICK])
def test_every_planted_bug_is_found(name: str) -> None:
    _found(name)


def _found(name: str) -> None:
    ended = simulate("--plant", name, "--seeds", str(MOST_SEEDS))
    print(name, ended.stdout)
    assert ended.returncode == 0, f"{name}: {ended.stdout}{ended.stderr}"
