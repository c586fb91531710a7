"""The supervisor among its peers: gates, the leader's runs, and new starts that it is told of."""

from __future__ import annotations

import os
from pathlib import Path

from tests.service.serving.guest import Guest, Peer, guest, lines, looks_again, order, peer, port, until

__all__ = ["guest", "peer"]


def test_it_waits_at_the_gate_for_the_engines_of_its_own_start(guest: Guest, peer: Peer) -> None:
    peer.says(3, "rank=1 stage=ready run= follows= own=0 listens=true")
    began = guest.directory / "began"
    guest.start(f"echo >> {began}; sleep 1000", **peer.facts(CORRAL_GATE="workers"))
    guest.at("gate", "waiting for the engine of 127.0.0.2")
    looks_again(guest)
    peer.says(4, "rank=1 stage=engine run= follows= own=0 listens=false")
    looks_again(guest)
    assert not began.exists()
    peer.says(4, "rank=1 stage=ready run= follows= own=0 listens=true")
    guest.at("ready")
    assert began.exists()


def test_a_workers_engine_is_started_again_with_its_leaders(guest: Guest, peer: Peer) -> None:
    began = guest.directory / "began"
    peer.says(4, "rank=0 stage=gate run=first follows= own=0 listens=false")
    facts = peer.facts(CORRAL_SCOPE="group", CORRAL_LEADER_ADDRESS="127.0.0.2", CORRAL_NODE_RANK="1")
    guest.start(f"echo >> {began}; exec sleep 1000", **facts)
    guest.at("ready")
    told = guest.run / "www/status"
    until(lambda: "follows=first " in told.read_text(), "it is for the leader's first run")
    looks_again(guest)
    assert lines(began) == 1, "its engine has served nobody yet"
    peer.says(4, "rank=0 stage=gate run=second follows= own=0 listens=false")
    until(lambda: lines(began) == 2, "another engine")
    until(lambda: "follows=second " in told.read_text(), "it is for the leader's second run")
    assert guest.report()["restarts"] == 0, "that was no fault of its own"


def test_the_leader_waits_for_engines_of_its_own_run_and_starts_again_when_one_was(guest: Guest, peer: Peer) -> None:
    began = guest.directory / "began"
    facts = peer.facts(CORRAL_SCOPE="group", CORRAL_LEADER_ADDRESS="127.0.0.1", CORRAL_GATE="workers")
    peer.says(4, "rank=1 stage=ready run= follows=before own=0 listens=true")
    guest.start(f"echo >> {began}; exec sleep 1000", **facts)
    guest.at("gate")
    looks_again(guest)
    assert not began.exists(), "that engine has a connection to a run before this one"
    told = guest.run / "www/status"

    def run() -> str:
        return next(word for word in told.read_text().split() if word.startswith("run="))[4:]

    first = run()
    peer.says(4, f"rank=1 stage=ready run= follows={first} own=0 listens=true")
    guest.at("ready")
    looks_again(guest)
    assert (lines(began), run()) == (1, first)
    until(lambda: guest.report()["count"] > 20, "it has looked at its worker")
    peer.says(4, f"rank=1 stage=ready run= follows={first} own=1 listens=true")
    until(lambda: run() != first, "another run")
    peer.says(4, f"rank=1 stage=ready run= follows={run()} own=1 listens=true")
    until(lambda: lines(began) == 2, "another engine")


def test_a_new_start_that_it_is_told_of_is_taken_over_and_acknowledged(guest: Guest) -> None:
    host, channel = port()
    try:
        seen = guest.directory / "seen"
        guest.start(f"echo $CORRAL_GROUP_EPOCH $TOLD >> {seen}; exec sleep 1000", channel=channel)
        guest.at("ready")
        for noise in (b"\x00\xff{", b'{"v":1,"do":"restart","epoch":9,"env":"', b"x" * 3000):
            os.write(host, noise + b"\n")
        os.write(host, order(guest, 8, CORRAL_GROUP_UUID="b" * 32))
        os.write(host, order(guest, 3))
        os.write(host, order(guest, 5, TOLD="$(touch /nowhere)"))
        until(lambda: guest.report()["epoch"] == 5, "it acknowledges")
        guest.at("ready")
        until(lambda: lines(seen) == 2, "another engine")
        assert seen.read_text().splitlines() == ["4", "5 $(touch /nowhere)"]
        assert "10.0.0.9 node-0" in guest.hosts.read_text()
        assert guest.report()["restarts"] == 0
    finally:
        guest.stop()
        os.close(host)


def test_one_that_the_group_has_passed_by_serves_nobody_until_it_is_told(guest: Guest, peer: Peer) -> None:
    host, channel = port()
    try:
        began = guest.directory / "began"
        facts = peer.facts(CORRAL_SCOPE="group", CORRAL_LEADER_ADDRESS="127.0.0.2", CORRAL_NODE_RANK="1")
        peer.says(4, "rank=0 stage=ready run=first follows= own=0 listens=true")
        guest.start(f"echo $$ >> {began}; exec sleep 1000", channel=channel, **facts)
        guest.at("ready")
        peer.says(5, "rank=0 stage=ready run=other follows= own=0 listens=true")
        guest.at("degraded", "the group is at start 5")
        engine_process = Path(f"/proc/{began.read_text().strip()}")
        until(lambda: not engine_process.exists(), "its engine ends")
        os.write(host, order(guest, 5))
        guest.at("ready")
        assert (guest.report()["epoch"], lines(began)) == (5, 2)
    finally:
        guest.stop()
        os.close(host)
