"""What ``collector/`` and ``docker-compose.yml`` say: valid where somebody else reads it, and in agreement with each other."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from otel_langfuse.otlp.content_keys import CONTENT, CONTENT_PREFIXES
from otel_langfuse.sidecar.config.loading import load
from otel_langfuse.sidecar.config.schema import OtlpHttpExporter
from sidecar.collectors import COLLECTOR, ROOT, collector_binary, compose_binary

K8S = COLLECTOR / "k8s"
TOLD = {
    "OTEL_LANGFUSE_GATEWAY": "127.0.0.1:1",
    "OTEL_LANGFUSE_BRIDGES": "[127.0.0.1:1, 127.0.0.1:2]",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:3",
}
KEYS = {"LANGFUSE_PUBLIC_KEY": "pk-lf-1", "LANGFUSE_SECRET_KEY": "sk-lf-1"}
DOCKERFILES = [COLLECTOR / "Dockerfile", ROOT / "examples" / "demo" / "Dockerfile"]


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def validate(*configs: str, without: str = "", home: Path) -> subprocess.CompletedProcess[str]:
    arguments = [f"--config={COLLECTOR / config}" for config in configs]
    environ = {name: value for name, value in TOLD.items() if name != without}
    return subprocess.run(
        [str(collector_binary()), "validate", *arguments],
        env={"PATH": os.environ["PATH"], "QUEUE_DIRECTORY": str(home), **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


# ------------------------------------------------------------------------------------------------ the stock Collector


@pytest.mark.parametrize("configs", [("agent.yaml",), ("gateway.yaml",), ("gateway.yaml", "lean.yaml")])
def test_the_collector_takes_its_configuration(configs: tuple[str, ...], tmp_path: Path) -> None:
    done = validate(*configs, home=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("config", "needed"),
    [("agent.yaml", "OTEL_LANGFUSE_GATEWAY"), ("gateway.yaml", "OTEL_LANGFUSE_BRIDGES")],
)
def test_a_forgotten_variable_is_refused_at_start(config: str, needed: str, tmp_path: Path) -> None:
    assert validate(config, without=needed, home=tmp_path).returncode != 0


@pytest.mark.parametrize("config", ["agent.yaml", "gateway.yaml"])
def test_nothing_is_acknowledged_before_it_is_on_disk(config: str) -> None:
    (document,) = documents(COLLECTOR / config)
    assert "batch" not in document["processors"]
    for pipeline in document["service"]["pipelines"].values():
        for exporter in pipeline["exporters"]:
            queue = document["exporters"][exporter]["sending_queue"]
            assert queue["storage"] == "file_storage"
            assert "max_size" not in queue["batch"]  # it drops a span that is larger


def test_each_hop_takes_more_than_the_one_before_it_sends() -> None:
    limits = []
    for config in ("agent.yaml", "gateway.yaml", "bridge.yaml"):
        (document,) = documents(COLLECTOR / config)
        limits.append(document["receivers"]["otlp"]["protocols"]["grpc"]["max_recv_msg_size_mib"])
        for exporter in document["exporters"].values():
            assert exporter["sending_queue"].get("batch", {}).get("min_size", 0) <= 1024 * 1024
    assert all(after > before + 1 for before, after in itertools.pairwise(limits))


def test_the_manifest_has_what_the_configurations_use() -> None:
    listed = subprocess.run([str(collector_binary()), "components"], capture_output=True, text=True, timeout=60, check=True)
    found = yaml.safe_load(listed.stdout)
    for config in ("agent.yaml", "gateway.yaml", "lean.yaml"):
        (document,) = documents(COLLECTOR / config)
        for section in ("receivers", "processors", "exporters", "extensions"):
            used = {name.partition("/")[0] for name in document.get(section, {})}
            assert used <= {part["name"] for part in found[section]}, (config, section)


def lean_patterns() -> list[re.Pattern[str]]:
    """What ``lean.yaml`` takes off spans."""
    (document,) = documents(COLLECTOR / "lean.yaml")
    statements = document["processors"]["transform/lean"]["trace_statements"][0]["statements"]
    found = [re.fullmatch(r'delete_matching_keys\(span\.attributes, "(.+)"\)', statement) for statement in statements]
    return [re.compile(match[1].replace("\\\\", "\\")) for match in found if match]


def test_lean_knows_the_keys_that_hold_content() -> None:
    patterns = lean_patterns()
    wanted = [*CONTENT, *(f"{prefix}0.content" for prefix in CONTENT_PREFIXES)]
    assert [key for key in wanted if not any(pattern.search(key) for pattern in patterns)] == []


def test_lean_leaves_the_rest() -> None:
    kept = (
        "gen_ai.operation.name gen_ai.request.model gen_ai.response.id gen_ai.usage.input_tokens gen_ai.usage.output_tokens"
        " gen_ai.response.finish_reasons gen_ai.input_tokens llm.model_name llm.token_count.prompt llm.token_count.completion"
        " ai.model.id ai.usage.promptTokens traceloop.entity.name langfuse.observation.type langfuse.trace.name http.route"
        " openinference.span.kind input.mime_type output.mime_type mlflow.spanType"
    )
    patterns = lean_patterns()
    assert [key for key in kept.split() if any(pattern.search(key) for pattern in patterns)] == []


# ---------------------------------------------------------------------------------------------------------- the bridge


def test_the_bridge_takes_its_configuration(tmp_path: Path) -> None:
    plan = load(COLLECTOR / "bridge.yaml", {**KEYS, "OTEL_LANGFUSE_JOURNAL_DIRECTORY": str(tmp_path)})
    assert [end.name for end in plan.langfuse] == ["langfuse"]
    assert plan.otlp == ()  # the gateway feeds Tempo
    assert plan.journal is not None
    assert plan.journal.directory == str(tmp_path)


# -------------------------------------------------------------------------------------------------------- Dockerfiles


def instructions(path: Path) -> list[tuple[str, str]]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    parts = (line.strip().partition(" ") for line in joined.splitlines())
    return [(word.upper(), rest.strip()) for word, _, rest in parts if word]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_an_image_is_pinned_and_runs_without_rights(path: Path) -> None:
    found = instructions(path)
    arguments = dict(rest.split("=", 1) for word, rest in found if word == "ARG")
    stages = []
    for rest in (rest for word, rest in found if word == "FROM"):
        image, _, stage = rest.partition(" AS ")
        for name, value in arguments.items():
            image = image.replace(f"${{{name}}}", value)
        assert re.fullmatch(r"[a-z/]+:\d+\.\d+\.\d+-slim-[a-z]+", image), image
        stages.append(stage)
    users = [rest for word, rest in found if word == "USER"]
    assert users
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", users[-1])
    assert found.index(("USER", users[-1])) < [word for word, _ in found].index("CMD")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_what_an_image_copies_is_there_and_not_ignored(path: Path) -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = [rule[1:] for rule in rules if rule.startswith("!")]
    for rest in (rest for word, rest in instructions(path) if word == "COPY" and "--from" not in rest):
        for source in rest.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert any(source == rule or source.startswith(f"{rule}/") for rule in let_in), source


def test_the_bridge_image_checks_its_own_health() -> None:
    found = dict(instructions(COLLECTOR / "Dockerfile"))
    assert json.loads(found["ENTRYPOINT"]) == ["otel-langfuse", "collector"]
    command = json.loads(found["HEALTHCHECK"].partition(" CMD ")[2])
    check_health(command)


def check_health(command: list[str]) -> None:
    """The command of a health check fails where nobody listens, and as such, not because it is no Python."""
    assert command[:2] == ["python", "-c"]
    compile(command[2], "healthcheck", "exec")
    assert "/api/instrumentation/health" in command[2]
    nobody = command[2].replace("13133", "1")
    done = subprocess.run([sys.executable, "-c", nobody], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "URLError" in done.stderr


# ---------------------------------------------------------------------------------------------------------- Kubernetes


def resources() -> Iterator[dict[str, Any]]:
    for path in sorted(K8S.glob("*.yaml")):
        yield from documents(path)


def workloads() -> list[dict[str, Any]]:
    return [found for found in resources() if found["kind"] in ("Deployment", "StatefulSet")]


def containers(workload: Mapping[str, Any]) -> list[dict[str, Any]]:
    pod = workload["spec"]["template"]["spec"]
    return [*pod.get("initContainers", ()), *pod["containers"]]


def test_kubernetes_takes_the_manifests() -> None:
    """Against the schemas of an old and a new release, unknown keys refused."""
    files = [str(path) for path in sorted(K8S.glob("*.yaml"))]
    uv = Path(sys.executable).with_name("uv")
    tool = [str(uv), "tool", "run", "--python", sys.executable, "--from", "kubernetes-validate==1.37.0", "kubernetes-validate"]
    for version in ("1.29", "1.37"):
        done = subprocess.run(
            [*tool, "--strict", "--kubernetes-version", version, *files], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr + done.stdout


@pytest.mark.parametrize("workload", workloads(), ids=lambda found: found["metadata"]["name"])
def test_a_pod_is_consistent(workload: dict[str, Any]) -> None:
    spec = workload["spec"]
    pod = spec["template"]["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    claims = [claim["metadata"] for claim in spec.get("volumeClaimTemplates", ())]
    volumes = {volume["name"] for volume in (*pod.get("volumes", ()), *claims)}
    mounted = set()
    for container in containers(workload):
        mounted |= {mount["name"] for mount in container.get("volumeMounts", ())}
        ports = {port["name"] for port in container.get("ports", ())}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if "httpGet" in container.get(probe, {}):
                assert container[probe]["httpGet"]["port"] in ports
            elif probe in container:
                check_health(container[probe]["exec"]["command"])
        image, _, tag = container["image"].rpartition(":")
        assert image
        assert re.fullmatch(r"\d+\.\d+\.\d+", tag)
    assert mounted == volumes


@pytest.mark.parametrize("workload", workloads(), ids=lambda found: found["metadata"]["name"])
def test_a_pod_has_no_rights_it_does_not_need(workload: dict[str, Any]) -> None:
    pod = workload["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers(workload):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


def test_selectors_and_ports_meet() -> None:
    labelled = {found["metadata"]["name"]: found for found in workloads()}
    for found in resources():
        if found["kind"] in ("Service", "PodDisruptionBudget"):
            wanted = found["spec"]["selector"]
            wanted = wanted.get("matchLabels", wanted)
            (meant,) = [
                workload
                for workload in labelled.values()
                if wanted.items() <= workload["spec"]["template"]["metadata"]["labels"].items()
            ]
            ports = {port["name"] for container in containers(meant) for port in container["ports"]}
            assert {port["targetPort"] for port in found["spec"].get("ports", ())} <= ports
    for workload in labelled.values():
        if workload["kind"] == "StatefulSet":
            (service,) = [
                found
                for found in resources()
                if found["kind"] == "Service" and found["metadata"]["name"] == workload["spec"]["serviceName"]
            ]
            assert service["spec"]["clusterIP"] == "None"


def test_what_pods_refer_to_exists() -> None:
    by_kind = {(found["kind"], found["metadata"]["name"]): found for found in resources()}
    (kustomization,) = documents(COLLECTOR / "kustomization.yaml")
    assert {COLLECTOR / name for name in kustomization["resources"]} < set(K8S.glob("*.yaml"))
    generated = {entry["name"]: entry["files"] for entry in kustomization["configMapGenerator"]}
    assert all((COLLECTOR / file).is_file() for files in generated.values() for file in files)
    for workload in workloads():
        for volume in workload["spec"]["template"]["spec"].get("volumes", ()):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in generated
        for container in containers(workload):
            for variable in container["env"]:
                for reference, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
                    if wanted := variable.get("valueFrom", {}).get(reference):
                        data = by_kind[kind, wanted["name"]]
                        assert wanted["key"] in data.get("data", data.get("stringData", {}))


def test_the_gateway_knows_every_bridge_by_name() -> None:
    found = {(found["kind"], found["metadata"]["name"]): found for found in resources()}
    bridges = found["StatefulSet", "bridge"]["spec"]
    listed = yaml.safe_load(found["ConfigMap", "otel-langfuse"]["data"]["OTEL_LANGFUSE_BRIDGES"])
    assert listed == [
        f"bridge-{number}.{bridges['serviceName']}.otel-langfuse.svc:4317" for number in range(bridges["replicas"])
    ]


def test_pods_have_more_time_to_end_than_they_need() -> None:
    plan = load(COLLECTOR / "bridge.yaml", {**KEYS, "OTEL_LANGFUSE_JOURNAL_DIRECTORY": "/tmp"})
    default = load(ROOT / "otel-config.yaml", KEYS)
    for workload in workloads():
        grace = workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert grace > 10 + max(plan.service.shutdown_timeout, default.service.shutdown_timeout)


# ------------------------------------------------------------------------------------------------------------- compose


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    (found,) = documents(ROOT / "docker-compose.yml")
    return dict(found)


def test_compose_takes_the_file() -> None:
    """The specification's own loader: schema and interpolation; and that what services name is there."""
    file = str(ROOT / "docker-compose.yml")
    done = subprocess.run([str(compose_binary()), file], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    resolved = yaml.safe_load(done.stdout)
    for name, service in resolved["services"].items():
        assert set(service.get("depends_on", ())) <= set(resolved["services"]), name
        for port in service.get("ports", ()):
            assert port["host_ip"] == "127.0.0.1", name
        for volume in service.get("volumes", ()):
            there = volume["source"] in resolved["volumes"] if volume["type"] == "volume" else Path(volume["source"]).exists()
            assert there, volume["source"]
        if "build" in service:
            build = service["build"]
            assert (Path(build["context"]) / build["dockerfile"]).is_file()


def test_compose_refuses_an_unknown_key(tmp_path: Path) -> None:
    """So the check above can fail."""
    file = tmp_path / "compose.yml"
    file.write_text("services:\n  one:\n    imagee: busybox:1.36\n")
    done = subprocess.run([str(compose_binary()), str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "services.one.imagee" in done.stderr


def test_images_are_pinned_and_dependencies_can_be_met(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for name, service in services.items():
        tag = service["image"].rpartition(":")[2]
        assert re.search(r"\d+\.\d+|RELEASE\.\d{4}", tag), service["image"]
        depends = service.get("depends_on", {})
        conditions = depends if isinstance(depends, dict) else {}
        for needed, condition in conditions.items():
            if condition["condition"] == "service_healthy":
                checked = "healthcheck" in services[needed] or "collector/Dockerfile" in str(services[needed])
                assert checked, f"{name} waits for the health of {needed}, which has no check"


def test_the_bridge_gets_the_keys_that_langfuse_makes(compose: dict[str, Any]) -> None:
    web, bridge = (compose["services"][name]["environment"] for name in ("langfuse-web", "bridge"))
    assert bridge["LANGFUSE_PUBLIC_KEY"] == web["LANGFUSE_INIT_PROJECT_PUBLIC_KEY"]
    assert bridge["LANGFUSE_SECRET_KEY"] == web["LANGFUSE_INIT_PROJECT_SECRET_KEY"]
    needed = {"ORG_ID", "PROJECT_ID", "PROJECT_PUBLIC_KEY", "PROJECT_SECRET_KEY", "USER_EMAIL", "USER_PASSWORD"}
    assert all(web[f"LANGFUSE_INIT_{name}"] for name in needed)
    plan = load(ROOT / "otel-config.yaml", bridge)
    assert plan.langfuse[0].exporter.base_url == "http://langfuse-web:3000"
    tempo = plan.otlp[0].exporter
    assert isinstance(tempo, OtlpHttpExporter)
    assert tempo.endpoint == "http://tempo:4318"
    assert plan.journal is not None
    assert {plan.journal.directory} <= {mount.partition(":")[2] for mount in compose["services"]["bridge"]["volumes"]}
    listening = {listener.protocol.endpoint for listener in plan.listeners}
    assert listening == {"0.0.0.0:4317", "0.0.0.0:4318"}


def test_every_variable_of_the_bridge_is_one_that_its_configuration_reads(compose: dict[str, Any]) -> None:
    read = set(re.findall(r"\$\{env:([A-Z_]+)", (ROOT / "otel-config.yaml").read_text()))
    behind = set(re.findall(r"\$\{env:([A-Z_]+)", (COLLECTOR / "bridge.yaml").read_text()))
    assert set(compose["services"]["bridge"]["environment"]) <= read
    for workload, known in (("app", read), ("bridge", behind)):
        (found,) = [found for found in workloads() if found["metadata"]["name"] == workload]
        (bridge,) = [container for container in containers(found) if container["name"] == "bridge"]
        assert {variable["name"] for variable in bridge["env"]} <= known


def test_tempo_and_grafana_are_where_the_others_look(compose: dict[str, Any]) -> None:
    (tempo,) = documents(COLLECTOR / "tempo.yaml")
    protocols = tempo["distributor"]["receivers"]["otlp"]["protocols"]
    assert protocols == {"grpc": {"endpoint": "0.0.0.0:4317"}, "http": {"endpoint": "0.0.0.0:4318"}}
    (source,) = yaml.safe_load((COLLECTOR / "grafana/provisioning/datasources/tempo.yaml").read_text())["datasources"]
    assert source["url"] == f"http://tempo:{tempo['server']['http_listen_port']}"
    (link,) = source["correlations"]
    assert link["config"]["target"]["url"] == "http://localhost:3000/trace/$${__value.raw}"
    assert compose["services"]["langfuse-web"]["ports"] == ["127.0.0.1:3000:3000"]
