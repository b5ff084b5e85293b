"""nginx and Apache httpd as independent judges: the real programs on a free loopback port.

A judge is missing on a user's machine (the test is skipped) or must be there (CI=true: it fails).
Each serves a folder of its own that the worker's user can read; ``put`` publishes in it by rename.
"""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from .authority import Authority
from .waiting import eventually

# Made by `make check` and `make soak`.
_ROOT = Path(__file__).parents[2]
_MADE = f"{_ROOT}/.venv-stores/bin:{_ROOT}/.azurite/node_modules/.bin"
_PLACES = f"{_MADE}:/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin"
_MODULES = ("mpm_event", "authz_core", "mime", "headers", "ssl")
_NAMES = {
    "nginx": ("nginx",),
    "apache": ("apache2", "httpd"),
    "curl": ("curl",),
    "7z": ("7zz", "7z"),
}


def required() -> bool:
    """Whether a missing judge is a failure."""
    return os.environ.get("CI") == "true"


def require_judge(name: str) -> str:
    """The program's path; skips the test where it is missing, or fails it with CI=true."""
    path = f"{os.environ.get('PATH', '')}:{_PLACES}"
    for program in _NAMES.get(name, (name,)):
        if found := shutil.which(program, path=path):
            return found
    if required():
        pytest.fail(f"the judge {name} is not installed")
    pytest.skip(f"the judge {name} is not installed")


class Judge:
    """A running judge and the folder it serves."""

    def __init__(self, folder: Path, port: int, tls: bool) -> None:
        self.folder = folder
        self.port = port
        self.tls = tls

    def url(self, name: str, host: str = "127.0.0.1") -> str:
        return f"http{'s' if self.tls else ''}://{host}:{self.port}/{name}"

    def put(self, name: str, data: bytes) -> str:
        """Publish ``data`` under ``name`` (new inode); returns its URL."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_bytes(data)
        fresh.chmod(0o644)
        fresh.replace(path)
        return self.url(name)


def free_port() -> int:
    """A port on which nothing listens now, and which the system gives to nobody by itself."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextmanager
def nginx(
    authority: Authority | None = None, folder: Path | None = None, *, extra: str = ""
) -> Iterator[Judge]:
    """nginx, over TLS with an authority; ``extra`` goes into its server block."""
    with _running("nginx", _nginx, authority, folder, extra) as judge:
        yield judge


@contextmanager
def apache(
    authority: Authority | None = None, folder: Path | None = None, *, extra: str = ""
) -> Iterator[Judge]:
    """Apache httpd, over TLS with an authority; ``folder`` must be readable by everyone."""
    with _running("apache", _apache, authority, folder, extra) as judge:
        yield judge


@dataclass(frozen=True)
class _Site:
    """What a judge's configuration is made from."""

    program: str
    prefix: Path
    served: Path
    port: int
    secret: tuple[Path, Path] | None
    extra: str


@contextmanager
def _running(
    name: str,
    command: Callable[[_Site], list[str]],
    authority: Authority | None,
    folder: Path | None,
    extra: str,
) -> Iterator[Judge]:
    program = require_judge(name)
    with tempfile.TemporaryDirectory(prefix="judge-") as made:
        prefix = Path(made)
        # The workers may run as another user than the one who made the folder.
        prefix.chmod(0o755)
        served = folder or prefix / "served"
        served.mkdir(exist_ok=True)
        port = free_port()
        secret = authority.files(prefix) if authority else None
        site = _Site(program, prefix, served, port, secret, extra)
        with (prefix / "log").open("wb") as log:
            process = subprocess.Popen(command(site), stdout=log, stderr=log, cwd=prefix)
        try:
            eventually(lambda: _answers(port, process, prefix / "log"), what="the judge's start")
            yield Judge(served, port, authority is not None)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(port: int, process: "subprocess.Popen[bytes]", log: Path) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"the judge ended at once: {log.read_text(errors='replace')}")
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _nginx(site: _Site) -> list[str]:
    temps = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    tls = (
        f"ssl_certificate {site.secret[0]}; ssl_certificate_key {site.secret[1]};"
        if site.secret
        else ""
    )
    text = f"""
        {"user root;" if os.geteuid() == 0 else ""}
        worker_processes 1;
        pid {site.prefix}/nginx.pid;
        error_log stderr warn;
        events {{ worker_connections 1024; }}
        http {{
            {" ".join(f"{temp}_temp_path {site.prefix}/{temp};" for temp in temps)}
            access_log off;
            sendfile on;
            tcp_nopush on;
            default_type application/octet-stream;
            server {{
                listen 127.0.0.1:{site.port}{" ssl" if site.secret else ""};
                {tls}
                root {site.served};
                {site.extra}
            }}
        }}
    """
    (site.prefix / "nginx.conf").write_text(text)
    return [
        site.program, "-p", str(site.prefix), "-c", str(site.prefix / "nginx.conf"),
        "-e", "stderr", "-g", "daemon off;",
    ]  # fmt: skip


def _apache(site: _Site) -> list[str]:
    tls = ""
    if site.secret:
        chain, key = site.secret
        tls = f"SSLEngine on\nSSLCertificateFile {chain}\nSSLCertificateKeyFile {key}"
    (site.prefix / "types").touch()
    text = f"""
{_apache_modules(site.program)}
ServerRoot {site.prefix}
ServerName 127.0.0.1
Listen 127.0.0.1:{site.port}
PidFile {site.prefix}/httpd.pid
DefaultRuntimeDir {site.prefix}
Mutex file:{site.prefix}
ErrorLog /dev/stderr
TypesConfig {site.prefix}/types
StartServers 1
ServerLimit 4
ThreadsPerChild 64
MaxRequestWorkers 256
MinSpareThreads 1
MaxSpareThreads 256
EnableSendfile On
EnableMMAP Off
{"User #65534" if os.geteuid() == 0 else ""}
{"Group #65534" if os.geteuid() == 0 else ""}
DocumentRoot {site.served}
<Directory {site.served}>
    Require all granted
</Directory>
{tls}
{site.extra}
"""
    (site.prefix / "httpd.conf").write_text(text)
    return [site.program, "-f", str(site.prefix / "httpd.conf"), "-DFOREGROUND"]


def _apache_modules(program: str) -> str:
    folders = ("/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/usr/libexec/apache2")
    folder = next((Path(name) for name in folders if Path(name).is_dir()), None)
    if folder is None:
        raise RuntimeError(f"no modules found for {program}")
    lines = []
    for name in (*_MODULES, "unixd"):
        path = folder / f"mod_{name}.so"
        if path.exists():
            lines.append(f"LoadModule {name}_module {path}")
    return "\n".join(lines)
