"""The page, in a real browser."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from asynccache.testing.provider import SimulatedProvider
from tests.proxy.proxies import Served, listed, proxied
from tests.servers import programs

MASTER = "sk-master-2718-2718-2718"
KEY = "sk-team-a-4711-4711-4711"
PATIENCE = 20_000  # milliseconds
EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}

expect.set_options(timeout=PATIENCE)


class Tab:
    """A page, what it asked for, and what it complained of."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self._heard(message.type, message.text))

    def _heard(self, kind: str, text: str) -> None:
        if kind == "error" and "401" not in text and "403" not in text:
            self.complaints.append(text)

    def text(self, name: str) -> Any:
        return self.page.locator(f"#{name}")


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        # Without its sandbox, which wants rights that a container seldom has: it loads nothing but our own page.
        running = await playwright.chromium.launch(executable_path=programs.chromium(), args=["--no-sandbox"])
        yield running
        await running.close()


@pytest.fixture
async def served(provider: SimulatedProvider) -> AsyncIterator[Served]:
    """Without any key, on this machine."""
    config = {
        "model_list": listed(provider, gpt_4o="openai/gpt-4o", **{"ft:*": "openai/ft:*"}),
        "telemetry": {"prices": {"gpt-4o": {"input": 2500, "output": 10_000}}},
    }
    async with proxied(config) as proxy:
        yield proxy


@pytest.fixture
async def locked(provider: SimulatedProvider) -> AsyncIterator[Served]:
    keys = [{"key": KEY, "tenant": "team-a"}]
    config = {"model_list": listed(provider, gpt_4o="openai/gpt-4o"), "proxy": {"api_keys": keys, "master_key": MASTER}}
    async with proxied(config) as proxy:
        yield proxy


async def opened(browser: Browser, served: Served, **options: Any) -> Tab:
    context: BrowserContext = await browser.new_context(viewport=options.pop("viewport", WIDE), **options)
    tab = Tab(await context.new_page())
    await tab.page.goto(f"{served.origin}/ui")
    return tab


async def test_it_shows_what_happened_and_goes_on_by_itself(browser: Browser, served: Served) -> None:
    for _ in range(4):
        await served.chat()
    await served.chat(temperature=0.7)
    tab = await opened(browser, served)
    await expect(tab.text("ratio")).to_have_text("60.0 %")
    await expect(tab.text("state")).to_have_text("live")
    await expect(tab.text("saved")).to_contain_text("$")
    await expect(tab.text("fast")).to_contain_text("s")
    await expect(tab.text("tiers")).to_contain_text("memory")
    await expect(tab.text("tiers")).to_contain_text("in this process")
    first = tab.page.locator("#misses > li").first
    await expect(first).to_contain_text("nothing is kept under this key")
    await expect(first.locator(".diff")).to_contain_text("temperature")
    entries = tab.page.locator("#entries tr")
    await expect(entries).to_have_count(2)
    await expect(entries.nth(1)).to_contain_text("gpt-4o")
    for _ in range(5):
        await served.chat()
    await expect(tab.text("ratio")).to_have_text("80.0 %")
    assert await tab.page.locator("#chart rect").count() >= 1
    assert tab.complaints == []


async def test_before_the_first_call(browser: Browser, served: Served) -> None:
    tab = await opened(browser, served)
    await expect(tab.text("ratio-note")).to_have_text("no call yet")
    await expect(tab.text("misses")).to_contain_text("No miss yet")
    await expect(tab.text("tenants")).to_contain_text("None")
    assert tab.complaints == []


async def test_it_asks_nobody_but_this_proxy_and_runs_nothing_foreign(browser: Browser, served: Served) -> None:
    tab = await opened(browser, served)
    await expect(tab.text("state")).to_have_text("live")
    assert {url.removeprefix(served.origin) for url in tab.asked} == {
        *("/ui", "/ui/style.css", "/ui/script.js", "/ui/icon.svg", "/cache/stats")
    }
    head = (await served.client.get("/ui")).headers
    assert "default-src 'none'" in head["content-security-policy"]
    assert "unsafe" not in head["content-security-policy"]
    tried = await tab.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "document.title = 'owned'";
            document.body.append(script);
            return document.title;
        }"""
    )
    assert tried == "asynccache"
    assert await tab.page.context.cookies() == []


async def test_what_callers_send_is_shown_as_text(browser: Browser, served: Served) -> None:
    """A name of a field, a model: an attacker who may call could write anything there."""
    for value in (1, 2):
        await served.chat(**{EVIL: value})
    await served.chat(**{EVIL: 2})
    tab = await opened(browser, served)
    await expect(tab.text("misses")).to_contain_text("onerror")
    assert await tab.page.title() == "asynccache"
    assert await tab.page.locator("#misses img, #misses script").count() == 0
    assert tab.complaints == []


async def test_no_prompt_is_on_the_page(browser: Browser, served: Served) -> None:
    for number in (1, 1, 2):
        await served.chat(messages=[{"role": "user", "content": f"Zanzibar {number}"}])
    tab = await opened(browser, served)
    await expect(tab.page.locator("#misses .diff").first).to_contain_text("messages[0].content")
    assert "Zanzibar" not in await tab.page.content()


async def test_with_a_master_key_it_asks_for_it_first(browser: Browser, locked: Served) -> None:
    await locked.chat({"authorization": f"Bearer {KEY}"})
    tab = await opened(browser, locked)
    page = tab.page
    await expect(tab.text("login")).to_be_visible()
    await expect(tab.text("main")).to_be_hidden()
    for wrong, refusal in (("sk-wrong", "not known"), (KEY, "master key")):
        await page.fill("#key", wrong)
        await page.press("#key", "Enter")
        await expect(tab.text("refusal")).to_contain_text(refusal)
        await expect(tab.text("main")).to_be_hidden()
    await page.fill("#key", MASTER)
    await page.click("#login button")
    await expect(tab.text("main")).to_be_visible()
    await expect(tab.text("login")).to_be_hidden()
    await expect(tab.text("tenants")).to_have_text("team-a")
    assert MASTER not in await page.content()
    assert all(MASTER not in url for url in tab.asked)
    assert await page.context.cookies() == []
    assert await page.evaluate("localStorage.length") == 0
    await page.reload()
    await expect(tab.text("main")).to_be_visible()
    await page.click("#leave")
    await expect(tab.text("login")).to_be_visible()
    await page.reload()
    await expect(tab.text("login")).to_be_visible()
    assert await page.evaluate("sessionStorage.length") == 0
    assert tab.complaints == []


async def test_it_says_when_the_proxy_does_not_answer(browser: Browser, served: Served) -> None:
    tab = await opened(browser, served)
    await expect(tab.text("state")).to_have_text("live")
    await tab.page.route("**/cache/stats", lambda route: route.abort())
    await expect(tab.text("state")).to_contain_text("no answer")
    await tab.page.unroute("**/cache/stats")
    await expect(tab.text("state")).to_have_text("live")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
async def test_it_can_be_read_wide_and_narrow_light_and_dark(
    browser: Browser, served: Served, viewport: dict[str, int], scheme: str, tmp_path: Path
) -> None:
    for number in (1, 1, 2, 3):
        await served.chat(messages=[{"role": "user", "content": f"{number}" * 50}], user="a-long-name-" * 20)
    await served.chat(model="ft:gpt-4o-" + "of-a-long-name-" * 6)
    tab = await opened(browser, served, viewport=viewport, color_scheme=scheme)
    await expect(tab.text("state")).to_have_text("live")
    page = tab.page
    assert await page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    for name in ("ratio", "saved", "fast", "slow", "misses", "entries", "tiers"):
        box = await tab.text(name).bounding_box()
        assert box is not None
        assert box["width"] > 0
        assert box["height"] > 0
    # However long a model's name is, its numbers are there.
    last = await page.locator("#models td").last.bounding_box()
    assert last is not None
    assert last["x"] + last["width"] <= viewport["width"]
    text, paper = await page.evaluate(
        "() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]; }"
    )
    assert _contrast(text, paper) >= 7
    assert (_light(paper) > 0.5) == (scheme == "light")
    shot = tmp_path / f"ui-{viewport['width']}-{scheme}.png"
    await page.screenshot(path=shot, full_page=True)
    assert shot.stat().st_size > 10_000


async def test_the_address_with_a_slash_leads_to_the_page(browser: Browser, served: Served) -> None:
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(f"{served.origin}/ui/")
    assert page.url == f"{served.origin}/ui"
    await expect(page.locator("#state")).to_have_text("live")


@pytest.mark.parametrize("path", ["/ui", "/ui/style.css", "/ui/script.js", "/ui/icon.svg"])
async def test_the_page_has_no_data_and_is_open_and_cannot_be_written(locked: Served, path: str) -> None:
    response = await locked.client.get(path)
    assert response.status_code == 200
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "http://" not in response.text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in response.text
    assert (await locked.client.post(path)).status_code == 405
    assert (await locked.client.head(path)).content == b""


def _light(color: str) -> float:
    """Relative luminance, as WCAG defines it."""
    red, green, blue = (int(part) / 255 for part in color.removeprefix("rgb(").removesuffix(")").split(","))

    def linear(value: float) -> float:
        return float(value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4)

    return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue)


def _contrast(one: str, other: str) -> float:
    bright, dark = sorted((_light(one), _light(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)
