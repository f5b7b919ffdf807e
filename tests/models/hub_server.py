"""The part of the Hugging Face hub's API that a push and a download need, on this machine, in memory."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """Repositories by name: the files of each, and whether it is private."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.private, self.tokens, self.unknown = {}, {}, set(), []

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def revision(self, name):
        content = "".join(f"{p}{hashlib.sha1(c).hexdigest()}" for p, c in sorted(self.files[name].items()))
        return hashlib.sha1(content.encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _answer(self, content=b"", status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub = self.server
        hub.tokens.add(self.headers.get("Authorization"))
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
            known = name in hub.files
            hub.files.setdefault(name, {})
            hub.private.setdefault(name, bool(asked.get("private")) or asked.get("visibility") == "private")
            return self._answer({"url": f"{hub.address}/{name}", "name": name}, 409 if known else 200)
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        parts = path.strip("/").split("/")
        name = "/".join(parts[2:4])
        if parts[:2] == ["api", "models"] and parts[4:5] == ["preupload"]:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return self._answer({"files": files})
        if parts[:2] == ["api", "models"] and parts[4:5] == ["commit"]:
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    hub.files[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            oid = hub.revision(name)
            return self._answer({"commitUrl": f"{hub.address}/{name}/commit/{oid}", "commitOid": oid})
        hub.unknown.append(f"POST {path}")
        return self._answer({"error": "unknown"}, 404)

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        parts, hub = path.strip("/").split("/"), self.server
        if parts[2:3] == ["resolve"]:
            name, file = "/".join(parts[:2]), "/".join(parts[4:])
            content = hub.files.get(name, {}).get(file)
            if content is None:
                kind = "EntryNotFound" if name in hub.files else "RepoNotFound"
                return self._answer(b"", 404, X_Error_Code=kind)
            return self._answer(
                content,
                ETag=f'"{hashlib.sha1(content).hexdigest()}"',
                X_Repo_Commit=hub.revision(name),
                Content_Length=str(len(content)),
            )
        if parts[:2] == ["api", "models"] and "/".join(parts[2:4]) in hub.files:
            name = "/".join(parts[2:4])
            files = hub.files[name]
            if parts[4:5] == ["tree"]:
                below = "/".join(parts[6:])
                return self._answer(
                    [
                        {"type": "file", "path": p, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                        for p, c in files.items()
                        if p.startswith(below)
                    ]
                )
            siblings = [{"rfilename": p} for p in files]
            return self._answer(
                {"id": name, "modelId": name, "sha": hub.revision(name), "siblings": siblings}
            )
        hub.unknown.append(f"{self.command} {path}")
        return self._answer({"error": "unknown"}, 404)

    do_HEAD = do_GET


@contextmanager
def serving():
    """A hub that runs for the time of a block."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
