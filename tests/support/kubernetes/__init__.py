"""
The judge of manifests: kustomize builds them, and the schemas of Kubernetes check each field.

The schemas are stricter here than those of an API server: a field that no schema has is an error,
since Kubernetes drops it and goes on.
"""

import gzip
import json
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

VERSIONS = ("1.31", "1.37")
GROUPS = {
    "v1": "core.v1",
    "apps/v1": "apps.v1",
    "autoscaling/v2": "autoscaling.v2",
    "batch/v1": "batch.v1",
    "networking.k8s.io/v1": "networking.v1",
    "policy/v1": "policy.v1",
}


def build(directory: Path) -> list[dict[str, Any]]:
    """The objects that `kubectl apply -k` of *directory* would send; a warning is an error."""
    kubectl = Path(sys.executable).with_name("kubectl")
    if not kubectl.is_file():
        pytest.fail(f"{kubectl} is missing: run `make install` again", pytrace=False)
    done = subprocess.run(
        [kubectl, "kustomize", directory], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return list(yaml.safe_load_all(done.stdout))


def violations(manifest: dict[str, Any], version: str) -> list[str]:
    """Where *manifest* is no object of Kubernetes *version*."""
    name = f"io.k8s.api.{GROUPS[manifest['apiVersion']]}.{manifest['kind']}"
    validator = Draft202012Validator({**_schema(version), "$ref": f"#/$defs/{name}"})
    return [f"{each.json_path}: {each.message}" for each in validator.iter_errors(manifest)]


@lru_cache
def _schema(version: str) -> dict[str, Any]:
    file = Path(__file__).parent / f"schema-{version}.json.gz"
    schema: dict[str, Any] = json.loads(gzip.decompress(file.read_bytes()))
    for definition in schema["$defs"].values():
        if "properties" in definition:
            definition.setdefault("additionalProperties", False)
    return schema
