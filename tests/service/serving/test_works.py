"""How the supervisor tells an engine that computes from one that waits, by what /proc says: its own lines, on files."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.service.serving.guest import PROGRAM, SHELLS

Look = tuple[float, int, int] | tuple[float, int, int, str]
"""Seconds since the boot; the engine's hundredths of a second since its start: on a processor, and ready for one, as
far as it has had one since; the state of its thread, `S` where none is given."""

LOOKS: dict[str, tuple[Sequence[Look], Sequence[bool]]] = {
    "the first look says nothing against it": ([(10.0, 5, 0)], [True]),
    "it waits": ([(10.0, 5, 0), (10.6, 5, 0), (11.2, 6, 0)], [True, False, False]),
    "it computes": ([(10.0, 5, 0), (10.6, 60, 0), (11.2, 115, 3)], [True, True, True]),
    "it has computed of late": ([(10.0, 5, 0), (10.6, 60, 0), (15.5, 60, 0), (16.9, 60, 0)], [True, True, True, False]),
    "it would on a busy machine": ([(10.0, 5, 0), (10.6, 6, 50), (11.8, 8, 160)], [True, True, True]),
    "it waits on a busy machine": ([(10.0, 5, 0), (11.2, 6, 20), (12.4, 7, 41)], [True, False, False]),
    "two looks at once": ([(10.0, 5, 0), (10.6, 5, 0), (10.6, 5, 0), (10.61, 5, 1)], [True, False, False, False]),
    "it has waited for a processor since": ([(10.0, 5, 0), (19.0, 5, 0, "R"), (28.0, 5, 0, "R")], [True, False, True]),
    "it was ready at one look": ([(10.0, 5, 0, "R"), (19.0, 5, 0), (28.0, 5, 0, "R")], [True, False, False]),
    "threads that have ended": ([(10.0, 5, 900), (10.6, 6, 0)], [True, False]),
}


def write(proc: Path, seconds: float, took: int, waited: int, state: str = "S") -> None:
    proc.mkdir()
    (proc / "uptime").write_text(f"{seconds:.2f} 1.00\n")
    for pid, session, share in ((41, 41, took), (42, 41, 0), (43, 43, 10_000 + int(seconds * 100))):
        task = proc / str(pid) / "task" / str(pid)
        task.mkdir(parents=True)
        of = state if pid == 41 else "R" if pid == 43 else "S"
        own = f"{pid} (engine ) of {pid}) {of} 1 {session} {session} 0 -1 0 0 0 0 0 {share} 0 0 0 20 0 1 0\n"
        (proc / str(pid) / "stat").write_text(own)
        (task / "stat").write_text(own)
        ready = waited * 10_000_000 if pid == 41 else 0
        (task / "schedstat").write_text(f"{share * 10_000_000} {ready} 7\n")


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
@pytest.mark.parametrize("case", LOOKS)
def test_what_computes_or_would_if_it_were_let_is_told_from_what_waits(
    tmp_path: Path, shell: list[str], case: str
) -> None:
    looks, expected = LOOKS[case]
    text = PROGRAM.read_text()
    functions = [
        re.search(rf"^{name}\(\) \{{.*?\}}$", text, re.MULTILINE | re.DOTALL) for name in ("now", "hundredths")
    ]
    works = re.search(r"^works\(\) \{\n.*?^\}$", text, re.MULTILINE | re.DOTALL)
    lines = [found[0].replace("/proc/", "proc$LOOK/") for found in (*functions, works) if found is not None]
    assert len(lines) == 3
    script = "\n".join(
        (*lines, "LEAST_TICKS=4 ENGINE=41 TICKS=-1 WAITED=0 TICKS_AT=0 WORKED_AT= READY_BEFORE=",
         f"for LOOK in {' '.join(str(n) for n in range(len(looks)))}; do works && echo True || echo False; done")
    )  # fmt: skip
    for number, look in enumerate(looks):
        write(tmp_path / f"proc{number}", *look)
    done = subprocess.run([*shell, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert [line == "True" for line in done.stdout.split()] == list(expected), done.stderr
