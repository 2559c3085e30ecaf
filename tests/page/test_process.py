"""The page as a process: its endpoints over HTTP, and what a person sees and types in a browser."""

from __future__ import annotations

import os
import re
import subprocess
import time
import urllib.request

import pytest
from gradio_client import Client

from tests.cli import tiny
from tests.page.browser import CHROMIUM, browser
from tests.page.conftest import HOSTILE

READY = "document.querySelectorAll('#slates .card').length > 0"


@pytest.fixture(scope="module")
def address(home, tmp_path_factory):
    """Of a page that runs."""
    said = tmp_path_factory.mktemp("said") / "stderr"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    with said.open("w") as file:
        command = tiny.command(
            "page", home / "run", "--data", home / "data", "--port", "0", "--other", home / "beside"
        )
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, env=environment)
    try:
        end = time.monotonic() + 120
        while not (found := re.search(r"http://[\d.]+:\d+", said.read_text())):
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < end
            time.sleep(0.1)
        yield found[0]
        process.terminate()
        assert process.wait(20) == 0, said.read_text()
        assert "ASGI" not in said.read_text()
    finally:
        process.kill()


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False, analytics_enabled=False)


def test_endpoints_answer(client):
    found = client.predict("kettle r", api_name="/search")
    assert "kettle red" in found
    assert "kettle blue" not in found
    slates, visit, status = client.predict(
        "user", "user-1", "", ["SFT", "PPO", "co-visitation", "beside"], 4, 1, api_name="/show"
    )
    assert slates.count("<section") == 4
    assert slates.count('class="card') == 16
    assert "Profile: Likes" in visit
    assert "Acts of this visit: 0" in status
    slates = client.predict(3, "conversion", api_name="/act")
    assert "bought" in slates


def test_bad_requests_are_sentences(client):
    with pytest.raises(Exception, match="nobody"):
        client.predict("user", "nobody", "", ["PPO"], 4, 1, api_name="/show")
    with pytest.raises(Exception, match="not in the list of choices"):
        client.predict("admin", "", "", ["PPO"], 4, 1, api_name="/show")


def test_the_page_itself_names_no_other_host_to_load_from(address):
    with urllib.request.urlopen(address, timeout=20) as answer:
        text = answer.read().decode()
    assert not re.findall(r"<(?:script|link)[^>]+(?:src|href)=\"https?://(?!fonts\.|cdn)[^\"]+", text)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")
def test_a_person_at_the_keyboard(address):
    with browser() as page:
        page.size(1400, 1000)
        page.open(address)
        page.until(READY, 60)
        # Titles are texts, whatever they hold.
        shown = page.run("document.querySelector('#slates').innerText + document.querySelector('#visit').innerText")
        assert any(title in shown for title in HOSTILE)
        assert page.run("document.querySelectorAll('#slates img, #slates script, #slates a').length") == 0
        assert page.dialogs == []
        # Everything that can be used has a name, each button of a slate one of its own.
        names = page.names()
        used = ("button", "textbox", "checkbox", "radio", "combobox", "slider", "spinbutton", "tab")
        assert not [role for role, name in names if role in used and not name.strip()]
        buttons = [name for role, name in names if role == "button"]
        assert any(name.startswith("Buy ") for name in buttons)
        assert {"Show slates", "Undo the last", "Begin anew"} <= set(buttons)
        assert ("textbox", "Search the catalogue") in names
        assert ("combobox", "User") in names
        # Search as one types, with the keyboard alone.
        page.run("document.querySelector('#search textarea, #search input').focus()")
        page.type("rug ol")
        page.until("document.querySelectorAll('#found li').length == 1")
        assert "rug old" in page.run("document.querySelector('#found').innerText")
        # From there the Tab key leads to its buttons; Enter buys, and the focus stays where it was.
        page.key("Tab", 9)
        page.key("Tab", 9)
        assert page.run("document.activeElement.getAttribute('aria-label')") == "Buy rug old"
        page.key("Enter", 13, "\r")
        page.until("document.querySelector('#status').innerText.includes('visit: 1')")
        page.until("document.querySelector('#visit .tag.bought') !== null")
        assert page.run("document.activeElement.getAttribute('aria-label')") == "Buy rug old"
        # A click on an item of a slate, by its button.
        page.run("document.querySelector('#slates button.act').focus()")
        page.key("Enter", 13, "\r")
        page.until("document.querySelector('#status').innerText.includes('visit: 2')")
        assert page.run("document.activeElement.closest('#slates') !== null")
        page.run("document.querySelector('#undo').click()")
        page.until("document.querySelector('#status').innerText.includes('visit: 1')")
        # One system alone.
        page.run("document.querySelectorAll('#systems input')[0].click()")
        page.until("document.querySelectorAll('#slates section').length == 2")
        # What was asked for came from here.
        assert not [url for url in page.asked if not url.startswith((address, "data:", "blob:", "about:"))]
        assert page.dialogs == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")
@pytest.mark.parametrize(("width", "dark"), [(1400, True), (420, False)])
def test_nothing_stands_out_of_the_screen(address, width, dark):
    with browser() as page:
        page.size(width, 900, dark=dark)
        page.open(address)
        page.until(READY, 60)
        assert page.run("document.documentElement.scrollWidth") <= width
        ink, paper = page.run(
            "[getComputedStyle(document.querySelector('#slates .name')).color,"
            " getComputedStyle(document.querySelector('#slates .card')).backgroundColor]"
        )
        bright = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
        assert (bright[0] > bright[1] + 300) if dark else (bright[1] > bright[0] + 300)


def test_bad_options_are_one_sentence(tmp_path, home):
    def refused(*words):
        return tiny.llmrec("page", *words, cache=tmp_path, code=2).stderr

    assert "--language is 'fr'; give en or zh" in refused(home / "run", "--language", "fr")
    assert "holds it; name a folder of the Space's own" in refused(home / "run", "--space", home)


def test_a_run_that_is_not_there(tmp_path):
    from llmrec.errors import RunError
    from llmrec.page.serving import page_app

    with pytest.raises(RunError, match="neither a run folder"):
        page_app(tmp_path / "nothing")
