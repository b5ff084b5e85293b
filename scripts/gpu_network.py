"""Downloads over loopback by number of cores: one process of ours, several, and peers.

The server runs in several processes, so that Python's lock in one of them limits no client.
Prints one table in Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import trustme

from scripts import origin
from scripts.bench.machine import core_counts

_SIZE = 1 << 30
_ROUNDS = 3
_NAME = "w"
_HF = "import sys, hf_transfer; hf_transfer.download(sys.argv[1], sys.argv[2], 8, 10485760, 3, 5)"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    size = max(1 << 20, int(_SIZE * parser.parse_args().scale))
    print("| | cores | pgetpy | one pgetpy a core | curl | hf_transfer |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(dir=_memory()) as name:
        folder = Path(name)
        origin.write_weights(folder / _NAME, size)
        for tls in (False, True):
            with served(folder, tls=tls) as url:
                for cores in core_counts():
                    row = _row(url, folder, size, cores, tls=tls)
                    print(
                        f"| {'TLS' if tls else 'plain'} | {cores} | {' | '.join(row)} |", flush=True
                    )


def _row(url: str, folder: Path, size: int, cores: int, *, tls: bool) -> Iterator[str]:
    trust = {"SSL_CERT_FILE": str(folder / "ca.pem")} if tls else {}
    ours = [sys.executable, "-m", "pgetpy", url]
    curl = ["curl", "-sSf", "--cacert", str(folder / "ca.pem"), url, "-o"]
    yield _rate([ours], folder, size, cores, trust)
    yield _rate([ours] * cores, folder, size, cores, trust)
    yield _rate([curl if tls else ["curl", "-sSf", url, "-o"]], folder, size, cores, trust)
    if importlib.util.find_spec("hf_transfer") is None:
        yield "not installed"
    else:
        yield _rate([[sys.executable, "-c", _HF, url]], folder, size, cores, trust)


def _rate(
    commands: Sequence[list[str]], folder: Path, size: int, cores: int, env: dict[str, str]
) -> str:
    """Return the GB/s of `commands` side by side, the median of some rounds."""
    if shutil.which(commands[0][0]) is None:
        return "not installed"
    pinned = ",".join(map(str, sorted(os.sched_getaffinity(0))[:cores]))
    rates = []
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        running = [
            subprocess.Popen(
                ["taskset", "-c", pinned, *command, str(folder / f"out{number}")],
                env={**os.environ, **env},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for number, command in enumerate(commands)
        ]
        ended = [process.wait() for process in running]
        seconds = time.perf_counter() - begin
        for path in folder.glob("out*"):
            path.unlink()
        if any(ended):
            return "failed"
        rates.append(size * len(commands) / seconds / 1e9)
    return f"{sorted(rates)[_ROUNDS // 2]:.2f} GB/s"


@contextlib.contextmanager
def served(folder: Path, *, tls: bool) -> Iterator[str]:
    """Serve `folder` from as many processes as there are processors; give the URL of its file."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with origin.listen() as listener:
        children = []
        for _ in os.sched_getaffinity(0):
            child = os.fork()
            if not child:
                _serve(listener, folder, context if tls else None)
            children.append(child)
        try:
            yield f"http{'s' * tls}://127.0.0.1:{listener.getsockname()[1]}/{_NAME}"
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def _serve(listener: object, folder: Path, context: ssl.SSLContext | None) -> None:
    """Answer connections until this process is killed."""
    raw = listener
    while True:
        sock, _ = raw.accept()  # type: ignore[attr-defined]
        threading.Thread(target=_answer, args=(sock, folder, context), daemon=True).start()


def _answer(sock: object, folder: Path, context: ssl.SSLContext | None) -> None:
    with contextlib.suppress(OSError):
        if context is not None:
            sock = context.wrap_socket(sock, server_side=True)  # type: ignore[arg-type]
        origin.serve_connection(sock, folder)  # type: ignore[arg-type]


def _memory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


if __name__ == "__main__":
    main()
