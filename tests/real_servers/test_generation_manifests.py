"""The manifests of examples/generations are valid for Kubernetes, and for pgetpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgetpy.cli.parser import parse_arguments
from pgetpy.core.generations.manifest import parse_manifest
from pgetpy.settings.generation_options import GenerationOptions, GenerationSettings
from tests.support.judges import required

FOLDER = Path(__file__).parents[2] / "examples" / "generations"
# The oldest release that still gets fixes somewhere, and a new one.
RELEASES = ("1.29", "1.33")
if not required():
    pytest.importorskip("kubernetes_validate")


def document(name: str) -> dict[str, Any]:
    import yaml

    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return found


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", ["daemonset.yaml", "pod.yaml"])
def test_kubernetes_accepts_the_manifests(name: str, release: str) -> None:
    import kubernetes_validate

    kubernetes_validate.validate(document(name), release, strict=True)


def commands() -> list[list[str]]:
    """Return the command lines of pgetpy in the manifests."""
    pod = document("pod.yaml")["spec"]
    containers = [*document("daemonset.yaml")["spec"]["template"]["spec"]["containers"]]
    containers += [*pod["initContainers"], *pod["containers"]]
    return [each.get("command") or each["args"] for each in containers]


def test_the_commands_are_those_of_pgetpy() -> None:
    parsed = [parse_arguments(words[1:]) for words in commands()]
    names = [each.command for each in parsed]
    assert names == ["generation daemon", "generation ready", "generation exec"]
    for each in parsed:
        GenerationSettings().with_flags(each.values)
        GenerationOptions().with_flags(each.values)


def test_node_and_pod_are_about_the_same_generation() -> None:
    manifest = parse_manifest((FOLDER / "generation-7.txt").read_text(), "generation-7.txt")
    daemon = document("daemonset.yaml")["spec"]["template"]["spec"]
    pod = document("pod.yaml")["spec"]
    [predictor] = pod["containers"]
    variables = {each["name"]: each["value"] for each in predictor["env"]}
    assert variables["PGET_GENERATION"] == str(manifest.number)
    assert [each.name for each in manifest.environments] == [variables["PGET_ENV"]]
    [node_folder] = [each["hostPath"]["path"] for each in daemon["volumes"] if "hostPath" in each]
    [pod_folder] = [each["hostPath"]["path"] for each in pod["volumes"]]
    assert node_folder == pod_folder
    [mount] = predictor["volumeMounts"]
    assert mount["readOnly"] is True
    assert mount["mountPath"] == variables["PGET_GENERATION_ROOT"]
