"""Tasks of object stores that time themselves: `python -m scripts.bench.object_tasks TASK`."""

from __future__ import annotations

import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

_SIGNATURES = 20_000
_PAGES, _KEYS_A_PAGE = 100, 1000


def main(arguments: list[str] | None = None) -> None:
    """Do the task and print its seconds."""
    tasks = {"sign": _sign, "list": _list, "serve": _serve}
    tasks[(arguments or sys.argv[1:])[0]]()


def _sign() -> None:
    from pgetpy.core.http.urls import parse_link
    from pgetpy.core.objects.sigv4 import Credentials
    from pgetpy.sources.object_signer import Keys, ObjectSigner

    keys = Keys(Credentials("AKIAEXAMPLE", "secret" * 6, ""))
    where = {"store": "s", "endpoint": "https://s3.us-east-1.amazonaws.com", "bucket": "bucket"}
    signer = ObjectSigner(keys, region="us-east-1", **where)
    link = parse_link("https://bucket.s3.us-east-1.amazonaws.com/models/unet/model.safetensors")
    now = time.time()
    begin = time.perf_counter()
    for _ in range(_SIGNATURES):
        signer.headers(link, (), now)
    print((time.perf_counter() - begin) / _SIGNATURES)


def _list() -> None:
    """List a folder whose pages another process makes, so that its memory does not count."""
    import asyncio

    from pgetpy.engine.engine import Engine
    from pgetpy.settings import Settings, SourceSettings
    from pgetpy.sources.table import parse_reference

    command = [sys.executable, "-m", "scripts.bench.object_tasks", "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        environ = {"AWS_ENDPOINT_URL": url, "AWS_REGION": "us-east-1", "PGET_S3_SIGN": "never"}
        sources = SourceSettings(environ=environ)
        reference = parse_reference("s3://bench/models/", "folder", sources)

        async def work() -> int:
            async with Engine(Settings(sources=sources)) as engine:
                return len((await engine.locate(reference)).objects)

        begin = time.perf_counter()
        count = asyncio.run(work())
        seconds = time.perf_counter() - begin
        server.terminate()
    if count != _PAGES * _KEYS_A_PAGE:
        raise SystemExit(f"{count} keys were listed")
    print(seconds)


class _Pages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        """Answer with a page of the listing."""
        query = parse_qs(urlsplit(self.path).query)
        number = int(query.get("continuation-token", ["0"])[0])
        items = "".join(
            f"<Contents><Key>models/checkpoint-{number:03}/part-{each:05}.safetensors</Key>"
            f"<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{number:016x}{each:016x}&quot;</ETag><Size>{each}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for each in range(_KEYS_A_PAGE)
        )
        more = number + 1 < _PAGES
        token = f"<NextContinuationToken>{number + 1}</NextContinuationToken>" if more else ""
        truncated = f"<IsTruncated>{str(more).lower()}</IsTruncated>"
        body = f"<ListBucketResult>{truncated}{token}{items}</ListBucketResult>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _serve() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
