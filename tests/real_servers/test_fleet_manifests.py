"""The manifests of examples/fleet are valid for Kubernetes, and hold what the command prints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.support.judges import required
from tests.support.processes import run

FOLDER = Path(__file__).parents[2] / "examples" / "fleet"
# The oldest release that still gets fixes somewhere, and a new one.
RELEASES = ("1.29", "1.33")
if not required():
    pytest.importorskip("kubernetes_validate")


def documents() -> list[dict[str, Any]]:
    import yaml

    paths = sorted(FOLDER.glob("*.yaml"))
    return [each for path in paths for each in yaml.safe_load_all(path.read_text())]


def document(kind: str) -> dict[str, Any]:
    return next(each for each in documents() if each["kind"] == kind)


@pytest.mark.parametrize("release", RELEASES)
def test_kubernetes_accepts_the_manifests(release: str) -> None:
    import kubernetes_validate

    kinds = set()
    for each in documents():
        kubernetes_validate.validate(each, release, strict=True)
        kinds.add(each["kind"])
    assert kinds == {"ConfigMap", "Pod", "PodDisruptionBudget", "Service", "StatefulSet"}


def test_a_manifest_that_is_wrong_is_found() -> None:
    import kubernetes_validate

    wrong = document("StatefulSet")
    wrong["spec"]["replica"] = wrong["spec"].pop("replicas")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, RELEASES[0], strict=True)


def test_the_configuration_is_what_its_command_prints() -> None:
    head = (FOLDER / "configuration.yaml").read_text().split("apiVersion")[0]
    command = re.sub(r"\\\n#|^#|Printed by:\n#", "", head, flags=re.MULTILINE)
    program, *arguments = shlex.split(command)
    assert program == "pgetpy"
    printed = run(*arguments).out
    assert document("ConfigMap")["data"]["nginx.conf"] == printed


def test_the_parts_name_one_another() -> None:
    service, nodes, client = document("Service"), document("StatefulSet"), document("Pod")
    name = service["metadata"]["name"]
    template = nodes["spec"]["template"]
    assert nodes["spec"]["serviceName"] == name
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == template["metadata"]["labels"]
    assert service["spec"]["ports"][0]["name"] == "http"
    [container] = template["spec"]["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/-/health"
    text = document("ConfigMap")["data"]["nginx.conf"]
    assert all(f"{each['mountPath']}/" in f"{text} {' '.join(container['command'])}"
               for each in container["volumeMounts"])  # fmt: skip
    env = {each["name"]: each["value"] for each in client["spec"]["containers"][0]["env"]}
    assert env["PGET_CACHE_NODES_SRV_NAME"].split(".")[0] == name
    assert f'default "";\n    {env["PGET_CACHE_URI_PREFIXES"].removeprefix("https://")} ' in text
