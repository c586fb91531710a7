"""A model of arithmetic under Open MPI: `mpirun … python3 ring.py PORT`. Rank 0 answers GET /N with what all ranks
have computed together: the sum of (rank + 1) * N, and on which host each of them did its part.

By the library itself, so that neither a compiler nor a binding has to be there.
"""

import ctypes
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

MPI = ctypes.CDLL("libmpi.so.40", ctypes.RTLD_GLOBAL)
WORLD = ctypes.byref(ctypes.c_char.in_dll(MPI, "ompi_mpi_comm_world"))
INT = ctypes.byref(ctypes.c_char.in_dll(MPI, "ompi_mpi_int"))
SUM = ctypes.byref(ctypes.c_char.in_dll(MPI, "ompi_mpi_op_sum"))

MPI.MPI_Init(None, None)
_rank, _size = ctypes.c_int(), ctypes.c_int()
MPI.MPI_Comm_rank(WORLD, ctypes.byref(_rank))
MPI.MPI_Comm_size(WORLD, ctypes.byref(_size))
RANK, SIZE = _rank.value, _size.value
HOST = int(socket.gethostname().rpartition("-")[2])


def together(n: int) -> str:
    """This rank's part, added to those of all others; what came of it is rank 0's alone."""
    parts, whole = ((ctypes.c_int * (SIZE + 1))() for _ in range(2))
    parts[RANK], parts[SIZE] = HOST + 1, (RANK + 1) * n
    MPI.MPI_Reduce(parts, whole, SIZE + 1, INT, SUM, 0, WORLD)
    return f"{n}: {whole[SIZE]} by " + " ".join(f"{rank}@node-{whole[rank] - 1}" for rank in range(SIZE))


class Answers(BaseHTTPRequestHandler):
    """Rank 0, for callers."""

    def do_GET(self) -> None:
        """One answer of all ranks."""
        asked = ctypes.c_int(int(self.path[1:]))
        for rank in range(1, SIZE):
            MPI.MPI_Send(ctypes.byref(asked), 1, INT, rank, 0, WORLD)
        text = together(asked.value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


if RANK == 0:
    HTTPServer(("0.0.0.0", int(sys.argv[1])), Answers).serve_forever()
here, n = ctypes.c_int(), ctypes.c_int()
while True:
    # Not in MPI_Recv, which takes all of a processor while it waits.
    MPI.MPI_Iprobe(0, 0, WORLD, ctypes.byref(here), None)
    if here.value:
        MPI.MPI_Recv(ctypes.byref(n), 1, INT, 0, 0, WORLD, None)
        together(n.value)
    time.sleep(0.02)
