"""The services that hand out keys, on loopback: an instance's metadata (IMDSv2), ECS, STS.

Each answer holds another key with another token, which `granted` passes on, so that a store accepts
the latest one alone.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from tests.support.scripted import ScriptedServer

ROLE = "role-of-the-instance"
_METADATA = "/latest/meta-data/iam/security-credentials/"
_XML = """<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result>
<Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>
<SessionToken>{token}</SessionToken><Expiration>{until}</Expiration></Credentials>
<AssumedRoleUser><AssumedRoleId>A:b</AssumedRoleId><Arn>arn:aws:sts::1:assumed-role/r/b</Arn>
</AssumedRoleUser></{action}Result></{action}Response>"""
_REFUSAL = """<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code>
<Message>not yours</Message></Error></ErrorResponse>"""


class KeyServices(ScriptedServer):
    """All of them on one port.

    Attributes:
        lifetime: seconds for which keys are valid, as the answers say.
        refuses: whether no more keys are given out.
        asked: what each request asked for: `METHOD PATH`, or the action of STS.
        secrets: all secrets and tokens that were given out.
    """

    def __init__(self, granted: Callable[[str, str, str], object]) -> None:
        self.lifetime = 3600.0
        self.refuses = False
        self.asked: list[str] = []
        self.secrets: list[str] = []
        self._granted = granted
        self._lock = threading.Lock()
        super().__init__(_Handler)

    @property
    def grants(self) -> int:
        """How many keys were given out."""
        return len(self.secrets) // 2

    def grant(self) -> dict[str, str]:
        with self._lock:
            number = self.grants + 1
            key, secret, token = f"ASIAKEY{number}", f"secret-{number}/x", f"token-{number}+y=="
            self.secrets += [secret, token]
            self._granted(key, secret, token)
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + self.lifetime))
        return {"key": key, "secret": secret, "token": token, "until": until}


class _Handler(BaseHTTPRequestHandler):
    owner: KeyServices
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_PUT(self) -> None:
        """IMDSv2 gives a token for its own requests first."""
        self.owner.asked.append(f"PUT {self.path}")
        right = self.path == "/latest/api/token" and self.headers.get(
            "x-aws-ec2-metadata-token-ttl-seconds"
        )
        self._send(200 if right else 400, "token-of-the-instance")

    def do_GET(self) -> None:
        """The keys of a container, or of an instance."""
        path = urlsplit(self.path).path
        self.owner.asked.append(f"GET {path}")
        metadata = path.startswith("/latest/")
        trusted = self.headers.get("x-aws-ec2-metadata-token") == "token-of-the-instance"
        if self.owner.refuses:
            self._send(403, "{}")
        elif metadata and not trusted:
            self._send(401, "")
        elif path == _METADATA:
            self._send(200, ROLE)
        elif path in (f"{_METADATA}{ROLE}", "/container"):
            grant = self.owner.grant()
            self._send(200, json.dumps({
                "Code": "Success", "AccessKeyId": grant["key"],
                "SecretAccessKey": grant["secret"], "Token": grant["token"],
                "Expiration": grant["until"],
            }))  # fmt: skip
        else:
            self._send(404, "")

    def do_POST(self) -> None:
        """STS: a web identity's token, or the keys of another user, for those of a role."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        action = parse_qs(body)["Action"][0]
        self.owner.asked.append(action)
        if self.owner.refuses:
            self._send(403, _REFUSAL)
        else:
            self._send(200, _XML.format(action=action, **self.owner.grant()))

    def _send(self, status: int, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
