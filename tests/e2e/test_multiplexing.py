"""examples/multiplexing.py on a mesh: by handle and by header, models stay where they are; docs/batching.md runs."""

from __future__ import annotations

import itertools
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from mesh import testing
from mesh.telemetry import REGISTRY
from tests.support.mesh_process import EXAMPLES, ROOT

pytestmark = pytest.mark.timeout(120)
BATCHING = (ROOT / "docs" / "batching.md").read_text()
MORNINGS = {"de": "guten Morgen", "es": "buenos días", "fr": "bon matin", "it": "buon giorno"}


@pytest.mark.long
def test_the_example_through_a_handle() -> None:
    with testing.serve("multiplexing:app", working_dir=EXAMPLES) as served, httpx.Client() as client:
        assert client.get(f"{served.http}/xx").json() == {"languages": ["de", "es", "fr", "it"]}

        def ask(language: str) -> tuple[str, str]:
            answer = client.get(f"{served.http}/{language}", params={"text": "good morning"})
            return language, answer.json()["text"]

        for language in itertools.chain.from_iterable(itertools.repeat(sorted(MORNINGS), 10)):
            assert ask(language) == (language, MORNINGS[language])
        assert served.output().count("unloaded") <= 2, "four languages fit two replicas of two models"
        with ThreadPoolExecutor(8) as threads:
            for language, text in threads.map(ask, sorted(MORNINGS) * 20):
                assert text == MORNINGS[language]


def test_the_example_by_header() -> None:
    with testing.serve("multiplexing:direct", working_dir=EXAMPLES) as served:
        for language, text in MORNINGS.items():
            headers = {"x-mesh-model-id": language}
            answer = httpx.get(f"{served.http}/", params={"text": "good morning"}, headers=headers)
            assert answer.json() == {"text": text}


def test_the_metrics_of_the_page_exist() -> None:
    known = {sample.name for metric in REGISTRY.collect() for sample in metric.samples}
    known |= {metric.name for metric in REGISTRY.collect()}
    for name in re.findall(r"^\| `(mesh_\w+)`", BATCHING, re.MULTILINE):
        assert name in known or name.removesuffix("_total") in known, name


@pytest.mark.long
def test_the_code_of_the_page_is_served(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", BATCHING, re.DOTALL)
    assert len(blocks) == 4
    (tmp_path / "page.py").write_text("\n\n".join(blocks))
    with testing.serve("page:scorer", working_dir=tmp_path) as served, ThreadPoolExecutor(4) as threads:
        texts = ["a", "bb", "", "dddd"]
        answers = list(threads.map(lambda text: httpx.get(f"{served.http}/", params={"text": text}), texts))
        assert [answer.status_code for answer in answers] == [200, 200, 500, 200]
        assert answers[3].json() == {"score": 4.0}
    with testing.serve("page:writer", working_dir=tmp_path) as served:
        assert httpx.get(f"{served.http}/", params={"prompt": "ab"}).text == "ab.ab.ab."
    with testing.serve("page:adapted", working_dir=tmp_path) as served:
        answer = httpx.get(f"{served.http}/", headers={"x-mesh-model-id": "org/one"})
        assert answer.json() == {"model": "org/one", "size": 7}
