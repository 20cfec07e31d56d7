"""Certificates that the agent takes over from what it stands before."""

import copy
from typing import Any

import pytest

from agent.inject.patch.inject import Verdict, inject

from .goldens import CASES, NATIVE, applied

PODS = {case.source: case.before for case in CASES}
SERVED = ["--tls-cert=/var/run/kserve/tls/tls.crt", "--tls-key=/var/run/kserve/tls/tls.key", "--upstream-verify=off"]
MOUNT = {"mountPath": "/var/run/kserve/tls", "name": "tls-certs", "readOnly": True}
SCRIPT = "exec vllm serve m --port 8000 {} $@"


def llm(flags: str | None = None, mounts: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """The pod of an LLMInferenceService that serves TLS, with other flags and other mounts."""
    made = copy.deepcopy(PODS["llm-tls"])
    main = made["spec"]["containers"][0]
    if flags is not None:
        main["command"][2] = SCRIPT.format(flags)
    if mounts is not None:
        main["volumeMounts"] = mounts
    return made


def added(raw: dict[str, Any]) -> dict[str, Any]:
    """The agent's container."""
    decision = inject(raw, NATIVE)
    assert decision.verdict is Verdict.INJECTED, decision
    found: dict[str, Any] = applied(raw, decision)["spec"]["initContainers"][-1]
    return found


@pytest.mark.parametrize("name", ["llm-tls", "llm-decode-tls"])
def test_the_agent_serves_with_the_same_files(name: str) -> None:
    agent = added(PODS[name])
    assert agent["args"][1:] == ["--route=8000=https://127.0.0.1:18000", "--admin=0.0.0.0:8481", *SERVED]
    assert agent["volumeMounts"] == [MOUNT]


def test_files_of_several_mounts_are_mounted_each_and_read_only() -> None:
    mounts = [
        {"mountPath": "/", "name": "root"},
        {"mountPath": "/a", "name": "outer"},
        {"mountPath": "/a/b", "name": "certificate"},
        {"mountPath": "/k/key.pem", "name": "key", "subPath": "key.pem"},
        {"mountPath": "/a/bb", "name": "near"},
    ]
    agent = added(llm("--ssl-certfile=/a/b/cert.pem --ssl-keyfile=/k/key.pem", mounts))
    assert agent["args"][-3:-1] == ["--tls-cert=/a/b/cert.pem", "--tls-key=/k/key.pem"]
    assert agent["volumeMounts"] == [{**mounts[2], "readOnly": True}, {**mounts[3], "readOnly": True}]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("", "its flags do not say with which files"),
        ("--ssl-certfile /var/run/kserve/tls/tls.crt", "its flags do not say with which files"),
        ("--ssl-certfile ${DIR}/tls.crt --ssl-keyfile ${DIR}/tls.key", "'${DIR}/tls.crt', which is no plain path"),
        ("--ssl-certfile tls.crt --ssl-keyfile tls.key", "'tls.crt', which is no plain path"),
        ("--ssl-certfile /var/../tls.crt --ssl-keyfile /tls.key", "'/var/../tls.crt', which is no plain path"),
        ("--ssl-certfile /baked/tls.crt --ssl-keyfile /baked/tls.key", "/baked/tls.crt, which is mounted from no"),
        ("--ssl-certfile /models/c --ssl-keyfile /models/k --ssl-cert-reqs 2", "asks its clients for certificates"),
    ],
)
def test_what_cannot_be_taken_over_is_refused_with_a_way_out(flags: str, said: str) -> None:
    decision = inject(llm(flags), NATIVE)
    assert (decision.verdict, decision.patch) == (Verdict.REFUSED, [])
    assert said in decision.reason
    assert "turn TLS off" in decision.reason


@pytest.mark.parametrize("flags", ["--ssl-ca-certs /ca", "--ssl-cert-reqs=0"])
def test_roots_that_nobody_is_asked_for_are_no_hindrance(flags: str) -> None:
    assert added(llm(f"--ssl-certfile /models/c --ssl-keyfile /models/k {flags}"))["volumeMounts"]


def test_a_folder_may_end_with_a_slash() -> None:
    raw = copy.deepcopy(PODS["llm-decode-tls"])
    command = raw["spec"]["initContainers"][0]["command"]
    command[command.index("--cert-path=/var/run/kserve/tls")] += "/"
    assert added(raw)["args"][3:] == SERVED


def test_a_routing_sidecar_with_a_certificate_of_its_own_making_is_refused() -> None:
    raw = copy.deepcopy(PODS["llm-decode-tls"])
    raw["spec"]["initContainers"][0]["command"].remove("--cert-path=/var/run/kserve/tls")
    assert inject(raw, NATIVE).verdict is Verdict.REFUSED


@pytest.mark.parametrize(
    ("volume", "group", "readable"),
    [
        ({"secret": {"secretName": "x"}}, None, True),
        ({"secret": {"secretName": "x", "defaultMode": 0o444}}, None, True),
        ({"secret": {"secretName": "x", "defaultMode": 0o400}}, None, False),
        ({"secret": {"secretName": "x", "defaultMode": 0o400}}, 1000, True),
        ({"projected": {"sources": [], "defaultMode": 0o440}}, None, False),
        ({"csi": {"driver": "csi.cert-manager.io"}}, None, True),
    ],
)
def test_a_key_that_the_agent_could_not_read_is_not_taken_over(
    volume: dict[str, Any], group: int | None, readable: bool
) -> None:
    raw = llm()
    raw["spec"]["volumes"][-1] = {"name": "tls-certs", **volume}
    raw["spec"]["securityContext"] = {} if group is None else {"fsGroup": group}
    decision = inject(raw, NATIVE)
    assert decision.verdict is (Verdict.INJECTED if readable else Verdict.REFUSED)
    assert readable or "give the pod an fsGroup" in decision.reason


def test_what_the_injector_decides_is_no_annotation() -> None:
    raw = llm()
    raw["metadata"]["annotations"] = {"headgate.dev/upstream-verify": "on", "headgate.dev/tls-cert": "/x"}
    assert added(raw)["args"][3:] == SERVED
    assert len(inject(raw, NATIVE).warnings) == 2
