"""llama.cpp for guests, built once: `python -m tests.serving.llama [--server]`.

The source is the archive of llama-cpp-python on PyPI, which has llama.cpp in it; the archive's hash names the directory
under .cache/serving in which the programs are kept. All are linked statically for the oldest x86-64, so that any guest
runs them: llama.cpp's RPC server and our small head (a minute of one processor), and with `--server` llama.cpp's own
server (six more).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

from tests.support import ROOT

VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
HEAD = Path(__file__).with_name("head.cpp")
_OFF = (
    *("GGML_NATIVE", "GGML_SSE42", "GGML_AVX", "GGML_AVX2", "GGML_BMI2", "GGML_FMA", "GGML_F16C", "GGML_OPENMP"),
    *("GGML_LLAMAFILE", "BUILD_SHARED_LIBS", "LLAMA_OPENSSL", "LLAMA_BUILD_UI", "LLAMA_USE_PREBUILT_UI"),
    *("LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_APP"),
)
_TARGET = "-march=x86-64"


@dataclass(frozen=True)
class Engine:
    """The programs, as files of this machine. `server` may not be built."""

    directory: Path

    @property
    def rpc_server(self) -> Path:
        """llama.cpp's `ggml-rpc-server`."""
        return self.directory / "ggml-rpc-server"

    @property
    def small_head(self) -> Path:
        """`head.cpp`; another text is another file."""
        return self.directory / f"head-{hashlib.sha256(HEAD.read_bytes()).hexdigest()[:12]}"

    @property
    def server(self) -> Path:
        """llama.cpp's `llama-server`."""
        return self.directory / "llama-server"

    def programs(self, *, server: bool) -> list[Path]:
        """All that is to be there."""
        return [self.rpc_server, self.small_head, *([self.server] if server else [])]


def engine() -> Engine:
    """Where the programs are, built or not."""
    return Engine(ROOT / ".cache/serving" / SHA256[:12])


def build(*, server: bool) -> Engine:
    """Builds what is missing. Raises RuntimeError that says what failed."""
    made = engine()
    wanted = made.programs(server=server)
    if all(file.is_file() for file in wanted):
        return made
    made.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="corral-llama-") as name:
        source = _source(Path(name))
        tree = Path(name) / "build"
        options = ["-DGGML_RPC=ON", "-DGGML_STATIC=ON", "-DCMAKE_BUILD_TYPE=MinSizeRel"]
        options += [f"-DCMAKE_{language}_FLAGS={_TARGET}" for language in ("C", "CXX")]
        options += ["-DCMAKE_EXE_LINKER_FLAGS=-static", *(f"-D{option}=OFF" for option in _OFF)]
        _run("cmake", "-S", str(source), "-B", str(tree), "-G", "Ninja", *options)
        _run("ninja", "-C", str(tree), "ggml-rpc-server", *(["llama-server"] if server else []))
        _small_head(source, tree, made.small_head)
        for file in wanted:
            if file != made.small_head:
                _keep(tree / "bin" / file.name, file)
    return made


def _small_head(source: Path, tree: Path, target: Path) -> None:
    libraries = tree / "ggml/src"
    parts = [libraries / "ggml-rpc/libggml-rpc.a", *(libraries / f"lib{n}.a" for n in ("ggml", "ggml-cpu"))]
    parts += [libraries / "libggml-base.a"]
    made = tree / "head"
    linked = ["-Wl,--start-group", *map(str, parts), "-Wl,--end-group", "-lpthread"]
    flags = ["-std=c++17", "-Os", _TARGET, "-static", f"-I{source / 'ggml/include'}"]
    _run("g++", *flags, str(HEAD), "-o", str(made), *linked)
    _keep(made, target)


def _source(directory: Path) -> Path:
    """The archive, fetched by pip and checked, unpacked into the directory."""
    tools = directory / "tools"
    venv.create(tools, with_pip=True)
    pip = [str(tools / "bin/python"), "-m", "pip", "--disable-pip-version-check", "-q"]
    # What pip asks the archive for its metadata with.
    _run(*pip, "install", "scikit-build-core", "flit-core")
    wanted = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", f"llama-cpp-python=={VERSION}"]
    _run(*pip, "download", "-d", str(directory), *wanted)
    archive = next(directory.glob("llama_cpp_python-*.tar.gz"))
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise RuntimeError(f"{archive.name} has sha256 {found} and not {SHA256}")
    with tarfile.open(archive) as packed:
        packed.extractall(directory, filter="data")
    return directory / archive.name.removesuffix(".tar.gz") / "vendor/llama.cpp"


def _keep(made: Path, target: Path) -> None:
    """The program without its symbols, there at once or not at all."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    _run("strip", "-o", str(temporary), str(made))
    temporary.replace(target)


def _run(*command: str) -> None:
    """Below everything else that the machine does. Raises RuntimeError with the last lines of what it said."""
    if shutil.which(command[0]) is None:
        raise RuntimeError(f"{command[0]} is missing: apt-get install --no-install-recommends cmake ninja-build g++")
    done = subprocess.run(["nice", *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {(done.stdout + done.stderr)[-2000:]}")


def main() -> int:
    """Exit code 1 with the reason where it cannot be built."""
    parser = argparse.ArgumentParser(prog="python -m tests.serving.llama", description=__doc__)
    parser.add_argument("--server", action="store_true", help="llama.cpp's own server as well")
    parser.add_argument("--check", action="store_true", help="build nothing; exit code 1 where something is missing")
    options = parser.parse_args()
    if options.check:
        return 0 if all(file.is_file() for file in engine().programs(server=options.server)) else 1
    try:
        print(f"engine: {build(server=options.server).directory}")
    except RuntimeError as problem:
        print(f"engine: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
