"""clusters/kuberay-job.yaml, checked with KubeRay's published fields and Kubernetes' pod schema,
and the maximum cluster size that a study derives from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from orchestrator.cluster.autoscaler import machines_to_launch, nodes_at_full_size
from orchestrator.scheduling.capacity import plan_placement
from orchestrator.study.resources import Resources

PROJECT = Path(__file__).parents[2]
DOCKERFILE = PROJECT / "clusters/Dockerfile"
HEAD = {"CPU": 0.0, "trial_driver": 1e6, "memory": 3e10}

# KubeRay's API reference, https://docs.ray.io/en/master/cluster/kubernetes/references/api.html:
# the fields that a manifest may set and their types. A star marks a required field.
RAY_JOB_SPEC = {
    "entrypoint": str,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "backoffLimit": int,
    "activeDeadlineSeconds": int,
    "submissionMode": str,
    "rayClusterSpec": dict,
    "runtimeEnvYAML": str,
    "suspend": bool,
}
RAY_CLUSTER_SPEC = {
    "rayVersion": str,
    "authOptions": dict,
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": dict,
    "headGroupSpec*": dict,
    "workerGroupSpecs": list,
}
AUTOSCALER_OPTIONS = {
    "version": str,
    "idleTimeoutSeconds": int,
    "upscalingMode": str,
    "resources": dict,
    "env": list,
    "securityContext": dict,
}
HEAD_GROUP_SPEC = {"rayStartParams": dict, "template*": dict, "serviceType": str}
WORKER_GROUP_SPEC = {
    "groupName*": str,
    "replicas": int,
    "minReplicas*": int,
    "maxReplicas*": int,
    "numOfHosts": int,
    "rayStartParams": dict,
    "template*": dict,
}


@pytest.fixture
def documents() -> list[dict[str, Any]]:
    """Return the YAML documents of the manifest."""
    text = (PROJECT / "clusters" / "kuberay-job.yaml").read_text()
    return list(yaml.safe_load_all(text))


def check(actual: Mapping[str, Any], fields: Mapping[str, type]) -> None:
    """Assert that all fields are known, have the right type and include the required ones."""
    types = {name.rstrip("*"): expected for name, expected in fields.items()}
    for name, value in actual.items():
        assert isinstance(value, types[name]), name
    assert {name.rstrip("*") for name in fields if name.endswith("*")} <= set(actual)


def test_manifest_has_only_fields_of_kuberay(documents: list[dict[str, Any]]) -> None:
    job = documents[0]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    check(job["spec"], RAY_JOB_SPEC)
    cluster = job["spec"]["rayClusterSpec"]
    check(cluster, RAY_CLUSTER_SPEC)
    assert cluster["authOptions"] == {"mode": "token"}
    check(cluster["autoscalerOptions"], AUTOSCALER_OPTIONS)
    assert cluster["autoscalerOptions"]["version"] in ("v1", "v2")
    check(cluster["headGroupSpec"], HEAD_GROUP_SPEC)
    for group in cluster["workerGroupSpecs"]:
        check(group, WORKER_GROUP_SPEC)
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    assert all(isinstance(v, str) for v in cluster["headGroupSpec"]["rayStartParams"].values())


def test_pods_are_valid_for_kubernetes(documents: list[dict[str, Any]]) -> None:
    cluster = documents[0]["spec"]["rayClusterSpec"]
    version = kubernetes_validate.latest_version()
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pods = {"apiVersion": "v1", "kind": "PodTemplate", "template": group["template"]}
        kubernetes_validate.validate(pods, version, strict=True)
    kubernetes_validate.validate(documents[1], version, strict=True)


def test_pods_run_without_privileges_and_with_pinned_images(
    documents: list[dict[str, Any]],
) -> None:
    cluster = documents[0]["spec"]["rayClusterSpec"]
    unprivileged = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert cluster["autoscalerOptions"]["securityContext"] == unprivileged
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert f"--uid {pod['securityContext']['runAsUser']} " in DOCKERFILE.read_text()
        for container in pod["containers"]:
            assert container["securityContext"] == unprivileged
            # A pinned tag makes pods that start later run the same image.
            assert container["image"].rpartition(":")[2] not in ("", "latest", container["image"])


def test_study_plans_with_the_maximum_size_of_the_cluster(documents: list[dict[str, Any]]) -> None:
    group = documents[0]["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    config = yaml.safe_load(documents[1]["data"]["growth.yaml"])
    limits = group["template"]["spec"]["containers"][0]["resources"]["requests"]
    node_type = config["available_node_types"][group["groupName"]]
    offered = {"CPU": int(limits["cpu"]), "GPU": int(limits["nvidia.com/gpu"])}
    assert node_type["resources"] == offered
    assert config["max_workers"] == node_type["max_workers"] == group["maxReplicas"]
    nodes = nodes_at_full_size([HEAD], config, ["CPU", "GPU"])
    placement = plan_placement(Resources(workers=8, cpus_per_worker=8), nodes)
    assert (placement.device, placement.concurrent) == ("cuda", 4)
    assert machines_to_launch([HEAD], config, [placement.shape] * 4) == {"gpu": 8}
