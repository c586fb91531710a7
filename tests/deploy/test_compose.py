"""`compose.yaml` as podman-compose reads it: every service is started, and what is handed over is there."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import yaml

from tests.deploy.debian_root import needed, run
from tests.support import ROOT


def test_podman_compose_reads_it_and_hands_over_files_that_are_there(tmp_path: Path) -> None:
    needed("podman", "podman-compose")
    for name in ("compose", "prometheus", "grafana"):
        shutil.copytree(ROOT / "deploy" / name, tmp_path / name)
    here = tmp_path / "compose"
    run("sh", here / "prepare.sh")
    (tmp_path / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path / "graph"}"\nrunroot = "{tmp_path / "run"}"\n'
    )
    storage = {"CONTAINERS_STORAGE_CONF": str(tmp_path / "storage.conf"), "XDG_RUNTIME_DIR": str(tmp_path)}
    command = ("podman-compose", "-f", here / "compose.yaml", "--dry-run", "up", "--detach")
    told = run(*command, cwd=here, env={**os.environ, **storage})
    started = [line for line in told.splitlines() if line.startswith("podman run ")]
    composed = yaml.safe_load((here / "compose.yaml").read_text())
    assert len(started) == len(composed["services"])
    mounts = [mount for line in started for mount in re.findall(r" (?:-v|--volume) (\S+)", line)]
    assert len([mount for mount in mounts if ":/run/secrets/" in mount]) == 3
    for mount in mounts:
        source = mount.partition(":")[0]
        # What is no path is a volume's name: of its own project.
        assert (here / source).is_file() if source.startswith((".", "/")) else source.startswith("compose_"), mount
