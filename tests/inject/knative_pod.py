"""A patched Knative pod with Knative's own queue-proxy, whose ports cannot be chosen: run it in a network of its own.

    bwrap --dev-bind / / --unshare-net --die-with-parent python -m tests.inject.knative_pod

First the pod as it is without a patch. Then the patched one: without the agent it must not become ready, and with it a
call to queue-proxy's port must pass through it. What was seen is printed.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.contract.install import QUEUE_PROXY
from tests.contract.processes import HOST, eventually

from .goldens import CASES, applied, inject
from .runner import PROGRAMS, Program, RunningPod

SERVING_PORT = 8012
INFER = "/v2/models/double/infer"
V2 = {"id": "7", "inputs": [{"name": "input-0", "shape": [3], "datatype": "FP32", "data": [1.0, 2.5, -3.0]}]}


class Pod(RunningPod):
    """Its ports are what they are."""

    def port(self, number: int) -> int:
        return number


def _queue_proxy(_: Path) -> Program:
    # What the pod takes from its own fields.
    return Program([str(QUEUE_PROXY.path())], {"SERVING_POD": "iris", "SERVING_POD_IP": HOST, "HOST_IP": HOST})


def _unpatched(pod: Pod) -> object:
    with _started(pod):
        pod.await_ready()
        return pod.post(SERVING_PORT, INFER, V2)["outputs"][0]["data"]


def _patched(pod: Pod) -> dict[str, object]:
    with _started(pod):
        eventually(lambda: pod.succeeds({"tcpSocket": {"port": 8080}}), "the predictor listens", 60.0)
        early = pod.is_ready("queue-proxy")
        pod.start_sidecars()
        pod.await_ready()
        answer = pod.post(SERVING_PORT, INFER, V2)["outputs"][0]["data"]
        served = pod.agent_state()["outcomes"]["served"]
    return {"ready without the agent": early, "patched": answer, "served by the agent": served}


@contextmanager
def _started(pod: Pod) -> Iterator[None]:
    try:
        pod.start_containers()
        yield
    except BaseException:
        for child in pod.children.values():
            print(f"{child.name}:\n{child.tail()}", file=sys.stderr)
        raise
    finally:
        pod.kill()


def main() -> int:
    case = next(case for case in CASES if case.name == "knative-sklearn")
    made = applied(case.before, inject(case.before, case.defaults))
    proxy = next(one["image"] for one in made["spec"]["containers"] if one["name"] == "queue-proxy")
    programs = {**PROGRAMS, proxy.rpartition(":")[0]: _queue_proxy}
    with tempfile.TemporaryDirectory() as directory:
        seen = {"unpatched": _unpatched(Pod(case.before, Path(directory) / "before", programs))}
        seen |= _patched(Pod(made, Path(directory) / "after", programs))
    print(json.dumps(seen))
    return 0


if __name__ == "__main__":
    sys.exit(main())
