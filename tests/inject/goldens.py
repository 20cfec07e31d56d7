"""The pods before and after: `python -m tests.inject.goldens` shows every difference, with --write it keeps them.

`pods/` has pods as KServe's and Knative's controllers and KServe's own webhook leave them, `golden/` what becomes of
them. Names that end in `-container` are the same pods with the agent as an ordinary container, for Kubernetes before
1.29.
"""

import difflib
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jsonpatch
import yaml

from agent.inject.patch.inject import Decision, inject
from agent.inject.patch.sidecar import Defaults

HERE = Path(__file__).parent
IMAGE = "ghcr.io/headgate/headgate:test"
NATIVE = Defaults(IMAGE)
ORDINARY = Defaults(IMAGE, kind="container")
_ORDINARY = "-container"


class Case(NamedTuple):
    """A pod, the defaults it is injected with, and what is expected of it."""

    name: str
    source: str
    defaults: Defaults

    @property
    def before(self) -> dict[str, Any]:
        pod: dict[str, Any] = yaml.safe_load((HERE / "pods" / f"{self.source}.yaml").read_text())
        return pod

    @property
    def golden(self) -> Path:
        return HERE / "golden" / f"{self.name}.yaml"


def _cases() -> list[Case]:
    names = sorted(path.stem for path in (HERE / "pods").glob("*.yaml"))
    ordinary = [f"{name}{_ORDINARY}" for name in ("knative-sklearn", "standard-logger", "standard-sklearn")]
    return [Case(name, name, NATIVE) for name in names] + [
        Case(name, name.removesuffix(_ORDINARY), ORDINARY) for name in ordinary
    ]


CASES = _cases()


def applied(pod: dict[str, Any], decision: Decision) -> dict[str, Any]:
    """The pod after its patch, by an implementation of RFC 6902 that is not ours."""
    after: dict[str, Any] = jsonpatch.apply_patch(pod, decision.patch)
    return after


def text(value: object) -> str:
    """As it is kept and shown."""
    return str(yaml.safe_dump(value, width=110, sort_keys=True))


def outcome(case: Case) -> str:
    """What is kept of a case: the decision and the pod."""
    decision = inject(case.before, case.defaults)
    head = {"mode": decision.mode.value, "verdict": decision.verdict.value, "reason": decision.reason}
    return f"{text({**head, 'warnings': decision.warnings})}---\n{text(applied(case.before, decision))}"


def shown(case: Case) -> str:
    """The decision, and the difference between the pod before and after."""
    decision = inject(case.before, case.defaults)
    before, after = (text(pod).splitlines() for pod in (case.before, applied(case.before, decision)))
    lines = [f"=== {case.name}: {decision.mode}, {decision.verdict}: {decision.reason}"]
    lines += [f"    warning: {warning}" for warning in decision.warnings]
    lines += difflib.unified_diff(before, after, "before", "after", lineterm="", n=2)
    return "\n".join(lines)


def main() -> int:
    """Show, or write."""
    for case in CASES:
        if "--write" in sys.argv[1:]:
            case.golden.write_text(outcome(case))
        else:
            print(shown(case), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
