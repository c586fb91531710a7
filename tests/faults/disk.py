"""A small file system, which can be full. It goes with the process that made it, however that ends."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

_JANITOR = """
cat > /dev/null
umount -l "$1" || true
rmdir "$1"
"""


class SmallDisk:
    """`directory` is its root, which any account may read."""

    def __init__(self, megabytes: int) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="corral-disk-"))
        self.directory.chmod(0o755)
        self._ballast = self.directory / "ballast"
        self._janitor = subprocess.Popen(
            ["sh", "-c", _JANITOR, "sh", str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "corral-faults", str(self.directory)],
            check=True,
            capture_output=True,
        )

    def fill(self) -> None:
        """Take all room that is left: by the MiB first, then by 4 KiB."""
        with self._ballast.open("ab") as file:
            for size in (1 << 20, 4096):
                try:
                    while True:
                        os.write(file.fileno(), bytes(size))
                except OSError:
                    continue  # none of this size is left

    def free(self) -> None:
        """Give all of it back."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Take it away; nothing may be in use there."""
        self._janitor.communicate(timeout=30)
