"""What `k8s/` renders to: valid, and fitting together."""

import base64
import re
from typing import Any

import pytest
import yaml
from cryptography import x509

from agent import __version__
from agent.inject.patch import annotations as injected
from agent.inject.patch.inject import Verdict, inject
from agent.inject.settings import WebhookSettings
from agent.inject.settings import resolve as resolve_webhook
from agent.scale import trigger
from agent.scale.settings import ScalerSettings
from agent.scale.settings import resolve as resolve_scaler
from agent.settings import Settings, knobs, resolve
from tests.contract.conftest import unavailable
from tests.inject.goldens import CASES, applied

from . import rendering
from .rendering import EXAMPLES, OVERLAYS, ROOT, Document, example
from .schemas import problems

PROGRAMS = rendering.commands()


@pytest.fixture(autouse=True)
def _renders() -> None:
    if not PROGRAMS:
        unavailable(
            "neither kustomize nor kubectl is installed: run `python -m tests.contract.install`, with Go on PATH"
        )


def overlay(name: str) -> list[Document]:
    return rendering.overlay(next(iter(PROGRAMS)), name)


def one(documents: list[Document], kind: str, name: str) -> Document:
    (found,) = [each for each in documents if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def containers(documents: list[Document]) -> list[tuple[str, dict[str, Any]]]:
    """The containers of our own Deployments, with the Deployment's name."""
    return [
        (each["metadata"]["name"], container)
        for each in documents
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
    ]


def flags(container: dict[str, Any]) -> dict[str, list[str]]:
    """What a container's arguments set, as `resolve` takes it; flags of both commands."""
    names = {knob.flag: knob.name for command in (Settings, WebhookSettings, ScalerSettings) for knob in knobs(command)}
    given: dict[str, list[str]] = {}
    for flag in container["args"][1:]:
        name, _, value = flag.partition("=")
        given.setdefault(names[name], []).append(value)
    return given


@pytest.mark.parametrize("name", [*OVERLAYS, "examples", "monitoring"])
def test_kubectl_and_kustomize_make_the_same_of_it(name: str) -> None:
    made = [rendering.overlay(program, name) for program in PROGRAMS]
    for documents in made[1:]:
        # A certificate is made anew each time.
        assert _without_certificates(documents) == _without_certificates(made[0])
    assert len(made[0]) > 1


def _without_certificates(documents: list[Document]) -> str:
    return re.sub(r"(caBundle|ca.crt|tls.crt|tls.key): \S+", "", yaml.safe_dump_all(documents))


@pytest.mark.parametrize("name", [*OVERLAYS, "examples", "monitoring"])
def test_every_document_is_valid(name: str) -> None:
    wrong = {f"{each['kind']} {each['metadata']['name']}": problems(each) for each in overlay(name)}
    assert not {document: told for document, told in wrong.items() if told}


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_valid(name: str) -> None:
    assert [told for document in example(name) for told in problems(document)] == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_pod_before_and_after_is_valid(case: Any) -> None:
    assert problems(case.before) == []
    assert problems(applied(case.before, inject(case.before, case.defaults))) == []


def _wrong(document: Document, path: str, value: object) -> list[str]:
    """What is said of a document in which the value at this path is another; None takes it out."""
    copy = yaml.safe_load(yaml.safe_dump(document))
    *parents, last = path.split("/")
    place = copy
    for part in parents:
        place = place[int(part) if part.isdigit() else part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return problems(copy)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", "spec/replica", 2),
        ("Deployment", "spec/replicas", "2"),
        ("Deployment", "spec/selector", None),
        ("Deployment", "spec/template/spec/containers/0/readinessProbe/periodSeconds", "5"),
        ("Deployment", "spec/template/spec/containers/0/ports/0/containerPort", "9443"),
        ("PodDisruptionBudget", "spec/minAvailable", True),
        ("NetworkPolicy", "spec/ingress/0/ports/0/Port", 1),
        ("MutatingWebhookConfiguration", "webhooks/0/sideEffects", None),
        ("MutatingWebhookConfiguration", "webhooks/0/rules/0/operation", ["CREATE"]),
        ("Certificate", "spec/issuerRef", None),
        ("Certificate", "spec/privateKey/algorithm", "DSA"),
        ("Pod", "spec/initContainers/0/restartPolic", "Always"),
    ],
)
def test_the_schemas_refuse_what_is_wrong(kind: str, path: str, value: object) -> None:
    pods = [applied(case.before, inject(case.before, case.defaults)) for case in CASES[:1]]
    document = next(each for each in [*overlay("standard-keda"), *pods] if each["kind"] == kind)
    assert problems(document) == []
    assert _wrong(document, path, value)


def test_examples_of_the_wrong_shape_are_refused() -> None:
    assert _wrong(example("sklearn")[0], "spec/predictor/minReplica", 1)
    assert _wrong(example("sklearn-keda")[1], "spec/triggers/0/type", None)
    assert _wrong(example("sklearn-hpa")[1], "spec/maxReplicas", None)
    assert _wrong(example("llm")[0], "spec/model/uri", None)
    assert _wrong(example("llm")[0], "spec/template/containers/0/imag", "x")


def test_one_image_everywhere() -> None:
    documents = overlay("standard-keda")
    images = {name: container["image"] for name, container in containers(documents)}
    webhook = one(documents, "Deployment", "headgate-webhook")["spec"]["template"]["spec"]["containers"][0]
    assert webhook["env"] == [{"name": "HEADGATE_IMAGE", "value": webhook["image"]}]
    assert set(images) == {"headgate-webhook", "headgate-scaler"}
    images["standalone"] = containers(overlay("standalone"))[0][1]["image"]
    recipe = example("any-server")[0]["spec"]["predictor"]["containers"][1]
    assert set(images.values()) == {recipe["image"]}
    assert recipe["image"].endswith(f":{__version__}")


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_arguments_are_accepted(name: str) -> None:
    for deployment, container in containers(overlay(name)):
        env = {entry["name"]: entry["value"] for entry in container.get("env", ())}
        if container["args"][0] == "webhook":
            assert resolve_webhook(flags(container), env).image == container["image"], deployment
        elif container["args"][0] == "serve":
            assert resolve(flags(container), env, look=False).routes
        else:
            listen = resolve_scaler(flags(container), {}).listen
            assert listen.port == container["ports"][0]["containerPort"] == container["readinessProbe"]["grpc"]["port"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_our_own_pods_are_small_and_locked_down(name: str) -> None:
    for deployment, container in containers(overlay(name)):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"], deployment
        assert context["runAsNonRoot"], deployment
        assert context["allowPrivilegeEscalation"] is False, deployment
        assert context["capabilities"] == {"drop": ["ALL"]}, deployment
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}, deployment
        assert "memory" in container["resources"]["limits"], deployment
        assert {"readinessProbe", "livenessProbe"} <= set(container), deployment


@pytest.mark.parametrize("name", OVERLAYS)
def test_selectors_find_what_they_are_for(name: str) -> None:
    documents = overlay(name)
    templates = [each["spec"]["template"] for each in documents if each["kind"] == "Deployment"]

    def found(labels: dict[str, str]) -> list[Document]:
        return [each for each in templates if labels.items() <= each["metadata"]["labels"].items()]

    for each in documents:
        spec = each.get("spec", {})
        if each["kind"] == "Service":
            (template,) = found(spec["selector"])
            ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
            assert {port["targetPort"] for port in spec["ports"]} <= ports
        elif each["kind"] in {"Deployment", "PodDisruptionBudget"}:
            assert len(found(spec["selector"]["matchLabels"])) == 1
        elif each["kind"] == "NetworkPolicy":
            (template,) = found(spec["podSelector"]["matchLabels"])
            opened = {port["port"] for rule in spec["ingress"] for port in rule["ports"]}
            assert opened == {port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}


@pytest.mark.parametrize("name", OVERLAYS)
def test_nothing_may_do_more_than_it_must(name: str) -> None:
    rules = [rule for each in overlay(name) for rule in each.get("rules", ())]
    allowed = {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list"]}
    assert rules == ([allowed] if name == "standard-keda" else [])


def test_two_webhooks_survive_the_loss_of_a_node() -> None:
    documents = overlay("knative")
    assert one(documents, "Deployment", "headgate-webhook")["spec"]["replicas"] == 2
    assert one(documents, "PodDisruptionBudget", "headgate-webhook")["spec"]["minAvailable"] == 1


def webhooks() -> list[Document]:
    found: list[Document] = one(overlay("knative"), "MutatingWebhookConfiguration", "inferenceservices.headgate.dev")[
        "webhooks"
    ]
    return found


def test_the_configuration_comes_after_kserves_and_before_istios() -> None:
    assert "inferenceservice.serving.kserve.io" < "inferenceservices.headgate.dev" < "istio-sidecar-injector"


@pytest.mark.parametrize("index", [0, 1])
def test_the_webhook_never_blocks_a_pod(index: int) -> None:
    webhook = webhooks()[index]
    assert webhook["failurePolicy"] == "Ignore"
    assert webhook["reinvocationPolicy"] == "IfNeeded"
    assert webhook["sideEffects"] == "None"
    assert webhook["admissionReviewVersions"] == ["v1"]
    assert webhook["timeoutSeconds"] <= 5
    assert webhook["rules"] == [
        {
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "operations": ["CREATE"],
            "resources": ["pods"],
            "scope": "Namespaced",
        }
    ]
    excluded = webhook["namespaceSelector"]["matchExpressions"]
    assert excluded[0]["values"] == ["headgate-system", "kube-system"]
    assert webhook["clientConfig"]["service"] == {
        "name": "headgate-webhook",
        "namespace": "headgate-system",
        "path": "/mutate",
        "port": 443,
    }


def matches(selector: Document, labels: dict[str, str]) -> bool:
    """A label selector, as apimachinery evaluates it."""
    return all(
        rule["key"] in labels if rule["operator"] == "Exists" else labels.get(rule["key"]) in rule["values"]
        for rule in selector["matchExpressions"]
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_pod_is_seen_by_one_webhook(case: Any) -> None:
    labels = case.before["metadata"]["labels"]
    assert [matches(webhook["objectSelector"], labels) for webhook in webhooks()] == [
        not case.name.startswith("llm"),
        case.name.startswith("llm"),
    ]
    for other in ({**labels, "headgate.dev/inject": "false"}, {}):
        assert not any(matches(webhook["objectSelector"], other) for webhook in webhooks())


def test_cert_manager_issues_what_the_webhook_reads() -> None:
    documents = overlay("knative")
    leaf, root = (one(documents, "Certificate", name)["spec"] for name in ("headgate-webhook", "headgate-root"))
    volume = one(documents, "Deployment", "headgate-webhook")["spec"]["template"]["spec"]["volumes"][0]
    assert leaf["secretName"] == volume["secret"]["secretName"]
    assert leaf["dnsNames"] == ["headgate-webhook.headgate-system.svc"]
    assert one(documents, "Issuer", leaf["issuerRef"]["name"])["spec"] == {"ca": {"secretName": root["secretName"]}}
    configuration = one(documents, "MutatingWebhookConfiguration", "inferenceservices.headgate.dev")
    assert configuration["metadata"]["annotations"] == {
        "cert-manager.io/inject-ca-from": "headgate-system/headgate-root"
    }


def test_cert_manager_issues_what_a_gate_with_tls_reads() -> None:
    documents = overlay("standalone-tls")
    deployment, leaf = one(documents, "Deployment", "headgate-iris"), one(documents, "Certificate", "headgate-iris")
    (volume,) = deployment["spec"]["template"]["spec"]["volumes"]
    ((_, container),) = containers(documents)
    assert volume["secret"]["secretName"] == leaf["spec"]["secretName"]
    (mount,) = container["volumeMounts"]
    settings = resolve(flags(container), {}, look=False)
    assert (settings.tls_cert, settings.tls_key) == tuple(f"{mount['mountPath']}/tls.{part}" for part in ("crt", "key"))
    service = one(documents, "Service", "headgate-iris")
    assert f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc" in leaf["spec"]["dnsNames"]


def test_self_made_certificates_are_believed_by_the_api_server() -> None:
    documents = overlay("self-made")
    secret = one(documents, "Secret", "headgate-webhook-tls")
    configuration = one(documents, "MutatingWebhookConfiguration", "inferenceservices.headgate.dev")
    bundles = {webhook["clientConfig"]["caBundle"] for webhook in configuration["webhooks"]}
    assert bundles == {secret["data"]["ca.crt"]}
    root, leaf = (
        x509.load_pem_x509_certificate(base64.b64decode(secret["data"][name])) for name in ("ca.crt", "tls.crt")
    )
    leaf.verify_directly_issued_by(root)


GATED = [name for name in EXAMPLES if name not in {"any-server", "namespace"}]


@pytest.mark.parametrize("name", GATED)
def test_the_annotations_of_examples_are_accepted(name: str) -> None:
    service = example(name)[0]
    holder = service["spec"] if service["kind"] == "LLMInferenceService" else service["metadata"]
    assert injected.is_wanted(holder["labels"]["headgate.dev/inject"])
    fixed = {"routes": ["8080=http://127.0.0.1:18080"], "admin": ["0.0.0.0:8481"]}
    assert injected.read(holder["annotations"], fixed).warnings == []


def test_the_triggers_of_the_scaler_are_accepted_by_it() -> None:
    workload, scaled = example("sklearn-keda")
    (service,) = [
        each
        for each in overlay("standard-keda")
        if each["metadata"]["name"] == "headgate-scaler" and each["kind"] == "Service"
    ]
    host = f"headgate-scaler.{service['metadata']['namespace']}.svc:{service['spec']['ports'][0]['port']}"
    for one in scaled["spec"]["triggers"]:
        assert trigger.read("ml", one["metadata"]).source.name == f"{workload['metadata']['name']}-predictor"
        assert one["metadata"]["scalerAddress"] == host


def test_the_recipe_for_any_server_is_what_the_injector_leaves_alone() -> None:
    spec = example("any-server")[0]["spec"]["predictor"]
    predictor, gate = spec["containers"]
    assert (predictor["name"], gate["name"], "ports" in predictor) == (
        "kserve-container",
        "transformer-container",
        False,
    )
    settings = resolve(flags(gate), {})
    assert settings.routes[0].listen.port == gate["ports"][0]["containerPort"]
    assert spec["terminationGracePeriodSeconds"] > settings.drain_delay + settings.drain_timeout
    pod = {"metadata": {"labels": {"headgate.dev/inject": "true"}}, "spec": spec}
    assert inject(pod, CASES[0].defaults).verdict is Verdict.SKIPPED


def test_every_metric_that_a_manifest_reads_is_documented() -> None:
    known = set(re.findall(r"`(headgate_\w+)`", (ROOT / "agent/README.md").read_text()))
    adapted = re.findall(r"as: (headgate_\w+)", (ROOT / "k8s/monitoring/prometheus-adapter.yaml").read_text())
    for path in sorted((ROOT / "k8s/examples").glob("*.yaml")):
        assert set(re.findall(r"\bheadgate_\w+", path.read_text())) <= {*known, *adapted}, path


def test_the_readme_names_only_what_is_there() -> None:
    text = (ROOT / "k8s/README.md").read_text()
    for path in re.findall(r"\b(?:k8s/)?((?:base|components|overlays|examples|monitoring)/[\w./-]*\w)", text):
        assert (ROOT / "k8s" / path).exists() or path.endswith("secret.yaml"), path
    for name in OVERLAYS:
        assert f"overlays/{name}" in text
    for name in set(EXAMPLES) - {"namespace"}:
        assert f"examples/{name}.yaml" in text
