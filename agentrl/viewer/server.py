"""Server of the page and its answers over HTTP, for a browser on this machine.

Only the runs that were named are served, by their number; nothing that a browser sends is ever a
path. The Host header has to be this machine's own name, so that no other site can reach in through
a name of its own that leads here.
"""

import secrets
import socket
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.staticfiles import StaticFiles

from agentrl.records import RunRecords
from agentrl.types import Status
from agentrl.viewer import answers

PAGE = Path(__file__).parent / "page"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-cache",
}
HOSTS = ["127.0.0.1", "localhost"]
STARTED = secrets.token_hex(8)
"""Another server's answers may look otherwise."""
# What the records' columns can hold.
Number = Annotated[int, Field(ge=0, lt=2**31)]
router = APIRouter()


def serve(runs: Sequence[RunRecords], port: int) -> None:
    """Serve until Ctrl-C. port: 0 takes any that is free.

    Raises ValueError where the port is taken.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        raise ValueError(
            f"port {port} cannot be had ({error.strerror}): give another with --port; 0: any free"
        ) from error
    listener.listen()
    print(f"http://127.0.0.1:{listener.getsockname()[1]}  (Ctrl-C ends it)", flush=True)
    config = uvicorn.Config(make_app(runs), log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run([listener])


def make_app(runs: Sequence[RunRecords]) -> FastAPI:
    """The routes over some runs. What is wrong is told as a sentence for the page to show."""
    app = FastAPI(title="agentrl", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.runs = runs
    app.add_middleware(GZipMiddleware, minimum_size=4096, compresslevel=1)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)
    app.include_router(router)
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    app.middleware("http")(_with_headers)
    app.add_exception_handler(ValueError, lambda _, error: _refusal(404, str(error)))
    app.add_exception_handler(RequestValidationError, _mistyped)
    return app


def _run(request: Request, number: int) -> RunRecords:
    runs = request.app.state.runs
    if not 0 <= number < len(runs):
        raise ValueError(f"there is no run {number}: {len(runs)} are served.")
    return runs[number]


Run = Annotated[RunRecords, Depends(_run)]
"""By its number in the path."""


class Filters(BaseModel):
    """Those of ``RunRecords.page``."""

    step: Number | None = None
    task_id: str | None = None
    status: Status | None = None
    min_reward: float | None = None
    max_reward: float | None = None
    habit: str | None = None
    text: str | None = None
    held_out: bool | None = None
    after: Annotated[str | None, Field(pattern=r"^\d{1,15},\d{1,15},\d{1,15}$")] = None


@router.get("/api/runs")
def runs(request: Request) -> Response:
    return _json(answers.describe(request.app.state.runs))


@router.get("/api/runs/{number}/metrics")
def metrics(run: Run, request: Request) -> Response:
    """304, and no answer is made, where the page, which asks every few seconds, has that of just
    this file already."""
    file = run.folder / "metrics.jsonl"
    now = file.stat() if file.exists() else None
    state = STARTED, now and (now.st_ino, now.st_size, now.st_mtime_ns)
    tag = f'"{sha256(repr(state).encode()).hexdigest()}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag})
    return _json(answers.metrics(run), ETag=tag)


@router.get("/api/runs/{number}/batches")
def batches(run: Run) -> Response:
    return _json(run.batches())


@router.get("/api/runs/{number}/episodes")
def episodes(run: Run, filters: Annotated[Filters, Query()]) -> Response:
    after = filters.after and tuple(map(int, filters.after.split(",")))
    return _json(answers.episodes(run, **{**filters.model_dump(), "after": after}))


@router.get("/api/runs/{number}/episode")
def episode(
    run: Run, step: Number, task_id: str, index: Number, group: Number | None = None
) -> Response:
    return _json(answers.episode(run, step, task_id, index, group))


def _json(value: Any, **headers: str) -> Response:
    return Response(answers.to_json(value), media_type="application/json", headers=headers)


async def _with_headers(request: Request, call_next: Callable) -> Response:
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


def _mistyped(_: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    return _refusal(422, f"{first['loc'][-1]}: {first['msg']}")


def _refusal(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status)
