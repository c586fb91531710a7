"""Container images: how one is named, what its documents say, and what of it is run. Pure.

Sources: the OCI image specification 1.1 (image-index, manifest, config, layer) and the OCI distribution specification
1.1 (names, digests); Docker's manifests of schema 2 say the same under other names.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OS, ARCHITECTURE = "linux", "amd64"
MOST_LAYERS = 256
MOST_DOCUMENT_BYTES = 4 << 20
"""Of a manifest or a configuration: the limit that registries themselves have (distribution specification)."""
MOST_COMMAND = 8192
"""Characters of a start command, as of one that a model service names."""

INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
_CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_LAYERS: Mapping[str, str] = {
    "application/vnd.oci.image.layer.v1.tar": "",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
}

_SCHEMES = {"oci": "https", "oci+http": "http"}
_REFERENCE = re.compile(
    r"(?P<scheme>oci|oci\+http)://(?:(?P<user>[^/@:]*):(?P<password>[^/@]*)@)?"
    r"(?P<registry>[A-Za-z0-9.-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?)/(?P<rest>[^?#]+)"
)
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_DOCKER_HUB = ("docker.io", "index.docker.io")
_BREAKS = re.compile("[\n\r\x85\u2028\u2029]")


class Unusable(Exception):
    """It is no image that can be run here. The text is the rest of a sentence: "has no image for linux/amd64"."""


@dataclass(frozen=True, slots=True)
class Container:
    """What an image's disk holds when it was made of a container image.

    `digest`: of the manifest, 64 hexadecimal digits. `entrypoint` and `arguments`: the words that are run, of which
    start parameters replace the second part. Environment, user and directory lie in the disk itself.
    """

    digest: str
    entrypoint: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reference:
    """Which image of which registry. `secret`: user and password, empty for nobody's."""

    scheme: str
    registry: str
    name: str
    digest: str
    secret: tuple[str, str] | None = None

    def __repr__(self) -> str:
        """Without its secret."""
        return f"{self.registry}/{self.name}@sha256:{self.digest}"

    @property
    def base(self) -> str:
        """Where the registry's API begins."""
        return f"{self.scheme}://{self.registry}/v2/"


@dataclass(frozen=True, slots=True)
class Blob:
    """A part of an image. `digest`: 64 hexadecimal digits; `size` in bytes; `packed`: `gzip`, `zstd`, or empty: a plain
    tar."""

    digest: str
    size: int
    packed: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The parts of one image, its lowest layer first."""

    config: Blob
    layers: tuple[Blob, ...]

    @property
    def size(self) -> int:
        """Bytes of all layers as they come."""
        return sum(layer.size for layer in self.layers)


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What the image says of how it is run. `environment`: `NAME=value`; `contents`: of its layers, unpacked, the
    SHA-256 digests in hex; `user`: as it is written, `name`, `uid`, `name:group` or `uid:gid`."""

    entrypoint: tuple[str, ...]
    arguments: tuple[str, ...]
    environment: tuple[str, ...]
    directory: str
    user: str
    contents: tuple[str, ...]


def is_reference(url: str) -> bool:
    """Whether it names a container image rather than a file."""
    return url.partition("://")[0] in _SCHEMES


def reference(url: str) -> Reference:
    """`oci://REGISTRY/NAME@sha256:DIGEST`, or `oci+http://` for a registry without TLS. Raises Unusable."""
    found = _REFERENCE.fullmatch(url)
    if found is None:
        raise Unusable("must be oci://REGISTRY/NAME@sha256:DIGEST")
    named, _, digest = found["rest"].partition("@")
    name, _, tag = named.partition(":")
    if not _NAME.fullmatch(name) or len(name) > 255 or (tag and not _TAG.fullmatch(tag)):
        raise Unusable("must name an image as registries do: lower-case letters, digits and ._-/")
    if not digest:
        raise Unusable(
            "must end in @sha256:DIGEST: what a tag names may be another image tomorrow, and every member of a group "
            "is made of the same one (`skopeo inspect` tells a tag's digest)"
        )
    checked = _DIGEST.fullmatch(digest)
    if checked is None:
        raise Unusable("must end in @sha256: and 64 hexadecimal digits in lower case")
    registry = found["registry"]
    if registry in _DOCKER_HUB:
        # Docker's own names: its API has another host, and images without an owner are the library's.
        registry, name = "registry-1.docker.io", name if "/" in name else f"library/{name}"
    secret = None if found["user"] is None else (found["user"], found["password"])
    return Reference(_SCHEMES[found["scheme"]], registry, name, checked[1], secret)


def chosen(document: bytes) -> str | None:
    """The digest of the manifest for these hosts' machines, where the document is an index; None: it is none.

    Raises Unusable.
    """
    told = _object(document)
    if told.get("mediaType") not in INDEXES and not ("manifests" in told and "layers" not in told):
        return None
    there = []
    for one in _list(told, "manifests"):
        platform = _platform(one.get("platform") if isinstance(one, dict) else None)
        if platform == (OS, ARCHITECTURE):
            return _descriptor(one).digest
        there.append("/".join(platform))
    known = sorted({name for name in there if "unknown" not in name})
    raise Unusable(f"has no image for {OS}/{ARCHITECTURE}: it has {', '.join(known[:20]) or 'none'}")


def manifest(document: bytes) -> Manifest:
    """The parts that a manifest names. Raises Unusable."""
    told = _object(document)
    kind = told.get("mediaType", MANIFESTS[0])
    if told.get("schemaVersion") != 2 or kind not in MANIFESTS:
        raise Unusable(f"is no container image: its manifest is {_shown(kind)}")
    config = told.get("config")
    if not isinstance(config, dict) or config.get("mediaType") not in _CONFIGS:
        what = config.get("mediaType") if isinstance(config, dict) else None
        raise Unusable(f"is no container image: its configuration is {_shown(what)}")
    layers = []
    for one in _list(told, "layers"):
        kind = one.get("mediaType") if isinstance(one, dict) else None
        if not isinstance(kind, str) or kind not in _LAYERS:
            raise Unusable(f"has a layer of the kind {_shown(kind)}: known are plain tar, tar+gzip and tar+zstd")
        blob = _descriptor(one)
        layers.append(Blob(blob.digest, blob.size, _LAYERS[kind]))
    if not 0 < len(layers) <= MOST_LAYERS:
        raise Unusable(f"has {len(layers)} layers: may have 1 to {MOST_LAYERS}")
    return Manifest(_descriptor(config), tuple(layers))


def run_config(document: bytes, layers: int) -> RunConfig:
    """What an image's configuration says. `layers`: how many its manifest names. Raises Unusable."""
    told = _object(document)
    platform = _platform(told)
    if platform != (OS, ARCHITECTURE):
        raise Unusable(f"is for {'/'.join(platform)}, and these hosts' machines are {OS}/{ARCHITECTURE}")
    system = told.get("rootfs")
    ids = _list(system, "diff_ids") if isinstance(system, dict) else []
    contents = [_DIGEST.fullmatch(one) if isinstance(one, str) else None for one in ids]
    if len(contents) != layers or None in contents:
        raise Unusable("is damaged: its configuration does not name the contents of its layers")
    run = told.get("config") or {}
    if not isinstance(run, dict):
        raise Unusable("is damaged: its configuration says nothing of how it is run")
    found = RunConfig(
        entrypoint=_words(run, "Entrypoint"),
        arguments=_words(run, "Cmd"),
        environment=_words(run, "Env"),
        directory=_text(run, "WorkingDir"),
        user=_text(run, "User"),
        contents=tuple(one[1] for one in contents if one is not None),
    )
    if len(command(found.entrypoint, found.arguments, ())) > MOST_COMMAND:
        raise Unusable(f"has a start command of more than {MOST_COMMAND} characters")
    return found


def command(entrypoint: Sequence[str], arguments: Sequence[str], given: Sequence[str]) -> str:
    """One line for a POSIX shell that runs the image's words; what is `given` takes the place of its arguments."""
    return " ".join(_quoted(word) for word in (*entrypoint, *(given or arguments)))


def _quoted(word: str) -> str:
    """A word in one line. Line breaks in it are written so that the shell makes them; those at its end are lost."""
    if not _BREAKS.search(word):
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\")
    escaped = _BREAKS.sub(lambda found: "".join(f"\\0{byte:03o}" for byte in found[0].encode()), escaped)
    return f'"$(printf %b {shlex.quote(escaped)})"'


def _object(document: bytes) -> Mapping[str, Any]:
    try:
        told = json.loads(document)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise Unusable("is no container image: its registry answers with something else than a manifest")
    return told


def _list(told: Mapping[str, Any], name: str) -> Sequence[Any]:
    found = told.get(name)
    if not isinstance(found, list):
        raise Unusable(f"is damaged: its documents have no list of {name}")
    return found


def _descriptor(told: Any) -> Blob:
    digest, size = (told.get("digest"), told.get("size")) if isinstance(told, dict) else (None, None)
    found = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if found is None or not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise Unusable("is damaged: a part of it has no sha256 digest or no size")
    return Blob(found[1], size)


def _platform(told: Any) -> tuple[str, str]:
    told = told if isinstance(told, dict) else {}
    return _shown(told.get("os")), _shown(told.get("architecture"))


def _words(run: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = run.get(name) or []
    if not isinstance(found, list) or not all(isinstance(one, str) and _fit(one) for one in found):
        raise Unusable(f"is damaged: {name} of its configuration is no list of words")
    return tuple(found)


def _text(run: Mapping[str, Any], name: str) -> str:
    found = run.get(name) or ""
    if not isinstance(found, str) or not _fit(found) or _BREAKS.search(found):
        raise Unusable(f"is damaged: {name} of its configuration is no line")
    return found


def _fit(text: str) -> bool:
    """Whether a program can be given it: no NUL, and nothing that has no bytes."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _shown(value: object) -> str:
    """What a stranger's document says, short and in one line."""
    text = value if isinstance(value, str) and value else "unknown"
    return re.sub(r"[^A-Za-z0-9.+/_-]", "?", text)[:100]
