"""
The objects in deploy/kubernetes, each folder built once.
"""

from functools import cache
from typing import Any, TypeAlias

from tests.support.kubernetes import build
from tests.support.pages import REPOSITORY

FOLDER = REPOSITORY / "deploy" / "kubernetes"
BUILDS = ("base", "prepare", "overlays/hpa", "overlays/keda")
PART_OF = {"app.kubernetes.io/part-of": "outbox-relay"}

Manifest: TypeAlias = dict[str, Any]


@cache
def built(folder: str) -> list[Manifest]:
    """All objects of *folder*."""
    return build(FOLDER / folder)


def objects(folder: str, kind: str) -> dict[str, Manifest]:
    """The objects of *kind* in *folder*, by name."""
    return {each["metadata"]["name"]: each for each in built(folder) if each["kind"] == kind}


def workloads() -> list[Manifest]:
    """Everything that runs pods."""
    return [
        *objects("base", "Deployment").values(),
        *objects("prepare", "Job").values(),
    ]


def pod(workload: Manifest) -> Manifest:
    """The specification of the pods of *workload*."""
    specification: Manifest = workload["spec"]["template"]["spec"]
    return specification


def containers(workload: Manifest) -> list[Manifest]:
    """The containers of *workload*, those that run before the others included."""
    return [*pod(workload).get("initContainers", ()), *pod(workload)["containers"]]
