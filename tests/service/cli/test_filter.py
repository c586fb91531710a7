"""The command's filter reads every line of the page's table as it should, and names what is no field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.cli import errors
from service.cli.filter import matches, terms
from service.cli.main import main
from tests.service.cli.scripted import GROUP
from tests.support import ROOT

CASES: list[dict[str, Any]] = json.loads((ROOT / "tests/web/filters.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["filter"] or "empty")
def test_a_filter_holds_as_it_does_on_the_page(case: dict[str, Any]) -> None:
    assert matches(terms(case["filter"]), case["thing"]) is case["holds"]


def test_groups_are_filtered_by_what_the_page_filters_them_by(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    for text, found in (("status:run", 1), ("-status:run", 1), ("my host:hv1", 2), ("host:hv2", 0), ("reason:why", 1)):
        assert main(["--server", address, "groups", "--filter", text, "--output", "name"]) == errors.OK
        assert capsys.readouterr().out == f"{GROUP}\n" * found, text
    assert main(["--server", address, "groups", "--filter", "colour:red"]) == errors.USAGE
    assert "not a field: colour" in capsys.readouterr().err
