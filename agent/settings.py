"""Every knob, once: flag, environment name, default, accepted range and help.

A setting comes from its flag, else from `HEADGATE_` + the flag in capitals, else from its default. All problems are
found before anything starts and are reported together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from agent import values
from agent.contradictions import contradictions
from agent.errors import SettingsError
from agent.knobs import Knob, declared, gather, knob
from agent.observe.accesslog import Mode
from agent.security import Security
from agent.security import contradictions as insecurities
from agent.values import AUTO, Listen, Page, Route

# What `--live-settings` may hold: settings that can change while requests are served.
LIVE = ("limit", "model_limits", "queue", "queue_bytes", "deadline", "model_deadlines")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Security):
    """The effective settings of `headgate serve`. Durations are seconds, sizes bytes."""

    routes: tuple[Route, ...] = knob(
        "route",
        None,
        values.route,
        "listen there and forward to that predictor; an http and an h2c upstream may share a port (repeatable)",
        form="LISTEN=UPSTREAM[,UPSTREAM]",
        repeat=True,
    )
    admin: Listen = knob(
        "admin", "0.0.0.0:8481", values.listen, "where /metrics, /readyz and the like are served", form="HOST:PORT"
    )
    limit: int | None = knob(
        "limit",
        "auto",
        values.limit,
        "how many requests the predictor may execute at once; auto searches for it",
        form="N|auto|none",
    )
    model_limits: tuple[tuple[str, int], ...] = knob(
        "model-limit",
        "",
        values.model_limit,
        "a lower limit for one model (repeatable)",
        form="NAME=N|auto",
        repeat=True,
    )
    queue: int = knob(
        "queue",
        "1000",
        values.number(0, 1_000_000),
        "how many requests may wait; more are refused at once",
        form="N",
    )
    queue_bytes: int = knob(
        "queue-bytes",
        "128MiB",
        values.size(1 << 16, 1 << 40),
        "how many bytes of waiting requests may be held in memory",
        form="SIZE",
    )
    queued_body: int = knob(
        "queued-body",
        "64KiB",
        values.size(1 << 10, 1 << 30),
        "how much of a waiting request's body is read; the rest stays in the client's socket",
        form="SIZE",
    )
    policy: str = knob(
        "policy",
        "deadline",
        values.choice("deadline", "fifo"),
        "refuse what is predicted to be late and serve by deadlines, or first in, first out",
        form="deadline|fifo",
    )
    deadline: float = knob(
        "deadline",
        "10s",
        values.duration(0.001, 86400),
        "how long a caller that does not say waits for its answer; with fifo, how long a request may wait for its slot",
        form="DUR",
    )
    model_deadlines: tuple[tuple[str, float], ...] = knob(
        "model-deadline", "", values.model_deadline, "the same for one model (repeatable)", form="NAME=DUR", repeat=True
    )
    deadline_header: str = knob(
        "deadline-header",
        "",
        values.field_name,
        "a header in which callers say how long they will wait: 250 (ms), 250ms or 2s",
        form="NAME",
    )
    priority_header: str = knob(
        "priority-header",
        "",
        values.field_name,
        "a header with the priority: 1 is served first, 0 is none",
        form="NAME",
    )
    tenant_header: str = knob(
        "tenant-header", "", values.field_name, "a header with the tenant: tenants that wait take turns", form="NAME"
    )
    v2_hints: tuple[str, ...] = knob(
        "v2-hints",
        "",
        values.names("timeout", "priority", "rows"),
        "what to heed of V2 requests themselves: the parameters timeout (microseconds) and priority, and the rows of "
        "the first input, as a measure of work",
        form="NAME,NAME",
    )
    load_page: bool = knob(
        "load-page",
        "on",
        lambda text: values.choice("on", "off")(text) == "on",
        "whether GET /.headgate/load on a data port tells the load, for scalers; off forwards that path like any other",
        form="on|off",
    )
    knative_metrics: Listen | None = knob(
        "knative-metrics",
        "",
        lambda text: values.listen(text) if text else None,
        "where Knative's autoscaler scrapes this pod, as in queue-proxy's place: 0.0.0.0:9090; not served if empty",
        form="HOST:PORT",
    )
    orca: str = knob(
        "orca",
        "off",
        values.choice("off", "asked", "always"),
        "whether answers to inference carry the load for load balancers (ORCA): to those who ask for it, or to all",
        form="off|asked|always",
    )
    timeout: float = knob(
        "timeout", "0", values.duration(0, 86400), "bound on a whole exchange, answer included; 0 is none", form="DUR"
    )
    response_timeout: float = knob(
        "response-timeout",
        "0",
        values.duration(0, 86400),
        "how long the predictor may take to begin its answer once it has the whole request; then 504; 0 is none",
        form="DUR",
    )
    overload_status: int = knob(
        "overload-status",
        "503",
        lambda text: int(values.choice("503", "429")(text)),
        "the status of a refusal for lack of room or time",
        form="503|429",
    )
    unknown_route: str = knob(
        "unknown-route",
        "bypass",
        values.choice("bypass", "admit"),
        "what a POST to a route that no protocol knows is: let through, or admitted like inference",
        form="bypass|admit",
    )
    retry_stale: bool = knob(
        "retry-stale",
        "false",
        values.switch,
        "send a request once more when a reused connection closes before any answer; the model may run it twice",
        form="",
    )
    head_timeout: float = knob(
        "head-timeout",
        "10s",
        values.duration(0.1, 3600),
        "how long a head may take to arrive; then 408",
        form="DUR",
    )
    idle_timeout: float = knob(
        "idle-timeout", "300s", values.duration(0.1, 86400), "how long a client's connection may be idle", form="DUR"
    )
    min_rate: int = knob(
        "min-rate",
        "1KiB",
        values.size(0, 1 << 30),
        "bytes a second that a client with a slot must send of its upload, or take of its answer; 0 is none",
        form="SIZE",
    )
    slow_grace: float = knob(
        "slow-grace",
        "30s",
        values.duration(0.1, 3600),
        "how far it may fall behind that rate, in waiting for it; then 408, or the end of its answer",
        form="DUR",
    )
    max_head: int = knob("max-head", "64KiB", values.size(1 << 10, 1 << 20), "the largest head; then 431", form="SIZE")
    max_connections: int = knob(
        "max-connections",
        "10000",
        values.number(1, 1_000_000),
        "how many client connections; further ones are closed",
        form="N",
    )
    ready_when: str = knob(
        "ready-when",
        "reachable",
        values.choice("reachable", "listening"),
        "when /readyz first says yes: once every upstream has accepted a connection, or as soon as the agent listens",
        form="reachable|listening",
    )
    ready_path: str = knob(
        "ready-path",
        "",
        values.target,
        "besides, a path that the http upstreams must have answered with 2xx, such as /v2/health/ready; none if empty",
        form="PATH",
    )
    startup_timeout: float = knob(
        "startup-timeout",
        "0",
        values.duration(0, 86400),
        "until how long after the start a request may wait for a predictor that has never been reachable, where that "
        "is longer than its --deadline; 0 is no longer",
        form="DUR",
    )
    drain_delay: float = knob(
        "drain-delay",
        "5s",
        values.duration(0, 3600),
        "how long to go on accepting after SIGTERM, while endpoints are still being removed",
        form="DUR",
    )
    drain_timeout: float = knob(
        "drain-timeout",
        "20s",
        values.duration(0, 86400),
        "how long running requests may take after that",
        form="DUR",
    )
    live_settings: str = knob(
        "live-settings",
        "",
        values.text_file,
        "a file of lines NAME=VALUE that is read again when it changes, and overrides limit, model-limit, queue, "
        "queue-bytes, deadline and model-deadline",
        form="FILE",
    )
    log_level: str = knob(
        "log-level",
        "info",
        values.choice("debug", "info", "warning", "error"),
        "the least severe messages to log",
        form="LEVEL",
    )
    access_log: Mode = knob(
        "access-log",
        "errors",
        lambda text: Mode(values.choice(*Mode)(text)),
        "which exchanges to log on standard output",
        form="off|errors|all",
    )
    merge_metrics: tuple[Page, ...] = knob(
        "merge-metrics",
        "",
        values.page,
        "show the metrics of this page on /metrics too (repeatable)",
        form="URL",
        repeat=True,
    )

    def shown(self) -> dict[str, object]:
        """As people write them."""
        texts = asdict(self) | {
            "routes": [f"{route.listen}={route.upstream}" for route in self.routes],
            "admin": str(self.admin),
            "knative_metrics": self.knative_metrics and str(self.knative_metrics),
            "limit": "auto" if self.limit == AUTO else self.limit,
            "model_limits": {name: "auto" if bound == AUTO else bound for name, bound in self.model_limits},
            "model_deadlines": dict(self.model_deadlines),
            "merge_metrics": [str(page) for page in self.merge_metrics],
            "tls_client_sans": [":".join(name) for name in self.tls_client_sans],
        }
        return {each.name: texts[each.name] for each in knobs()}

    @property
    def listens(self) -> list[Listen]:
        """Every address to listen on: those of the routes, the admin port's, and Knative's if there is one."""
        return [*(route.listen for route in self.routes), self.admin, *filter(None, [self.knative_metrics])]


def knobs(of: type = Settings) -> list[Knob]:
    """All settings of a command in the order of their declaration; `of` is a dataclass of `knob` fields."""
    return declared(of)


def resolve(flags: Mapping[str, Sequence[str]], env: Mapping[str, str], *, look: bool = True) -> Settings:
    """Build the settings. `flags` holds the texts given for each setting's name, `env` the environment.

    Unless `look`, files of certificates are not opened: they may be being replaced. Raises SettingsError with every
    problem found.
    """
    problems: list[str] = []
    path = [env.get("HEADGATE_LIVE_SETTINGS", ""), *flags.get("live_settings", ())][-1]
    live = _read_live(path, problems) if path else {}
    given, wrong = gather(Settings, flags, env, live, path)
    problems += wrong + contradictions(given) + insecurities(given, look=look)
    if problems:
        raise SettingsError(problems)
    return Settings(**given)


def _read_live(path: str, problems: list[str]) -> dict[str, list[str]]:
    """The texts for each setting's name in the file of `--live-settings`; a repeatable one stands on several lines."""
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, ValueError):
        return {}  # its parser says so
    names = {each.flag[2:]: each.name for each in knobs() if each.name in LIVE}
    found: dict[str, list[str]] = {}
    for line in map(str.strip, lines):
        if line and not line.startswith("#"):
            flag, _, text = line.partition("=")
            if flag.strip() in names:
                found.setdefault(names[flag.strip()], []).append(text.strip())
            else:
                problems.append(f"{path}: {line!r} is not accepted: expected NAME=VALUE with one of {', '.join(names)}")
    return found
