"""protos/COVERAGE.md tells the truth: every RPC and every documented field is in it, with tests that are there."""

from __future__ import annotations

import re

from tests.protos import coverage_table as table

_RPC_ROW = re.compile(r"^\| `(\w+/\w+)` \|[^|]*\|[^|]*\| ([^|]*) \|$", re.MULTILINE)
_FIELD_ROW = re.compile(r"^\| (parameter|reply) `([\w.]+)` \| ([^|]*) \|$", re.MULTILINE)
_ADVICE = "run make coverage-table"


def _names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_rpc_is_in_the_table_with_tests_that_call_it() -> None:
    told = {rpc: _names(cell) for rpc, cell in _RPC_ROW.findall(table.TABLE.read_text())}
    assert list(told) == list(table.RPCS), _ADVICE
    for rpc, files in told.items():
        assert files, f"no test calls {rpc}"
        assert set(files) <= set(table.callers(rpc)), f"{rpc}: {_ADVICE}"


def test_every_documented_field_is_in_the_table_with_the_tests_named_after_it() -> None:
    told = {f"{kind}:{name}": _names(cell) for kind, name, cell in _FIELD_ROW.findall(table.TABLE.read_text())}
    named = table.documented_tests()
    assert list(told) == list(named), _ADVICE
    for field, tests in told.items():
        assert tests, f"no test is named after {field}"
        assert set(tests) <= set(named[field]), f"{field}: {_ADVICE}"


def test_the_suites_for_all_rpcs_are_there() -> None:
    text = table.TABLE.read_text()
    for file in table.ALL_RPCS:
        assert (table.TESTS / file).is_file()
        assert f"| `{file}` |" in text, _ADVICE


def test_what_is_written_now_would_be_accepted() -> None:
    assert len(_RPC_ROW.findall(table.render())) == len(table.RPCS)
    assert len(_FIELD_ROW.findall(table.render())) == len(table.PARAMETERS) + len(table.REPLY)
