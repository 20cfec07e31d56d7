"""Patched pods, really run: V2 calls to the port that was always dialled go through the agent to real predictors."""

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import pytest
import tritonclient.grpc

from tests.contract.conftest import unavailable
from tests.contract.install import KSERVE, QUEUE_PROXY, InstallError
from tests.contract.processes import HOST, eventually

from . import goldens
from .goldens import CASES, applied, inject
from .runner import RunningPod

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.contract

V2 = {"id": "7", "inputs": [{"name": "input-0", "shape": [3], "datatype": "FP32", "data": [1.0, 2.5, -3.0]}]}
INFER = "/v2/models/double/infer"
# Standard, Knative, LLMInferenceService; native sidecars and an ordinary container; HTTP and gRPC.
HTTP_PODS = {
    "standard-sklearn": 8080,
    "standard-mlserver": 8080,
    "standard-logger-container": 9081,
    "knative-sklearn": 8012,
}
GRPC_PODS = {"standard-mlserver": 9000, "standard-triton-grpc": 9000}
LLM_PODS = {"llm-single": 18000, "llm-decode": 8001, "llm-tls": 18000, "llm-decode-tls": 8001}


class Pods:
    """The pods that the chosen tests need. They start at the same time."""

    def __init__(self, names: list[str], factory: pytest.TempPathFactory) -> None:
        self._pods = {name: RunningPod(_injected(name), factory.mktemp(name)) for name in names}
        self._taken: set[str] = set()
        self._executor = ThreadPoolExecutor()
        self._starting = {name: self._executor.submit(pod.start) for name, pod in self._pods.items()}

    def get(self, name: str) -> RunningPod:
        """One of them, ready. Skips the test where its predictor is not installed."""
        try:
            self._starting[name].result()
        except InstallError as error:
            unavailable(str(error))
        if name in self._taken:
            pytest.fail("another test has ended this pod")
        self._pods[name].await_ready()
        return self._pods[name]

    def take(self, name: str) -> RunningPod:
        """The same, for a test that ends it; nobody gets it after that."""
        pod = self.get(name)
        self._taken.add(name)
        return pod

    def kill(self) -> None:
        self._executor.shutdown(cancel_futures=True)
        for pod in self._pods.values():
            pod.kill()


def _injected(name: str) -> dict[str, Any]:
    """A golden pod; it ends sooner than its like in a cluster, where endpoints must be removed first."""
    case = next(case for case in CASES if case.name == name)
    pod: dict[str, Any] = copy.deepcopy(case.before)
    pod["metadata"]["annotations"]["headgate.dev/drain-delay"] = "300ms"
    return applied(pod, inject(pod, case.defaults))


@pytest.fixture(scope="module")
def pods(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    everyone = sorted({*HTTP_PODS, *GRPC_PODS, *LLM_PODS})
    chosen = [name for name in everyone if any(f"[{name}]" in item.name for item in request.session.items)]
    running = Pods(chosen, tmp_path_factory)
    try:
        yield running
    finally:
        running.kill()


def show(name: str) -> None:
    print(goldens.shown(next(case for case in CASES if case.name == name)))


@pytest.mark.parametrize("name", HTTP_PODS)
def test_v2_over_http_passes_through_the_agent(pods: Pods, name: str) -> None:
    show(name)
    pod = pods.get(name)
    before = pod.agent_state()["outcomes"]["served"]
    answer = pod.post(HTTP_PODS[name], INFER, V2)
    print(f"POST :{HTTP_PODS[name]}{INFER} -> {answer}")
    assert answer["outputs"][0]["data"] == [2.0, 5.0, -6.0]
    assert pod.agent_state()["outcomes"]["served"] == before + 1


@pytest.mark.parametrize("name", GRPC_PODS)
def test_v2_over_grpc_passes_through_the_agent(pods: Pods, name: str) -> None:
    show(name)
    pod = pods.get(name)
    tensor = tritonclient.grpc.InferInput("input-0", [3], "FP32")
    tensor.set_data_from_numpy(numpy.array([1.0, 2.5, -3.0], numpy.float32))
    with tritonclient.grpc.InferenceServerClient(f"{HOST}:{pod.port(GRPC_PODS[name])}") as client:
        assert client.is_server_ready()
        before = pod.agent_state()["outcomes"]["served"]
        answer = client.infer("double", [tensor]).as_numpy("output-0").ravel()
    print(f"ModelInfer :{GRPC_PODS[name]} -> {answer}")
    assert answer.tolist() == [2.0, 5.0, -6.0]
    assert pod.agent_state()["outcomes"]["served"] == before + 1


@pytest.mark.parametrize("name", LLM_PODS)
def test_completions_pass_through_the_agent(pods: Pods, name: str) -> None:
    show(name)
    pod = pods.get(name)
    before = pod.agent_state()["outcomes"]["served"]
    context = pod.papers.client() if name.endswith("-tls") else None
    answer = pod.post(8000, "/v1/completions", {"model": "llama", "prompt": "open"}, context)
    print(f"POST :8000/v1/completions -> {answer}")
    # vLLM itself has moved, or stays behind the routing sidecar that has.
    assert answer == {"choices": [{"text": "OPEN"}], "port": pod.port(LLM_PODS[name])}
    assert pod.agent_state()["outcomes"]["served"] == before + 1


@pytest.mark.parametrize("name", ["standard-sklearn"])
def test_settings_from_annotations_are_in_force(pods: Pods, name: str) -> None:
    assert pods.get(name).agent_state()["limit"] == 4


@pytest.mark.parametrize("name", ["standard-sklearn", "standard-logger-container"])
def test_what_runs_is_finished_when_the_pod_ends(pods: Pods, name: str) -> None:
    pod = pods.take(name)
    slow = {**V2, "parameters": {"delay_s": 1.0}}
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(pod.post, HTTP_PODS[name], INFER, slow)
        eventually(lambda: pod.agent_state()["inflight"] == 1, "the request runs")
        codes = pod.stop()
        assert answer.result()["outputs"][0]["data"] == [2.0, 5.0, -6.0]
    assert codes["headgate"] == 0
    assert codes["kserve-container"] == 0


@pytest.mark.parametrize("name", ["standard-mlserver", "knative-sklearn"])
def test_a_pod_whose_predictor_is_down_is_not_ready_although_the_agent_listens(pods: Pods, name: str) -> None:
    pod = pods.take(name)
    pod.children["kserve-container"].kill_family()
    # MLServer's own probe; in Knative mode queue-proxy's, which asks the agent too.
    asked = "kserve-container" if name == "standard-mlserver" else "queue-proxy"
    eventually(lambda: not pod.is_ready(asked), "its readiness probe fails")
    assert pod.is_ready("headgate")


@pytest.mark.parametrize("name", ["llm-single"])
def test_a_pod_whose_agent_drains_is_not_ready(pods: Pods, name: str) -> None:
    pod = pods.take(name)
    assert pod.succeeds({"httpGet": {"path": "/wait-for-drain", "port": 8481}})
    assert not pod.is_ready("headgate")


def test_a_knative_pod_works_with_knatives_own_queue_proxy() -> None:
    if shutil.which("bwrap") is None:
        unavailable("bwrap is not installed (apt-get install bubblewrap)")
    try:
        QUEUE_PROXY.path()
        KSERVE.python()
    except InstallError as error:
        unavailable(str(error))
    command = ["bwrap", "--dev-bind", "/", "/", "--unshare-net", "--die-with-parent", sys.executable]
    done = subprocess.run(
        [*command, "-m", "tests.inject.knative_pod"], capture_output=True, text=True, timeout=90, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    assert json.loads(done.stdout) == {
        "unpatched": [2.0, 5.0, -6.0],
        "ready without the agent": False,
        "patched": [2.0, 5.0, -6.0],
        "served by the agent": 1,
    }
