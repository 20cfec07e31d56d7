"""What the webhook asks the API server: its version, once, at the start."""

import re
import ssl
from collections.abc import Mapping
from pathlib import Path

import aiohttp

# Where the kubelet puts a pod's credentials.
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# Native sidecars are on by default from here on (KEP-753).
_NATIVE_FROM = (1, 29)
_PATIENCE_S = 5.0


class ClusterError(Exception):
    """The version could not be learned; the message says why."""


async def has_native_sidecars(env: Mapping[str, str], account: Path = ACCOUNT) -> bool:
    """Whether this cluster runs init containers with `restartPolicy: Always`.

    Every service account may read /version (the role system:public-info-viewer). Raises ClusterError.
    """
    host, port = env.get("KUBERNETES_SERVICE_HOST"), env.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ClusterError("KUBERNETES_SERVICE_HOST is not set: this is no pod")
    address = f"[{host}]" if ":" in host else host
    try:
        context = ssl.create_default_context(cafile=account / "ca.crt")
        headers = {"Authorization": f"Bearer {(account / 'token').read_text().strip()}"}
        timeout = aiohttp.ClientTimeout(total=_PATIENCE_S)
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.get(f"https://{address}:{port}/version", ssl=context, raise_for_status=True) as answer,
        ):
            version = await answer.json(content_type=None)
    except (TimeoutError, OSError, ValueError, aiohttp.ClientError) as error:
        raise ClusterError(f"{type(error).__name__}: {error}") from error
    # Providers write "29+".
    numbers = [re.match(r"[0-9]+", str(version.get(part))) for part in ("major", "minor")]
    if numbers[0] is None or numbers[1] is None:
        raise ClusterError(f"the API server's version is {version!r}")
    return (int(numbers[0][0]), int(numbers[1][0])) >= _NATIVE_FROM
