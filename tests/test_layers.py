"""The architecture, checked: who may import whom, what stays pure, and how long anything may get."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STDLIB = sys.stdlib_module_names

LAYERS = {f"agent.{name}" for name in ("errors", "values", "files", "certificates", "security", "settings", "logs")}
LAYERS |= {"agent.wire", "agent.policy", "agent.observe"}
LAYERS |= {"agent.scale.demand", "agent.scale.orca", "agent.scale.page", "agent.scale.stat"}

# Package or module -> what it may import beside the standard library and itself; the first match counts. `agent` stands
# for the package's own few lines, which hold the version.
ALLOWED: dict[str, set[str]] = {
    "agent.errors": set(),
    "agent.values": set(),
    "agent.logs": set(),
    "agent.knobs": set(),
    "agent.files": {"agent.errors"},
    "agent.certificates": {"agent.errors", "agent.files"},
    "agent.security": {"agent.certificates", "agent.errors", "agent.files", "agent.knobs", "agent.values"},
    "agent.__main__": {"agent.cli"},
    "agent.cli": {
        "agent",
        "agent.errors",
        "agent.knobs",
        "agent.settings",
        "agent.values",
        "agent.logs",
        "agent.net.server",
        "agent.scale.settings",
        "agent.scale.scaler",
        "agent.demo",
        "agent.inject",
        "uvloop",
    },
    "agent.contradictions": {"agent.values"},
    "agent.settings": {
        "agent.contradictions",
        "agent.errors",
        "agent.knobs",
        "agent.security",
        "agent.values",
        "agent.observe.accesslog",
    },
    "agent.wire": {"agent.errors", "hpack", "httptools"},
    "agent.policy": {"agent.errors"},
    "agent.observe": {"agent.errors", "agent.policy"},
    "agent.scale.demand": {"agent.errors", "agent.observe", "agent.policy"},
    "agent.scale.page": {"agent.scale.demand", "agent.observe", "agent.policy"},
    "agent.scale.settings": {
        "agent.certificates",
        "agent.errors",
        "agent.knobs",
        "agent.security",
        "agent.settings",
        "agent.values",
    },
    "agent.scale.ledger": set(),
    "agent.scale.orca": {"agent.scale.page"},
    "agent.scale.stat": {"agent.scale.demand"},
    "agent.scale.trigger": {"agent.scale.demand", "agent.scale.page", "agent.values"},
    "agent.scale.access": {"agent.certificates", "agent.errors", "agent.files", "agent.logs", "agent.security"},
    "agent.scale": {
        "agent",
        "agent.certificates",
        "agent.errors",
        "agent.files",
        "agent.logs",
        "aiohttp",
        "grpc",
        "protos",
    },
    "agent.net.server": {"agent", "agent.net", "agent.admin", "agent.scale.knative", *LAYERS},
    "agent.net": LAYERS,
    "agent.admin": {"agent", "agent.net", "aiohttp", "grpc", "protos", *LAYERS},
    "agent.inject.patch": {"agent.errors", "agent.knobs", "agent.settings", "agent.values"},
    "agent.inject": {
        "agent",
        "agent.certificates",
        "agent.errors",
        "agent.files",
        "agent.knobs",
        "agent.logs",
        "agent.settings",
        "agent.values",
        "aiohttp",
        "cryptography",
        "prometheus_client",
        "uvloop",
    },
    "agent.demo": {"agent", "aiohttp", "grpc", "loadgen", "prometheus_client", "protos", "rich", "uvloop", *LAYERS},
    "loadgen.answers": {"google", "loadgen", "protos"},
    "loadgen.h2": {"loadgen", "hpack"},
    "loadgen.hdr": {"loadgen", "hdrh"},
    "loadgen.history": {"loadgen", "sqlalchemy"},
    "loadgen.live": {"loadgen", "rich"},
    "loadgen.stub": {"loadgen", "hpack", "protos", "uvloop"},
    "loadgen": {"httptools", "protos", "uvloop"},
    "protos": {"google.protobuf", "grpc_tools"},
}

PURE = (
    "agent.wire",
    "agent.policy",
    "agent.observe",
    "agent.scale.demand",
    "agent.scale.ledger",
    "agent.scale.orca",
    "agent.scale.page",
    "agent.scale.stat",
    "agent.scale.trigger",
    "agent.inject.patch",
)
IMPURE = {"asyncio", "socket", "selectors", "threading", "time", "logging"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(*packages: str) -> dict[str, Path]:
    paths = [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]
    return {name_of(path): path for path in paths if "__pycache__" not in path.parts and "_pb2" not in path.name}


PRODUCT = modules("agent", "loadgen", "protos")
EVERYTHING = modules("agent", "loadgen", "protos", "tests")


def is_inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def imports(path: Path) -> Iterator[str]:
    """Every imported module, with `from a import b` told as a.b where that is a module of ours."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in EVERYTHING else str(node.module)


def is_allowed(importer: str, imported: str) -> bool:
    rule = next((rule for rule in ALLOWED if is_inside(importer, rule)), "")
    assert rule, f"a new part of the agent needs a rule: {importer}"
    if imported == "agent":
        return imported in ALLOWED[rule]
    allowed = {rule, *ALLOWED[rule]} - {"agent"}
    return imported.partition(".")[0] in STDLIB or any(is_inside(imported, name) for name in allowed)


def test_the_package_itself_imports_nothing() -> None:
    assert not list(imports(PRODUCT["agent"]))


@pytest.mark.parametrize("name", [name for name in PRODUCT if name != "agent"])
def test_imports_go_one_way(name: str) -> None:
    forbidden = sorted({imported for imported in imports(PRODUCT[name]) if not is_allowed(name, imported)})
    assert not forbidden, f"{name} may not import {', '.join(forbidden)}"


def test_the_rules_themselves_refuse_what_they_should() -> None:
    for importer, imported in [
        ("agent.wire.head", "agent.policy.usage"),
        ("agent.policy.usage", "agent.wire.head"),
        ("agent.policy.usage", "agent"),
        ("agent.observe.hooks", "agent.net.server"),
        ("agent.net.exchange", "agent.admin.app"),
        ("agent.net.exchange", "uvloop"),
        ("agent.net.exchange", "grpc"),
        ("agent.wire.head", "protos.open_inference_pb2"),
        ("agent.wire.http2", "h2"),
        ("agent.policy.usage", "hpack"),
        ("agent.net.server", "agent.demo.main"),
        ("agent.net.server", "agent.scale.scaler"),
        ("agent.net.exchange", "agent.scale.knative"),
        ("agent.scale.demand", "agent.net.gate"),
        ("agent.scale.page", "aiohttp"),
        ("agent.scale.scaler", "agent.net.server"),
        ("agent.admin.app", "agent.demo.main"),
        ("agent.admin.app", "rich"),
        ("agent.settings", "agent.net.server"),
        ("agent.contradictions", "agent.settings"),
        ("agent.inject.patch.inject", "agent.inject.review"),
        ("agent.inject.patch.inject", "aiohttp"),
        ("agent.inject.webhook", "agent.net.server"),
        ("agent.net.server", "agent.inject.patch.inject"),
        ("agent.errors", "agent.values"),
        ("agent.cli", "agent.wire.head"),
        ("loadgen.cli", "agent.errors"),
        ("loadgen.cli", "aiohttp"),
        ("loadgen.grpc_client", "grpc"),
        ("loadgen.h2", "h2"),
        ("loadgen.http_client", "hpack"),
        ("loadgen.session", "sqlalchemy"),
        ("loadgen.report", "rich"),
        ("protos.pool", "agent.errors"),
    ]:
        assert not is_allowed(importer, imported), (importer, imported)


def test_the_admin_pages_are_imported_when_they_are_needed() -> None:
    tree = ast.parse(PRODUCT["agent.net.server"].read_text())
    guarded = [node for node in tree.body if isinstance(node, ast.If)]
    assert all(ast.unparse(node.test) == "TYPE_CHECKING" for node in guarded)
    eager = [
        node
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("agent.admin", "agent.scale.knative"))
    ]
    assert not eager


@pytest.mark.parametrize("name", [name for name in PRODUCT if any(is_inside(name, pure) for pure in PURE)])
def test_a_pure_module_names_no_loop_socket_clock_or_log(name: str) -> None:
    assert not {imported.partition(".")[0] for imported in imports(PRODUCT[name])} & IMPURE


def loaded_by(*names: str) -> set[str]:
    """The modules that a fresh interpreter has after importing these."""
    code = f"import sys{''.join(f', {name}' for name in names)}; print(*sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
    )
    return set(ended.stdout.split())


def test_importing_the_pure_layers_loads_no_loop_socket_thread_or_log() -> None:
    # hpack imports logging, and with it threads and the clock; nothing may come on top of what the libraries load.
    libraries = loaded_by("hpack", "httptools")
    pure = [name for name in PRODUCT if any(is_inside(name, package) for package in PURE)]
    heavy = {"asyncio", "socket", "_socket", "selectors", "concurrent.futures", "uvloop", "aiohttp"}
    assert not libraries & heavy
    assert not (loaded_by(*pure) - libraries) & (IMPURE | heavy)


def test_the_command_line_loads_nothing_heavy() -> None:
    loaded = loaded_by("agent.cli") - loaded_by()
    assert not loaded & {"aiohttp", "grpc", "rich", "uvloop", "asyncio", "prometheus_client", "httptools"}


LINES = {"agent.wire.connection": 600}
FUNCTION_LINES = 50


@pytest.mark.parametrize("package", ["agent", "loadgen", "tests"])
def test_modules_stay_short(package: str) -> None:
    bound = 500 if package == "tests" else 400
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules(package).items()}
    assert not {name: lines for name, lines in lengths.items() if lines > LINES.get(name, bound)}


@pytest.mark.parametrize("package", ["agent", "loadgen", "tests"])
def test_functions_stay_short(package: str) -> None:
    long = {
        f"{name}.{node.name}": lines
        for name, path in modules(package).items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES
    }
    assert not long


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    drawers = {"utils", "util", "helpers", "common", "misc"}
    assert not [name for name in EVERYTHING if name.rpartition(".")[2] in drawers]
