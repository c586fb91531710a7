"""A stand-in for an engine: `python engine.py PORT FILE`. It answers /health with 200, all else with the file's text,
and while that is `hang` not at all; while it is `work` neither, and it computes all the time; while it is `toil` it
computes and answers nobody, /health neither."""

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    """Reads the file at each request, so that a test changes what the engine does as it runs."""

    def do_GET(self) -> None:
        """One answer."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        text = Path(sys.argv[2]).read_text()
        if self.path == "/health" and text != "toil":
            text = "fine"
        while text == "hang":
            time.sleep(0.1)
        while text in ("work", "toil") and Path(sys.argv[2]).read_text() == text:
            sum(range(20_000))
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    do_POST = do_GET  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


print("engine begins", flush=True)
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
