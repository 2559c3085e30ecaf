"""An endpoint on this machine that answers as a test says: well, late, broken, or not at all."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def chat(text: str, finish: str = "stop") -> tuple[int, dict, bytes]:
    """A good answer."""
    tree = {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]}
    return 200, {}, json.dumps(tree).encode()


class Endpoint:
    """Keeps requests (path, headers, body); `answer` gets the number of the request and its body.

    It returns status, headers and bytes; a header X-Announce is the length that is announced, X-Drip seconds
    between bytes, X-Sleep seconds before the answer.
    """

    def __init__(self, answer: Callable[[int, dict], tuple[int, dict, bytes]]) -> None:
        self.answer, self.requests = answer, []
        self.lock = threading.Lock()


@contextmanager
def serving(answer):
    """Yields the endpoint and its address."""
    endpoint = Endpoint(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with endpoint.lock:
                number = len(endpoint.requests)
                endpoint.requests.append((self.path, dict(self.headers), body))
            status, headers, data = endpoint.answer(number, body)
            time.sleep(headers.get("X-Sleep", 0))
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(headers.get("X-Announce", len(data))))
                for name, value in headers.items():
                    if not name.startswith("X-"):
                        self.send_header(name, value)
                self.end_headers()
                if "X-Drip" in headers:
                    for byte in data:
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        time.sleep(headers["X-Drip"])
                else:
                    self.wfile.write(data)
            except OSError:
                pass

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield endpoint, f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
