"""JSON forms: nothing is lost on the way there and back, and every fault names its place. The offline command."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from placement import codec
from placement.__main__ import main
from placement.engine import place
from placement.model import Policy, Snapshot
from placement.resources import InvalidPlacementInput
from tests.placement.instances import tiny
from tests.support import ROOT

HOST = {"id": "a", "zone": "z", "rack": None, "capacity": {"cpu": 8}, "used": {}, "labels": {}}
FLEET = {"version": 1, "hosts": [HOST]}
ASK = {"version": 1, "nodes": [{"id": "n", "demand": {"cpu": 2}, "zone": None, "count": 2}], "strategy": "fewest_hosts"}


@pytest.mark.parametrize("seed", range(80))
def test_all_forms_survive_a_round_trip(seed: int) -> None:
    snapshot, request = tiny(seed, numa=seed % 2 == 0)
    decision = place(snapshot, request)
    dump = codec.loads(codec.dumps(codec.write_dump(snapshot, request, Policy(), decision)))
    again = codec.read_dump(dump)
    assert again == (snapshot, request, Policy(), decision)
    assert codec.write_dump(*again) == dump


def test_the_documented_forms_are_read_and_written() -> None:
    snapshot = codec.read_snapshot(FLEET)
    request, policy, deadline = codec.read_request({**ASK, "constraints": None, "seed": 7, "deadline_ms": 50})
    assert (policy.seed, deadline) == (7, 50)
    written = codec.write_decision(place(snapshot, request, policy))
    assert written["assignments"] == [{"node": "n", "host": "a"}, {"node": "n", "host": "a"}]
    assert (written["status"], written["proof"], written["objective"]) == ("placed", "optimal", 1)
    assert (written["lower_bound"], written["upper_bound"], written["explanation"]) == (1, 1, None)


@pytest.mark.parametrize(
    ("place_", "value"),
    [
        ("snapshot.hosts", {"version": 1}),
        ("snapshot.version", {"version": 2, "hosts": []}),
        ("snapshot.hosts", {"hosts": {}}),
        ("snapshot.extra", {"hosts": [], "extra": 1}),
        ("snapshot.hosts[0].zone", {"hosts": [{"id": "a", "capacity": {}}]}),
        ("snapshot.hosts[0].colour", {"hosts": [{**HOST, "colour": "red"}]}),
        ("snapshot.hosts[0].schedulable", {"hosts": [{**HOST, "schedulable": "no"}]}),
        ("host.capacity[cpu]", {"hosts": [{**HOST, "capacity": {"cpu": -1}}]}),
        ("host.capacity[cpu]", {"hosts": [{**HOST, "capacity": {"cpu": 1.5}}]}),
        ("snapshot.hosts[0]", {"hosts": [7]}),
        ("snapshot.hosts", {"hosts": [HOST, HOST]}),
    ],
)
def test_a_wrong_snapshot_names_its_place(place_: str, value: object) -> None:
    with pytest.raises(InvalidPlacementInput) as caught:
        codec.read_snapshot(value)
    assert place_ in caught.value.field


@pytest.mark.parametrize(
    ("place_", "change"),
    [
        ("request.strategy", {"strategy": "tightest"}),
        ("request.nodes", {"nodes": []}),
        ("request.nodes[0].demand", {"nodes": [{"id": "n"}]}),
        ("node.count", {"nodes": [{"id": "n", "demand": {}, "count": 0}]}),
        ("request.constraints[0].kind", {"constraints": [{"kind": "never"}]}),
        ("request.constraints[0].scope", {"constraints": [{"kind": "at_most", "scope": "galaxy"}]}),
        ("request.constraints[0].first", {"constraints": [{"kind": "apart"}]}),
        ("request.constraints[0].limits", {"constraints": [{"kind": "at_most", "limits": 1}]}),
        ("constraint.limit", {"constraints": [{"kind": "at_most", "limit": "1"}]}),
        ("request.deadline_ms", {"deadline_ms": 0}),
        ("policy.seed", {"seed": -4}),
    ],
)
def test_a_wrong_request_names_its_place(place_: str, change: dict[str, object]) -> None:
    with pytest.raises(InvalidPlacementInput) as caught:
        codec.read_request({**ASK, **change})
    assert place_ in caught.value.field


@pytest.mark.parametrize("text", ["", "{", "[1,", '{"a":1,"a":2}', "NaN", '{"a":Infinity}', "[" * 100_000])
def test_text_that_is_no_json_is_an_error(text: str) -> None:
    with pytest.raises(InvalidPlacementInput):
        codec.loads(text)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A fleet, a request that fits and one that does not."""
    contents = {"fleet": FLEET, "fits": ASK, "big": {**ASK, "nodes": [{"id": "n", "demand": {"cpu": 5}, "count": 3}]}}
    for name, value in contents.items():
        (tmp_path / name).write_text(json.dumps(value))
    return {name: str(tmp_path / name) for name in [*contents, "decision", "dump"]}


def test_place_check_and_replay_agree(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["place", files["fleet"], files["fits"], "--dump", files["dump"]]) == 0
    Path(files["decision"]).write_text(capsys.readouterr().out)
    assert main(["check", files["fleet"], files["fits"], files["decision"]]) == 0
    assert main(["check", files["fleet"], files["big"], files["decision"]]) == 1
    assert main(["replay", files["dump"]]) == 0
    dump = json.loads(Path(files["dump"]).read_text())
    dump["decision"]["stage"] = "elsewhere"
    Path(files["dump"]).write_text(json.dumps(dump))
    assert main(["replay", files["dump"]]) == 1


def test_explain_says_it_in_words(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", files["fleet"], files["big"]]) == 1
    text = capsys.readouterr().out
    for part in ("lacks 7 cpu", "of 3 nodes 1 can be placed, at most 1", "cure: add 2 empty hosts like a", "can never"):
        assert part in text
    assert main(["explain", files["fleet"], files["fits"]]) == 0
    assert "a: n, n" in capsys.readouterr().out


def test_as_many_as_possible_is_an_option(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["place", files["fleet"], files["big"], "--max-placed", "--deadline-ms", "5000"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert (written["objective"], written["upper_bound"], written["unplaced"]) == (1, 1, ["n", "n"])


def test_moves_and_room_can_be_asked_offline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members: list[dict[str, Any]] = [{"id": "m", "demand": {"cpu": 4}}, {"id": "pin", "demand": {}, "movable": False}]
    hosts: list[dict[str, Any]] = [
        {"id": f"h{n}", "zone": "z", "capacity": {"cpu": 8}, "used": {"cpu": 4}} for n in range(2)
    ]
    hosts[0]["members"] = members
    fleet, ask = tmp_path / "fleet", tmp_path / "ask"
    fleet.write_text(json.dumps({"hosts": hosts, "flavours": [{"demand": {"cpu": 8}}]}))
    ask.write_text(json.dumps({"nodes": [{"id": "n", "demand": {"cpu": 2}}]}))
    move = {"member": "m", "from": "h0", "to": "h1", "cells": []}
    assert main(["drain", str(fleet), "h0", "--deadline-ms", "5000"]) == 1
    assert json.loads(capsys.readouterr().out) == {"moves": [move], "fixed": ["pin"], "decision": None}
    assert main(["drain", str(fleet), "h1"]) == 0
    assert json.loads(capsys.readouterr().out)["moves"] == []
    assert main(["roll", str(fleet), "h1", "h0", "--at-once", "2", "--deadline-ms", "5000"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "batches": [{"hosts": ["h1"], "moves": []}, {"hosts": ["h0"], "moves": [move]}],
        "left": [],
        "least_moves": 1,
        "proof": "optimal",
        "stuck": None,
    }
    assert main(["rebalance", str(fleet), "--most-moves", "3"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "moves": [],
        "fullest": [{"zone": "z", "before": 500, "after": 500, "bound": 500}],
        "proof": "optimal",
    }
    assert main(["gather", str(fleet), "--most-moves", "3"]) == 0
    assert json.loads(capsys.readouterr().out) == {"moves": [move], "gain": 1000}
    assert main(["room", str(fleet), str(ask)]) == 0
    assert json.loads(capsys.readouterr().out) == {"count": 4, "bound": 4, "by_zone": {"z": 4}}
    hosts[0]["members"] = members[:1]
    fleet.write_text(json.dumps({"hosts": hosts}))
    assert main(["rebalance", str(fleet), "--goal", "free_hosts"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "moves": [move],
        "fullest": [{"zone": "z", "before": 500, "after": 1000, "bound": 500}],
        "proof": "optimal",
        "freed": ["h0"],
        "most_freed": 1,
    }


def test_a_wrong_decision_is_told_and_never_passes(
    files: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = place(codec.read_snapshot(FLEET), codec.read_request(ASK)[0])
    monkeypatch.setattr("placement.__main__.place", lambda *_: replace(right, assignments=right.assignments[:1]))
    assert main(["place", files["fleet"], files["fits"]]) == 1
    assert "the decision is wrong: count" in capsys.readouterr().err


def test_bad_files_are_status_two_and_one_line(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    Path(files["fleet"]).write_text("{}")
    assert main(["place", files["fleet"], files["fits"]]) == 2
    assert main(["place", "/nonexistent", files["fits"]]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "snapshot.hosts: is missing" in errors[0]


def test_another_process_gives_the_same_bytes(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["place", files["fleet"], files["fits"]])
    here = capsys.readouterr().out
    command = [sys.executable, "-m", "placement", "place", files["fleet"], files["fits"]]
    there = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert there.stdout == here


def test_the_vocabulary_loads_neither_numpy_nor_or_tools() -> None:
    code = (
        "import sys, placement.model, placement.codec, placement.check; "
        "print('numpy' in sys.modules, 'ortools' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False"]


def test_a_snapshot_travels_between_processes_as_json(files: dict[str, str]) -> None:
    snapshot, _ = tiny(3)
    assert codec.read_snapshot(codec.loads(codec.dumps(codec.write_snapshot(snapshot)))) == snapshot
    assert isinstance(snapshot, Snapshot)
