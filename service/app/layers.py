"""The layers of a container image as one tree, and that tree as one tar archive: what a file system is made of.

Nothing is unpacked onto this machine. A layer's names are places of a tree in memory, so that none leads out of it, and
devices are left out. Owners, modes and extended attributes stay as they are, whoever runs this. Layers are read twice:
once for the tree, once for what of their contents is still in it. All functions block.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from service.app.layer_files import Budget, Layer, members, opened
from service.domain.containers import Unusable

RESERVED = ".corral"
"""In an image's root: what the guest is told of it. Layers bring nothing there."""
_MOST_LINKS = 40  # as Linux follows
_MOST_PATH = 4096
_MOST_NAME = 255
_HIDES = ".wh."
_HIDES_ALL = ".wh..wh..opq"
_XATTR = "SCHILY.xattr."
# Of a file's own; trusted.* would speak to the file system that lies over it.
_KEPT_XATTRS = re.compile(r"SCHILY\.xattr\.(user|security)\.")


@dataclass(slots=True)
class Entry:
    """A file, link or pipe, by however many names. `at`: (layer, number of its header), None for what is made here."""

    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    target: str = ""
    xattrs: Mapping[str, str] = field(default_factory=dict)
    at: tuple[int, int] | None = None


@dataclass(slots=True)
class Directory:
    """A directory and what is in it."""

    own: Entry
    children: dict[str, Directory | Entry] = field(default_factory=dict)


def _new_directory() -> Directory:
    return Directory(Entry(tarfile.DIRTYPE, 0o755, 0, 0, 0))


class Tree:
    """What all layers together make."""

    def __init__(self) -> None:
        self.root = _new_directory()

    def add(self, number: int, layer: Sequence[tuple[int, tuple[str, ...], Entry]]) -> None:
        """One more layer over what is here: what it hides goes first, whatever the order of its entries.

        Raises Unusable.
        """
        for _, parts, _ in layer:
            if parts and parts[-1].startswith(_HIDES):
                self._hide(parts)
        for header, parts, entry in layer:
            if parts and not parts[-1].startswith(_HIDES) and parts[0] != RESERVED:
                self._place(parts, replace(entry, at=(number, header)))
            elif not parts and entry.kind == tarfile.DIRTYPE:
                self.root.own = entry

    def find(self, parts: Sequence[str]) -> Entry | None:
        """The file of this name, with links on the way to it and at its end followed; None where there is none."""
        found: Directory | Entry | None = self._walk(parts, make=False)
        return found if isinstance(found, Entry) else None

    def directory(self, parts: Sequence[str]) -> Directory:
        """The directory of this name, made where there is none. Raises Unusable where it is something else."""
        found = self._walk(parts, make=True)
        if not isinstance(found, Directory):
            raise Unusable(f"is damaged: a layer puts something beneath {_shown('/'.join(parts))}, which is a file")
        return found

    def _walk(self, parts: Sequence[str], *, make: bool) -> Directory | Entry | None:
        """Links are followed as within this tree: from its root where they are absolute, and never above it."""
        here: list[Directory] = [self.root]
        rest, links = list(reversed(parts)), 0
        while rest:
            part = rest.pop()
            if part in ("", "."):
                continue
            if part == "..":
                del here[max(1, len(here) - 1) :]
                continue
            child = here[-1].children.get(part)
            if isinstance(child, Entry) and child.kind == tarfile.SYMTYPE:
                links += 1
                if links > _MOST_LINKS:
                    raise Unusable("is damaged: a layer's links lead in a circle")
                if child.target.startswith("/"):
                    del here[1:]
                rest += reversed(child.target.split("/"))
                continue
            if child is None and make:
                child = here[-1].children[part] = _new_directory()
            if not isinstance(child, Directory):
                return child if not rest else None
            here.append(child)
        return here[-1]

    def _hide(self, parts: tuple[str, ...]) -> None:
        found = self._walk(parts[:-1], make=False)
        if not isinstance(found, Directory):
            return
        if parts[-1] == _HIDES_ALL:
            found.children.clear()
        else:
            found.children.pop(parts[-1].removeprefix(_HIDES), None)

    def _place(self, parts: tuple[str, ...], entry: Entry) -> None:
        parent, name = self.directory(parts[:-1]), parts[-1]
        there = parent.children.get(name)
        if entry.kind == tarfile.DIRTYPE:
            if isinstance(there, Directory):
                there.own = entry
            else:
                parent.children[name] = Directory(entry)
        elif entry.kind == tarfile.LNKTYPE:
            *folder, last = _parts(entry.target) or ("",)
            linked = self.directory(folder).children.get(last)
            if not isinstance(linked, Entry):
                raise Unusable(f"is damaged: {_shown('/'.join(parts))} is a link to a file that is not there")
            parent.children[name] = linked
        elif entry.kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
            parent.children.pop(name, None)  # the guest has devices of its own
        else:
            parent.children[name] = entry

    def named(self) -> Iterator[tuple[str, Directory | Entry]]:
        """All that is in it by its path, what holds something before what it holds."""
        waiting: list[tuple[str, Directory]] = [("", self.root)]
        while waiting:
            path, directory = waiting.pop()
            for name, child in sorted(directory.children.items()):
                yield f"{path}{name}", child
                if isinstance(child, Directory):
                    waiting.append((f"{path}{name}/", child))


def read(layers: Sequence[Layer], budget: Budget) -> Tree:
    """The tree, with every layer's digests compared. Raises Unusable, OSError."""
    tree = Tree()
    for number, layer in enumerate(layers):
        found, ends = [], 0
        with opened(layer, number, budget) as (archive, plain):
            for header, member in enumerate(members(archive)):
                budget.one_more()
                ends = max(ends, member.offset_data + (member.size if member.isreg() and not member.sparse else 0))
                parts = _parts(member.name)
                if member.size > 0 and member.sparse is not None:
                    budget.spend(member.size)  # its holes are in no stream
                found.append((header, parts, _entry(member)))
            if ends > plain.count:
                raise tarfile.ReadError("a file's end is missing")
        tree.add(number, found)
    return tree


def write(tree: Tree, layers: Sequence[Layer], extra: Mapping[str, bytes], to: BinaryIO) -> None:
    """The tree as one tar archive: names without contents first, and `extra` files, by their path, at the end.

    A path of `extra` takes the place of what is there. Raises Unusable, OSError.
    """
    contents: dict[int, dict[int, list[str]]] = {}
    with tarfile.open(fileobj=to, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive:
        for path, node in tree.named():
            entry = node.own if isinstance(node, Directory) else node
            if entry.kind != tarfile.REGTYPE:
                archive.addfile(_header(path, entry))
            elif path not in extra and entry.at is not None:
                contents.setdefault(entry.at[0], {}).setdefault(entry.at[1], []).append(path)
        for number, layer in enumerate(layers):
            wanted = contents.get(number)
            if wanted:
                _copy(archive, layer, number, wanted)
        for path, data in extra.items():
            mode = 0o600 if path.startswith(RESERVED) else 0o644
            archive.addfile(_header(path, Entry(tarfile.REGTYPE, mode, 0, 0, 0, len(data))), io.BytesIO(data))


def contents_of(tree: Tree, layers: Sequence[Layer], path: str, most: int = 1 << 20) -> bytes | None:
    """What the file of this path holds, None where there is none or it holds more. Raises Unusable, OSError."""
    entry = tree.find(path.split("/"))
    if entry is None or entry.kind != tarfile.REGTYPE or entry.at is None or entry.size > most:
        return None
    number, wanted = entry.at
    with opened(layers[number], number, None) as (archive, _):
        for header, member in enumerate(members(archive)):
            if header == wanted:
                file = archive.extractfile(member)
                return file.read() if file is not None else None
    return None


def _copy(archive: tarfile.TarFile, layer: Layer, number: int, wanted: Mapping[int, Sequence[str]]) -> None:
    with opened(layer, number, None) as (source, _):
        for header, member in enumerate(members(source)):
            if header not in wanted:
                continue
            first, *others = wanted[header]
            entry = _entry(member)
            archive.addfile(_header(first, entry), source.extractfile(member))
            for path in others:
                archive.addfile(_header(path, replace(entry, kind=tarfile.LNKTYPE, size=0, target=first, xattrs={})))


def _entry(member: tarfile.TarInfo) -> Entry:
    kind = tarfile.REGTYPE if member.isreg() else member.type
    if kind not in _KINDS:
        raise Unusable(f"is damaged: a layer holds {_shown(member.name)}, which is of no kind that is known")
    return Entry(
        kind,
        member.mode & 0o7777,
        member.uid,
        member.gid,
        max(0, min(int(member.mtime), 0xFFFFFFFF)),
        member.size if kind == tarfile.REGTYPE else 0,
        member.linkname,
        {name: value for name, value in member.pax_headers.items() if _KEPT_XATTRS.match(name)},
    )


_KINDS = frozenset(
    {
        *(tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE),
        *(tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
    }
)


def _header(path: str, entry: Entry) -> tarfile.TarInfo:
    made = tarfile.TarInfo(path)
    made.type, made.mode, made.uid, made.gid = entry.kind, entry.mode, entry.uid, entry.gid
    made.mtime, made.size, made.linkname = entry.mtime, entry.size, entry.target
    made.pax_headers = dict(entry.xattrs)
    return made


def _parts(name: str) -> tuple[str, ...]:
    """A name as places of the tree. Raises Unusable for one that leads out of it."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise Unusable(f"is damaged: a layer has the name {_shown(name)}, which leads out of the image")
    if len(name) > _MOST_PATH or any(len(part.encode("utf-8", "surrogateescape")) > _MOST_NAME for part in parts):
        raise Unusable(f"is damaged: a layer has a name that is too long, {_shown(name)}")
    return parts


def _shown(name: str) -> str:
    return repr(name[:200].encode("ascii", "backslashreplace").decode())
