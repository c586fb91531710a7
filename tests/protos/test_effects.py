"""`protos/EFFECTS.md` has a row for every field of every request, and what it says shows the effect exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from corral.v1 import catalog_pb2, deploy_pb2, fleet_pb2, project_pb2, secret_pb2
from google.protobuf.descriptor import Descriptor

TESTS = Path(__file__).resolve().parents[1]
ROWS = re.findall(
    r"^\| `(\w+)` \| (?:`(\w+)`)? ?\| (.+?) \| (`[^|]+`) \|$", (TESTS.parent / "protos/EFFECTS.md").read_text(), re.M
)
"""(field, message or nothing, effect, tests in backquotes)."""


def named(shown: str) -> list[str]:
    """The tests that a row names."""
    return re.findall(r"`([^`]+)`", shown)


def fields() -> Iterator[tuple[str, str]]:
    """(field, message) of everything that a caller can say."""
    seen: set[str] = set()

    def walk(message: Descriptor) -> Iterator[tuple[str, str]]:
        if message.full_name in seen:
            return
        seen.add(message.full_name)
        for field in message.fields:
            yield field.name, message.name
            inner = field.message_type
            if inner is not None and not inner.GetOptions().map_entry and inner.full_name.startswith("corral."):
                yield from walk(inner)

    for module in (catalog_pb2, deploy_pb2, fleet_pb2, project_pb2, secret_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                yield from walk(method.input_type)


def test_every_field_of_every_request_has_a_row_and_no_row_is_of_none() -> None:
    known = set(fields())
    rows = {(field, of) for field, of, _, _ in ROWS}
    assert len(rows) == len(ROWS) > 90
    assert [pair for pair in sorted(known) if pair not in rows and (pair[0], "") not in rows] == []
    names = {field for field, _ in known}
    assert [row for row in sorted(rows) if (row if row[1] else row[0]) not in (known | names)] == []


def test_what_shows_an_effect_exists() -> None:
    gone = []
    for shown in (test for *_, row in ROWS for test in named(row)):
        file, _, name = shown.partition("::")
        path = TESTS / file
        if not path.is_file() or not re.search(rf"^(async )?def {name}\(", path.read_text(), re.M):
            gone.append(shown)
    assert gone == []
