"""Settings that change while requests are served: read again on SIGHUP, and when their file has changed."""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from agent import logs
from agent.errors import SettingsError
from agent.files import stamp
from agent.policy.admission import Admission, Terms
from agent.policy.deadline import DeadlineAdmission
from agent.policy.fifo import FifoAdmission
from agent.policy.knee import START, Knee
from agent.settings import LIVE, Settings
from agent.values import AUTO

if TYPE_CHECKING:
    from agent.net.server import Server

# How often the file is looked at. The kubelet itself takes up to a minute to bring a changed ConfigMap.
_LOOK_S = 1.0


def terms_of(settings: Settings) -> Terms:
    """What admission goes by."""
    bounds = dict(settings.model_limits)
    searched = {name for name, bound in bounds.items() if bound == AUTO}
    return Terms(
        limit=settings.limit,
        model_limits={name: bound for name, bound in bounds.items() if bound != AUTO},
        queue_limit=settings.queue,
        queue_bytes=settings.queue_bytes,
        # The bound on the whole exchange holds while it waits, too.
        patience=min(settings.deadline, settings.timeout or settings.deadline),
        model_patience=dict(settings.model_deadlines),
        searched=frozenset(searched | {""} if settings.limit == AUTO else searched),
    )


def admission_of(settings: Settings) -> Admission[Any]:
    """The gate that the settings ask for."""
    terms = terms_of(settings)
    if settings.policy == "fifo":
        return FifoAdmission(
            limit=terms.limit,
            model_limits=terms.model_limits,
            queue_limit=terms.queue_limit,
            queue_bytes=terms.queue_bytes,
            patience=terms.patience,
        )
    return DeadlineAdmission(
        limit=terms.limit,
        model_limits=terms.model_limits,
        queue_limit=terms.queue_limit,
        queue_bytes=terms.queue_bytes,
        patience=terms.patience,
        model_patience=terms.model_patience,
        fair=bool(settings.tenant_header),
        search=Knee(START) if "" in terms.searched else None,
        searches={name: Knee(START) for name in terms.searched if name},
    )


class LiveSettings:
    """Looks after the file of `--live-settings`. `resolve` builds the settings anew, and raises SettingsError."""

    def __init__(self, server: "Server", resolve: Callable[[], Settings]) -> None:
        self._server = server
        self._resolve = resolve
        self._loop = asyncio.get_running_loop()
        self._seen = stamp(server.settings.live_settings)
        self._timer: asyncio.TimerHandle | None = None
        if server.settings.live_settings:
            self._timer = self._loop.call_later(_LOOK_S, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def reload(self) -> None:
        """Take what has changed over. What is not accepted is logged, and all stays as it was."""
        server, before = self._server, self._server.settings
        self._seen = stamp(server.settings.live_settings)
        try:
            settings = self._resolve()
        except SettingsError as error:
            logs.event("settings rejected", level=40, problems=error.problems)
            return
        changed = {name: value for name in LIVE if (value := getattr(settings, name)) != getattr(before, name)}
        if changed:
            server.settings = settings
            now = monotonic()
            server.gate.dispatch(server.admission.adopt(terms_of(settings), now), now)
            server.gate.shared.flush()
        logs.event("settings", changed=changed)

    def _look(self) -> None:
        self._timer = self._loop.call_later(_LOOK_S, self._look)
        if stamp(self._server.settings.live_settings) != self._seen:
            self.reload()
