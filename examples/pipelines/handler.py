"""A worker without Cog: takes jobs from a queue over HTTP, and sends back images.

    GET  QUEUE_URL/next       200 {"id": ..., "input": {"prompt": ..., "loras": [[REF, SCALE]]}}
                              204 if there is none yet; the queue may let the request wait
    POST QUEUE_URL/done/ID    {"image": BASE64} or {"error": SENTENCE}

CONCURRENCY jobs run at a time. SIGTERM ends the worker when the jobs that it has taken are done.
"""

import base64
import io
import json
import logging
import os
import signal
import threading
import time
import urllib.request
from typing import Any

from model import Model

from pgetpy.errors import PgetError

QUEUE = os.environ["QUEUE_URL"].rstrip("/")
CONCURRENCY = int(os.environ.get("CONCURRENCY", "2"))
# A queue that cannot be reached is asked again after so many seconds.
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
TIMEOUT = 60.0
LOG = logging.getLogger("handler")
stopping = threading.Event()


def ask(path: str, answer: Any = None) -> Any:
    """Send a request to the queue; return the JSON that it answers with, None if there is none."""
    body = None if answer is None else json.dumps(answer).encode()
    request = urllib.request.Request(f"{QUEUE}/{path}", data=body)  # noqa: S310  the operator's
    with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:  # noqa: S310
        return json.loads(reply.read() or b"null")


def run(model: Model, job: dict[str, Any]) -> dict[str, Any]:
    """Return what is sent back for a job, whatever is wrong with it."""
    try:
        wanted = job["input"]
        loras = [(reference, float(scale)) for reference, scale in wanted.get("loras", ())]
        steps, seed = int(wanted.get("steps", 30)), int(wanted.get("seed", 0))
        image = model.image(wanted["prompt"], loras[:2], steps, seed)
    except PgetError as error:  # a sentence for the caller, without secrets
        return {"error": str(error)}
    except Exception as error:
        LOG.exception("a job failed")
        return {"error": f"the job failed: {type(error).__name__}"}
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"image": base64.b64encode(file.getvalue()).decode(), "metrics": model.metrics()}


def work(model: Model) -> None:
    """Take jobs until the worker is stopped."""
    while not stopping.is_set():
        job = insist("next")
        if job is not None:
            insist(f"done/{job['id']}", run(model, job))


def insist(path: str, answer: Any = None) -> Any:
    """As `ask`, again while the queue cannot be reached; None if the worker is stopped meanwhile.

    An image is worth several tries, also while the worker is being stopped.
    """
    for pause in PAUSES:
        try:
            return ask(path, answer)
        except OSError as error:  # urllib's errors are of this kind
            LOG.warning("the queue does not answer: %s", error)
            if answer is None and stopping.wait(pause):
                return None
            if answer is not None:
                time.sleep(pause)
    return None


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    model = Model()
    LOG.info("ready")
    threads = [threading.Thread(target=work, args=(model,)) for _ in range(CONCURRENCY)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


if __name__ == "__main__":
    main()
