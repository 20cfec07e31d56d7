"""A headless Chromium, told what to do over its DevTools protocol."""

import asyncio
import base64
import itertools
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from .processes import Child

_START_S = 60.0
# Of one command, on a machine that is busy with other things.
_COMMAND_S = 30.0
_LISTENING = re.compile(r"^DevTools listening on (ws://\S+)$", re.MULTILINE)
# Without these it asks its maker for news, which is neither wanted nor to be had here.
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


class Page:
    """A tab. `requests` holds the URLs that it has asked for, `messages` what its console and its faults said."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.requests: list[str] = []
        self.messages: list[str] = []
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._session = ""
        # By the id of a navigation: whether its page has loaded. Asked of the page itself, an expression may meet the
        # document before, or one that has no element yet.
        self._loads: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def open(self) -> None:
        """Take a fresh tab. Reading must have begun."""
        target = await self.command("Target.createTarget", url="about:blank")
        attached = await self.command("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.command(f"{domain}.enable")
        await self.command("Page.setLifecycleEventsEnabled", enabled=True)

    async def command(self, method: str, **parameters: Any) -> Any:
        """The result of a command. Raises RuntimeError where the browser refuses it."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json(message)
        async with asyncio.timeout(_COMMAND_S):
            return await answer

    async def visit(
        self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False, phone: bool = False
    ) -> None:
        """Go there, in a window of this size, and return once the page has loaded. Raises RuntimeError."""
        await self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.command("Emulation.setEmulatedMedia", features=features)
        navigation = await self.command("Page.navigate", url=url)
        if "errorText" in navigation:
            raise RuntimeError(navigation["errorText"])
        async with asyncio.timeout(_COMMAND_S):
            await self._loads[navigation["loaderId"]].wait()

    async def run(self, script: str) -> Any:
        """The value of an expression in the page, awaited if it is a promise. Raises RuntimeError."""
        result = await self.command("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"]))
        return result["result"].get("value")

    async def until(self, condition: str) -> None:
        """Return once an expression holds. Raises TimeoutError."""
        async with asyncio.timeout(_COMMAND_S):
            while not await self.run(condition):  # noqa: ASYNC110 - the page has nothing to wait for
                await asyncio.sleep(0.05)

    async def picture(self) -> bytes:
        """The whole page as a PNG file."""
        shot = await self.command("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    async def read(self) -> None:
        """Take in what the browser says, until it ends."""
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                answer = self._waiting.pop(said["id"])
                if answer.done():
                    continue
                if "error" in said:
                    answer.set_exception(RuntimeError(said["error"]["message"]))
                else:
                    answer.set_result(said["result"])
            elif said["method"] == "Page.lifecycleEvent" and said["params"]["name"] == "load":
                self._loads[said["params"]["loaderId"]].set()
            elif said["method"] == "Network.requestWillBeSent":
                self.requests.append(said["params"]["request"]["url"])
            elif said["method"] in {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}:
                self.messages.append(json.dumps(said["params"]))


@asynccontextmanager
async def browsing(chromium: str, directory: Path) -> AsyncIterator[Page]:
    """A tab of a browser that knows nothing. Raises ProcessError."""
    argv = [chromium, *_FLAGS, f"--user-data-dir={directory / 'profile'}", "about:blank"]
    child = Child("chromium", argv, log=directory / "chromium.log", env={})
    try:
        await asyncio.to_thread(
            child.await_event, lambda: bool(_LISTENING.search(child.log.read_text())), "it listens", _START_S
        )
        address = _LISTENING.search(child.log.read_text())
        assert address is not None
        async with aiohttp.ClientSession() as session, session.ws_connect(address[1], max_msg_size=0) as socket:
            page = Page(socket)
            reading = asyncio.create_task(page.read())
            await page.open()
            yield page
            await socket.close()
            await reading
    finally:
        child.kill_family()
