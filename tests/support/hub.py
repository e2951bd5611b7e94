"""The hub of data sets and models, played by a server on the loopback: what HF_ENDPOINT names."""

import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

COMMIT = "a" * 40
Repos = Mapping[str, Mapping[str, bytes]]
"""The files of each, in no folders."""


@dataclass
class Hub:
    repos: dict[str, Repos]
    """By what they are of, datasets or models."""
    stops_after: int | None = None
    """Bytes of an answer, after which no more come for a minute."""
    address: str = ""
    num_bytes: Counter[str] = field(default_factory=Counter)
    """What was sent of each file."""


@contextmanager
def serving_hub(
    datasets: Repos, models: Repos | None = None, stops_after: int | None = None
) -> Iterator[Hub]:
    """A hub that has these."""
    hub = Hub({"datasets": datasets, "models": models or {}}, stops_after)
    handler = type("Handler", (_Handler,), {"hub": hub})
    with _Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub.address = f"http://127.0.0.1:{server.server_port}"
        yield hub
        server.shutdown()


class _Server(ThreadingHTTPServer):
    # Who waits for a minute holds up no one.
    daemon_threads, block_on_close = True, False

    def handle_error(self, *_) -> None:
        """Nothing is said of those that hung up."""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_) -> None:
        """Nothing is said."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if file := re.fullmatch(r"/(datasets/)?(\w+/\w+)/resolve/[^/]+/(.+)", path):
            repos = self.hub.repos["datasets" if file[1] else "models"]
            content = repos.get(file[2], {}).get(file[3])
            if content is None:
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return self._send_file(file[3], content)
        asked = re.fullmatch(
            r"/api/(datasets|models)/(\w+/\w+)(?:/(revision|tree|paths-info)/.+)?", path
        )
        if asked is None or asked[2] not in self.hub.repos[asked[1]]:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        described = self._described(asked[3], self.hub.repos[asked[1]][asked[2]])
        return self._send(200, json.dumps(described).encode())

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def _described(self, what: str | None, files: Mapping[str, bytes]) -> object:
        if what not in ("tree", "paths-info"):
            return {"id": "a", "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]}
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        wanted = parse_qs(body).get("paths", []) if what == "paths-info" else files
        return [
            {"type": "file", "path": p, "size": len(files[p]), "oid": _digest(files[p])}
            for p in wanted
            if p in files
        ]

    def _send_file(self, name: str, content: bytes) -> None:
        headers = {"ETag": f'"{_digest(content)}"', "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self._send(200, content, headers, name)
            return
        first, size = int(asked[1]), len(content)
        headers["Content-Range"] = f"bytes {first}-{size - 1}/{size}"
        self._send(206, content[first:], headers, name)

    def _send(
        self, status: int, content: bytes, headers: Mapping[str, str] = {}, name: str = ""
    ) -> None:
        self.send_response(status)
        for key, value in {**headers, "X-Repo-Commit": COMMIT}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            sent = content[: self.hub.stops_after]
            self.wfile.write(sent)
            self.hub.num_bytes[name] += len(sent)
            if len(sent) < len(content):
                time.sleep(60)


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
