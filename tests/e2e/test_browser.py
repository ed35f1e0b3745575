"""examples/fastapi_app behind its route prefix, in a real browser: the page with its WebSocket, and FastAPI's docs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import Browser
from tests.support.mesh_process import EXAMPLES, FREE_PORTS, MeshProcess

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def shop() -> Iterator[str]:
    """URL of the application."""
    with MeshProcess("run", "config.yaml", *FREE_PORTS, cwd=EXAMPLES / "fastapi_app") as mesh:
        yield f"{mesh.http}/shop"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path) as browser:
        yield browser


SAID = """new Promise(go => {
  const said = document.getElementById("said");
  const look = () => said.textContent == "…" || go(said.textContent);
  new MutationObserver(look).observe(said, {childList: true});
  look();
})"""


def test_a_page_opens_its_websocket(shop: str, browser: Browser) -> None:
    browser.open(f"{shop}/")
    assert browser.run(SAID) == "browser said hello | chat | 3000 | bye browser"


DOCUMENT = """(async () => {
  // The library comes from elsewhere, where a test cannot go: this stands for it. The page's own script runs as it is.
  let given;
  window.SwaggerUIBundle = Object.assign(options => { given = options; return {initOAuth() {}}; },
    {presets: {apis: 1}, SwaggerUIStandalonePreset: 1});
  (0, eval)([...document.scripts].find(script => !script.src).textContent);
  const answer = await fetch(given.url);
  const found = await answer.json();
  const tried = await fetch(found.servers[0].url + "/offers/2");
  return {url: given.url, status: answer.status, title: found.info.title, paths: Object.keys(found.paths),
    offer: await tried.json(), page: document.title};
})()"""


def test_the_docs_page_finds_its_document_behind_the_prefix(shop: str, browser: Browser) -> None:
    browser.open(f"{shop}/docs")
    seen = browser.run(DOCUMENT)
    assert (seen["url"], seen["status"], seen["title"]) == ("/shop/openapi.json", 200, "Shop")
    assert seen["page"] == "Shop - Swagger UI" and "/offers/{number}" in seen["paths"]
    assert seen["offer"]["name"] == "nut", "the server that the document names is the one behind the prefix"
