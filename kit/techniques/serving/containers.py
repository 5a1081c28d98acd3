"""The same server in a container by `container.sh`, and manifests for Kubernetes: validated, never scheduled."""

import json
import os
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

import psutil

from kit.common import services
from kit.common.services import Service
from kit.errors import UserError
from kit.techniques.serving.deploy import Plan, answers, refusal

REMEDY = "apt-get install podman buildah runc catatonit, and run as root"
BUILD_S = 300.0
RELEASE = "1.37"  # of Kubernetes, whose schema the manifests are validated against


@cache
def why_not() -> str:
    """Return why containers can't be run here, with the remedy; empty if one has run."""
    why = refusal(_probe)
    return f"{why}; {REMEDY}" if why else ""


def _probe() -> None:
    for program in ("podman", "buildah"):
        services.installed([program], "it builds or runs containers")
    if os.geteuid() != 0:
        raise UserError("containers are run as root only")
    with tempfile.TemporaryDirectory(prefix="kit-image-") as folder:
        _once("probe", folder)


def _script(*arguments: str) -> list[str]:
    return ["/bin/sh", str(Path(__file__).with_name("container.sh")), *arguments]


def _once(*arguments: str, **environment: str) -> None:
    """Run a command of `container.sh` to its end. Raise `UserError` with its last output if it fails."""
    with Service("container.sh", _script(*arguments), environment=environment) as script:
        if script.run(BUILD_S) != 0:
            raise UserError(f"container.sh {arguments[0]} failed: {script.last_output()}")


def plan(folder: Path, model: str) -> Plan:
    """Return how the model is served in a pod of one container on the host's network, executed by `podman play kube`;
    with the reason if it is to be skipped. folder: for the image and its storage.

    No registry is needed: the image has this Python, and the modules and libraries that `plain.py` has loaded after its
    first answer, at the same paths as here. Raise `UserError` if it can't be built."""
    found = Plan(partial(_pod, folder), skip=why_not())
    if not found.skip:
        _once("build", str(folder), sys.executable, **Plan(_pod, threads=1).environment(model))
    return found


def _pod(folder: Path, plan: Plan, environment: dict[str, str], stack: ExitStack) -> int:
    run = _script("run", str(folder), "kit-serving-{port}")
    service = Service("podman play kube", run, ready=answers, start_s=BUILD_S)
    name, environment = f"kit-serving-{service.port}", environment | {"KIT_IMAGE": (folder / "digest").read_text()}
    (folder / f"{name}.yaml").write_text(manifests(environment, "localhost/kit-serving", service.port, name)[0])
    stack.callback(_once, "remove", str(folder), name)
    return stack.enter_context(service).start().port


def processes(port: int) -> list[psutil.Process]:
    """Return the processes of a pod's server, seen from outside of its container."""
    every = psutil.process_iter(["cmdline"])
    return [one for one in every if {"uvicorn", str(port)} <= set(one.info["cmdline"] or [])]


def manifests(
    environment: dict[str, str], image: str = "registry.example/serving:1", port: int = 8000, name: str = "kit-serving"
) -> list[str]:
    """Return `kubernetes.yaml` filled in: a Pod, and a Deployment with its Service and HorizontalPodAutoscaler.

    environment: of `Plan.environment`.
    """
    text = Path(__file__).with_name("kubernetes.yaml").read_text(encoding="utf-8")
    variables = json.dumps([{"name": key, "value": value} for key, value in environment.items()])  # JSON is YAML
    known = {"environment": variables, "image": image, "port": port, "name": name}
    for key, value in (known | {"python": Path(sys.executable).resolve()}).items():
        text = text.replace(f"{{{key}}}", str(value))
    return text.split("---\n")


def validate(found: Iterable[str]) -> dict[str, str]:
    """Return by kind what Kubernetes' schema has against each manifest: empty where it is valid."""
    import kubernetes_validate
    import yaml

    faults = {}
    for manifest in map(yaml.safe_load, found):
        try:
            kubernetes_validate.validate(manifest, RELEASE, strict=True)
            faults[manifest["kind"]] = ""
        except kubernetes_validate.ValidationError as error:
            faults[manifest["kind"]] = f"{'.'.join(map(str, error.path))}: {error.message}"
    return faults
