"""Container images: how they are named, and what their documents say."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from service.domain import containers
from service.domain.containers import Unusable

DIGEST = "ab" * 32
CONFIG = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": f"sha256:{DIGEST}", "size": 10}
LAYER = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": f"sha256:{DIGEST}", "size": 5}


@pytest.mark.parametrize(
    ("url", "scheme", "registry", "name"),
    [
        ("oci://ghcr.io/team/model", "https", "ghcr.io", "team/model"),
        ("oci+http://127.0.0.1:5000/model:latest", "http", "127.0.0.1:5000", "model"),
        ("oci://[::1]:5000/a/b-c/d__e", "https", "[::1]:5000", "a/b-c/d__e"),
        ("oci://docker.io/debian", "https", "registry-1.docker.io", "library/debian"),
        ("oci://docker.io/vllm/vllm-openai:v1", "https", "registry-1.docker.io", "vllm/vllm-openai"),
    ],
)
def test_an_image_is_named_by_its_digest(url: str, scheme: str, registry: str, name: str) -> None:
    found = containers.reference(f"{url}@sha256:{DIGEST}")
    assert (found.scheme, found.registry, found.name, found.digest) == (scheme, registry, name, DIGEST)
    with pytest.raises(Unusable, match="another image tomorrow"):
        containers.reference(url)


def test_a_secret_is_kept_apart_and_never_shown() -> None:
    found = containers.reference(f"oci://me:n0nce@ghcr.io/model@sha256:{DIGEST}")
    assert found.secret == ("me", "n0nce")
    assert "n0nce" not in f"{found} {found!r} {found.base}"


@pytest.mark.parametrize(
    "url",
    [
        "oci://",
        "oci:///model",
        "oci://ghcr.io",
        f"oci://ghcr.io/Model@sha256:{DIGEST}",
        f"oci://ghcr.io/../model@sha256:{DIGEST}",
        f"oci://ghcr.io//model@sha256:{DIGEST}",
        f"oci://ghcr.io/model?x@sha256:{DIGEST}",
        f"oci://ghcr.io/model@sha256:{DIGEST}0",
        f"oci://ghcr.io/model@sha256:{DIGEST.upper()}",
        f"oci://ghcr.io/model@sha512:{DIGEST}{DIGEST}",
        f"oci://ghcr.io/{'a' * 256}@sha256:{DIGEST}",
        f"oci://ghcr.io/model:a b@sha256:{DIGEST}",
        f"oci://a b/model@sha256:{DIGEST}",
    ],
)
def test_what_names_no_image_is_refused(url: str) -> None:
    with pytest.raises(Unusable):
        containers.reference(url)


def document(**fields: Any) -> bytes:
    told = {"schemaVersion": 2, "mediaType": containers.MANIFESTS[0], "config": CONFIG, "layers": [LAYER], **fields}
    return json.dumps(told).encode()


def test_a_manifest_names_its_parts() -> None:
    found = containers.manifest(document())
    assert found.layers == (containers.Blob(DIGEST, 5, "gzip"),)
    assert containers.chosen(document()) is None
    docker = {"mediaType": "application/vnd.docker.container.image.v1+json"}
    layer = {**LAYER, "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip"}
    told = document(mediaType=containers.MANIFESTS[1], config={**CONFIG, **docker}, layers=[layer])
    assert containers.manifest(told) == found
    for kind in ("oci.image.layer.v1.tar+zstd", "docker.image.rootfs.diff.tar.zstd"):
        told = document(layers=[{**LAYER, "mediaType": f"application/vnd.{kind}"}])
        assert containers.manifest(told).layers == (containers.Blob(DIGEST, 5, "zstd"),)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"schemaVersion": 1}, "is no container image"),
        ({"mediaType": "text/html"}, "its manifest is text/html"),
        ({"config": None}, "its configuration is unknown"),
        ({"config": {**CONFIG, "mediaType": "x\n" * 200}}, r"its configuration is x\?x"),
        ({"config": {**CONFIG, "digest": "md5:1"}}, "no sha256 digest"),
        ({"config": {**CONFIG, "size": -1}}, "no sha256 digest or no size"),
        ({"config": {**CONFIG, "size": True}}, "no sha256 digest or no size"),
        ({"layers": []}, "has 0 layers"),
        ({"layers": [LAYER] * 257}, "has 257 layers"),
        ({"layers": {}}, "no list of layers"),
        ({"layers": [7]}, "a layer of the kind unknown"),
        ({"layers": [{**LAYER, "mediaType": "application/vnd.oci.image.layer.v1.tar+xz"}]}, "tar.xz: known are"),
    ],
)
def test_what_is_no_manifest_is_told_in_words(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(Unusable, match=words):
        containers.manifest(document(**fields))


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"null"])
def test_what_is_no_document_is_told_so(text: bytes) -> None:
    for read in (containers.chosen, containers.manifest, lambda told: containers.run_config(told, 1)):
        with pytest.raises(Unusable):
            read(text)


def config(**fields: Any) -> bytes:
    told = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [f"sha256:{DIGEST}"]}, **fields}
    return json.dumps(told).encode()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"architecture": "arm64"}, "is for linux/arm64, and these hosts' machines are linux/amd64"),
        ({"rootfs": {}}, "no list of diff_ids"),
        ({"rootfs": {"diff_ids": []}}, "does not name the contents"),
        ({"rootfs": {"diff_ids": [7]}}, "does not name the contents"),
        ({"config": []}, ""),
        ({"config": [1]}, "says nothing of how it is run"),
        ({"config": {"Cmd": "sh"}}, "Cmd of its configuration"),
        ({"config": {"Env": ["A=\0"]}}, "Env of its configuration"),
        ({"config": {"Cmd": ["\ud800"]}}, "Cmd of its configuration"),
        ({"config": {"WorkingDir": "a\nb"}}, "WorkingDir of its configuration"),
        ({"config": {"User": 1000}}, "User of its configuration"),
    ],
)
def test_a_configuration_that_cannot_be_run_is_refused(fields: dict[str, Any], words: str) -> None:
    if not words:
        assert containers.run_config(config(**fields), 1).arguments == ()
        return
    with pytest.raises(Unusable, match=words):
        containers.run_config(config(**fields), 1)


@pytest.mark.parametrize(
    "words",
    [["a b", "$HOME", "'", "\\n"], ["line\nbreak", "x\ry"], ["\\ and\nbreak", "%s\n%b"], ["\u2028 and \x85", ""]],
)
def test_a_command_is_one_line_that_a_shell_makes_the_same_words_of(words: list[str]) -> None:
    line = containers.command(["printf", "%s\\0"], words, ())
    assert len(line.splitlines()) == 1
    done = subprocess.run(["sh", "-c", line], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == words


def test_start_parameters_take_the_place_of_arguments_and_never_of_the_entrypoint() -> None:
    assert containers.command(["/run"], ["a"], []) == "/run a"
    assert containers.command(["/run"], ["a"], ["b c"]) == "/run 'b c'"
