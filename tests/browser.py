"""A headless Chromium that opens pages from disk, and tells what they complain of."""

import contextlib
import re
import shutil
from dataclasses import dataclass, field

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = None if CHROMIUM else "no Chromium here: apt-get install chromium"


@dataclass
class Heard:
    """What went wrong on a page, and where it wanted to go."""

    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextlib.contextmanager
def opened(path, **facts):
    """A page and what it says; `facts` are viewport, colour scheme…"""
    from playwright.sync_api import sync_playwright

    heard = Heard()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(**facts)
        page.on("console", lambda message: heard.complaints.append(message.text))
        page.on("pageerror", lambda error: heard.complaints.append(str(error)))
        page.on("dialog", lambda dialog: heard.complaints.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: heard.requests.append(request.url))
        page.goto(path.absolute().as_uri())
        yield page, heard
        browser.close()


def from_outside(heard, path):
    """Requests for anything but the page itself and what is inside it."""
    own = path.absolute().as_uri()
    return [url for url in heard.requests if url != own and not url.startswith("data:")]


def brightness(tab, what):
    """0..255: how bright a colour of the page's body is."""
    colour = tab.evaluate(f"getComputedStyle(document.body).{what}")
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3
