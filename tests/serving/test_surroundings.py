"""A machine like a cluster's: proxies in the environment, and few open files."""

import dataclasses
import os
import resource
import subprocess
import sys
import urllib.request

import openai
import pytest
import requests

from agentrl.config import Config, ModelConfig
from agentrl.runs import preflight
from agentrl.runs.progress import Display
from agentrl.serving.process import bypass_proxies
from agentrl.serving.server import Server
from tests.support.checkout import ROOT
from tests.support.families import QWEN25
from tests.support.spy import Scripted

NOBODY = "http://127.0.0.1:9"
PROXIES = ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy")


@pytest.fixture
def behind_a_proxy(monkeypatch):
    """One that nobody answers at; whoever is asked for a model should not be asked by it."""
    for name in PROXIES:
        monkeypatch.setenv(name, NOBODY)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def by_urllib(url: str, key: str) -> str:
    asked = urllib.request.Request(f"{url}/models", headers={"Authorization": f"Bearer {key}"})
    return urllib.request.urlopen(asked, timeout=10).read().decode()


def by_requests(url: str, key: str) -> str:
    headers = {"Authorization": f"Bearer {key}"}
    return requests.get(f"{url}/models", headers=headers, timeout=10).text


def by_openai(url: str, key: str) -> str:
    client = openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=10)
    return client.models.list().model_dump_json()


def by_program(url: str, key: str) -> str:
    code = "import openai; print(openai.OpenAI(max_retries=0).models.list().model_dump_json())"
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": key},
        capture_output=True,
        text=True,
    ).stdout


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_no_proxy_stands_before_the_model(behind_a_proxy, host):
    episode = Scripted(QWEN25)
    server = episode.serving.server
    server._host = host
    url, key = episode.client.base_url, episode.client.api_key
    ways = (by_urllib, by_requests, by_openai, *([by_program] if host == "localhost" else []))
    try:
        assert url.startswith(f"http://{host}:")
        for ask in ways:
            assert '"id":"m"' in ask(url, key)
        # The control: others are still reached through it.
        with pytest.raises(requests.exceptions.ProxyError):
            requests.get("http://example.invalid/", timeout=10)
    finally:
        server.close()


def test_what_was_excepted_before_stays_so(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "a.example, 10.0.0.0/8")
    monkeypatch.setenv("no_proxy", "b.example,localhost")
    for _ in range(2):
        bypass_proxies("127.0.0.1", "localhost")
    both = "a.example,10.0.0.0/8,b.example,localhost,127.0.0.1"
    assert (os.environ["NO_PROXY"], os.environ["no_proxy"]) == (both, both)
    assert Scripted(QWEN25).client.environment["NO_PROXY"].startswith(both)


LIMITS = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from agentrl.serving.process import prepare_process
prepare_process()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "expected"), [(1024, 20000, "20000 20000"), (300, 300, "300 300")]
)
def test_as_many_files_may_be_open_as_the_machine_allows(soft, hard, expected):
    code = LIMITS.format(soft=soft, hard=hard)
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert said.stdout.strip() == expected, said.stderr


async def solve(task, model):
    return 1.0


def test_preflight_says_how_many_episodes_the_open_files_allow(tmp_path, monkeypatch):
    config = Config(
        workflow=solve, tasks=lambda data: ([], []), model=ModelConfig(path="m"), runs=tmp_path
    )

    def check(hard: int, **fields):
        monkeypatch.setattr(resource, "getrlimit", lambda kind: (hard, hard))
        changed = dataclasses.replace(config, **fields)
        preflight.check_surroundings(changed, [], [], 1, Display())

    for hard, fields in (
        (4096, {}),
        (1024, {"concurrent_episodes": 96}),
        (1024, {"tasks_per_step": 4}),
        (resource.RLIM_INFINITY, {"concurrent_episodes": 10**6}),
    ):
        check(hard, **fields)
    with pytest.raises(
        ValueError, match="concurrent_episodes is 256: they may have 1280 files"
    ) as no:
        check(1024)
    assert str(no.value).endswith("raise that, or give --concurrent-episodes 96 or less")


def test_a_server_is_excepted_by_its_own_name(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "")
    server = Server(host="127.0.0.3")
    server.url  # noqa: B018
    server.close()
    assert "127.0.0.3" in os.environ["no_proxy"].split(",")
