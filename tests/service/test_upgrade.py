"""A database and machines of the last version without ownership come up under this one, and nothing happens to them.

`before_ownership.sql` and `before_ownership.json` were made by that version (schema 0005): a group of three that runs,
one that is stopped, one that was deleted; the events, which only watchers from before would ask for, are compacted.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from corral.v1 import fleet_pb2

from tests.service.test_recovering import HOSTS, configuration, deploy, groups, machines, plain, recover
from tests.support.process import CorralProcess

HERE = Path(__file__).parent
LEGACY = "corral"


@pytest.fixture
def corral(tmp_path: Path) -> Iterator[CorralProcess]:
    process = CorralProcess(tmp_path, configuration(tmp_path))
    with closing(sqlite3.connect(process.database)) as connection:
        connection.executescript((HERE / "before_ownership.sql").read_text())
    # Their guests have been up for long; by the clock of a machine that was started since they would not have begun.
    text = re.sub(r'"resumed_at": [\d.]+', '"resumed_at": 0.0', (HERE / "before_ownership.json").read_text())
    for name, state in json.loads(text).items():
        (tmp_path / f"{name}.json").write_text(json.dumps(state))
    try:
        yield process
    finally:
        process.kill()


def test_what_an_earlier_version_made_is_known_marked_and_left_running(corral: CorralProcess) -> None:
    before = machines(corral)
    assert sorted(state for _, state, _ in before.values()) == ["running"] * 3 + ["stopped"]
    corral.start()
    found = {g.name: g for g in groups(corral).values()}
    assert {name: g.status for name, g in found.items()} == {"runs": "Running", "rests": "Stopped"}
    assert machines(corral) == before
    hosts = corral.fleet.ListHosts(fleet_pb2.ListHostsRequest()).inventories
    assert [(h.name, h.status, bool(h.hypervisor_uuid)) for h in hosts] == [(n, "Connected", True) for n in HOSTS]
    with closing(sqlite3.connect(corral.database)) as connection:
        (own,) = connection.execute("SELECT database, cluster FROM installation").fetchall()
        assert connection.execute("SELECT count(*) FROM quarantine").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM retired").fetchone() == (1,), "of the group that was deleted"
    assert own[1] == LEGACY, "machines of that version bear this id"
    marks = [json.loads((corral.directory / f"{name}.json").read_text())["mark"] for name in HOSTS]
    assert {mark["database"] for mark in marks} == {own[0]}

    # They go on as the version's own do: what is deleted is let go on record, what is new has records.
    whole = plain(found["runs"])
    corral.stop()
    shown = recover(corral)
    assert shown.returncode == 0, shown
    corral.start()
    assert plain(groups(corral)[found["runs"].uuid]) == whole
    new = deploy(corral, "new", 1)
    for uuid in (found["runs"].uuid, found["rests"].uuid):
        assert corral.delete(uuid).status == "Deleted"
    assert set(machines(corral)) == {f"{new.instances[0].uuid}-1"}
    with closing(sqlite3.connect(corral.database)) as connection:
        assert connection.execute("SELECT count(*) FROM retired").fetchone() == (5,)
