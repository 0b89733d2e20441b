"""The dashboard in Debian's Chromium (`apt-get install chromium`); skipped where there is none.

A browser takes over a minute for all of it, so these are slow tests.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from hvsa_cvat.agent.settings import load_local_settings
from hvsa_cvat.dashboard.app import application
from hvsa_cvat.dashboard.serve import http_server
from hvsa_cvat.dashboard.site import Site, SiteOptions
from tests.lead import DONE, FAILED, FRESH, WAITING, Filled, fill_workspace
from tests.test_dashboard import Clock

CHROMIUM = shutil.which("chromium")
TOKEN = "a token that nobody guesses"
PAGES = (
    "/",
    f"/tasks/{DONE}",
    f"/tasks/{DONE}?over=minutes",
    f"/tasks/{WAITING}",
    f"/tasks/{FRESH}",
    f"/tasks/{FAILED}",
    f"/tasks/{DONE}/frames/1",
    f"/tasks/{DONE}/review",
    "/review",
    "/people",
    "/system",
    "/?text=nothing+like+that",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium here; on Debian: apt-get install chromium"
    ),
]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Filled:
    return fill_workspace(tmp_path_factory.mktemp("lead"), checkpoint)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Chromium refuses its sandbox to root
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield opened
        opened.close()


@contextmanager
def served(filled: Filled, **options: str) -> Iterator[str]:
    settings = load_local_settings(None, {"CVAT_HOST": filled.url}, workspace=filled.workspace)
    site = Site(settings, SiteOptions(patience=60, **options), Clock())
    server = http_server(application(site))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}{site.options.prefix}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield address
        server.should_exit = True
        thread.join()
    site.close()


@pytest.fixture(scope="module")
def address(filled: Filled) -> Iterator[str]:
    with served(filled) as found:
        yield found


@contextmanager
def tab(browser: Browser, width: int = 1280, theme: str = "light") -> Iterator[Page]:
    """A window of its own, in which nothing may go wrong."""
    context = browser.new_context(viewport={"width": width, "height": 860}, color_scheme=theme)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    yield page
    context.close()
    assert wrong == []


def settled(page: Page) -> None:
    """Wait until a page does not load itself anew any more."""
    expect(page.locator('meta[http-equiv="refresh"]')).to_have_count(0, timeout=150_000)
    page.wait_for_load_state("networkidle")


def check_page(page: Page, path: str) -> None:
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
    found = Axe().run(page).response["violations"]
    assert [one["id"] for one in found if _is_bad(one)] == [], path


def _is_bad(finding: dict[str, Any]) -> bool:
    """Landmarks of one name are no serious finding, but a screen reader lists them."""
    return finding["impact"] in ("serious", "critical") or finding["id"] == "landmark-unique"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_fits_and_can_be_read_by_all(
    browser: Browser, address: str, width: int, theme: str
) -> None:
    with tab(browser, width, theme) as page:
        for path in PAGES:
            page.goto(address + path)
            check_page(page, path)


def test_keys_lead_from_frame_to_frame(browser: Browser, address: str) -> None:
    with tab(browser) as page:
        page.goto(f"{address}/tasks/{DONE}/frames/1")
        page.keyboard.press("ArrowRight")
        page.wait_for_url("**/frames/2?**")
        page.keyboard.press("ArrowLeft")
        page.wait_for_url("**/frames/1?**")


def test_layers_lie_over_the_frame(browser: Browser, address: str) -> None:
    with tab(browser) as page:
        page.goto(f"{address}/tasks/{DONE}/frames/1")
        after, doubt = page.locator('[data-layer="after"]'), page.locator('[data-layer="doubt"]')
        expect(after).to_be_visible()
        expect(doubt).to_be_hidden()
        page.keyboard.press("3")
        expect(doubt).to_be_visible()
        expect(after).to_be_hidden()
        slider = page.get_by_role("slider")
        slider.fill("25")
        expect(doubt).to_have_css("opacity", "0.25")
        expect(page.locator("[data-opacity-value]")).to_have_text("25 %")
        # the next frame is shown in the same way
        page.get_by_role("link", name="Next").click()
        expect(page.locator('[data-layer="doubt"]')).to_have_css("opacity", "0.25")
        page.keyboard.press("0")
        expect(page.locator("img.layer:visible")).to_have_count(0)


def test_what_people_changed_lies_over_the_frame(browser: Browser, address: str) -> None:
    with tab(browser) as page:
        page.goto(f"{address}/tasks/{DONE}/frames/1")
        changed = page.locator('[data-layer="changed"]')
        expect(changed).to_be_hidden()
        page.keyboard.press("5")
        expect(changed).to_be_visible()
        assert changed.evaluate("one => one.naturalWidth") > 0


def test_the_curve_goes_over_minutes(browser: Browser, address: str) -> None:
    with tab(browser) as page:
        page.goto(f"{address}/tasks/{DONE}")
        page.get_by_role("link", name="minutes").click()
        page.wait_for_url("**over=minutes**")
        expect(page.get_by_role("heading", name="Quality over minutes of people")).to_be_visible()


def test_what_each_round_asked_for_has_a_line_of_its_own(browser: Browser, address: str) -> None:
    with tab(browser) as page:
        page.goto(f"{address}/tasks/{DONE}/review?all=1")
        settled(page)
        lines = [text for text in page.locator(".card p").all_inner_texts() if "round 2" in text]
        assert lines
        for text in lines:
            assert all(line.count("asked for") <= 1 for line in text.splitlines())


def test_the_list_is_used_by_keyboard_alone(browser: Browser, address: str) -> None:
    with tab(browser) as page:
        page.goto(address)
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("/")
        page.keyboard.type("corridor")
        page.keyboard.press("Enter")
        page.wait_for_url("**text=corridor**")
        expect(page.locator("tbody tr")).to_have_count(1)


def test_a_frame_is_marked_as_seen_and_back(browser: Browser, address: str) -> None:
    with tab(browser) as page:
        page.goto(f"{address}/tasks/{DONE}/review")
        settled(page)
        cards = page.locator(".card")
        count = cards.count()
        page.get_by_role("button", name="Mark seen").first.click()
        expect(cards).to_have_count(count - 1)
        page.get_by_role("link", name="Show those that are seen, too").click()
        expect(cards).to_have_count(count)
        page.get_by_role("button", name="Not seen").click()
        expect(page.locator(".card.seen")).to_have_count(0)


def test_the_token_opens_the_pages_below_a_path(browser: Browser, filled: Filled) -> None:
    with served(filled, token=TOKEN, prefix="/hvsa") as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{address}/tasks/{DONE}")
        expect(page.get_by_label("Token")).to_be_focused()
        page.keyboard.type("a wrong one")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("That is not the token.")
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"{address}/tasks/{DONE}")
        for picture in page.locator("img").all():
            picture.scroll_into_view_if_needed()
            expect(picture).to_have_js_property("complete", True)
            assert picture.evaluate("one => one.naturalWidth") > 0
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        context.close()


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_actions_ask_once_more(browser: Browser, filled: Filled, width: int, theme: str) -> None:
    with served(filled, token=TOKEN) as address, tab(browser, width, theme) as page:
        page.goto(address)
        page.get_by_label("Token").fill(TOKEN)
        page.get_by_role("button", name="Log in").click()
        for what in ("pause", "extend", "withdraw"):
            page.goto(f"{address}/tasks/{WAITING}/{what}")
            check_page(page, what)
        page.goto(f"{address}/tasks/{WAITING}")
        for what, state in (("Pause", "paused"), ("Resume", "waits for people")):
            page.get_by_role("link", name=what, exact=True).click()
            page.get_by_role("button", name=f"{what} task {WAITING}").click()
            page.wait_for_url(f"{address}/tasks/{WAITING}")
            expect(page.locator(".sub .state")).to_have_text(state)


def test_names_do_nothing(browser: Browser, address: str) -> None:
    with tab(browser) as page:
        for path in ("/", f"/tasks/{WAITING}", f"/tasks/{WAITING}/frames/0", "/review"):
            page.goto(address + path)
            expect(page.locator('img[src="x"]')).to_have_count(0)
            expect(page.get_by_text(re.compile("onerror=alert")).first).to_be_visible()
