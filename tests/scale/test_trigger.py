"""A trigger's metadata: what is accepted, what it means, and that everything that is wrong is said at once."""

import pytest

from agent.scale import trigger
from agent.scale.trigger import MAX_AGENTS, Find, MetadataError, Source, Trigger

LIST = Source(Find.LIST, agents=("10.0.0.1:8481",))
AGENTS = {"agents": "10.0.0.1:8481"}

GOOD: dict[str, tuple[dict[str, str], Trigger]] = {
    "a Service": ({"service": "iris"}, Trigger(Source(Find.SLICES, "team", "iris", 8481), None, 0.0, 60)),
    "and its pods' port": (
        {"service": "iris", "port": "9000"},
        Trigger(Source(Find.SLICES, "team", "iris", 9000), None, 0.0, 60),
    ),
    "a headless Service": (
        {"serviceAddress": "iris.team.svc.cluster.local.:8481"},
        Trigger(Source(Find.DNS, name="iris.team.svc.cluster.local.", port=8481), None, 0.0, 60),
    ),
    "an address": ({"serviceAddress": "[::1]:1"}, Trigger(Source(Find.DNS, name="::1", port=1), None, 0.0, 60)),
    "a list": (
        {"agents": "10.0.0.1:8481, [fd00::1]:8481,10.0.0.1:8481"},
        Trigger(Source(Find.LIST, agents=("10.0.0.1:8481", "[fd00::1]:8481")), None, 0.0, 60),
    ),
    "wishes": (
        {**AGENTS, "targetPerReplica": "5.6", "activation": "0.25", "window": "15s"},
        Trigger(LIST, 5.6, 0.25, 15),
    ),
    "a minute": ({**AGENTS, "window": "1m"}, Trigger(LIST, None, 0.0, 60)),
    "what is KEDA's": (
        {**AGENTS, "scalerAddress": "headgate-scaler.keda:8482", "unsafeSsl": "false", "enableTLS": "true"},
        Trigger(LIST, None, 0.0, 60),
    ),
    "what may be KEDA's tomorrow": ({**AGENTS, "minimumTLSVersion": "TLS13"}, Trigger(LIST, None, 0.0, 60)),
    "empty is not given": ({**AGENTS, "service": "", "window": "", "activation": ""}, Trigger(LIST, None, 0.0, 60)),
}

BAD: dict[str, tuple[dict[str, str], str]] = {
    "no agents": ({}, "exactly one of service, serviceAddress and agents is needed, not none"),
    "two ways": ({**AGENTS, "service": "iris"}, "not service and agents"),
    "a path for a name": ({"service": "../secrets"}, "service '../secrets' is not accepted: expected the name of"),
    "no port": ({"serviceAddress": "iris"}, "serviceAddress 'iris' is not accepted: expected HOST:PORT"),
    "a URL": ({"serviceAddress": "http://iris:80"}, "expected HOST:PORT"),
    "a path in a list": ({"agents": "a:1,b:2/x"}, "agents: 'b:2/x' is not accepted: expected HOST:PORT"),
    "a user in a list": ({"agents": "u@b:2"}, "agents: 'u@b:2' is not accepted"),
    "too many": ({"agents": ",".join(f"a{i}:1" for i in range(MAX_AGENTS + 1))}, "agents: more than 1000"),
    "a port out of range": ({"service": "iris", "port": "65536"}, "port '65536' is not accepted: expected a number"),
    "a port for a list": ({**AGENTS, "port": "1"}, "port goes with service alone"),
    "no target": (
        {**AGENTS, "targetPerReplica": "0"},
        "targetPerReplica '0' is not accepted: expected a number above 0",
    ),
    "a negative target": ({**AGENTS, "targetPerReplica": "-1"}, "targetPerReplica '-1' is not accepted: expected a nu"),
    "no number": ({**AGENTS, "activation": "some"}, "activation 'some' is not accepted: expected a number"),
    "infinity": ({**AGENTS, "activation": "inf"}, "activation 'inf' is not accepted"),
    "a window too long": ({**AGENTS, "window": "1h"}, "window '1h' is not accepted: expected a duration"),
    "half a second": ({**AGENTS, "window": "1500ms"}, "window '1500ms' is not accepted: expected whole seconds"),
    "a slip of the pen": ({**AGENTS, "targetperReplica": "5"}, "'targetperReplica' is not known (is targetPerReplica"),
    "another": ({**AGENTS, "activationn": "5"}, "'activationn' is not known (is activation meant?)"),
}


@pytest.mark.parametrize("case", GOOD)
def test_what_is_accepted(case: str) -> None:
    metadata, expected = GOOD[case]
    assert trigger.read("team", metadata) == expected


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused_is_named_with_what_is_accepted(case: str) -> None:
    metadata, text = BAD[case]
    with pytest.raises(MetadataError) as caught:
        trigger.read("team", metadata)
    assert text in str(caught.value)


def test_everything_wrong_is_said_at_once() -> None:
    metadata = {"agents": "x", "targetPerReplica": "y", "activation": "z", "window": "w", "port": "1", "servce": "s"}
    with pytest.raises(MetadataError) as caught:
        trigger.read("team", metadata)
    assert len(str(caught.value).split("; ")) == 6


@pytest.mark.parametrize("namespace", ["", "a/b", "A"])
def test_a_namespace_is_a_name(namespace: str) -> None:
    with pytest.raises(MetadataError, match="namespace"):
        trigger.read(namespace, {"service": "iris"})


def test_the_metric_says_what_it_counts_and_does_not_look_like_kedas_prefix() -> None:
    assert trigger.read("team", AGENTS).metric == "headgate-replicas"
    assert trigger.read("team", {**AGENTS, "targetPerReplica": "5"}).metric == "headgate-demand"
