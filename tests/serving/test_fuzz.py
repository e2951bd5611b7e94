"""The routes under schemathesis, from the schemas of their bodies: whatever comes, no 5xx.

The engine is real, with one token a call. `make slow` takes forty cases a route from a fixed seed,
`make soak` a thousand.
"""

import logging
from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.internal.conjecture import providers
from hypothesis.internal.conjecture.providers import Constants
from pydantic.json_schema import models_json_schema
from starlette.responses import JSONResponse
from starlette.routing import Route

from agentrl.serving.client import Serving
from agentrl.serving.server import DIALECTS, Server, make_app
from tests.support.sizes import sizes
from tests.support.spy import make_handler

ROUTES = [*DIALECTS, "/v1/models/{name}"]


@pytest.fixture(autouse=True)
def no_warnings(caplog):
    caplog.set_level(logging.ERROR, "agentrl.serving")


@pytest.fixture(autouse=True)
def the_same_requests(monkeypatch):
    """Hypothesis also draws what stands in the source of modules that happen to be imported."""
    none = Constants()
    monkeypatch.setattr(providers, "_get_local_constants", lambda: none)
    monkeypatch.setattr(providers, "CONSTANTS_CACHE", type(providers.CONSTANTS_CACHE)(64))


@pytest.fixture
def serving(engine, tokenizer):
    policy = make_handler("policy", engine, tokenizer, "hermes", max_tokens=1, max_model_len=512)
    return Serving(Server(), policy, seed=0)


def described() -> dict:
    """The routes in OpenAPI's words."""
    _, schemas = models_json_schema(
        [(dialect.body, "validation") for dialect in DIALECTS.values()],
        ref_template="#/components/schemas/{model}",
    )
    answered = {"responses": {"default": {"description": "an answer, or an error"}}}
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    paths = {"/v1/models/{name}": {"get": {"parameters": [name], **answered}}}
    for path, dialect in DIALECTS.items():
        schema = {"$ref": f"#/components/schemas/{dialect.body.__name__}"}
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        paths[path] = {"post": {"requestBody": body, **answered}}
    about = {"openapi": "3.1.0", "info": {"title": "agentrl", "version": "0"}, "paths": paths}
    return {**about, "components": {"schemas": schemas["$defs"]}}


def statuses(serving, route: str, cases: int) -> Counter:
    """Send this many random requests, and count what came back."""
    model, _ = serving.open(step=0, task_id="fuzz", episode=0)
    app = make_app(serving.server)
    app.router.routes.append(Route("/openapi.json", lambda _: JSONResponse(described())))
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operation = schema[route]["GET" if "models" in route else "POST"]
    seen = Counter()

    @given(case=operation.as_strategy())
    @settings(
        max_examples=cases,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def send(case):
        response = case.call(headers={"Authorization": f"Bearer {model.api_key}"})
        assert response.status_code < 500, response.text
        seen[response.status_code] += 1

    send()
    model.close()
    return seen


@pytest.mark.parametrize("route", ROUTES)
def test_a_few_random_requests(serving, route):
    seen = statuses(serving, route, 10)
    assert sum(seen.values()) == 10
    assert set(seen) <= {200, 400, 404}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("cases", sizes(40, soak=1000))
def test_many_random_requests(serving, route, cases):
    seen = statuses(serving, route, cases)
    assert sum(seen.values()) == cases
    assert set(seen) <= {200, 400, 404}
    assert "models" in route or seen[200] > 0.3 * cases
