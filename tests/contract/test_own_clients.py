"""Clients of one's own: the archive of the definitions compiles alone, and each page's program does what it says."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.own_clients import ARCHIVE, LANGUAGES, follow, need, pack
from tests.support import ROOT
from tests.support.process import ServiceProcess


def test_the_archive_is_all_that_a_plain_protoc_needs(archive: Path, tmp_path: Path) -> None:
    need("protoc", "tar")
    subprocess.run(["tar", "xzf", archive, "--strip-components=1"], cwd=tmp_path, check=True, timeout=60)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("corral/v1/*.proto"))
    assert len(files) == len(list((ROOT / "protos/corral/v1").glob("*.proto")))
    details = "google/rpc/error_details.proto"
    command = ["protoc", "-I", ".", "--descriptor_set_out=all.binpb", "--cpp_out=.", *files, details]
    # Nothing else is on its path, and it warns of nothing.
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_the_archive_is_the_same_whoever_packs_it(archive: Path, tmp_path: Path) -> None:
    assert pack(tmp_path / "again.tar.gz").read_bytes() == archive.read_bytes()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_page_is_done_as_it_stands(
    language: str, service: ServiceProcess, archive: Path, tmp_path: Path, passed: Callable[[str], None]
) -> None:
    shutil.copy(archive, tmp_path / ARCHIVE)
    events = follow(language, tmp_path, service.grpc)
    passed(f"own client, {language}: the page's program, {events} events, a refusal's typed details, delete")
