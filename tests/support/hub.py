"""The hub of datasets, played by a server on the loopback: what HF_ENDPOINT names."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

COMMIT = "a" * 40
Repos = Mapping[str, Mapping[str, bytes]]
"""The files of each, in no folders."""


@contextmanager
def serving_datasets(repos: Repos) -> Iterator[str]:
    """The address of a hub that has these."""
    handler = type("Handler", (_Handler,), {"repos": repos})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    repos: Repos

    def log_message(self, *_) -> None:
        """Nothing is said."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if file := re.fullmatch(r"/datasets/(\w+/\w+)/resolve/[^/]+/(.+)", path):
            content = self.repos.get(file[1], {}).get(file[2])
            if content is None:
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return self._send(200, content, {"ETag": f'"{_digest(content)}"'})
        asked = re.fullmatch(r"/api/datasets/(\w+/\w+)(?:/(revision|tree|paths-info)/.+)?", path)
        if asked is None or asked[1] not in self.repos:
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        return self._send(200, json.dumps(self._described(asked[2], self.repos[asked[1]])).encode())

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

    def _send(self, status: int, content: bytes, headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in {**headers, "X-Repo-Commit": COMMIT}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
