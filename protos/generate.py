"""Generates the Python code and the reference from corral/v1/*.proto, and runs buf on them.

`python protos/generate.py` writes the generated files; `check` compares them with what is there. `lint` runs
`buf lint`, and `buf breaking` against the contract of the last release, which lies beside the definitions as a
descriptor image so that no tag is needed; `breaking --against REF` compares with a git revision, `release` renews the
image. `archive` packs the definitions with those of googleapis that they and the errors need, for callers in any
language. Everything works without a network: the googleapis definitions come from the installed
googleapis-common-protos.
protoc runs in a process of its own, because grpc_tools and OR-Tools abort when one process loads both.
"""

from __future__ import annotations

import argparse
import filecmp
import gzip
import importlib.util
import io
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import tomllib
from pathlib import Path

import reference

ROOT = Path(__file__).resolve().parent
PACKAGE = Path("corral", "v1")
REFERENCE = "REFERENCE.md"
RELEASED = ROOT / "released.binpb"
"""The contract of the last release, as `buf build` writes it."""
GENERATED_PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
ERRORS = ("google/rpc/code.proto", "google/rpc/error_details.proto", "google/rpc/status.proto")
"""What the details of errors are written in; our definitions do not import it."""
OPTIONS = Path("google/protobuf/descriptor.proto")
"""Which options there are."""
_SERVICE = re.compile(r"^service\s", re.MULTILINE)
_IMPORT = re.compile(r'^import\s+(?:public\s+)?"([^"]+)";', re.MULTILINE)


def proto_files(root: Path = ROOT) -> list[str]:
    """Paths of our own .proto files relative to `root`, sorted so that the output never depends on the file system."""
    return sorted(str(path.relative_to(root)) for path in (root / PACKAGE).glob("*.proto"))


def _package_directory(name: str) -> Path:
    """Where an installed package lies, without importing it. Raises ModuleNotFoundError."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{name} is not installed; install deploy/requirements/dev.txt")
    return Path(next(iter(spec.submodule_search_locations)))


def tool(name: str) -> str:
    """Full path of an executable of this Python environment. Raises FileNotFoundError."""
    path = Path(sysconfig.get_path("scripts"), name)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; install deploy/requirements/dev.txt")
    return str(path)


def copy_googleapis(target: Path, *others: str) -> None:
    """Copy the googleapis files that our definitions import, `others`, and what those import, below `target`."""
    site = _package_directory("google.api").parent.parent
    pending = [*others, *(name for file in proto_files() for name in _IMPORT.findall((ROOT / file).read_text()))]
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        source = site / name
        if name in seen or not name.startswith("google/") or not source.exists():
            continue  # google/protobuf comes with protoc and with buf themselves
        seen.add(name)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target / name)
        pending.extend(_IMPORT.findall(source.read_text()))


def _protoc(arguments: list[str], googleapis: Path, files: list[str]) -> None:
    """Run protoc in a subprocess. Raises CalledProcessError."""
    command = [sys.executable, "-m", "grpc_tools.protoc"]
    command += [f"-I{path}" for path in (ROOT, googleapis, _package_directory("grpc_tools") / "_proto")]
    subprocess.run([*command, *arguments, *files], check=True, cwd=ROOT)


def generate(target: Path) -> None:
    """Write the Python modules, their stubs and the reference below `target`."""
    with tempfile.TemporaryDirectory(prefix="corral-protos-") as temporary:
        googleapis = Path(temporary, "googleapis")
        googleapis.mkdir()
        copy_googleapis(googleapis)
        descriptors = Path(temporary, "descriptors.binpb")
        messages = [
            f"--plugin=protoc-gen-mypy={tool('protoc-gen-mypy')}",
            f"--python_out={target}",
            f"--mypy_out=quiet:{target}",
            f"--descriptor_set_out={descriptors}",
            "--include_imports",
            "--include_source_info",
        ]
        services = [
            f"--plugin=protoc-gen-mypy_grpc={tool('protoc-gen-mypy_grpc')}",
            f"--grpc_python_out={target}",
            f"--mypy_grpc_out=quiet,generate_concrete_servicer_stubs:{target}",
        ]
        files = proto_files()
        _protoc(messages, googleapis, files)
        _protoc(services, googleapis, [file for file in files if _SERVICE.search((ROOT / file).read_text())])
        (target / REFERENCE).write_text(reference.render(descriptors.read_bytes()))


def generated_files(root: Path) -> list[str]:
    """Paths of all generated files below `root`, relative to it."""
    names = [path.relative_to(root) for pattern in GENERATED_PATTERNS for path in (root / PACKAGE).glob(pattern)]
    return [*sorted({str(name) for name in names}), REFERENCE]


def differences(root: Path = ROOT) -> list[str]:
    """Files below `root` that differ from what the definitions generate now: changed, missing or left over."""
    with tempfile.TemporaryDirectory(prefix="corral-protos-") as temporary:
        fresh = Path(temporary)
        generate(fresh)
        names = sorted({*generated_files(fresh), *generated_files(root)})
        _, mismatched, absent = filecmp.cmpfiles(fresh, root, names, shallow=False)
    return sorted([*mismatched, *absent])


def stage(target: Path, source: Path) -> None:
    """Lay out one buf module at `target`: buf.yaml, our definitions from `source` and the googleapis files."""
    shutil.copyfile(ROOT / "buf.yaml", target / "buf.yaml")
    (target / PACKAGE).mkdir(parents=True)
    for file in proto_files(source):
        shutil.copyfile(source / file, target / file)
    copy_googleapis(target)


def _buf(*arguments: str) -> int:
    """Run buf offline on our definitions; its exit status."""
    with tempfile.TemporaryDirectory(prefix="corral-protos-") as temporary:
        stage(Path(temporary), ROOT)
        return subprocess.run([tool("buf"), *arguments], cwd=temporary, check=False).returncode


def lint() -> int:
    """Run `buf lint`, and `buf breaking` against the last release; 0 where both accept the definitions."""
    return _buf("lint") or unreleased()


def unreleased() -> int:
    """Run `buf breaking` against the contract of the last release; its exit status."""
    return _buf("breaking", "--against", str(RELEASED))


def release() -> int:
    """Make the definitions the contract of the last release, unless they break it; 0 where that was done."""
    return unreleased() or _buf("build", "--exclude-source-info", "-o", str(RELEASED))


def breaking(against: str) -> int:
    """Run `buf breaking` offline against the definitions of a git revision; its exit status."""
    with tempfile.TemporaryDirectory(prefix="corral-protos-") as temporary:
        old, tree = (Path(temporary, name) for name in ("old", "tree"))
        for directory in (old, tree):
            directory.mkdir()
        archive = Path(temporary, "tree.tar")
        git = ["git", "-C", str(ROOT.parent), "archive", f"--output={archive}", against, "protos"]
        subprocess.run(git, check=True)
        shutil.unpack_archive(archive, tree, filter="data")
        stage(old, tree / "protos")
        return _buf("breaking", "--against", str(old))


def archive(target: Path) -> None:
    """Write the definitions with all that they import as a .tar.gz; the same bytes from the same definitions."""
    version = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]["version"]
    top = f"corral-protos-{version}"
    with tempfile.TemporaryDirectory(prefix="corral-protos-") as temporary:
        tree = Path(temporary)
        (tree / PACKAGE).mkdir(parents=True)
        for file in proto_files():
            shutil.copyfile(ROOT / file, tree / file)
        copy_googleapis(tree, *ERRORS)
        # What else there is of google/protobuf comes with protoc. Debian 12's (3.21) does not know `debug_redact`.
        (tree / OPTIONS).parent.mkdir(parents=True)
        shutil.copyfile(_package_directory("grpc_tools") / "_proto" / OPTIONS, tree / OPTIONS)
        for name in ("README.md", "REFERENCE.md"):
            shutil.copyfile(ROOT / name, tree / name)
        shutil.copyfile(ROOT.parent / "LICENSE", tree / "LICENSE")
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for path in sorted(path for path in tree.rglob("*") if path.is_file()):
                content = path.read_bytes()
                entry = tarfile.TarInfo(f"{top}/{path.relative_to(tree)}")
                entry.size, entry.mode = len(content), 0o644
                tar.addfile(entry, io.BytesIO(content))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(packed.getvalue(), mtime=0))


def main() -> int:
    """Command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("generate", help="write the generated files (the default)")
    commands.add_parser("check", help="fail where a generated file is not what the definitions generate")
    commands.add_parser("lint", help="run buf lint, and buf breaking against the last release")
    commands.add_parser("release", help="keep the definitions as the contract of the last release")
    pack = commands.add_parser("archive", help="pack the definitions with all that they import as a .tar.gz")
    pack.add_argument("target", type=Path)
    compare = commands.add_parser("breaking", help="run buf breaking")
    compare.add_argument("--against", required=True, metavar="REF", help="git revision to compare with")
    arguments = parser.parse_args()
    match arguments.command:
        case "check":
            changed = differences()
            for name in changed:
                print(f"protos/{name} is out of date; run python protos/generate.py", file=sys.stderr)
            return 1 if changed else 0
        case "lint":
            return lint()
        case "release":
            return release()
        case "archive":
            archive(arguments.target)
            return 0
        case "breaking":
            return breaking(arguments.against)
        case _:
            generate(ROOT)
            return 0


if __name__ == "__main__":
    sys.exit(main())
