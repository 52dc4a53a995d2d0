"""An HTTP server on this machine that answers as the Hugging Face hub does where downloads are concerned, faults included."""
from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit


@dataclass
class SmallHub:
    """files: of every repository, by name. large: which of them have a SHA-256.

    cut: after so many bytes of an answer the connection breaks, once for each number. refuse: status and X-Error-Code of every file.
    missing: repositories that are not there. ignore_range: serve whole files always. redirect: files come from another host, as large
    ones do. promised: sizes that the listing claims instead of the true ones. html: answer with a page, as a captive portal does.
    sent: (file, first byte, number of bytes) of every answer. headers: of every request, with names in lower case.
    """

    files: dict[str, bytes]
    revision: str = "a" * 40
    large: tuple[str, ...] = ("model.safetensors",)
    cut: list[int] = field(default_factory=list)
    refuse: tuple[int, str] | None = None
    missing: tuple[str, ...] = ()
    ignore_range: bool = False
    redirect: bool = False
    promised: dict[str, int] = field(default_factory=dict)
    wrong_sha: bool = False
    html: bool = False
    sent: list[tuple[str, int, int]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def listing(self) -> bytes:
        siblings = []
        for name, content in self.files.items():
            entry = {"rfilename": name, "size": self.promised.get(name, len(content)), "blobId": "b" * 40}
            if name in self.large:
                sha = hashlib.sha256(b"other" if self.wrong_sha else content).hexdigest()
                entry["lfs"] = {"sha256": sha, "size": entry["size"], "pointerSize": 135}
            siblings.append(entry)
        return json.dumps({"id": "x/y", "sha": self.revision, "siblings": siblings}).encode()


@contextmanager
def serving(hub: SmallHub) -> Iterator[SmallHub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Tests are quiet."""

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path == "/api/agent-harnesses":  # huggingface_hub asks this once in a process, for itself
                self.answer(404, b"", {})
                return
            hub.headers.append({name.lower(): value for name, value in self.headers.items()})
            if any(path.startswith((f"/api/models/{repo}", f"/{repo}/")) for repo in hub.missing):
                self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
            elif hub.html:
                self.answer(200, b"<html>Sign in to the wireless network</html>", {"Content-Type": "text/html"})
            elif path.startswith("/api/models/"):
                self.answer(200, hub.listing(), {"Content-Type": "application/json"})
            elif hub.refuse:
                self.answer(hub.refuse[0], b"", {"X-Error-Code": hub.refuse[1]})
            elif found := re.fullmatch(rf"/[^/]+/[^/]+/resolve/{hub.revision}/(.+)", path):
                elsewhere = f"http://localhost:{self.server.server_port}/elsewhere/{found[1]}"
                self.answer(302, b"", {"Location": elsewhere}) if hub.redirect else self.file(found[1])
            elif hub.redirect and path.startswith("/elsewhere/"):
                self.file(path.removeprefix("/elsewhere/"))
            else:
                self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})

        def file(self, name: str) -> None:
            content = hub.files[name]
            first = 0 if hub.ignore_range else int((self.headers.get("Range") or "bytes=0-")[6:-1])
            if first >= len(content) > 0:
                self.answer(416, b"", {})
                return
            body = content[first:]
            about = {"ETag": '"e"', "X-Repo-Commit": hub.revision}
            if first:
                about["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            self.answer(206 if first else 200, body, about, name, first)

        def answer(self, status: int, body: bytes, headers: dict[str, str], name: str = "", first: int = 0) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if name and hub.cut:
                body, self.close_connection = body[:hub.cut.pop(0)], True
            self.wfile.write(body)
            if name:
                hub.sent.append((name, first, len(body)))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
