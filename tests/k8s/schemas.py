"""The published schemas, cut to what is used here: `python -m tests.k8s.schemas` makes `schemas.json` anew.

Of each type only the fields stay that our documents use: a field that is not there is either unknown to the API or
new in our documents, and then the cut must be made again. Sources: Kubernetes' OpenAPI v3 and the CRDs of KEDA,
cert-manager and the Prometheus operator, from their Go modules (needs Go); KServe's types from its Python package,
where a generator has put them.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from tests.contract.install import KSERVE
from tests.inject.goldens import CASES, applied, inject

from . import rendering
from .rendering import Document

FILE = Path(__file__).parent / "schemas.json"
MODULES = {
    "k8s.io/kubernetes": "v1.34.4",
    "github.com/kedacore/keda/v2": "v2.21.0",
    "github.com/cert-manager/cert-manager": "v1.21.2",
    "github.com/prometheus-operator/prometheus-operator": "v0.85.0",
}
_APIS = ("api__v1", *(f"apis__{name}" for name in ("apps__v1", "autoscaling__v2", "networking.k8s.io__v1")))
_APIS += tuple(f"apis__{name}" for name in ("policy__v1", "rbac.authorization.k8s.io__v1"))
_APIS += ("apis__admissionregistration.k8s.io__v1",)
_KEDA, _CERT_MANAGER = "github.com/kedacore/keda/v2", "github.com/cert-manager/cert-manager"
_PROMETHEUS = "github.com/prometheus-operator/prometheus-operator"
_CRDS = (
    (_KEDA, "config/crd/bases/keda.sh_scaledobjects.yaml"),
    (_CERT_MANAGER, "deploy/crds/cert-manager.io_certificates.yaml"),
    (_CERT_MANAGER, "deploy/crds/cert-manager.io_issuers.yaml"),
    (_PROMETHEUS, "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml"),
    (_PROMETHEUS, "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"),
)
_KSERVE_KINDS = {
    "serving.kserve.io/v1beta1/InferenceService": "V1beta1InferenceService",
    "serving.kserve.io/v1alpha2/LLMInferenceService": "V1alpha2LLMInferenceService",
}
# KServe's package ends at LLMInferenceService.spec; this is what its types of v1alpha2 say of the fields used here.
_LLM_MAP = {"type": "object", "additionalProperties": {"type": "string"}}
_LLM_EMPTY = {"type": "object", "properties": {}}
_LLM_SPEC = {
    "type": "object",
    "properties": {
        "model": {
            "type": "object",
            "properties": {"uri": {"type": "string"}, "name": {"type": "string"}},
            "required": ["uri"],
        },
        "replicas": {"type": "integer", "minimum": 0},
        "labels": _LLM_MAP,
        "annotations": _LLM_MAP,
        "router": {"type": "object", "properties": dict.fromkeys(("route", "gateway", "scheduler"), _LLM_EMPTY)},
        "template": {"$ref": "#/io.k8s.api.core.v1.PodSpec"},
    },
    "required": ["model"],
}
# What is kept of a schema beside its structure.
_KEPT = ("type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "required", "oneOf")
_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
Schema = dict[str, Any]


def kind_of(document: Document) -> str:
    """Group, version and kind, as the schemas are called."""
    return f"{document['apiVersion']}/{document['kind']}"


def documents() -> Iterator[Document]:
    """Everything that must be valid: overlays, examples, and pods before and after."""
    program = next(iter(rendering.commands()))
    for name in (*rendering.OVERLAYS, "examples", "monitoring"):
        yield from rendering.overlay(program, name)
    for name in rendering.EXAMPLES:
        yield from rendering.example(name)
    for case in CASES:
        yield case.before
        yield applied(case.before, inject(case.before, case.defaults))


def problems(document: Document) -> list[str]:
    """What is wrong with a document, one line each."""
    schemas = _load()
    kind = kind_of(document)
    if kind not in schemas["kinds"]:
        return [f"{kind} has no schema: run `python -m tests.k8s.schemas`"]
    validator = _validator(kind)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


@cache
def _validator(kind: str) -> Draft202012Validator:
    schemas = _load()
    return Draft202012Validator({"$ref": f"#/definitions/{schemas['kinds'][kind]}", **schemas})


@cache
def _load() -> Schema:
    loaded: Schema = json.loads(FILE.read_text())
    return loaded


class Cutter:
    """Definitions by name, and which of their properties documents use."""

    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions
        self._used: dict[str, set[str]] = {}

    def visit(self, schema: Schema, place: str, value: object) -> None:
        """Note what this value uses; `place` names the schema."""
        schema, place = self._resolved(schema, place)
        if isinstance(value, dict):
            for name, one in value.items():
                known = schema.get("properties", {}).get(name)
                if known is not None:
                    self._used.setdefault(place, set()).add(name)
                    self.visit(known, f"{place}/{name}", one)
                elif isinstance(schema.get("additionalProperties"), dict):
                    self.visit(schema["additionalProperties"], f"{place}/*", one)
        elif isinstance(value, list):
            for one in value:
                self.visit(schema.get("items", {}), f"{place}/[]", one)
        self._used.setdefault(place, set())

    def cut(self) -> dict[str, Schema]:
        """The definitions that were reached, with what was used of them."""
        return {
            name: self._cut(self._definitions[name], name) for name in sorted(self._used) if name in self._definitions
        }

    def _cut(self, schema: Schema, place: str) -> Schema:
        if reference := _reference(schema):
            return {"$ref": f"#/definitions/{reference}"} if reference in self._definitions else {}
        made = {name: schema[name] for name in _KEPT if name in schema}
        if schema.get("x-kubernetes-int-or-string"):
            made = {"type": ["integer", "string"]}
        if "properties" in schema:
            used = sorted(self._used.get(place, ()))
            made["properties"] = {name: self._cut(schema["properties"][name], f"{place}/{name}") for name in used}
            if not schema.get("x-kubernetes-preserve-unknown-fields"):
                made["additionalProperties"] = False
        elif isinstance(schema.get("additionalProperties"), dict):
            made["additionalProperties"] = self._cut(schema["additionalProperties"], f"{place}/*")
        if "items" in schema:
            made["items"] = self._cut(schema["items"], f"{place}/[]")
        return made

    def _resolved(self, schema: Schema, place: str) -> tuple[Schema, str]:
        reference = _reference(schema)
        return (self._definitions.get(reference, {}), reference) if reference else (schema, place)


def _reference(schema: Schema) -> str:
    """The definition that a schema stands for; OpenAPI v3 wraps it in allOf to add a default."""
    inner = schema["allOf"][0] if len(schema.get("allOf", ())) == 1 else schema
    return str(inner.get("$ref", "")).rpartition("/")[2]


def _module(name: str) -> Path:
    """A Go module's folder."""
    done = subprocess.run(
        ["go", "mod", "download", "-json", f"{name}@{MODULES[name]}"], capture_output=True, check=True, cwd="/"
    )
    return Path(json.loads(done.stdout)["Dir"])


def _published() -> tuple[dict[str, Schema], dict[str, str]]:
    """All definitions, and the one of each kind."""
    definitions: dict[str, Schema] = {}
    kinds: dict[str, str] = {}
    folder = _module("k8s.io/kubernetes") / "api/openapi-spec/v3"
    for api in _APIS:
        definitions |= json.loads((folder / f"{api}_openapi.json").read_text())["components"]["schemas"]
    for name, schema in definitions.items():
        for known in schema.get("x-kubernetes-group-version-kind", ()):
            group = f"{known['group']}/" if known["group"] else ""
            kinds[f"{group}{known['version']}/{known['kind']}"] = name
    for module, path in _CRDS:
        crd = yaml.safe_load((_module(module) / path).read_text())["spec"]
        for version in crd["versions"]:
            name = f"{crd['group']}.{version['name']}.{crd['names']['kind']}"
            schema = version["schema"]["openAPIV3Schema"]
            schema["properties"]["metadata"] = {"$ref": f"#/{_META}"}
            definitions[name] = schema
            kinds[f"{crd['group']}/{version['name']}/{crd['names']['kind']}"] = name
    definitions |= _kserve(set(definitions))
    return definitions, kinds | _KSERVE_KINDS


_MODELS = """
import json, kserve.models as models
known = {n: c for n, c in vars(models).items() if hasattr(c, "openapi_types")}
print(json.dumps({n: {c.attribute_map[a]: t for a, t in c.openapi_types.items()} for n, c in known.items()}))
"""


def _kserve(others: set[str]) -> dict[str, Schema]:
    done = subprocess.run([KSERVE.python(), "-c", _MODELS], capture_output=True, check=True)
    models = json.loads(done.stdout)
    made: dict[str, Schema] = {
        name: {"type": "object", "properties": {field: _typed(text, models, others) for field, text in fields.items()}}
        for name, fields in models.items()
    }
    made["V1alpha2LLMInferenceService"]["properties"]["spec"] = _LLM_SPEC
    return made


def _typed(text: str, models: dict[str, Any], others: set[str]) -> Schema:
    """A schema for a type as the generator of KServe's package writes it."""
    if text.startswith("list["):
        return {"type": "array", "items": _typed(text[5:-1], models, others)}
    if text.startswith("dict("):
        return {"type": "object", "additionalProperties": _typed(text[5:-1].partition(", ")[2], models, others)}
    plain = {"str": "string", "int": "integer", "bool": "boolean", "float": "number"}
    if text in plain:
        return {"type": plain[text]}
    if text in models:
        return {"$ref": f"#/{text}"}
    candidates = (_META, f"io.k8s.api.core.v1.{text.removeprefix('V1')}")
    name = candidates[0] if text == "V1ObjectMeta" else candidates[1]
    return {"$ref": f"#/{name}"} if name in others else {}


def main() -> int:
    """Write the cut."""
    definitions, kinds = _published()
    cutter = Cutter(definitions)
    used = {}
    for document in documents():
        kind = kind_of(document)
        used[kind] = kinds[kind]
        cutter.visit({"$ref": f"#/{kinds[kind]}"}, "", document)
    made = {"sources": {**MODULES, "kserve": KSERVE.version}, "kinds": dict(sorted(used.items()))}
    FILE.write_text(json.dumps({**made, "definitions": cutter.cut()}, indent=1) + "\n")
    print(f"{FILE}: {FILE.stat().st_size} bytes, {len(used)} kinds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
