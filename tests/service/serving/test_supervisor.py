"""The guest's supervisor as a process in a plain directory, with a stand-in for the engine, in the shells of guests."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.service.serving.guest import Guest, answering, engine, free_port, guest, order, port, until

__all__ = ["guest"]


def test_an_engine_that_ends_is_started_again_and_its_last_words_are_told(guest: Guest) -> None:
    began = guest.directory / "began"
    guest.start(f"echo once >> {began}; echo 'no \"model\" here'; exit 3")
    report = guest.at("degraded", 'ended with status 3: no "model" here')
    assert (report["v"], report["epoch"], report["rank"], report["address"]) == (1, 4, 0, "127.0.0.1")
    until(lambda: len(began.read_text().split()) >= 2, "a second start")
    until(lambda: guest.report()["restarts"] >= 1, "the restart is counted")
    assert guest.report()["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_what_the_engine_writes_goes_to_the_log_port_once_and_to_its_end(guest: Guest) -> None:
    port = guest.directory / "log-port"
    guest.environment["CORRAL_LOG_PORT"] = str(port)
    guest.start(f"n=0; while [ $n -lt 3000 ]; do n=$((n + 1)); echo {'x' * 90} $n; done; echo last words; exit 3")
    until(lambda: port.exists() and port.read_text().count("last words") >= 2, "two runs of the engine")
    told = port.read_text()[: port.read_text().index("last words")]
    numbers = [int(line.split()[1]) for line in told.splitlines() if line.startswith("x")]
    assert numbers == sorted(set(numbers)), "in order, and none twice"
    assert numbers[-1] == 3000
    left_out = [line for line in told.splitlines() if "bytes of the engine's are left out" in line]
    assert len(numbers) == 3000 or left_out, "what it does not pass on it says"


def test_it_is_ready_while_its_command_says_so_which_may_not_hang_it(guest: Guest) -> None:
    fine = guest.directory / "fine"
    told = f'[ "$OF_THE_ENGINE" = yes ] || exit 1; [ ! -e {fine}.hangs ] || sleep 600; [ -e {fine} ]'
    readiness = {
        "CORRAL_READINESS": "command",
        "CORRAL_READINESS_COMMAND": told,
        "CORRAL_READINESS_TIMEOUT_SECONDS": "1",
    }
    guest.start("exec sleep 600", OF_THE_ENGINE="yes", **readiness)
    guest.at("joining", "the engine does not answer")
    fine.touch()
    guest.at("ready")
    hangs = guest.directory / "fine.hangs"
    hangs.touch()
    guest.at("degraded", "the engine does not answer")
    hangs.unlink()
    guest.at("ready")


def test_what_is_ready_is_looked_at_again_after_the_interval(guest: Guest) -> None:
    looks = guest.directory / "looks"
    readiness = {
        "CORRAL_READINESS": "command",
        "CORRAL_READINESS_COMMAND": f"echo >> {looks}; [ $(wc -l < {looks}) -gt 2 ]",
        "CORRAL_READINESS_INTERVAL_SECONDS": "3600",
    }
    guest.start("exec sleep 600", **readiness)
    guest.at("ready")
    count = guest.report()["count"]
    until(lambda: guest.report()["count"] > count + 4, "it goes round")
    assert len(looks.read_text().splitlines()) == 3, "what is not ready is looked at in each turn"


def test_an_engine_that_never_lasts_is_given_up_and_started_anew_with_a_new_start(guest: Guest) -> None:
    guest.environment["CORRAL_MOST_PAUSE"] = "1"
    began, ends = guest.directory / "began", guest.directory / "ends"
    host, channel = port()
    try:
        guest.start(f"echo >> {began}; while [ ! -e {ends} ]; do sleep 0.1; done; echo no more; exit 7", channel)
        guest.at("ready")
        ends.touch()
        report = guest.at("failed", "started again 5 times")
        assert "the engine ended with status 7: no more" in report["detail"]
        assert (report["restarts"], len(began.read_text().splitlines())) == (5, 6)
        count = report["count"]
        until(lambda: guest.report()["count"] > count + 2, "it is not silent")
        assert len(began.read_text().splitlines()) == 6, "nothing is started any more"
        ends.unlink()
        os.write(host, order(guest, 5))
        guest.at("ready")
        assert (guest.report()["epoch"], guest.report()["restarts"]) == (5, 5)
    finally:
        guest.stop()
        os.close(host)


def test_an_engine_that_has_not_served_yet_is_started_again_without_an_end(guest: Guest) -> None:
    """It may wait for its peers or for its weights: its boot's deadline is the control plane's."""
    guest.environment["CORRAL_MOST_PAUSE"] = "0"
    guest.start("exit 1")
    until(lambda: guest.report().get("restarts", 0) > 8, "it is started again")
    assert guest.report()["stage"] != "failed"


def test_it_is_ready_while_the_model_answers_rightly_and_starts_the_engine_again_when_it_does_not(guest: Guest) -> None:
    port = free_port()
    guest.start(
        engine(guest.directory, port, '{"content":"wrong"}'),
        **answering(port, '"content":"defg', patience=3, CORRAL_CANARY_BODY='{"prompt":"abc","n_predict":4}'),
    )
    report = guest.at("joining", 'a wrong answer: {"content":"wrong"}')
    assert report["answered"] == -1, "its health is fine, and it does not serve"
    answer = guest.directory / "answer"
    answer.write_text('{"content":"defghi"}')
    assert guest.at("ready")["answered"] >= 0
    for text in ("hang", '{"content":"else"}'):
        before = guest.report()["restarts"]
        answer.write_text(text)
        guest.restarted(before)
        answer.write_text('{"content":"defghi"}')
        guest.at("ready")


def test_an_engine_that_computes_is_given_longer_than_one_that_waits(guest: Guest) -> None:
    guest.environment["CORRAL_BUSY_PATIENCE"] = "60"  # longer than the test, however late a busy machine does its part
    port = free_port()
    guest.start(
        engine(guest.directory, port, '{"content":"defghi"}'),
        **answering(port, '"content":"defg', patience=5, CORRAL_READINESS_TIMEOUT_SECONDS="30"),
    )
    guest.at("ready")
    answer = guest.directory / "answer"
    answer.write_text("work")
    guest.at("degraded", "the engine computes, and has not answered")
    answer.write_text('{"content":"defghi"}')
    guest.at("ready")
    assert guest.report()["restarts"] == 0


def test_an_engine_that_computes_may_be_late_with_its_health_as_well(guest: Guest) -> None:
    guest.environment["CORRAL_BUSY_PATIENCE"] = "60"  # longer than the test, however late a busy machine does its part
    port = free_port()
    guest.start(
        engine(guest.directory, port, '{"content":"defghi"}'),
        **answering(port, '"content":"defg', patience=3, CORRAL_READINESS_TIMEOUT_SECONDS="1"),
    )
    guest.at("ready")
    answer = guest.directory / "answer"
    answer.write_text("toil")
    until(lambda: guest.report()["answered"] > 9, "its last answer is three times as old as an idle engine's may be")
    guest.at("degraded", "the engine does not answer")
    answer.write_text('{"content":"defghi"}')
    guest.at("ready")
    assert guest.report()["restarts"] == 0


def test_peers_are_told_that_the_engine_listens_and_nobody_connects_to_it(guest: Guest) -> None:
    port = free_port()
    listen = f"import socket,time; s=socket.create_server(('127.0.0.1',{port})); s.settimeout(3600); print(s.accept())"
    code = guest.directory / "listen.py"
    code.write_text(listen)
    guest.start(
        f"exec {sys.executable} {code}",
        CORRAL_READINESS="listening",
        CORRAL_READINESS_PORT=str(port),
        CORRAL_LISTEN_PORT=str(port),
    )
    guest.at("ready")
    told = until(lambda: (guest.run / "www/status").read_text().endswith("listens=true\n"), "it is told")
    count = guest.report()["count"]
    until(lambda: guest.report()["count"] > count + 4, "it looks again and again")
    assert told
    assert (guest.run / "engine.log").read_text() == "", "the engine took no connection"


def test_it_ends_with_all_that_the_engine_started(guest: Guest) -> None:
    pids = guest.directory / "pids"
    guest.start(f"(trap '' TERM; echo $$ > {pids}; sleep 1000) & echo $! >> {pids}; wait")
    guest.at("ready")
    started = [int(pid) for pid in until(lambda: pids.exists() and pids.read_text().split(), "pids")]
    guest.stop()
    assert guest.process is not None
    assert guest.process.returncode == 0
    assert guest.report()["stage"] == "stopping"
    until(lambda: not any(Path(f"/proc/{pid}/status").exists() for pid in started), "nothing of it is left")


def test_variables_are_the_engines_alone_and_hosts_are_the_groups(guest: Guest) -> None:
    seen = guest.directory / "seen"
    variables = {"STAGE": "$(touch /nowhere)", "RUN": "/elsewhere", "INTERFACE": "eth9", "GLOO_SOCKET_IFNAME": "x"}
    guest.start(f"env > {seen}; exec sleep 1000", **variables)
    guest.at("ready")
    found = dict(line.split("=", 1) for line in seen.read_text().splitlines() if "=" in line)
    assert (found["STAGE"], found["RUN"], found["INTERFACE"]) == ("$(touch /nowhere)", "/elsewhere", "eth9")
    assert found["GLOO_SOCKET_IFNAME"] == found["NCCL_SOCKET_IFNAME"] == "lo"
    assert guest.hosts.read_text() == "127.0.0.1 localhost\n# corral begin\n10.0.0.1 node-0\n# corral end\n"


def test_one_that_hangs_falls_silent(guest: Guest) -> None:
    host, channel = port()
    os.set_blocking(host, False)
    try:
        guest.start("exec sleep 1000", channel=channel)
        guest.at("ready")
        assert guest.process is not None

        def heard() -> bytes:
            try:
                return os.read(host, 65_536)
            except BlockingIOError:
                return b""

        until(lambda: b'"stage":"ready"' in heard(), "reports come")
        guest.process.send_signal(signal.SIGSTOP)
        last = until(lambda: guest.report() if guest.report()["count"] else None, "a last report")
        # What was under way still comes; then nothing, while the reporter itself lives.
        until(lambda: not heard() and guest.report() == last and not any(heard() for _ in range(20)), "silence")
    finally:
        guest.stop()
        os.close(host)


def test_on_bare_metal_it_reports_to_the_address_and_by_the_token_that_it_was_given(guest: Guest) -> None:
    told: list[tuple[str, str, dict[str, Any]]] = []

    class Listener(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.append((self.path, self.headers["Authorization"], said))
            self.send_response(204)
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/machines/report"
        document = {
            "report_url": url,
            "token": "a-token_",
            "instance": "i",
            "attempt": 1,
            "macs": ["52:54:00:00:00:01"],
        }
        guest.documents["machine"] = json.dumps(document, indent=1, sort_keys=True)
        guest.start("exec sleep 600")
        until(lambda: any(said["stage"] == "ready" for _, _, said in told), "it has said that it is ready")
        assert {(path, bearer) for path, bearer, _ in told} == {("/machines/report", "Bearer a-token_")}
        assert told[-1][2]["epoch"] == 4
    finally:
        server.shutdown()
        server.server_close()


def test_it_is_ready_with_all_devices_that_it_was_given_and_tells_which_of_them_fail(guest: Guest) -> None:
    functions, kernel = guest.directory / "pci", guest.directory / "kernel"
    seen = ("0000:05:00.0 10de 2330", "0000:06:00.0 10de 2330", "0000:07:00.0 10de 22bc")

    def plug(address: str, vendor: str, product: str) -> None:
        function = functions / address
        function.mkdir(parents=True)
        (function / "vendor").write_text(f"0x{vendor}\n")
        (function / "device").write_text(f"0x{product}\n")

    for line in seen[1:]:
        plug(*line.split())
    # The last two are a program's fault, and another card's that is well again.
    kernel.write_text(
        "[ 9.1] NVRM: Xid (PCI:0000:06:00): 79, pid=1, GPU has fallen off the bus.\n"
        "[ 9.2] NVRM: Xid (PCI:0000:05:00): 13, pid=7, Graphics Exception\n"
        "[ 9.3] NVRM: Xid (PCI:0000:05:00): 45, pid=7, Ch 0000\n"
    )
    guest.environment |= {
        "CORRAL_PCI": str(functions), "CORRAL_KERNEL_LOG": f"cat {kernel}", "CORRAL_DEVICE_TURNS": "2",
    }  # fmt: skip
    guest.start("exec sleep 600", CORRAL_DEVICES="10de:22bc=1 10de:2330=2")
    guest.at("joining", "it sees 1 of the 2 devices 10de:2330")
    plug(*seen[0].split())
    assert guest.at("ready")["ailing"] == "0000:06:00.0 Xid 79;"
