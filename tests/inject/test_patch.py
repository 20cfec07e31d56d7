"""The patcher's rules one by one: servers and their knobs, annotations, refusals, pods that are not its business."""

import copy
from typing import Any

import pytest

from agent.inject.patch.annotations import cpu_millis, memory_bytes
from agent.inject.patch.inject import Decision, Verdict, inject
from agent.inject.patch.pod import Patch, pointer
from agent.settings import knobs

from .goldens import CASES, NATIVE, ORDINARY, applied

PODS = {case.source: case.before for case in CASES}


def pod(**container: Any) -> dict[str, Any]:
    """A small pod in Standard mode whose predictor has these fields."""
    return {
        "metadata": {"labels": {"headgate.dev/inject": "true", "component": "predictor"}},
        "spec": {"containers": [{"name": "kserve-container", "image": "example.org/model:1", **container}]},
    }


def annotated(**annotations: str) -> dict[str, Any]:
    """The sklearn pod with annotations of ours; `_` stands for `-`."""
    made = copy.deepcopy(PODS["standard-sklearn"])
    made["metadata"]["annotations"] = {f"headgate.dev/{n.replace('_', '-')}": text for n, text in annotations.items()}
    return made


def after(raw: dict[str, Any], decision: Decision | None = None) -> dict[str, Any]:
    return applied(raw, decision or inject(raw, NATIVE))


def predictor(raw: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = after(raw)["spec"]["containers"][0]
    return found


def flags(raw: dict[str, Any]) -> list[str]:
    """What the agent is started with beside its ports."""
    made = after(raw)["spec"]["initContainers"][-1]
    return [flag for flag in made["args"][1:] if not flag.startswith(("--route=", "--admin="))]


def refusal(raw: dict[str, Any]) -> str:
    """Why a pod was refused; then it is left as it was and its owner is told."""
    decision = inject(raw, NATIVE)
    assert (decision.verdict, decision.patch) == (Verdict.REFUSED, [])
    assert decision.warnings == [f"headgate is not injected: {decision.reason}"]
    return decision.reason


HTTP, GRPC = {"containerPort": 8080, "name": "http1"}, {"containerPort": 9000, "name": "grpc"}


@pytest.mark.parametrize(
    ("fields", "command", "args"),
    [
        ({"args": ["--http_port=8080"]}, None, ["--http_port=18080"]),
        ({"args": ["--http_port", "8080", "x"]}, None, ["--http_port", "18080", "x"]),
        ({"args": ["--http_port=1", "--http_port=8080"]}, None, ["--http_port=1", "--http_port=18080"]),
        ({"command": ["python", "-m", "sklearnserver"]}, ["python", "-m", "sklearnserver"], ["--http_port=18080"]),
        (
            {"command": ["python", "-m", "lgbserver", "--http_port=8080"]},
            ["python", "-m", "lgbserver", "--http_port=18080"],
            None,
        ),
        (
            {"image": "kserve/huggingfaceserver:v0.17.0-gpu", "args": ["--model_name=m"]},
            None,
            ["--model_name=m", "--http_port=18080"],
        ),
        ({"image": "r:5000/kserve/xgbserver@sha256:ab", "args": ["x"]}, None, ["x", "--http_port=18080"]),
        (
            {"args": ["/opt/tritonserver/bin/tritonserver", "--http-port=8080"]},
            None,
            ["/opt/tritonserver/bin/tritonserver", "--http-port=18080"],
        ),
        (
            {"command": ["tensorflow_model_server"], "args": ["--rest_api_port=8080", "--port=9000"]},
            ["tensorflow_model_server"],
            ["--rest_api_port=18080", "--port=9000"],
        ),
        ({"args": ["--rest_port=8080", "--port=9000"]}, None, ["--rest_port=18080", "--port=9000"]),
        (
            {"command": ["python3", "-m", "vllm.entrypoints.openai.api_server", "--port", "8080"]},
            ["python3", "-m", "vllm.entrypoints.openai.api_server", "--port", "18080"],
            None,
        ),
        (
            {"command": ["sh", "-c", 'exec vllm serve m --port 8080 "$@"', "sh"]},
            ["sh", "-c", 'exec vllm serve m --port 8080 "$@"', "sh"],
            ["--port=18080"],
        ),
        (
            {"command": ["sh", "-c", 'exec vllm serve m "$@"', "sh", "--port", "8080"]},
            ["sh", "-c", 'exec vllm serve m "$@"', "sh", "--port", "18080"],
            None,
        ),
    ],
)
def test_a_flag_is_rewritten_where_it_stands_or_added(
    fields: dict[str, Any], command: list[str] | None, args: list[str] | None
) -> None:
    made = predictor(pod(**fields))
    assert (made.get("command"), made.get("args")) == (command, args)


def test_the_default_port_of_a_server_counts_where_nothing_is_set() -> None:
    made = after(pod(args=["tritonserver"], ports=[{"containerPort": 8000}, {"containerPort": 8001, "name": "grpc"}]))
    assert made["spec"]["containers"][0]["args"] == ["tritonserver", "--http-port=18000", "--grpc-port=18001"]
    assert made["spec"]["initContainers"][0]["args"][1:3] == [
        "--route=8000=http://127.0.0.1:18000",
        "--route=8001=h2c://127.0.0.1:18001",
    ]


def test_variables_are_changed_or_added() -> None:
    env = [{"name": "MLSERVER_HTTP_PORT", "value": "8080"}]
    assert predictor(pod(env=env))["env"] == [{"name": "MLSERVER_HTTP_PORT", "value": "18080"}]
    made = predictor(pod(image="seldonio/mlserver:1.7.1", ports=[HTTP, {"containerPort": 8081, "name": "h2c"}]))
    assert made["env"] == [
        {"name": "MLSERVER_HTTP_PORT", "value": "18080"},
        {"name": "MLSERVER_GRPC_PORT", "value": "18081"},
    ]


def test_ports_that_are_not_the_servers_stay() -> None:
    made = after(pod(args=["--http_port=8080"], ports=[HTTP, {"containerPort": 9400, "name": "metrics"}]))
    assert made["spec"]["initContainers"][0]["args"][1] == "--route=8080=http://127.0.0.1:18080"


def test_numbers_in_use_are_avoided() -> None:
    raw = pod(args=["--http_port=8080"], ports=[HTTP])
    raw["spec"]["containers"].append(
        {"name": "other", "ports": [{"containerPort": 18080}, {"containerPort": 8481}, {"containerPort": 18081}]}
    )
    args = after(raw)["spec"]["initContainers"][0]["args"]
    assert args[1:] == ["--route=8080=http://127.0.0.1:18082", "--admin=0.0.0.0:8482"]


def test_somebody_elses_agent_is_not_kserves() -> None:
    raw = pod(args=["--http_port=8080"])
    raw["spec"]["containers"].append({"name": "agent", "args": ["--port=1"]})
    made = after(raw)
    assert made["spec"]["containers"][1]["args"] == ["--port=1"]
    assert made["spec"]["initContainers"][0]["args"][1] == "--route=8080=http://127.0.0.1:18080"


def test_high_ports_move_down() -> None:
    raw = pod(args=["--http_port=60000"], ports=[{"containerPort": 60000}])
    assert predictor(raw)["args"] == ["--http_port=50000"]


def test_a_custom_server_has_a_knob_for_each_protocol() -> None:
    raw = pod(ports=[HTTP, GRPC], command=["serve", "--grpc=9000"], env=[{"name": "PORT", "value": "8080"}])
    raw["metadata"]["annotations"] = {
        "headgate.dev/http-port-knob": "env:PORT",
        "headgate.dev/grpc-port-knob": "arg:--grpc",
    }
    made = predictor(raw)
    assert (made["env"][0]["value"], made["command"]) == ("18080", ["serve", "--grpc=19000"])


def test_the_server_can_be_named() -> None:
    raw = pod(command=["./start"])
    raw["metadata"]["annotations"] = {"headgate.dev/server": "kserve"}
    assert predictor(raw)["args"] == ["--http_port=18080"]


@pytest.mark.parametrize(
    ("fields", "annotations", "said"),
    [
        ({"args": ["./server"]}, {}, "the server in kserve-container is not known"),
        ({"image": "kserve/sklearnserver"}, {}, "neither command nor args"),
        ({"args": ["--http_port=$(PORT)"]}, {}, "--http_port of kserve-container is not a plain number"),
        ({"env": [{"name": "MLSERVER_HTTP_PORT", "valueFrom": {}}]}, {}, "MLSERVER_HTTP_PORT of kserve-container"),
        ({"args": ["--http_port=9999"]}, {}, "clients dial port 8080 of kserve-container"),
        ({"args": ["--rest_port=8080"], "ports": [{"containerPort": 80}]}, {}, "clients dial port 80 of"),
        (
            {"command": ["sh", "-c", "vllm serve m --port 8080"]},
            {},
            "the script in kserve-container takes no arguments",
        ),
        ({"command": ["sh", "-c", "vllm serve m --port 8080 $@"]}, {}, "takes no arguments"),
        ({"command": ["x"]}, {"headgate.dev/server": "iis"}, "'iis' is not accepted: expected one of mlserver, triton"),
        ({"command": ["x"]}, {"headgate.dev/server": "custom"}, "custom needs headgate.dev/http-port-knob"),
        ({"command": ["x"]}, {"headgate.dev/http-port-knob": "PORT"}, "expected env:NAME or arg:--flag"),
        ({"command": ["x"]}, {"headgate.dev/http-port-knob": "env:A B"}, "expected env:NAME or arg:--flag"),
    ],
)
def test_what_cannot_be_moved_is_refused(fields: dict[str, Any], annotations: dict[str, str], said: str) -> None:
    raw = pod(**fields)
    raw["metadata"]["annotations"] = annotations
    assert said in refusal(raw)


def test_an_unknown_server_is_told_of_the_fallback() -> None:
    assert "k8s/examples/any-server.yaml" in refusal(pod(args=["./server"]))


def test_pods_that_the_agent_cannot_serve_in_are_refused() -> None:
    raw = pod(args=["--http_port=8080"])
    assert "network of its node" in refusal({**raw, "spec": {**raw["spec"], "hostNetwork": True}})
    assert "Linux only" in refusal({**raw, "spec": {**raw["spec"], "os": {"name": "windows"}}})
    first = {**raw, "spec": {"containers": [{"name": "other"}, *raw["spec"]["containers"]]}}
    assert "the Service dials other" in refusal(first)
    llm = copy.deepcopy(PODS["llm-single"])
    llm["spec"]["containers"][0]["command"][2] = "vllm serve --port 9 $@"
    assert "does not listen on 8000" in refusal(llm)
    knative = copy.deepcopy(PODS["knative-sklearn"])
    proxy = knative["spec"]["containers"][1]
    proxy["env"] = [entry for entry in proxy["env"] if entry["name"] != "USER_PORT"]
    assert "queue-proxy has no USER_PORT" in refusal(knative)


@pytest.mark.parametrize(
    ("labels", "container", "said"),
    [
        ({"headgate.dev/inject": "false"}, "kserve-container", "does not ask for it"),
        ({"headgate.dev/inject": "true"}, "worker-container", "no predictor"),
        ({"headgate.dev/inject": "true", "component": "explainer"}, "kserve-container", "it is a explainer"),
        ({"headgate.dev/inject": "true", "llm-d.ai/role": "prefill"}, "main", "prefill pods"),
    ],
)
def test_other_pods_are_none_of_its_business(labels: dict[str, str], container: str, said: str) -> None:
    decision = inject({"metadata": {"labels": labels}, "spec": {"containers": [{"name": container}]}}, NATIVE)
    assert (decision.verdict, decision.patch, decision.warnings) == (Verdict.SKIPPED, [], [])
    assert said in decision.reason


def test_a_pod_with_the_agent_as_its_transformer_has_it_already() -> None:
    raw = pod(args=["./server"])
    raw["spec"]["containers"].append({"name": "transformer-container", "args": ["serve", "--route=8080=http://x:1"]})
    assert inject(raw, NATIVE).verdict is Verdict.SKIPPED


@pytest.mark.parametrize("knob", knobs(), ids=lambda knob: knob.flag)
def test_every_setting_is_an_annotation(knob: Any) -> None:
    name = "headgate.dev/" + knob.flag[2:]
    raw = annotated()
    raw["metadata"]["annotations"] = {name: "\x00 no setting accepts this"}
    decision = inject(raw, NATIVE)
    assert decision.verdict is Verdict.INJECTED
    assert decision.warnings
    assert all(name in warning for warning in decision.warnings)
    assert flags(raw) == []
    if knob.default and knob.flag not in {"--route", "--admin"} and knob.form != "FILE":
        raw["metadata"]["annotations"] = {name: knob.default}
        assert inject(raw, NATIVE).warnings == []
        assert flags(raw) == ([f"{knob.flag}={knob.default}"] if knob.form else [])


def test_a_switch_is_a_flag_when_it_is_true() -> None:
    assert flags(annotated(retry_stale="true")) == ["--retry-stale"]


def test_repeatable_settings_are_separated_by_spaces_and_judged_one_by_one() -> None:
    raw = annotated(model_limit="a=2 b=x  c=3", limit="5")
    assert flags(raw) == ["--limit=5", "--model-limit=a=2", "--model-limit=c=3"]
    assert [w for w in inject(raw, NATIVE).warnings if "'b=x'" in w and "expected NAME=N" in w]


def test_settings_that_contradict_each_other_are_left_out_together() -> None:
    raw = annotated(limit="2", model_limit="a=9", deadline="1s")
    assert flags(raw) == []
    (warning,) = inject(raw, NATIVE).warnings
    assert "--model-limit a=9 is above --limit 2" in warning


def test_ports_are_the_injectors_business() -> None:
    raw = annotated(route="80=http://127.0.0.1:1", admin="1")
    assert flags(raw) == []
    assert len(inject(raw, NATIVE).warnings) == 2


@pytest.mark.parametrize("address", ["0.0.0.0:9090", "0.0.0.0:18080", "0.0.0.0:8481", "10.0.0.1:9555"])
def test_addresses_that_cannot_be_listened_on_are_left_out(address: str) -> None:
    raw = annotated(knative_metrics=address)
    assert flags(raw) == []
    assert "is not accepted and left out" in inject(raw, NATIVE).warnings[0]
    assert flags(annotated(knative_metrics="0.0.0.0:9555")) == ["--knative-metrics=0.0.0.0:9555"]


def test_files_are_not_looked_at() -> None:
    raw = annotated(live_settings="/etc/hostname")
    assert flags(raw) == []
    (warning,) = inject(raw, NATIVE).warnings
    assert warning == "headgate.dev/live-settings needs a file, which the injector does not mount: it is ignored"


def test_a_misspelt_annotation_is_told_what_is_meant() -> None:
    (warning,) = inject(annotated(limitt="3"), NATIVE).warnings
    assert warning == "headgate.dev/limitt is not a setting and ignored: is headgate.dev/limit meant?"
    (warning,) = inject(annotated(zzzz="3"), NATIVE).warnings
    assert warning == "headgate.dev/zzzz is not a setting and ignored"


def test_what_the_kubelet_would_expand_is_kept_as_it_is() -> None:
    assert flags(annotated(model_limit="$(HOME)=3")) == ["--model-limit=$$(HOME)=3"]


def test_resources_follow_annotations_and_the_queue() -> None:
    def resources(**annotations: str) -> Any:
        return after(annotated(**annotations))["spec"]["initContainers"][-1]["resources"]

    assert resources(queue_bytes="1GiB")["limits"]["memory"] == "1152Mi"
    assert resources(cpu="100m", memory="512Mi") == {
        "requests": {"cpu": "100m", "memory": "512Mi"},
        "limits": {"cpu": "1", "memory": "512Mi"},
    }
    assert resources(cpu="2")["limits"]["cpu"] == "2"
    for name, text in (("cpu", "lots"), ("cpu", "0"), ("memory", "1.5Gi"), ("memory", "64MiB")):
        assert resources(**{name: text}) == resources()
        assert "is not accepted" in inject(annotated(**{name: text}), NATIVE).warnings[0]
    assert "a full queue may end" in inject(annotated(memory="128Mi"), NATIVE).warnings[0]
    # A pod that fits on no node would be broken, too.
    assert resources(queue_bytes="1024GiB")["limits"]["memory"] == "2048Mi"
    assert "a full queue may end" in inject(annotated(queue_bytes="1024GiB"), NATIVE).warnings[0]


def test_quantities_are_read_as_kubernetes_reads_them() -> None:
    assert [cpu_millis(text) for text in ("250m", "1", "0.5")] == [250, 1000, 500]
    assert [memory_bytes(text) for text in ("1", "1k", "64Mi", "2Gi")] == [1, 1000, 64 << 20, 2 << 30]


def test_the_kind_of_sidecar_can_be_chosen_per_pod() -> None:
    made = after(annotated(sidecar="container"))
    assert made["spec"]["containers"][-1]["name"] == "headgate"
    assert "restartPolicy" not in made["spec"]["containers"][-1]
    raw = annotated(sidecar="native")
    assert applied(raw, inject(raw, ORDINARY))["spec"]["initContainers"][-1]["restartPolicy"] == "Always"
    assert "expected one of native, container" in inject(annotated(sidecar="x"), NATIVE).warnings[0]


def test_a_pod_that_runs_as_root_gets_an_agent_that_does_not() -> None:
    raw = annotated()
    raw["spec"]["securityContext"] = {"runAsUser": 0}
    assert after(raw)["spec"]["initContainers"][-1]["securityContext"]["runAsUser"] == 65532


def test_the_grace_period_covers_the_drain() -> None:
    assert after(annotated())["spec"]["terminationGracePeriodSeconds"] == 30
    assert after(annotated(drain_timeout="100s"))["spec"]["terminationGracePeriodSeconds"] == 110
    raw = annotated(drain_timeout="20500ms")
    del raw["spec"]["terminationGracePeriodSeconds"]
    assert after(raw)["spec"]["terminationGracePeriodSeconds"] == 31


def test_a_hook_that_is_there_stays() -> None:
    own = {"preStop": {"exec": {"command": ["sleep", "5"]}}}
    assert predictor(pod(args=["--http_port=8080"], lifecycle=own))["lifecycle"] == own
    other = {"postStart": {"httpGet": {"port": 8080, "path": "/"}}}
    made = predictor(pod(args=["--http_port=8080"], lifecycle=other))["lifecycle"]
    assert made["postStart"]["httpGet"]["port"] == 18080
    assert made["preStop"]["httpGet"]["path"] == "/wait-for-drain"


def test_kserves_agent_that_comes_later_is_put_behind_ours() -> None:
    raw = after(PODS["knative-sklearn"])
    env = raw["spec"]["containers"][1]["env"]
    next(entry for entry in env if entry["name"] == "USER_PORT")["value"] = "9081"
    decision = inject(raw, NATIVE)
    assert decision.verdict is Verdict.INJECTED
    again = after(raw, decision)
    user_port = next(entry for entry in again["spec"]["containers"][1]["env"] if entry["name"] == "USER_PORT")
    assert user_port["value"] == "8480"
    assert again["spec"]["initContainers"][-1]["args"][1] == "--route=8480=auto://127.0.0.1:9081"
    assert inject(again, NATIVE).verdict is Verdict.UNCHANGED


def test_knative_versions_without_several_probes_keep_their_own() -> None:
    raw = copy.deepcopy(PODS["knative-sklearn"])
    env = raw["spec"]["containers"][1]["env"]
    env[:] = [entry for entry in env if entry["name"] != "ENABLE_MULTI_CONTAINER_PROBES"]
    made = after(raw)["spec"]["containers"][1]["env"]
    probe = next(entry["value"] for entry in made if entry["name"] == "SERVING_READINESS_PROBE")
    assert probe.startswith("{")


def test_pointers_and_lists() -> None:
    assert pointer(("metadata", "annotations", "a~b/c", 0)) == "/metadata/annotations/a~0b~1c/0"
    patch = Patch()
    for value in (1, 2):
        patch.append({}, ("spec", "list"), value)
    assert patch.operations == [
        {"op": "add", "path": "/spec/list", "value": [1]},
        {"op": "add", "path": "/spec/list/-", "value": 2},
    ]


def test_a_readiness_probe_that_cannot_be_read_stays() -> None:
    raw = copy.deepcopy(PODS["knative-sklearn"])
    probe = next(e for e in raw["spec"]["containers"][1]["env"] if e["name"] == "SERVING_READINESS_PROBE")
    probe["value"] = "{"
    made = after(raw)["spec"]["containers"][1]["env"]
    assert next(e["value"] for e in made if e["name"] == "SERVING_READINESS_PROBE") == "{"


def test_images_are_pulled_as_the_webhook_is_told() -> None:
    raw = annotated()
    made = applied(raw, inject(raw, NATIVE._replace(pull_policy="Always")))
    assert made["spec"]["initContainers"][-1]["imagePullPolicy"] == "Always"
