"""An engine that hangs, and does not end when it is asked to."""

from __future__ import annotations

import sys

from tests.service.serving.guest import ENGINE, Guest, answering, free_port, guest

__all__ = ["guest"]


def test_an_engine_that_hangs_and_does_not_end_is_told_of_before_it_is_ended(guest: Guest) -> None:
    port = free_port()
    (guest.directory / "answer").write_text("right")
    deaf = "import runpy, signal, sys; signal.signal(15, signal.SIG_IGN); del sys.argv[0]; runpy.run_path(sys.argv[0])"
    guest.start(
        f"exec {sys.executable} -c '{deaf}' {ENGINE} {port} {guest.directory / 'answer'}",
        **answering(port, "right", patience=2, CORRAL_BUSY_PATIENCE="1"),
    )
    guest.at("ready")
    (guest.directory / "answer").write_text("hang")
    assert guest.at("degraded", "has not answered rightly")["restarts"] == 0, "it is being ended, for five seconds"
    guest.restarted(0)
