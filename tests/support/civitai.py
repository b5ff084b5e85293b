"""CivitAI as its public REST API reference describes it, played by two loopback servers.

The site answers JSON on models and versions, and sends a download on to signed storage, which
refuses an Authorization header. Shapes: developer.civitai.com/site/reference/models and
/model-versions; what a download answers to whom: the site's own download route.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import parse_qs, quote

from .faults import Exchange, Fault, RefuseAuthorization, RequireSignature, Signer
from .resources import Answer, Resource, plain
from .server import Server

Refusal = Literal["json", "page"]


@dataclass(frozen=True)
class File:
    """One file of a version; `digest` is what the API says it hashes to, None for the truth."""

    name: str
    body: bytes
    type: str = "Model"
    format: str = "SafeTensor"
    primary: bool = False
    fp: str = "fp16"
    digest: str | None = None
    url: str | None = None


@dataclass(frozen=True)
class Version:
    """A version. `needs` is the token that its downloads ask for; `early` has it sold first."""

    id: int
    files: tuple[File, ...]
    status: str = "Published"
    needs: str | None = None
    early: bool = False
    refusal: Refusal = "json"
    hidden: bool = False


@dataclass
class Civitai:
    """The site and its storage; both have to be running."""

    site: Server
    storage: Server
    signer: Signer = field(default_factory=Signer)
    models: dict[int, list[Version]] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        return self.site.url("")

    def add(self, model: int, *versions: Version) -> None:
        """Publish a model, in place of what it was before; the first version is the newest."""
        self.models[model] = list(versions)
        about = {"id": model, "name": f"Model {model}", "type": "LORA", "nsfw": False}
        listed = [self._version(model, version) for version in versions if not version.hidden]
        self._json(f"/api/v1/models/{model}", {**about, "modelVersions": listed})
        for version in versions:
            self._json(f"/api/v1/model-versions/{version.id}", self._version(model, version))
            download = _Download(self, model, version)
            self.site.add(f"/api/download/models/{version.id}", Resource(faults=[download]))
            for file in version.files:
                faults = [RefuseAuthorization(), RequireSignature(self.signer)]
                etag = f'"{hashlib.md5(file.body).hexdigest()}"'
                stored = Resource(file.body, etag=etag, faults=faults)
                self.storage.add(self._stored(version, file), stored)

    def stored(self, version: Version, file: File) -> str:
        """Where the storage has a file, newly signed."""
        disposition = quote(f'attachment; filename="stored_{file.name}"')
        url = self.storage.url(self._stored(version, file))
        return self.signer.sign(f"{url}?response-content-disposition={disposition}")

    def _stored(self, version: Version, file: File) -> str:
        return f"/model/{version.id}/{quote(file.name)}"

    def _json(self, path: str, value: object) -> None:
        body = json.dumps(value).encode()
        resource = Resource(body, etag=None, last_modified=None, ranges=False)
        self.site.add(path, replace(resource, content_type="application/json; charset=utf-8"))

    def _version(self, model: int, version: Version) -> dict[str, Any]:
        files = [self._file(version, number, file) for number, file in enumerate(version.files)]
        return {
            "id": version.id,
            "modelId": model,
            "name": "v1.0",
            "baseModel": "SDXL 1.0",
            "air": f"urn:air:sdxl:lora:civitai:{model}@{version.id}",
            "status": version.status,
            "availability": "EarlyAccess" if version.early else "Public",
            "usageControl": "Download",
            "files": files,
            "images": [],
            "downloadUrl": f"{self.endpoint}/api/download/models/{version.id}",
        }

    def _file(self, version: Version, number: int, file: File) -> dict[str, Any]:
        digest = file.digest or hashlib.sha256(file.body).hexdigest()
        query = f"?type={quote(file.type)}&format={file.format}&fp={file.fp}"
        url = f"{self.endpoint}/api/download/models/{version.id}"
        return {
            "id": version.id * 10 + number,
            # Rounded, as there: no size to believe.
            "sizeKB": round(len(file.body) / 1024, 1),
            "name": file.name,
            "type": file.type,
            "pickleScanResult": "Success",
            "virusScanResult": "Success",
            "metadata": {"format": file.format, "size": "full", "fp": file.fp},
            "hashes": {
                "AutoV2": digest[:10].upper(),
                "SHA256": digest.upper(),
                "CRC32": "3AFA9B5F",
                "BLAKE3": "0" * 64,
            },
            "downloadUrl": file.url or (url if file.primary else url + query),
            **({"primary": True} if file.primary else {}),
        }


@dataclass(frozen=True)
class _Download(Fault):
    """GET /api/download/models/VERSION."""

    home: Civitai
    model: int
    version: Version

    def answer(self, answer: Answer, exchange: Exchange) -> Answer:
        asked = exchange.request
        version = self.version
        shown = asked.header("authorization")
        if version.needs is not None and shown != f"Bearer {version.needs}":
            return self._refusal()
        query = parse_qs(asked.query)
        file = next((file for file in version.files if _fits(file, query)), None)
        if file is None:
            return _told(404, {"error": "Model file not found"})
        return plain(307, "", ("Location", self.home.stored(version, file)))

    def _refusal(self) -> Answer:
        reason = "early-access" if self.version.early else "download-auth"
        if self.version.refusal == "page":
            page = "pricing" if self.version.early else "login"
            back = quote(f"/models/{self.model}", safe="")
            return plain(307, "", ("Location", f"/{page}?returnUrl={back}&reason={reason}"))
        if self.version.early:
            return _told(403, {"error": "Early Access", "deadline": "2026-01-01T00:00:00.000Z"})
        message = "The creator of this asset requires you to be logged in to download it"
        return _told(401, {"error": "Unauthorized", "message": message})


def _fits(file: File, query: dict[str, list[str]]) -> bool:
    if not query:
        return file.primary
    about = {"type": file.type, "format": file.format, "fp": file.fp, "name": file.name}
    return all(about.get(name, values[0]) == values[0] for name, values in query.items())


def _told(status: int, value: object) -> Answer:
    challenge = (("WWW-Authenticate", "Bearer"),) if status == 401 else ()
    answer = plain(status, json.dumps(value), *challenge)
    return answer.having("Content-Type", "application/json; charset=utf-8")
