"""A stand-in for a Hugging Face hub: what `huggingface_hub` calls to push files to a model."""

import base64
import hashlib
import http.server
import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from huggingface_hub import ModelCard

TOKEN = "hf_of_the_stand_in"
LARGE = (".safetensors", ".onnx", ".pt2")


@dataclass
class Repository:
    """A model repository. commits: the files of each commit, by path."""

    private: bool
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{".gitattributes": b""}])

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1]

    @property
    def sha(self) -> str:
        return f"{len(self.commits):040x}"


class ModelHub(http.server.BaseHTTPRequestHandler):
    """Takes pushes of the owner `user`; subclass it, so that each hub has its own repositories.

    objects: large files by SHA-256. chunks: a folder for large files that clients upload in chunks,
    with `hf_xet`; None for clients that upload them whole.
    """

    repositories: ClassVar[dict[str, Repository]]
    objects: ClassVar[dict[str, bytes]]
    chunks: ClassVar[Path | None] = None

    def __init_subclass__(cls) -> None:
        cls.repositories, cls.objects = {}, {}

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    @property
    def url(self) -> str:
        host, port = self.server.server_address[:2]
        return f"http://{host}:{port}"

    @property
    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, content: Any, status: int = 200, **headers: str) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def authorized(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self.body  # noqa: B018  read, or the client sees a reset connection
        error = "Invalid credentials in Authorization header"
        self.answer({"error": error}, 401, X_Error_Message=error)
        return False

    def do_GET(self) -> None:
        if self.authorized():
            name = self.path.removeprefix("/api/models/").removesuffix("/revision/main")
            if name.endswith("/xet-write-token/main"):
                address = {"casUrl": f"local://{self.chunks}", "exp": 2**32, "accessToken": TOKEN}
                self.answer(address)
                return
            if name not in self.repositories:
                error = {"error": "Repository not found"}
                self.answer(error, 404, X_Error_Code="RepoNotFound")
                return
            repository = self.repositories[name]
            siblings = [{"rfilename": path} for path in repository.files]
            about = {"private": repository.private, "sha": repository.sha, "siblings": siblings}
            self.answer({"id": name, "modelId": name, **about})

    def do_PUT(self) -> None:
        """Store a large file; the address is signed instead of the request."""
        data = self.body
        oid = self.path.removeprefix("/objects/")
        assert hashlib.sha256(data).hexdigest() == oid
        self.objects[oid] = data
        self.answer({})

    def do_POST(self) -> None:
        if not self.authorized():
            return
        body, path = self.body, PurePosixPath(self.path)
        if self.path == "/api/repos/create":
            self.create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            ModelCard(json.loads(body)["content"])  # raises on a bad one
            self.answer({"errors": [], "warnings": []})
        elif path.parts[-2:] == ("preupload", "main"):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                    "oid": self.oid(str(PurePosixPath(*path.parts[3:5])), file["path"]),
                }
                for file in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            for each in objects:
                if each["oid"] not in self.objects:
                    each["actions"] = {"upload": {"href": f"{self.url}/objects/{each['oid']}"}}
            self.answer({"transfer": "basic", "objects": objects})
        elif path.parts[-2:] == ("commit", "main"):
            self.commit(str(PurePosixPath(*path.parts[3:5])), body)
        else:
            self.answer({"error": f"the stand-in has no {self.path}"}, 501)

    def create(self, request: dict[str, Any]) -> None:
        name = f"{request['organization']}/{request['name']}"
        if request["organization"] != "user":
            error = f"You don't have the rights to create a model under {request['organization']}"
            self.answer({"error": error}, 403, X_Error_Message=error)
            return
        assert name not in self.repositories
        self.repositories[name] = Repository(request.get("visibility") == "private")
        self.answer({"url": f"{self.url}/{name}", "name": name})

    def oid(self, name: str, path: str) -> str | None:
        """Return the id of a file that the repository has, as the hub computes it."""
        data = self.repositories[name].files.get(path)
        if data is None:
            return None
        if path.endswith(LARGE):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def commit(self, name: str, body: bytes) -> None:
        repository = self.repositories[name]
        header, *operations = [json.loads(line) for line in body.splitlines()]
        assert header["key"] == "header"
        parent = header["value"].get("parentCommit")
        if parent not in (None, repository.sha):
            self.answer({"error": "The repository has changed"}, 412)
            return
        files = dict(repository.files)
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                data = base64.b64decode(value["content"])
            else:
                assert operation["key"] == "lfsFile"
                data = b"" if self.chunks else self.objects[value["oid"]]
                assert self.chunks or len(data) == value["size"]
            files[value["path"]] = data
        repository.commits.append(files)
        url = f"{self.url}/{name}/commit/{repository.sha}"
        self.answer({"commitUrl": url, "commitOid": repository.sha})
