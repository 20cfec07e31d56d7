"""Every mode: the pod before and after, applied twice, without a clash."""

from typing import Any

import pytest

from agent.inject.patch.inject import Verdict, inject
from agent.inject.patch.pod import PROBES
from agent.settings import knobs, resolve

from .goldens import CASES, Case, applied, outcome, shown

INJECTED = [case for case in CASES if inject(case.before, case.defaults).verdict is Verdict.INJECTED]


def everyone(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod["spec"]["containers"], *pod["spec"].get("initContainers", ())]


def after(case: Case) -> dict[str, Any]:
    return applied(case.before, inject(case.before, case.defaults))


def sidecar(pod: dict[str, Any]) -> dict[str, Any]:
    return next(one for one in everyone(pod) if one["name"] == "headgate")


def listened(pod: dict[str, Any]) -> list[int]:
    """Ports that the agent takes: those of its routes, and the admin port."""
    args = sidecar(pod)["args"]
    routes = [flag.removeprefix("--route=") for flag in args if flag.startswith("--route=")]
    admin = next(flag for flag in args if flag.startswith("--admin="))
    return [*(int(route.partition("=")[0]) for route in routes), int(admin.rpartition(":")[2])]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_pod_after_is_the_golden_one(case: Case) -> None:
    print(shown(case))
    assert outcome(case) == case.golden.read_text(), "look at it, then run `python -m tests.inject.goldens --write`"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_injecting_again_changes_nothing(case: Case) -> None:
    first = inject(case.before, case.defaults)
    again = inject(applied(case.before, first), case.defaults)
    assert again.patch == []
    assert again.verdict is (Verdict.UNCHANGED if first.patch else first.verdict)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_warning_fits_and_is_one_line(case: Case) -> None:
    # The API server cuts warnings at 256 characters (k8s.io/apiserver pkg/warning).
    warnings = inject(case.before, case.defaults).warnings
    assert all(len(warning) <= 256 and warning.isprintable() for warning in warnings), warnings


@pytest.mark.parametrize("case", INJECTED, ids=lambda case: case.name)
def test_the_pod_before_is_not_touched_and_is_found_whole_in_the_pod_after(case: Case) -> None:
    before = case.before
    inject(before, case.defaults)
    assert before == case.before
    assert [one["name"] for one in after(case)["spec"]["containers"]][: len(before["spec"]["containers"])] == [
        one["name"] for one in before["spec"]["containers"]
    ]


@pytest.mark.parametrize("case", INJECTED, ids=lambda case: case.name)
def test_no_port_has_two_owners(case: Case) -> None:
    pod = after(case)
    taken = listened(pod)
    assert len(set(taken)) == len(taken)
    ours = [flag for flag in sidecar(pod)["args"] if flag.startswith("--route=")]
    upstreams = {int(part.rpartition(":")[2]) for flag in ours for part in flag.split(",")}
    assert not upstreams & set(taken)
    # Whatever the predictor still is told to listen on by flag or variable is not ours.
    for one in everyone(pod):
        if one["name"] == "headgate":
            continue
        words = " ".join([*one.get("command", ()), *one.get("args", ())]).replace("=", " ").split()
        # The last one wins with every server; --component-port is dialled, not listened on.
        flags = {word: words[i + 1] for i, word in enumerate(words[:-1]) if "port" in word and words[i + 1].isdigit()}
        told = {int(port) for flag, port in flags.items() if flag != "--component-port"}
        told |= {
            int(entry["value"])
            for entry in one.get("env", ())
            if entry["name"].endswith("_PORT") and entry["name"] != "USER_PORT" and "value" in entry
        }
        assert not told & set(taken), one["name"]


@pytest.mark.parametrize("case", INJECTED, ids=lambda case: case.name)
def test_no_probe_of_a_predictor_is_answered_by_the_agent(case: Case) -> None:
    pod = after(case)
    taken = set(listened(pod))
    for one in everyone(pod):
        names = {port["name"]: port["containerPort"] for port in one.get("ports", ()) if "name" in port}
        for kind in PROBES if one["name"] != "headgate" else ():
            for action in (one.get(kind) or {}).values():
                port = action.get("port") if isinstance(action, dict) else None
                assert names.get(port, port) not in taken, (one["name"], kind)


@pytest.mark.parametrize("case", INJECTED, ids=lambda case: case.name)
def test_the_agent_accepts_its_arguments(case: Case) -> None:
    command, *flags = sidecar(after(case))["args"]
    given: dict[str, list[str]] = {}
    for flag in flags:
        name, _, value = flag.partition("=")
        given.setdefault(next(knob.name for knob in knobs() if knob.flag == name), []).append(value or "true")
    assert command == "serve"
    assert resolve(given, {}, look=False).routes  # files that are mounted in the pod are not here


@pytest.mark.parametrize("case", INJECTED, ids=lambda case: case.name)
def test_the_class_of_service_stays(case: Case) -> None:
    def is_guaranteed(pod: dict[str, Any]) -> bool:
        resources = [one.get("resources", {}) for one in everyone(pod)]
        return all(
            one.get("limits", {}).get(name) is not None and one["limits"][name] == one.get("requests", {}).get(name)
            for one in resources
            for name in ("cpu", "memory")
        )

    assert is_guaranteed(after(case)) == is_guaranteed(case.before)
    resources = sidecar(after(case))["resources"]
    assert {kind: set(amounts) for kind, amounts in resources.items()} == {
        "requests": {"cpu", "memory"},
        "limits": {"cpu", "memory"},
    }


def test_both_classes_of_service_are_among_the_goldens() -> None:
    limits = {sidecar(after(case))["resources"]["limits"]["cpu"] for case in INJECTED}
    assert limits == {"250m", "1"}


@pytest.mark.parametrize("case", INJECTED, ids=lambda case: case.name)
def test_it_passes_pod_security_restricted(case: Case) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    context = sidecar(after(case))["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["runAsNonRoot"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"]["type"] == "RuntimeDefault"
    assert context["readOnlyRootFilesystem"] is True
    assert all(port.get("hostPort") is None for port in sidecar(after(case))["ports"])
