"""The Helm chart and the KServe files: rendered by Helm's library, validated by Kubernetes' schemas, and consistent."""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import jpeg_web.cli
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from jpeg_contract import model_config
from jpeg_serve import ServerOptions
from support import ROOT, run_module

CHART = ROOT / "deploy/kubernetes/chart"
KSERVE = ROOT / "deploy/kubernetes/kserve"
GATEWAY = ROOT / "deploy/gateway"
VERSIONS = ["1.27.0", "1.30.0", "1.33.0", kubernetes_validate.latest_version()]

Values = dict[str, Any]
Document = dict[str, Any]

SCALING = {"enabled": True, "min": 2, "max": 6}
STORE = {
    "source": "objectStore",
    "objectStore": {
        "image": {"repository": "registry.example/rclone", "tag": "1"},
        "args": ["copy", "store:bucket/model_repository", "/models"],
        "secretName": "store",
        "env": [{"name": "RCLONE_CONFIG_STORE_TYPE", "value": "s3"}],
    },
}
ANYWHERE = [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 443, "protocol": "TCP"}]}]
EVERYTHING: Values = {
    "imagePullSecrets": [{"name": "registry"}],
    "server": {
        "image": {"digest": "sha256:" + "0" * 64},
        "classifier": "openvino",
        "extraArgs": ["--load-model=jpeg_classifier"],
        "tritonArgs": ["--log-verbose=1"],
        "extraEnv": [{"name": "A", "value": "b"}],
        "podLabels": {"team": "vision"},
        "podAnnotations": {"note": "all of it"},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "inference", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {}},
        "runtimeClassName": "nvidia",
        "priorityClassName": "serving",
        "models": STORE,
        "autoscaling": {**SCALING, "queueMilliseconds": 50, "imagesPerSecond": 80.5, "cpuPercent": 80},
    },
    "service": {"type": "LoadBalancer", "headless": True, "annotations": {"a": "b"}},
    "networkPolicy": {"egress": ANYWHERE},
    "ingress": {
        "enabled": True,
        "className": "nginx",
        "host": "images.example",
        "tlsSecretName": "tls",
        "annotations": {"a": "b"},
        "grpc": {"enabled": True, "host": "grpc.example", "tlsSecretName": "tls", "annotations": {"a": "b"}},
    },
    "route": {
        "enabled": True,
        "parentRefs": [{"name": "gateway"}],
        "hostnames": ["images.example"],
        "grpcHostnames": ["grpc.example"],
        "backendTLS": {"hostname": "images.example", "caConfigMap": "ca"},
    },
    "gateway": {"settings": {"RATE": 100, "MODELS": "jpeg_classifier cats"}, "keysSecret": "keys", "tlsSecret": "tls"},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
}
NO_GATEWAY: Values = {"gateway": {"enabled": False}}
NOTHING: Values = {
    "server": {
        "replicas": 0,
        "spread": False,
        "disruptionBudget": {"enabled": False},
        "resources": {"requests": None, "limits": None},
    },
    "networkPolicy": {"enabled": False},
}
CASES: dict[str, Values] = {
    "defaults": {},
    "everything": EVERYTHING,
    "nothing": NOTHING,
    "gpu": {"server": {"image": {"tag": "gpu"}, "gpu": {"count": 1}, "startSeconds": 3600}},
    "mig": {"server": {"image": {"tag": "gpu"}, "gpu": {"count": 1, "resource": "nvidia.com/mig-1g.10gb"}}},
    "claim": {
        "server": {"models": {"source": "claim", "claim": {"name": "models", "subPath": "v3", "readOnly": True}}}
    },
    "store": {"server": {"models": STORE}, "networkPolicy": {"egress": ANYWHERE}},
    "word": {"server": {"classifier": "tf_trt"}},
    "hpa": {"server": {"autoscaling": SCALING}},
    "keda": {
        "server": {
            "autoscaling": {
                **SCALING,
                "by": "keda",
                "prometheusAddress": "http://prometheus:9090",
                "queueMilliseconds": 50,
                "imagesPerSecond": 80,
                "cpuPercent": 80,
            }
        }
    },
    "no gateway": NO_GATEWAY,
    "web": {"web": {"enabled": True}},
    "closed": {"networkPolicy": {"clients": [], "prometheus": []}},
    "pools": {
        "server": {"autoscaling": SCALING},
        "pools": {
            "cpu": {},
            "a100": {
                "image": {"tag": "gpu"},
                "classifier": "tensorrt",
                "gpu": {"count": 1},
                "nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"},
            },
            "h100-mig": {
                "image": {"tag": "gpu"},
                "gpu": {"count": 2, "resource": "nvidia.com/mig-1g.10gb"},
                "autoscaling": {"enabled": False},
                "replicas": 3,
                "spread": False,
            },
        },
    },
}


def chart_files() -> str:
    """Return the chart's files, the part of the cache key of a rendering besides the values."""
    return json.dumps([path.read_text() for path in sorted(CHART.rglob("*")) if path.is_file()])


@functools.cache
def _rendered(values: str, _files: str) -> str:
    with helm_python.Chart.load(CHART) as chart:
        manifests = chart.render(json.loads(values), name="demo", namespace="vision")
    texts = [text for name, text in sorted(manifests.items()) if name.endswith(".yaml")]
    documents = [document for text in texts for document in yaml.load_all(text, _Strict) if document]
    return json.dumps(documents)


def render(values: Values) -> list[Document]:
    """Render the chart as `helm install demo --namespace vision` does."""
    documents: list[Document] = json.loads(_rendered(json.dumps(values), chart_files()))
    return documents


class _Strict(yaml.SafeLoader):
    """A YAML loader that refuses duplicate keys, as Kubernetes does."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"duplicate key in {sorted(keys)}"
        return super().construct_mapping(node, deep)


def of_kind(documents: list[Document], *kinds: str) -> list[Document]:
    return [document for document in documents if document["kind"] in kinds]


def one(documents: list[Document], kind: str) -> Document:
    (document,) = of_kind(documents, kind)
    return document


def pod_of(deployment: Document) -> Document:
    pod: Document = deployment["spec"]["template"]["spec"]
    return pod


def server_of(deployment: Document) -> Document:
    return dict(pod_of(deployment)["containers"][0])


def gateway_of(deployment: Document) -> Document:
    _, gateway, *_ = pod_of(deployment)["containers"]
    assert gateway["name"] == "gateway"
    return dict(gateway)


def kserve(name: str) -> Document:
    document: Document = yaml.load((KSERVE / f"{name}.yaml").read_text(), _Strict)  # a SafeLoader
    return document


def as_deployment(runtime: Document) -> Document:
    """Return the Deployment that KServe derives from the runtime and its service, for Kubernetes' schemas."""
    predictor = kserve("inferenceservice")["spec"]["predictor"]
    parts = ("terminationGracePeriodSeconds", "automountServiceAccountToken", "securityContext")
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "jpeg-classifier-predictor"},
        "spec": {
            "selector": {"matchLabels": {"app": "isvc.jpeg-classifier-predictor"}},
            "strategy": predictor["deploymentStrategy"],
            "template": {
                "metadata": {"labels": {"app": "isvc.jpeg-classifier-predictor"}},
                "spec": {
                    "containers": runtime["spec"]["containers"],
                    "volumes": runtime["spec"]["volumes"],
                    **{part: predictor[part] for part in parts},
                },
            },
        },
    }


def all_deployments() -> Iterator[Document]:
    for values in CASES.values():
        yield from of_kind(render(values), "Deployment")
    yield as_deployment(kserve("runtime"))


# --- schemas and lint -------------------------------------------------------------------------------------------------

# The fields of custom resources in use. docs/kubernetes.md names the definitions that they were compared with.
# {} is a free object or a value; a list holds the fields of its items.
METADATA: Document = {"name": {}, "namespace": {}, "labels": {}, "annotations": {}}
BEHAVIOUR: Document = {
    direction: {
        "stabilizationWindowSeconds": {},
        "selectPolicy": {},
        "policies": [{"type": {}, "value": {}, "periodSeconds": {}}],
    }
    for direction in ("scaleUp", "scaleDown")
}
PARENTS: list[Document] = [{"group": {}, "kind": {}, "name": {}, "namespace": {}, "port": {}, "sectionName": {}}]
CUSTOM: dict[str, tuple[str, Document]] = {
    "ServiceMonitor": (
        "monitoring.coreos.com/v1",
        {
            "selector": {"matchLabels": {}},
            "namespaceSelector": {"matchNames": []},
            "endpoints": [
                {"port": {}, "path": {}, "interval": {}, "relabelings": [{"targetLabel": {}, "replacement": {}}]}
            ],
        },
    ),
    "PrometheusRule": (
        "monitoring.coreos.com/v1",
        {
            "groups": [
                {
                    "name": {},
                    "interval": {},
                    "rules": [
                        {
                            "alert": {},
                            "record": {},
                            "expr": {},
                            "for": {},
                            "keep_firing_for": {},
                            "labels": {},
                            "annotations": {},
                        }
                    ],
                }
            ]
        },
    ),
    "ScaledObject": (
        "keda.sh/v1alpha1",
        {
            "scaleTargetRef": {"apiVersion": {}, "kind": {}, "name": {}},
            "minReplicaCount": {},
            "maxReplicaCount": {},
            "pollingInterval": {},
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": BEHAVIOUR}},
            "triggers": [{"type": {}, "name": {}, "metricType": {}, "metadata": {}}],
        },
    ),
    "HTTPRoute": (
        "gateway.networking.k8s.io/v1",
        {
            "parentRefs": PARENTS,
            "hostnames": [],
            "rules": [
                {
                    "backendRefs": [{"name": {}, "port": {}}],
                }
            ],
        },
    ),
    "GRPCRoute": (
        "gateway.networking.k8s.io/v1",
        {
            "parentRefs": PARENTS,
            "hostnames": [],
            "rules": [
                {
                    "matches": [{"method": {"type": {}, "service": {}, "method": {}}}],
                    "backendRefs": [{"name": {}, "port": {}}],
                }
            ],
        },
    ),
    "BackendTLSPolicy": (
        "gateway.networking.k8s.io/v1",
        {
            "targetRefs": [{"group": {}, "kind": {}, "name": {}, "sectionName": {}}],
            "validation": {"hostname": {}, "caCertificateRefs": [{"group": {}, "kind": {}, "name": {}}]},
        },
    ),
    "ServingRuntime": (
        "serving.kserve.io/v1alpha1",
        {
            "annotations": {},
            "supportedModelFormats": [{"name": {}, "version": {}, "autoSelect": {}, "priority": {}}],
            "protocolVersions": [],
            "containers": [],  # Kubernetes' own, see as_deployment
            "volumes": [],
        },
    ),
    "InferenceService": (
        "serving.kserve.io/v1beta1",
        {
            "predictor": {
                "minReplicas": {},
                "maxReplicas": {},
                "terminationGracePeriodSeconds": {},
                "deploymentStrategy": {},  # Kubernetes' own, see as_deployment
                "automountServiceAccountToken": {},
                "securityContext": {},
                "model": {
                    "runtime": {},
                    "modelFormat": {"name": {}, "version": {}},
                    "protocolVersion": {},
                    "storageUri": {},
                },
                "autoScaling": {
                    "metrics": [
                        {
                            "type": {},
                            "external": {
                                "metric": {"backend": {}, "serverAddress": {}, "query": {}, "namespace": {}},
                                "target": {"type": {}, "averageValue": {}, "value": {}},
                            },
                        }
                    ]
                },
            }
        },
    ),
}


def unknown_fields(found: Any, known: Any, where: str) -> list[str]:
    """Return the fields that the definition of a custom resource lacks."""
    if isinstance(found, list):
        assert isinstance(known, list), f"{where} is not a list"
        items = enumerate(found) if known else ()
        return [line for index, item in items for line in unknown_fields(item, known[0], f"{where}[{index}]")]
    if not isinstance(found, dict) or known == {}:
        return []
    assert isinstance(known, dict), f"{where} is not an object"
    return [
        line
        for key, value in found.items()
        for line in (unknown_fields(value, known[key], f"{where}.{key}") if key in known else [f"{where}.{key}"])
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_schemas_accept_every_document(version: str) -> None:
    documents = {json.dumps(document) for values in CASES.values() for document in render(values)}
    documents.add(json.dumps(as_deployment(kserve("runtime"))))
    kinds = set()
    for text in documents:
        document = json.loads(text)
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, version, strict=True)
            kinds.add(document["kind"])
    assert kinds == {
        "ConfigMap",
        "Deployment",
        "HorizontalPodAutoscaler",
        "Ingress",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
    }


def test_validation_finds_an_unknown_field() -> None:
    deployment = one(render({}), "Deployment")
    pod_of(deployment)["terminationGracePeriod"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


def test_custom_resources_have_known_fields_only() -> None:
    documents = [document for values in CASES.values() for document in of_kind(render(values), *CUSTOM)]
    documents += [kserve("runtime"), kserve("inferenceservice")]
    assert {document["kind"] for document in documents} == set(CUSTOM)
    for document in documents:
        api, spec = CUSTOM[document["kind"]]
        assert document["apiVersion"] == api
        known = {"apiVersion": {}, "kind": {}, "metadata": METADATA, "spec": spec}
        assert unknown_fields(document, known, document["kind"]) == []


@pytest.mark.parametrize("case", CASES)
def test_lint_finds_nothing(case: str) -> None:
    report = helm_python.lint(CHART, CASES[case], strict=True, namespace="vision", kube_version="v1.30.0")
    messages = [m for m in report["messages"] if "icon is recommended" not in m["error"]]
    assert (report["errors"], messages) == ([], [])


def test_packaged_chart_renders_the_same(tmp_path: Path) -> None:
    """The archive holds the targets of the links in files/."""
    archive = helm_python.package(CHART, destination=tmp_path)
    with helm_python.Chart.load(archive) as packed, helm_python.Chart.load(CHART) as chart:
        assert packed.render(EVERYTHING, name="demo") == chart.render(EVERYTHING, name="demo")


@pytest.mark.parametrize(
    ("values", "fact"),
    [
        ({"server": {"classifier": "resnet"}}, "'tensorrt'"),
        ({"server": {"replica": 3}}, "'replica' not allowed"),
        ({"pools": {"A100": {}}}, "'A100' not allowed"),
        ({"pools": {"a100": {"gpu": {"counts": 1}}}}, "'counts' not allowed"),
        ({"server": {"gpu": {"count": "1"}}}, "want integer"),
        ({"server": {"gpu": {"resource": "mig-1g.10gb"}}}, "/server/gpu/resource"),
        ({"server": {"disruptionBudget": {"maxUnavailable": 0}}}, "/server/disruptionBudget/maxUnavailable"),
        ({"server": {"sharedMemory": "1 GB"}}, "/server/sharedMemory"),
        ({"server": {"image": {"tag": "latest"}}}, "the tag latest"),
        ({"server": {"image": {"tag": ""}}}, "neither a tag nor a digest"),
        ({"server": {"models": {"source": "claim"}}}, "models.claim.name"),
        ({"server": {"models": {"source": "objectStore"}}}, "models.objectStore"),
        ({"server": {"models": STORE}}, "networkPolicy.egress is empty"),
        ({"server": {"preStopSeconds": 30}}, "connectionAgeSeconds"),
        ({"server": {"startSeconds": 100}}, "loadSeconds"),
        ({"server": {"update": {"maxSurge": 0}}}, "update.maxUnavailable are both 0"),
        ({"server": {"tritonArgs": ["--http-port=80"]}}, "set by the chart"),
        ({"server": {"tritonArgs": ["--http-address=0.0.0.0"]}}, "set by the chart"),
        ({**NO_GATEWAY, "ingress": {"enabled": True, "host": "images.example"}}, "gateway.enabled"),
        ({**NO_GATEWAY, "route": EVERYTHING["route"]}, "gateway.enabled"),
        ({**NO_GATEWAY, "service": {"type": "LoadBalancer"}}, "gateway.enabled"),
        ({**NO_GATEWAY, "service": {"type": "NodePort"}}, "gateway.enabled"),
        ({**NO_GATEWAY, "web": {"enabled": True}}, "gateway.enabled"),
        ({"web": {"enabled": True, "args": ["--port=1"]}}, "web.args"),
        ({"gateway": {"settings": {"RUN": "/x"}}}, "'RUN' not allowed"),
        ({"gateway": {"settings": {"RATE": 0}}}, "/gateway/settings/RATE"),
        ({"gateway": {"settings": {"MODELS": "cats; dogs"}}}, "/gateway/settings/MODELS"),
        ({"gateway": {"keysSecret": ""}}, "/gateway/keysSecret"),
        ({"gateway": {"image": {"tag": "latest"}}}, "the tag latest"),
        ({"route": {**EVERYTHING["route"], "backendTLS": {}}}, "route.backendTLS"),
        ({"route": {**EVERYTHING["route"], "hostnames": []}}, "route.hostnames"),
        ({"route": {**EVERYTHING["route"], "grpcHostnames": ["images.example"]}}, "must not share a host"),
        ({"server": {"extraArgs": ["--drain-s", "5"]}}, "/server/extraArgs/1"),
        ({"server": {"autoscaling": {"enabled": True, "max": 1}}}, "less than autoscaling.min"),
        ({"server": {"autoscaling": {"enabled": True, "inFlightRequests": 0}}}, "without a target"),
        ({"server": {"autoscaling": {"enabled": True, "by": "keda"}}}, "prometheusAddress"),
        ({"pools": {"b": {"autoscaling": {"enabled": True, "max": 1}}}}, "pools.b: autoscaling.max"),
        ({"ingress": {"enabled": True}}, "ingress.host"),
        ({"route": {"enabled": True}}, "route.parentRefs"),
    ],
)
def test_invalid_values_are_refused_with_a_reason(values: Values, fact: str) -> None:
    with pytest.raises(helm_python.HelmError) as refused:
        render(values)
    assert fact in str(refused.value)


def test_every_default_is_in_the_schema_and_the_readme() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    page = (CHART / "README.md").read_text()

    def compare(value: Any, rule: Any, where: str) -> None:
        rule = schema["$defs"]["server"] if rule.get("$ref") else rule
        last = where.rpartition(".")[2]
        assert f"`{last}" in page or f".{last}" in page, f"README.md lacks {where}"
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                properties = rule.get("properties")
                if properties is not None:
                    assert key in properties, f"{where}.{key} is not in the schema"
                    compare(inner, properties[key], f"{where}.{key}")

    for key, value in values.items():
        compare(value, schema["properties"][key], key)


# --- references between documents -------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_selectors_find_their_pods_and_no_others(case: str) -> None:
    documents = render(CASES[case])
    pods = {
        d["metadata"]["name"]: d["spec"]["template"]["metadata"]["labels"] for d in of_kind(documents, "Deployment")
    }

    def found(selector: dict[str, str]) -> set[str]:
        return {name for name, labels in pods.items() if selector.items() <= labels.items()}

    for deployment in of_kind(documents, "Deployment"):
        name = deployment["metadata"]["name"]
        assert found(deployment["spec"]["selector"]["matchLabels"]) == {name}
        for constraint in pod_of(deployment).get("topologySpreadConstraints", []):
            assert found(constraint["labelSelector"]["matchLabels"]) == {name}
    for budget in of_kind(documents, "PodDisruptionBudget"):
        assert found(budget["spec"]["selector"]["matchLabels"]) == {budget["metadata"]["name"]}
    for policy in of_kind(documents, "NetworkPolicy"):
        assert found(policy["spec"]["podSelector"]["matchLabels"]) == set(pods)
    for service in of_kind(documents, "Service"):
        name = service["metadata"]["name"]
        assert found(service["spec"]["selector"]) == ({name} if name in pods and len(pods) > 1 else set(pods))
    for monitor in of_kind(documents, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        chosen = [s for s in of_kind(documents, "Service") if wanted <= s["metadata"]["labels"].items()]
        assert len(chosen) == 1, "each pod must be scraped once"
    names = [(document["kind"], document["metadata"]["name"]) for document in documents]
    assert len(names) == len(set(names))
    assert all(document["metadata"]["namespace"] == "vision" for document in documents)


@pytest.mark.parametrize("case", CASES)
def test_each_pool_has_its_own_documents(case: str) -> None:
    values, documents = CASES[case], render(CASES[case])
    deployments = {deployment["metadata"]["name"]: deployment for deployment in of_kind(documents, "Deployment")}
    pools = values.get("pools")
    assert len(deployments) == len(pools or [""])
    scalers = of_kind(documents, "HorizontalPodAutoscaler", "ScaledObject")
    for scaler in scalers:
        assert scaler["spec"]["scaleTargetRef"] == {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "name": scaler["metadata"]["name"],
        }
    scaled = {scaler["metadata"]["name"] for scaler in scalers}
    assert len(scaled) == len(scalers)
    for name, deployment in deployments.items():
        assert ("replicas" in deployment["spec"]) == (name not in scaled), "an upgrade would undo the scaling"
        maps = [volume["configMap"]["name"] for volume in pod_of(deployment)["volumes"] if "configMap" in volume]
        assert all(name in {c["metadata"]["name"] for c in of_kind(documents, "ConfigMap")} for name in maps)
        accounts = {account["metadata"]["name"] for account in of_kind(documents, "ServiceAccount")}
        assert pod_of(deployment)["serviceAccountName"] in accounts


def test_pools_differ_in_their_own_values_only() -> None:
    documents = {d["metadata"]["name"]: d for d in of_kind(render(CASES["pools"]), "Deployment")}
    cpu, a100, mig = (documents[f"demo-triton-jpeg-classifier-{name}"] for name in ("cpu", "a100", "h100-mig"))
    assert [server_of(each)["image"].split(":")[1] for each in (cpu, a100, mig)] == ["cpu", "gpu", "gpu"]
    assert server_of(cpu)["resources"]["limits"] == {"memory": "4Gi"}
    assert server_of(a100)["resources"]["limits"] == {"memory": "4Gi", "nvidia.com/gpu": 1}
    assert server_of(mig)["resources"]["limits"] == {"memory": "4Gi", "nvidia.com/mig-1g.10gb": 2}
    assert pod_of(a100)["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}
    assert "topologySpreadConstraints" in pod_of(a100)
    assert "topologySpreadConstraints" not in pod_of(mig)  # false and 0 override, too
    assert mig["spec"]["replicas"] == 3
    assert server_of(cpu)["args"] == server_of(mig)["args"]


def test_extended_resources_are_equal_in_requests_and_limits() -> None:
    """Kubernetes refuses other values: it cannot overcommit extended resources."""
    for deployment in all_deployments():
        resources = server_of(deployment)["resources"]
        extended = [{k: v for k, v in resources.get(part, {}).items() if "/" in k} for part in ("requests", "limits")]
        assert extended[0] == extended[1]


def test_disruption_budgets_allow_draining_a_node() -> None:
    for values in CASES.values():
        for budget in of_kind(render(values), "PodDisruptionBudget"):
            assert budget["spec"]["maxUnavailable"] >= 1
            assert "minAvailable" not in budget["spec"]


def test_ports_are_those_of_the_server() -> None:
    server = ServerOptions()
    ports = {"http": server.http_port, "grpc": server.grpc_port, "metrics": server.metrics_port}
    for deployment in (one(render(NO_GATEWAY), "Deployment"), as_deployment(kserve("runtime"))):
        named = {
            port["name"].replace("http1", "http"): port["containerPort"] for port in server_of(deployment)["ports"]
        }
        assert named == ports
    published: dict[str, int] = {}
    for service in of_kind(render({**NO_GATEWAY, "service": {"headless": True}}), "Service"):
        published |= {port["name"]: port["port"] for port in service["spec"]["ports"]}
        assert all(port["targetPort"] == port["name"] for port in service["spec"]["ports"])
    assert published == ports
    assert kserve("runtime")["spec"]["annotations"]["prometheus.kserve.io/port"] == str(ports["metrics"])
    assert kserve("runtime")["spec"]["containers"][0]["ports"][0]["name"] == "http1", (
        "KServe's Service routes to the first port"
    )


def test_everything_from_outside_leads_to_the_gateway() -> None:
    documents = render(EVERYTHING)
    services = {service["metadata"]["name"]: service["spec"] for service in of_kind(documents, "Service")}
    entrance = services["demo-triton-jpeg-classifier"]
    assert entrance["type"] == "LoadBalancer"
    for name, service in services.items():
        (port,) = service["ports"]
        if name.endswith("-metrics"):
            assert (port["port"], service["type"]) == (ServerOptions().metrics_port, "ClusterIP")
        else:
            assert (port["name"], port["targetPort"], port["port"]) == ("https", "https", 443)
    # The name of the port stands for one of the gateway's container, and the server's other ports are not even named.
    deployment = one(documents, "Deployment")
    (port,) = gateway_of(deployment)["ports"]
    assert port == {"name": "https", "containerPort": 8443}
    assert server_of(deployment)["ports"] == [{"name": "metrics", "containerPort": ServerOptions().metrics_port}]
    http, grpc = of_kind(documents, "Ingress")
    for ingress, protocol in ((http, "HTTPS"), (grpc, "GRPCS")):
        for path in ingress["spec"]["rules"][0]["http"]["paths"]:
            assert path["backend"]["service"] == {"name": "demo-triton-jpeg-classifier", "port": {"name": "https"}}
        assert ingress["metadata"]["annotations"] == {
            "a": "b",
            "nginx.ingress.kubernetes.io/backend-protocol": protocol,
            "nginx.ingress.kubernetes.io/proxy-body-size": f"{gateway_default('MAX_BODY_MB')}m",
        }
    routes = of_kind(documents, "HTTPRoute", "GRPCRoute")
    assert len(routes) == 2
    for route in routes:
        (rule,) = route["spec"]["rules"]
        assert rule["backendRefs"] == [{"name": "demo-triton-jpeg-classifier", "port": 443}]
    # The Gateway speaks TLS to this Service.
    (target,) = one(documents, "BackendTLSPolicy")["spec"]["targetRefs"]
    assert (target["kind"], target["name"]) == ("Service", "demo-triton-jpeg-classifier")


def test_server_listens_on_loopback_behind_its_gateway() -> None:
    """So no NetworkPolicy is needed for that, and no --behind-gateway."""
    for case in ("defaults", "nothing", "pools", "everything"):
        for deployment in of_kind(render(CASES[case]), "Deployment"):
            own, triton = arguments_of(deployment)
            assert "--address=127.0.0.1" in own
            assert "--behind-gateway" not in own
            assert triton["--metrics-address"] == "0.0.0.0"
            assert not [name for name in triton if name in ("--http-address", "--grpc-address")]
    ipv6 = one(render({"server": {"address": "::"}}), "Deployment")
    own, triton = arguments_of(ipv6)
    assert "--address=127.0.0.1" in own
    assert triton["--metrics-address"] == "ipv6:::"
    assert environment_of(gateway_of(ipv6))["GATEWAY_ADDRESS"] == "[::]"


def environment_of(container: Document) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container["env"]}


def gateway_default(name: str) -> str:
    """Return the default of a setting of gateway.sh."""
    found = re.search(rf": \"\${{GATEWAY_{name}:=([^}}]*)}}\"", (GATEWAY / "gateway.sh").read_text())
    assert found is not None
    return found[1]


def test_gateway_gets_its_files_settings_and_secrets() -> None:
    for case in ("defaults", "everything", "pools"):
        documents = render(CASES[case])
        (files,) = [each for each in of_kind(documents, "ConfigMap") if each["metadata"]["name"].endswith("-gateway")]
        assert files["data"] == {
            name: (GATEWAY / name).read_text() for name in ("gateway.sh", "nginx.conf.template")
        }, "the chart's files are links to the gateway's"
        for deployment in of_kind(documents, "Deployment"):
            gateway, pod = gateway_of(deployment), pod_of(deployment)
            assert [*gateway["command"], *gateway["args"]] == ["/opt/gateway/gateway.sh", "run"]
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in gateway["volumeMounts"]}
            assert mounts["/opt/gateway"]["configMap"] == {"name": files["metadata"]["name"], "defaultMode": 0o555}
            assert mounts["/tmp"]["emptyDir"]["medium"] == "Memory"
            environment = environment_of(gateway)
            for name in ("KEYS", "CERTIFICATE", "CERTIFICATE_KEY"):
                path = Path(environment[f"GATEWAY_{name}"])
                # The group of the pod may read it, others may not.
                assert mounts[str(path.parent)]["secret"]["defaultMode"] == 0o440
            assert pod["securityContext"]["fsGroup"] == gateway["securityContext"]["runAsUser"]
            server = ServerOptions()
            assert environment["GATEWAY_SERVERS"] == f"127.0.0.1:{server.http_port}:{server.grpc_port}"
            assert environment["GATEWAY_RUN"].startswith("/tmp/")
            known = set(re.findall(r": \"\$\{(GATEWAY_[A-Z_]+):=", (GATEWAY / "gateway.sh").read_text()))
            assert environment.keys() <= known
    environment = environment_of(gateway_of(one(render(EVERYTHING), "Deployment")))
    assert (environment["GATEWAY_RATE"], environment["GATEWAY_MODELS"]) == ("100", "jpeg_classifier cats")


def test_several_servers_of_a_pod_are_one_address_of_its_gateway() -> None:
    """test_gateway_replace.py runs this."""
    deployment = one(render({"server": {"extraArgs": ["--servers=2"]}}), "Deployment")
    assert "--servers=2" in server_of(deployment)["args"]
    assert environment_of(gateway_of(deployment))["GATEWAY_SERVERS"] == "127.0.0.1:8000:8001"


def test_the_web_application_is_behind_the_gateway_of_its_pod() -> None:
    deployment = one(render({"web": {"enabled": True}}), "Deployment")
    server, gateway, web = pod_of(deployment)["containers"]
    assert web["name"] == "web"
    assert web["image"] == server["image"]
    assert environment_of(gateway)["GATEWAY_WEB"] == "127.0.0.1:8080"
    assert "ports" not in web
    command, *options = web["args"]
    assert command == "jpeg-web"
    _, bound, _ = jpeg_web.cli.app.parse_args(options, exit_on_error=False, print_error=False)
    # The defaults are the server of the pod, and the port that the gateway has.
    assert not {"url", "metrics_url", "address", "port"} & set(bound.arguments)
    assert (jpeg_web.cli.DEFAULT_ADDRESS, jpeg_web.cli.DEFAULT_PORT) == ("127.0.0.1", 8080)
    assert web["securityContext"] == server["securityContext"]
    off = one(render({}), "Deployment")
    assert environment_of(gateway_of(off))["GATEWAY_WEB"] == "off"


def test_every_setting_of_the_gateway_is_the_users_or_the_charts() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    free = {f"GATEWAY_{name}" for name in schema["properties"]["gateway"]["properties"]["settings"]["properties"]}
    fixed = environment_of(gateway_of(one(render({"gateway": {"settings": {"WORKERS": None}}}), "Deployment"))).keys()
    assert not free & fixed
    known = set(re.findall(r": \"\$\{(GATEWAY_[A-Z_]+):=", (GATEWAY / "gateway.sh").read_text()))
    unused = {"GATEWAY_WEB_ROOT", "GATEWAY_ACCESS_LOG", "GATEWAY_NGINX"}
    assert known == free | fixed | unused


def mib(quantity: str) -> float:
    """Return a quantity of Kubernetes or Compose in MiB."""
    units = {"Mi": 1, "Gi": 1024, "m": 1, "g": 1024}
    found = re.fullmatch(r"([0-9.]+)([A-Za-z]+)", quantity)
    assert found is not None, quantity
    number, unit = found.groups()
    return float(number) * units[unit]


def worst_memory(servers: int) -> tuple[float, float]:
    """Return the most that a server and the gateway may need, in MiB, by the formulas of docs/gateway.md."""
    setting = {name: int(gateway_default(name)) for name in ("OPEN_BODIES", "SERVER_LARGE_BODIES", "MAX_BODY_MB")}
    short = int(gateway_default("SERVER_OPEN_REQUESTS")) * 300_000 / 2**20
    preprocess = model_config.read(ROOT / "model_repository/preprocess/config.pbtxt")
    decode = int(preprocess.parameters["max_decode_mib"].string_value) * preprocess.instance_group[0].count
    large = 2 * setting["SERVER_LARGE_BODIES"]
    bodies = short + setting["OPEN_BODIES"] * 5_000_000 / 2**20 + large * setting["MAX_BODY_MB"]
    workers = 2
    passed = min(setting["OPEN_BODIES"], large * servers + workers)
    gateway = 20 + 3 * short + (setting["OPEN_BODIES"] + 2 * passed) * setting["MAX_BODY_MB"]
    return 300 + decode + 3.5 * bodies, gateway


def web_body_mib(arguments: list[str]) -> int:
    """Return the longest body that the web application accepts."""
    (option,) = [argument for argument in arguments if argument.startswith("--max-request-mib=")]
    return int(option.partition("=")[2])


def test_memory_suffices_for_the_worst_that_the_gateway_lets_through() -> None:
    server, gateway = worst_memory(1)
    deployment = one(render({}), "Deployment")
    assert mib(server_of(deployment)["resources"]["limits"]["memory"]) > server > 3000
    assert mib(gateway_of(deployment)["resources"]["limits"]["memory"]) > gateway > 2500
    assert environment_of(gateway_of(deployment))["GATEWAY_WORKERS"] == "2"
    compose = yaml.safe_load(re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", (ROOT / "deploy/compose.yaml").read_text()))[
        "services"
    ]
    # The web application passes on what its places in the gateway let through, within its own limit of a body.
    short = int(gateway_default("SERVER_OPEN_REQUESTS")) * 300_000 / 2**20
    longest = web_body_mib(pod_of(one(render({"web": {"enabled": True}}), "Deployment"))["containers"][2]["args"])
    assert longest == web_body_mib(compose["web"]["command"])
    server += 3.5 * (short + int(gateway_default("SERVER_LARGE_BODIES")) * longest)
    assert mib(server_of(deployment)["resources"]["limits"]["memory"]) > server > 3800
    for name, worst in (("server", server), ("gateway", worst_memory(2)[1])):
        assert mib(compose[name]["deploy"]["resources"]["limits"]["memory"]) > worst
    assert compose["gateway"]["environment"]["GATEWAY_WORKERS"] == "2"
    for name in ("OPEN_BODIES", "SERVER_LARGE_BODIES"):
        assert compose["gateway"]["environment"][f"GATEWAY_{name}"] == int(gateway_default(name))
    # /dev/shm holds the bodies of the batches in work, half a GiB at the most in the measurement.
    (shm,) = [volume for volume in pod_of(deployment)["volumes"] if volume["name"] == "shm"]
    assert mib(shm["emptyDir"]["sizeLimit"]) == mib(compose["server"]["shm_size"]) >= 2 * 504


def test_change_of_the_gateway_replaces_the_pods() -> None:
    annotations = one(render({}), "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert "checksum/gateway" in annotations
    without = one(render(NO_GATEWAY), "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert "checksum/gateway" not in without


def test_network_policy_denies_by_default() -> None:
    policy = one(render({}), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    rules = {tuple(port["port"] for port in rule["ports"]): rule["from"] for rule in policy["ingress"]}
    assert set(rules) == {("https",), ("metrics",)}
    assert all(peers for peers in rules.values()), "a rule without peers allows all"
    open_ports = [rule["ports"] for rule in one(render(NO_GATEWAY), "NetworkPolicy")["spec"]["ingress"]]
    assert [[port["port"] for port in ports] for ports in open_ports] == [["http", "grpc"], ["metrics"]]
    assert one(render(CASES["closed"]), "NetworkPolicy")["spec"]["ingress"] is None


# --- containers -------------------------------------------------------------------------------------------------------


def test_containers_run_unprivileged() -> None:
    for deployment in all_deployments():
        pod = pod_of(deployment)
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 10001
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            security = container["securityContext"]
            assert (security["runAsUser"], security["runAsGroup"], security["runAsNonRoot"]) == (10001, 10001, True)
            assert security["readOnlyRootFilesystem"] is True
            assert (security["allowPrivilegeEscalation"], security["privileged"]) == (False, False)
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any("hostPath" in volume for volume in pod["volumes"])
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()


def test_images_have_a_fixed_tag_or_digest() -> None:
    for deployment in all_deployments():
        pod = pod_of(deployment)
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            name = container["image"].rpartition("/")[2]
            assert re.search(r":.+|@sha256:", name), name
            assert not name.endswith(":latest")


def test_writable_paths_are_volumes_with_a_size_limit() -> None:
    for deployment in all_deployments():
        pod = pod_of(deployment)
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in server_of(deployment)["volumeMounts"]}
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        assert mounts["/tmp"]["emptyDir"]
        assert all(volume["emptyDir"]["sizeLimit"] for volume in volumes.values() if "emptyDir" in volume)
        used = {
            mount["name"] for c in [*pod["containers"], *pod.get("initContainers", [])] for mount in c["volumeMounts"]
        }
        assert used == set(volumes)
        for container in pod["containers"]:
            writable = [mount for mount in container["volumeMounts"] if not mount.get("readOnly")]
            assert {mount["mountPath"] for mount in writable} <= {"/dev/shm", "/tmp", "/models"}


def arguments_of(deployment: Document) -> tuple[list[str], dict[str, str]]:
    """Return the options of jpeg-serve, and those of tritonserver with their values."""
    arguments = server_of(deployment)["args"]
    own, triton = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    return own, dict(argument.split("=", 1) for argument in triton)


def test_arguments_make_the_entrypoint_serve() -> None:
    """The entrypoint serves if its first argument is an option, and runs a command otherwise."""
    for deployment in all_deployments():
        own, _ = arguments_of(deployment)
        assert own
        assert all(argument.startswith("--") for argument in own)
        assert "command" not in server_of(deployment)


def test_options_exist() -> None:
    done = run_module("jpeg_serve", "--help")
    assert done.returncode == 0
    for deployment in all_deployments():
        own, _ = arguments_of(deployment)
        for argument in own:
            assert argument.split("=")[0] in done.stdout, argument


def test_server_is_behind_a_gateway_where_a_network_policy_says_so() -> None:
    """Without one, jpeg-serve refuses a Triton that a single request can end."""
    for policy, expected in (({}, True), ({"networkPolicy": {"enabled": False}}, False)):
        values = {**NO_GATEWAY, **policy}
        own, _ = arguments_of(one(render(values), "Deployment"))
        assert ("--behind-gateway" in own) == expected
        assert bool([d for d in render(values) if d["kind"] == "NetworkPolicy"]) == expected
    own, _ = arguments_of(
        one(
            render(
                {
                    **NO_GATEWAY,
                    "networkPolicy": {"enabled": False},
                    "server": {"extraArgs": ["--behind-gateway"]},
                }
            ),
            "Deployment",
        )
    )
    assert "--behind-gateway" in own


def test_probes_run_an_existing_command() -> None:
    usage = run_module("jpeg_serve", "probe", "--help").stdout
    for deployment in all_deployments():
        server = server_of(deployment)
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            command = server[kind]["exec"]["command"]
            assert command[:2] == ["jpeg-serve", "probe"]
            assert command[2] in usage
            assert 0 < int(command[3]) < server[kind]["timeoutSeconds"], "the command's own timeout must be shorter"


def test_probe_fails_without_a_server() -> None:
    done = run_module("jpeg_serve", "probe", "--http-port", "1", "--timeout-s", "3")
    assert done.returncode == 1


def test_readiness_fails_long_before_liveness() -> None:
    for values in CASES.values():
        for deployment in of_kind(render(values), "Deployment"):
            server = server_of(deployment)
            seconds = {
                kind: server[f"{kind}Probe"]["periodSeconds"] * server[f"{kind}Probe"]["failureThreshold"]
                for kind in ("startup", "readiness", "liveness")
            }
            start = values.get("server", {}).get("startSeconds", 600)
            assert seconds["startup"] >= start
            assert deployment["spec"]["progressDeadlineSeconds"] > seconds["startup"]
            # Kubernetes removes a slow server from the endpoints long before it restarts the container.
            assert seconds["readiness"] * 3 <= seconds["liveness"]


def test_termination_grace_period_covers_every_phase() -> None:
    for deployment in all_deployments():
        own, triton = arguments_of(deployment)
        (drain,) = [int(argument.split("=")[1]) for argument in own if argument.startswith("--drain-s=")]
        command = server_of(deployment)["lifecycle"]["preStop"]["exec"]["command"]
        assert command[0] == "sleep"
        pre_stop = int(command[1])
        # 10 s: TritonServer.stop waits this long for the models to unload after the drain.
        assert pod_of(deployment)["terminationGracePeriodSeconds"] > pre_stop + drain + 10
        containers = pod_of(deployment)["containers"]
        if len(containers) > 1:
            gateway = gateway_of(deployment)
            assert gateway["lifecycle"] == server_of(deployment)["lifecycle"]
            # nginx waits for open requests at most this long (SHUTDOWN_S in gateway.sh).
            open_s = int(gateway_default("TIMEOUT_S")) + int(gateway_default("CLIENT_TIMEOUT_S"))
            assert pod_of(deployment)["terminationGracePeriodSeconds"] > pre_stop + open_s
            age = float(environment_of(gateway)["GATEWAY_CONNECTION_AGE_S"])
            assert "--grpc-max-connection-age" not in triton
        else:
            age = int(triton["--grpc-max-connection-age"]) / 1000
        # gRPC adds a jitter of 10 % to the age, and the gateway half of it for idle connections; 5 s for the endpoints
        # to propagate.
        assert pre_stop >= 1.5 * age + 5
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


# --- the model repository and the classifier --------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["onnx", "openvino", "tensorrt", "torch_tensorrt", "tf_trt"])
def test_classifier_changes_one_line_of_the_config(word: str) -> None:
    documents = render({"server": {"classifier": word}})
    (served,) = [
        each["data"]["config.pbtxt"] for each in of_kind(documents, "ConfigMap") if "config.pbtxt" in each["data"]
    ]
    here = (ROOT / "model_repository/jpeg_classifier/config.pbtxt").read_text()
    changed = [(a, b) for a, b in zip(here.splitlines(), served.splitlines(), strict=True) if a != b]
    assert (
        changed
        == [
            (a, a.replace("classifier_onnx", f"classifier_{word}")) for a in here.splitlines() if "classifier_onnx" in a
        ][: 0 if word == "onnx" else 1]
    )
    assert (ROOT / f"model_repository/classifier_{word}/config.pbtxt").is_file()


def test_changing_the_classifier_replaces_the_pods() -> None:
    marks = [
        one(render({"server": {"classifier": word}}), "Deployment")["spec"]["template"]["metadata"]["annotations"]
        for word in ("onnx", "openvino")
    ]
    assert marks[0]["checksum/ensemble"] != marks[1]["checksum/ensemble"]


def test_model_sources() -> None:
    def pod(case: str) -> Document:
        return pod_of(one(render(CASES[case]), "Deployment"))

    assert "initContainers" not in pod("defaults")  # the entrypoint fills the empty volume
    (copy,) = pod("word")["initContainers"]
    source = Path(copy["command"][2])
    assert source.name == "model_repository"
    assert f"COPY . {source.parent}/" in (ROOT / "Dockerfile").read_text(), (
        "the image has its sources in another folder"
    )
    (store,) = pod("store")["initContainers"]
    assert store["args"][-1] == "/models"
    assert store["envFrom"] == [{"secretRef": {"name": "store"}}]
    claim = next(volume for volume in pod("claim")["volumes"] if volume["name"] == "models")
    assert claim["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}
    mount = next(
        m for m in server_of(one(render(CASES["claim"]), "Deployment"))["volumeMounts"] if m["name"] == "models"
    )
    assert (mount["subPath"], mount["readOnly"]) == ("v3", True)


def test_kserve_files_are_consistent() -> None:
    runtime, service = kserve("runtime"), kserve("inferenceservice")
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    formats = [{key: each[key] for key in ("name", "version")} for each in runtime["spec"]["supportedModelFormats"]]
    assert model["modelFormat"] in formats
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"
    assert {"name": "MODEL_REPOSITORY", "value": "/mnt/models"} in container["env"]
    assert "MODEL_REPOSITORY" in (ROOT / "deploy/image/entrypoint.sh").read_text()
    # The server is the chart's.
    chart = server_of(one(render(NO_GATEWAY), "Deployment"))
    for part in (
        "image",
        "resources",
        "securityContext",
        "startupProbe",
        "readinessProbe",
        "livenessProbe",
        "lifecycle",
    ):
        assert container[part] == chart[part], part
    # The entrypoint adds --address and --behind-gateway if no address is given.
    own = ("--address", "--behind-gateway", "--ready-timeout-s")
    assert container["args"] == [argument for argument in chart["args"] if not argument.startswith(own)]


def test_operator_gets_the_rules_of_prometheus() -> None:
    files = [yaml.safe_load((ROOT / f"deploy/prometheus/{name}.yaml").read_text()) for name in ("rules", "alerts")]
    spec = one(render(EVERYTHING), "PrometheusRule")["spec"]
    assert spec == {"groups": [group for file in files for group in file["groups"]]}
    # The rules select servers by job name.
    named = set(re.findall(r'job="([^"]+)"', json.dumps(spec).replace('\\"', '"')))
    (relabelling,) = one(render(EVERYTHING), "ServiceMonitor")["spec"]["endpoints"][0]["relabelings"]
    assert relabelling == {"targetLabel": "job", "replacement": named.pop()}
    assert not named


# --- the numbers in the documentation ---------------------------------------------------------------------------------


def test_the_worked_example_follows_from_the_measurement() -> None:
    """docs/kubernetes.md computes the replicas from measured image rates."""
    measured = json.loads((ROOT / "bench/results/cpu-2-cores-mobilenet_v2.json").read_text())
    page = (ROOT / "docs/kubernetes.md").read_text()
    rows = re.findall(r"^\| (\w+) (\w+) \| ([\d.]+) \| (\d+) \| (\d+) \|$", page, re.MULTILINE)
    assert rows, "the table is missing"
    rates = {(each["backend"], each["precision"]): each["ensemble"]["images_per_s"] for each in measured["classifiers"]}
    peak = 1000
    for backend, precision, rate, replicas, most in rows:
        assert float(rate) == rates[backend, precision]
        assert int(replicas) == math.ceil(peak / (0.7 * float(rate))) + 1
        assert int(most) == math.ceil(1.5 * peak / (0.7 * float(rate))) + 1


def test_pairs_of_values_render(tmp_path: Path) -> None:
    """Combinations of two cases are valid where they do not contradict each other."""
    rendered = 0
    for first, second in itertools.combinations(("gpu", "claim", "word", "keda", "closed", "pools"), 2):
        with helm_python.Chart.load(CHART) as chart:
            merged = chart.merge_values(_merged(CASES[first], CASES[second]))
        for document in render(merged):
            if document["kind"] not in CUSTOM:
                kubernetes_validate.validate(document, VERSIONS[-1], strict=True)
                rendered += 1
    assert rendered > 100


def _merged(a: Any, b: Any) -> Any:
    if isinstance(a, dict) and isinstance(b, dict):
        return {key: _merged(a[key], b[key]) if key in a and key in b else a.get(key, b.get(key)) for key in a | b}
    return b
