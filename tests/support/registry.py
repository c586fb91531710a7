"""Debian's docker-registry on loopback, and container images that umoci makes and skopeo puts there."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.ports import own_port

BUNDLED = Path(__file__).resolve().parents[2] / ".cache/tools"
PROGRAMS = {
    "docker-registry": "docker-registry",
    "umoci": "umoci",
    "skopeo": "skopeo",
    "sqfstar": "squashfs-tools",
}


def require(*programs: str) -> None:
    """Skip where one of these is not installed."""
    for program in programs or PROGRAMS:
        if where(program) is None:
            pytest.skip(f"{program} is not here: `make dev` brings it (Debian's {PROGRAMS[program]})")


def where(program: str) -> str | None:
    """The program's path."""
    return shutil.which(program) or shutil.which(program, path=str(BUNDLED))


class Registry:
    """A registry, and where it is."""

    def __init__(self, directory: Path, port: int) -> None:
        self.directory = directory
        self.port = port

    def url(self, name: str, digest: str, *, secret: str = "") -> str:
        """How an image of it is asked for."""
        return f"oci+http://{secret}{'@' if secret else ''}127.0.0.1:{self.port}/{name}@sha256:{digest}"

    def blob(self, digest: str) -> Path:
        """The file in which it keeps what has this digest."""
        return next(self.directory.glob(f"data/**/sha256/{digest[:2]}/{digest}/data"))

    def push(self, layout: Path, name: str, *, user: str = "", packed: str = "") -> str:
        """Put an image there that umoci made; its digest. `packed`: how its layers are packed then; empty: by gzip."""
        told = self.directory / "digest"
        command = ["skopeo", "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", "--digestfile", told]
        command += ["--dest-creds", user] if user else []
        source = f"oci:{layout}:latest"
        if packed:
            plain = self.directory / "plain"
            run("skopeo", "copy", "--quiet", "--insecure-policy", "--dest-decompress", source, f"dir:{plain}")
            command, source = [*command, "--dest-compress-format", packed], f"dir:{plain}"
        run(*command, source, f"docker://127.0.0.1:{self.port}/{name}:latest")
        return told.read_text().strip().removeprefix("sha256:")


def run(*command: object, directory: Path | None = None) -> str:
    """A program's output."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=120, check=False, cwd=directory
    )
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    return done.stdout


def image(
    layout: Path, layers: Sequence[Mapping[str, Path]], *config: str, delete: Mapping[int, list[str]] | None = None
) -> Path:
    """A layout of one image: of each layer which file or directory of this machine is which of the image; with `umoci
    config`'s options; `delete`: what a layer of this number hides."""
    run("umoci", "init", "--layout", layout)
    name = f"{layout}:latest"
    run("umoci", "new", "--image", name)
    for number, layer in enumerate(layers):
        for target, source in layer.items():
            run("umoci", "insert", "--image", name, source, target)
        for target in (delete or {}).get(number, []):
            run("umoci", "insert", "--image", name, "--whiteout", target)
    if config:
        run("umoci", "config", "--image", name, *config)
    return layout


@contextmanager
def registry(directory: Path, accounts: str = "") -> Iterator[Registry]:
    """One that runs until the end. `accounts`: lines of a htpasswd file; empty: everybody may do everything."""
    require()
    port = own_port()
    directory.mkdir()
    auth = ""
    if accounts:
        (directory / "htpasswd").write_text(accounts)
        auth = f"auth:\n  htpasswd:\n    realm: lab\n    path: {directory}/htpasswd\n"
    (directory / "config.yml").write_text(
        f"version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {directory}/data\n"
        f"http:\n  addr: 127.0.0.1:{port}\n{auth}"
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(where("docker-registry")), "serve", directory / "config.yml"], stdout=log, stderr=log
        )
    try:
        _until_it_answers(port, process)
        yield Registry(directory, port)
    finally:
        process.kill()
        process.wait()


def _until_it_answers(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "docker-registry ended"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("docker-registry did not answer")
