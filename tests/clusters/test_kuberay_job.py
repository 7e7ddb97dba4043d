"""clusters/kuberay-*.yaml, checked with KubeRay's published fields, Kubernetes' schema and MLflow's
check of host names, and the maximum cluster size that a study derives from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from orchestrator.cluster.autoscaler import machines_to_launch, nodes_at_full_size
from orchestrator.scheduling.capacity import plan_placement
from orchestrator.server import server_parser
from orchestrator.study.resources import Resources

PROJECT = Path(__file__).parents[2]
DOCKERFILE = PROJECT / "clusters/Dockerfile"
HEAD = {"trial_driver": 1e6, "memory": 3e10}

# KubeRay's API reference, https://docs.ray.io/en/master/cluster/kubernetes/references/api.html:
# the fields that a manifest may set and their types. A star marks a required field.
RAY_JOB_SPEC = {
    "entrypoint": str,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "backoffLimit": int,
    "activeDeadlineSeconds": int,
    "submissionMode": str,
    "submitterPodTemplate": dict,
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
    """Return the YAML documents of the study's manifest."""
    return read_manifest("kuberay-job.yaml")


def read_manifest(name: str) -> list[dict[str, Any]]:
    """Return the YAML documents of a manifest in clusters/."""
    return list(yaml.safe_load_all((PROJECT / "clusters" / name).read_text()))


def pod_templates(job: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the templates of the job's pods: `submitter`, `head`, and each worker group's name."""
    cluster = job["spec"]["rayClusterSpec"]
    groups = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    head = cluster["headGroupSpec"]["template"]
    return {"submitter": job["spec"]["submitterPodTemplate"], "head": head, **groups}


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


def test_manifests_are_valid_for_kubernetes(documents: list[dict[str, Any]]) -> None:
    version = kubernetes_validate.latest_version()
    for template in pod_templates(documents[0]).values():
        pods = {"apiVersion": "v1", "kind": "PodTemplate", "template": template}
        kubernetes_validate.validate(pods, version, strict=True)
    for document in (*documents[1:], *read_manifest("kuberay-tracking.yaml")):
        kubernetes_validate.validate(document, version, strict=True)


def test_pods_run_without_privileges_and_with_pinned_images(
    documents: list[dict[str, Any]],
) -> None:
    unprivileged = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    cluster = documents[0]["spec"]["rayClusterSpec"]
    assert cluster["autoscalerOptions"]["securityContext"] == unprivileged
    server = read_manifest("kuberay-tracking.yaml")[0]["spec"]["template"]
    for template in (*pod_templates(documents[0]).values(), server):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert f"--uid {pod['securityContext']['runAsUser']} " in DOCKERFILE.read_text()
        for container in pod["containers"]:
            assert container["securityContext"] == unprivileged
            # A pinned tag makes pods that start later run the same image.
            assert container["image"].rpartition(":")[2] not in ("", "latest", container["image"])


def test_pods_that_use_the_bucket_run_under_the_named_service_account(
    documents: list[dict[str, Any]],
) -> None:
    # Without a name, KubeRay runs the head under an account that it generates.
    pods = {name: template["spec"] for name, template in pod_templates(documents[0]).items()}
    pods["server"] = read_manifest("kuberay-tracking.yaml")[0]["spec"]["template"]["spec"]
    for name in ("head", "gpu", "server"):
        assert pods[name]["serviceAccountName"] == "segmentation"
    # Only the head, with its autoscaler, uses the Kubernetes API.
    with_token = [name for name, pod in pods.items() if "automountServiceAccountToken" not in pod]
    assert with_token == ["head"]
    assert pods["submitter"]["restartPolicy"] == "Never"  # required by Kubernetes' jobs


def test_gpu_pods_tolerate_the_taint_of_gpu_nodes(documents: list[dict[str, Any]]) -> None:
    pod = pod_templates(documents[0])["gpu"]["spec"]
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod[
        "tolerations"
    ]


def test_failed_study_does_not_start_another_cluster(documents: list[dict[str, Any]]) -> None:
    assert documents[0]["spec"]["backoffLimit"] == 0


@pytest.mark.slow
def test_tracking_server_accepts_the_address_that_the_pods_use(
    documents: list[dict[str, Any]],
) -> None:
    from mlflow.server.security_utils import is_allowed_host_header  # the server takes seconds

    deployment, service = read_manifest("kuberay-tracking.yaml")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    module, *arguments = [*container["command"], *container["args"]][2:]
    options = server_parser(f"python -m {module}").parse_args(arguments)
    assert (module, options.host) == ("orchestrator.server", "0.0.0.0")
    (allowed,) = [
        option.removeprefix("--allowed-hosts=")
        for option in options.mlflow_options
        if option.startswith("--allowed-hosts=")
    ]
    head = pod_templates(documents[0])["head"]["spec"]["containers"][0]
    (uri,) = [v["value"] for v in head["env"] if v["name"] == "MLFLOW_TRACKING_URI"]
    host = urlsplit(uri).netloc
    assert is_allowed_host_header(allowed.split(","), host)
    assert is_allowed_host_header(allowed.split(","), "localhost:5000")
    assert not is_allowed_host_header(allowed.split(","), "example.com")
    name, (port,) = service["metadata"]["name"], service["spec"]["ports"]
    assert host == f"{name}.default.svc:{port['port']}"


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
