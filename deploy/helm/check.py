"""Checks the chart: renders it with several values, validates every object against the schemas of
Kubernetes, and holds what matters against what is said of it.

    check.py HELM CHALK [--write]

HELM and CHALK are the programs. `--write` makes `deploy/kubernetes/chalk.yaml` anew, which otherwise must be what
the chart gives for its defaults.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import kubernetes_validate
import yaml

HERE = pathlib.Path(__file__).resolve().parent
CHART = HERE / "chalk"
PLAIN = HERE.parent / "kubernetes" / "chalk.yaml"
# The oldest that the chart takes, and a new one.
VERSIONS = ["1.25", "1.35"]
HEADER = """\
# What the Helm chart gives for its defaults, made by `cargo xtask chart --write`. Namespace first:
#   kubectl create namespace chalk && kubectl apply --namespace chalk -f chalk.yaml
"""

helm, chalk = sys.argv[1:3]


def run(*words):
    return subprocess.run([helm, *words], capture_output=True, text=True, check=False)


def render(values, namespace="chalk"):
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(values, file)
        file.flush()
        done = run("template", "chalk", str(CHART), "--namespace", namespace, "--values", file.name)
    assert done.returncode == 0, f"{values}: {done.stderr}"
    return done.stdout


def objects(values):
    """Objects by kind, each valid for every version of Kubernetes that counts."""
    found = {}
    for document in yaml.safe_load_all(render(values)):
        if document is None:
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)
        assert document["metadata"]["namespace"] == "chalk", document["kind"]
        assert document["kind"] not in found, document["kind"]
        found[document["kind"]] = document
    return found


def pod(workload):
    return workload["spec"]["template"]["spec"]


def env(container):
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]}


def mounted(spec):
    """Mounts of all containers name volumes of the pod, and the other way round."""
    containers = spec["containers"] + spec.get("initContainers", [])
    used = {mount["name"] for c in containers for mount in c["volumeMounts"]}
    return used, {volume["name"]: volume for volume in spec.get("volumes", [])}


def check_defaults():
    found = objects({})
    assert set(found) == {"ServiceAccount", "Service", "StatefulSet", "DaemonSet"}, set(found)
    assert found["ServiceAccount"]["automountServiceAccountToken"] is False
    service, node = pod(found["StatefulSet"]), pod(found["DaemonSet"])
    for workload in ("StatefulSet", "DaemonSet"):
        labels = found[workload]["spec"]["template"]["metadata"]["labels"]
        selector = found[workload]["spec"]["selector"]["matchLabels"]
        assert selector.items() <= labels.items()
        used, volumes = mounted(pod(found[workload]))
        claims = found[workload]["spec"].get("volumeClaimTemplates", [])
        assert used == set(volumes) | {claim["metadata"]["name"] for claim in claims}
        for container in pod(found[workload])["containers"]:
            assert {"requests", "limits"} <= set(container["resources"])
            # No token stands in the specification of a pod.
            assert "TOKEN" not in json.dumps(container["env"])
    selector = found["Service"]["spec"]["selector"]
    assert selector.items() <= found["StatefulSet"]["spec"]["template"]["metadata"]["labels"].items()
    assert not selector.items() <= found["DaemonSet"]["spec"]["template"]["metadata"]["labels"].items()

    (container,) = service["containers"]
    port = container["ports"][0]
    assert (port["name"], port["containerPort"]) == ("api", 7474)
    for probe, path in [("startup", "/healthz"), ("liveness", "/healthz"), ("readiness", "/readyz")]:
        get = container[f"{probe}Probe"]["httpGet"]
        assert (get["path"], get["port"], get["scheme"]) == (path, "api", "HTTP"), get
    assert env(container)["CHALK_SERVE_ADVERTISE"] == "chalk.chalk.svc:7474"
    assert container["securityContext"] == {"privileged": True}

    (container,) = node["containers"]
    security = container["securityContext"]
    assert security["allowPrivilegeEscalation"] is False and security["readOnlyRootFilesystem"]
    assert security["capabilities"] == {"drop": ["ALL"]} and "privileged" not in security
    assert node["tolerations"] == [{"operator": "Exists"}]
    assert found["DaemonSet"]["spec"]["updateStrategy"]["type"] == "RollingUpdate"
    _, volumes = mounted(node)
    assert volumes["containerd"]["hostPath"] == {"path": "/run/containerd", "type": "Directory"}
    assert volumes["join"]["secret"] == {"secretName": "chalk-join", "defaultMode": 0o400}
    arguments = container["args"]
    after = dict(zip(arguments, arguments[1:]))
    assert after["--server"] == "http://chalk.chalk.svc:7474"
    assert after["--runtime"] == "containerd"
    assert after["--containerd-address"] == "/run/containerd/containerd.sock"
    assert env(container)["CHALK_NODE_NAME"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}


def check_everything():
    digest = "sha256:" + "0" * 64
    values = {
        "image": {"digest": digest},
        "imagePullSecrets": [{"name": "pull"}],
        "commonLabels": {"team": "build"},
        "commonAnnotations": {"note": "x"},
        "service": {
            "advertise": "chalk.example:443",
            "hosts": ["other.example"],
            "type": "NodePort",
            "nodePort": 30474,
            "embeddedBuilds": False,
            "tokenSecret": "own-token",
            "tlsSecret": "tls",
            "storage": {"existingClaim": "claim"},
            "settings": {"build.parallel": 4, "limits.blob": 1000000000, "build.installer": "pip"},
            "priorityClassName": "high",
        },
        "registry": {
            "url": "registry.example",
            "prefix": "chalk",
            "credentialsSecret": "login",
            "caConfigMap": "ca",
        },
        "nodes": {
            "region": "eu",
            "labels": {"gpu": "a100", "zone": 1},
            "hostNetwork": True,
            "containerd": {"socketDir": "/run/k3s/containerd", "namespace": "default"},
            "settings": {"node.parallel": 8},
        },
    }
    found = objects(values)
    service, node = pod(found["StatefulSet"]), pod(found["DaemonSet"])
    (container,) = service["containers"]
    assert container["image"] == f"chalkcompute/chalk@{digest}"
    assert container["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"
    assert service["securityContext"]["runAsNonRoot"] is True
    for each in service["containers"] + service["initContainers"]:
        security = each["securityContext"]
        assert security["capabilities"] == {"drop": ["ALL"]}, each["name"]
        assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
    said = env(container)
    assert said["CHALK_SERVE_HOSTS"] == "chalk.chalk.svc,chalk,other.example"
    assert said["CHALK_BUILD_PARALLEL"] == "4" and said["CHALK_BUILD_INSTALLER"] == "pip"
    assert said["CHALK_LIMITS_BLOB"] == "1000000000"
    assert said["CHALK_REGISTRY_URL"] == "registry.example"
    assert said["CHALK_REGISTRY_CREDENTIALS"] == "/etc/chalk/registry/config.json"
    assert "volumeClaimTemplates" not in found["StatefulSet"]["spec"]
    for spec in (service, node):
        used, volumes = mounted(spec)
        assert used == set(volumes), (used, set(volumes))
    assert found["Service"]["spec"]["ports"][0]["nodePort"] == 30474
    assert found["Service"]["metadata"]["annotations"] == {"note": "x"}

    (container,) = node["containers"]
    said = env(container)
    assert said["CHALK_NODE_LABELS"] == "gpu=a100,zone=1" and said["CHALK_NODE_REGION"] == "eu"
    assert said["CHALK_NODE_CA_BUNDLE"] == "/etc/chalk/ca/ca.crt"
    assert said["CHALK_NODE_CONTAINERD_NAMESPACE"] == "default"
    assert said["CHALK_NODE_PARALLEL"] == "8"
    assert "https://chalk.example:443" in container["args"]
    _, volumes = mounted(node)
    assert volumes["containerd"]["hostPath"]["path"] == "/run/k3s/containerd"
    assert node["hostNetwork"] and node["dnsPolicy"] == "ClusterFirstWithHostNet"


def check_parts():
    only = objects({"service": {"enabled": False}, "nodes": {"server": "https://chalk.example:7474"}})
    assert set(only) == {"ServiceAccount", "DaemonSet"}, set(only)
    only = objects({"nodes": {"enabled": False}})
    assert set(only) == {"ServiceAccount", "Service", "StatefulSet"}, set(only)


def check_refusals():
    """Values that make no sense are refused, with what is wrong."""
    cases = [
        ("service.enabled=false", "nodes.server"),
        ("service.advertise=http://x", "advertise"),
        ("nodes.containerd.socketDir=run", "socketDir"),
        ("image.digest=latest", "digest"),
        ("nodes.joinTokenSecret=", "joinTokenSecret"),
        ("registry.password=x", "password"),
    ]
    for setting, words in cases:
        done = run("template", "chalk", str(CHART), "--set", setting)
        assert done.returncode != 0 and words in done.stderr, f"{setting}: {done.stderr}"


def check_program():
    """The program takes the variables and arguments that pods give it."""
    def ask(*words, **variables):
        return subprocess.run(
            [chalk, *words], capture_output=True, text=True, check=False, env=dict(os.environ, **variables)
        )

    known = ask("config", "show", "--json")
    assert known.returncode == 0, known.stderr
    known = {"CHALK_" + row["name"].upper().replace(".", "_") for row in json.loads(known.stdout)}
    values = {
        "service": {"tlsSecret": "tls"},
        "registry": {"url": "r.example", "prefix": "p", "credentialsSecret": "a", "caConfigMap": "b"},
        "nodes": {"region": "eu", "labels": {"a": "b"}},
    }
    for workload in ("StatefulSet", "DaemonSet"):
        (container,) = pod(objects(values)[workload])["containers"]
        given = env(container)
        assert set(given) <= known, set(given) - known
        plain = {name: value for name, value in given.items() if isinstance(value, str)}
        read = ask("config", "show", "--json", **plain)
        assert read.returncode == 0, read.stderr
        flags = [word for word in container["args"] if word.startswith("--")]
        help = ask(container["args"][0], "--help").stdout
        assert all(flag in help for flag in flags), (flags, help)


def check_plain(write):
    plain = HEADER + render({})
    if write:
        PLAIN.write_text(plain)
        return
    assert PLAIN.read_text() == plain, "deploy/kubernetes/chalk.yaml is not what the chart gives: cargo xtask chart --write"


lint = run("lint", "--strict", str(CHART))
assert lint.returncode == 0, lint.stdout + lint.stderr
check_defaults()
check_everything()
check_parts()
check_refusals()
check_program()
check_plain("--write" in sys.argv)
print(run("version", "--short").stdout.strip())
