"""The page for people in a real browser, in front of a model whose name is an attack."""

import asyncio
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from loadgen.schedule import Step

from .browser import Page, browsing
from .conftest import unavailable
from .h2server import program
from .processes import Agent, running_agent
from .waves import CAPACITY, offer, running_predictor

pytestmark = pytest.mark.contract

ATTACK = """<img src=x onerror="document.title='pwned'">'"&<script>document.title='pwned'"""
# Width, height, and whether it is a phone.
SIZES = {"desktop": (1280, 900, False), "phone": (390, 844, True)}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """An agent at twice its capacity for as long as the tests look at it, with the search for its limit on."""
    directory = tmp_path_factory.mktemp("status")
    flags = ("--limit", "auto", "--policy", "deadline", "--deadline", "1s")
    with ExitStack() as stack:
        url = stack.enter_context(running_predictor(directory, model=ATTACK))
        running = stack.enter_context(running_agent(directory, [url], *flags))
        enough = threading.Event()
        load = threading.Thread(target=lambda: asyncio.run(until(enough, running.address)))
        load.start()
        stack.callback(load.join)
        stack.callback(enough.set)
        yield running


async def until(enough: threading.Event, address: str) -> None:
    """Offer load until it is enough."""
    while not enough.is_set():
        await offer(address, [Step(2 * CAPACITY, 1.0)], 1, model=ATTACK)


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    chromium = program("chromium")
    if chromium is None:
        unavailable("chromium is not installed (apt-get install chromium)")
    async with browsing(str(chromium), tmp_path) as page:
        yield page


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG file."""
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


async def text(page: Page, selector: str) -> str:
    value = await page.run(f"document.querySelector({selector!r}).textContent")
    assert isinstance(value, str)
    return value


async def test_the_page_is_live_and_asks_nobody_else(page: Page, agent: Agent) -> None:
    url = f"http://{agent.admin}/status"
    await page.visit(url)
    await page.until("Number(document.documentElement.dataset.beats) >= 4")
    assert set(page.requests) == {url, f"{url}/events"}
    assert page.messages == []
    assert await text(page, "#state") == "serving"
    assert await text(page, "#linked") == "live"
    await page.until("parseFloat(document.getElementById('served').textContent) > 0")
    await page.until("document.getElementById('refused-note').textContent.startsWith('mostly ')")
    for chart in ("concurrency", "rates", "times"):
        await page.until(f"document.querySelectorAll('#{chart} path.line').length >= 2")
        assert "NaN" not in await page.run(f"document.querySelector('#{chart}').innerHTML")
    assert await page.run("document.querySelectorAll('#settings dt').length") > 20


async def test_a_models_name_is_text_whatever_it_is(page: Page, agent: Agent) -> None:
    await page.visit(f"http://{agent.admin}/status")
    await page.until("document.querySelectorAll('#models tr').length > 1")
    assert ATTACK in await page.run("[...document.querySelectorAll('#models .name')].map((each) => each.textContent)")
    assert await page.run("document.querySelectorAll('img').length") == 0
    assert await page.run("document.querySelectorAll('script').length") == 1
    assert "pwned" not in await page.run("document.title")
    # Even what would get into the page could not run: its policy allows the script that is there, and no other.
    await page.run("document.body.insertAdjacentHTML('beforeend', '<b onclick=\"document.title=1\" id=x>x</b>')")
    await page.run("document.getElementById('x').click()")
    assert await page.run("document.title") != "1"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dark", [False, True])
async def test_it_fits_every_screen(page: Page, agent: Agent, tmp_path: Path, size: str, dark: bool) -> None:
    width, height, is_phone = SIZES[size]
    await page.visit(f"http://{agent.admin}/status", width=width, height=height, dark=dark, phone=is_phone)
    await page.until("Number(document.documentElement.dataset.beats) >= 3")
    assert await page.run("document.documentElement.scrollWidth") == width, "nothing sticks out"
    assert await page.run("(table => table.scrollWidth <= table.clientWidth)(document.querySelector('.scroll'))")
    background = await page.run("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in background.removeprefix("rgb(").removesuffix(")").split(","))
    assert (brightness < 3 * 128) is dark
    picture = await page.picture()
    (tmp_path / f"{size}-{'dark' if dark else 'light'}.png").write_bytes(picture)
    assert size_of(picture)[0] == width


async def test_it_says_so_when_the_agent_is_gone(page: Page, tmp_path: Path) -> None:
    with running_predictor(tmp_path) as url, running_agent(tmp_path, [url]) as agent:
        await page.visit(f"http://{agent.admin}/status")
        await page.until("document.getElementById('state').textContent === 'serving'")
        assert "The limit is set to 16" in await text(page, "#quiet")
    await page.until("document.getElementById('state').textContent === 'no connection'")


async def test_who_has_the_token_sees_it_live(page: Page, tmp_path: Path) -> None:
    """The browser sends the password that it was given with what the page itself fetches, too."""
    (tmp_path / "token").write_text("s3cret")
    with (
        running_predictor(tmp_path) as url,
        running_agent(tmp_path, [url], "--admin-token-file", str(tmp_path / "token")) as agent,
    ):
        await page.visit(f"http://reader:s3cret@{agent.admin}/status")
        await page.until("Number(document.documentElement.dataset.beats) >= 2")
        assert await text(page, "#state") == "serving"
