"""Page files, as they are served and as they go into one file."""

import base64
import string
from functools import cache
from pathlib import Path

PAGE = Path(__file__).parent / "page"
TYPES = {".js": "text/javascript", ".css": "text/css"}
STYLES = ("vendor/uPlot.min.css", "style.css")
CHARTS = "vendor/uPlot.iife.min.js"


@cache
def files() -> dict[str, tuple[bytes, str]]:
    """What is served beside the page: by path, the content and its type. There is nothing else."""
    return {
        path.relative_to(PAGE).as_posix(): (path.read_bytes(), TYPES[path.suffix])
        for path in PAGE.rglob("*")
        if path.suffix in TYPES
    }


def linked(nonce: str) -> str:
    """The page that finds its parts on the server. The nonce is what lets its import map run."""
    modules = {name: f"/page/{file}" for name, file in _modules().items()}
    styles = "".join(f'<link rel="stylesheet" href="/page/{file}">' for file in STYLES)
    charts = f'<script src="/page/{CHARTS}"></script>'
    return _page(styles + charts + _import_map(modules, nonce), "", nonce)


def whole(answers_json: str) -> str:
    """The page with its parts, and what it will ask for, in it."""
    modules = {
        name: "data:text/javascript;base64," + base64.b64encode(files()[file][0]).decode()
        for name, file in _modules().items()
    }
    styles = "".join(f"<style>{files()[file][0].decode()}</style>" for file in STYLES)
    charts = f"<script>{files()[CHARTS][0].decode()}</script>"
    # A text of the model may say </script>: in JSON, \u003c is the same character.
    answers_json = answers_json.replace("<", "\\u003c")
    answers = f'<script type="application/json" id="answers">{answers_json}</script>'
    return _page(styles + charts + _import_map(modules, ""), answers, "")


def _modules() -> dict[str, str]:
    """The names under which modules import each other, and their files."""
    return {
        f"viewer/{file.removesuffix('.js')}": file
        for file in files()
        if file.endswith(".js") and "/" not in file
    }


def _import_map(modules: dict[str, str], nonce: str) -> str:
    entries = ",".join(f'"{name}":"{place}"' for name, place in sorted(modules.items()))
    return f'<script type="importmap" nonce="{nonce}">{{"imports":{{{entries}}}}}</script>'


def _page(head: str, answers: str, nonce: str) -> str:
    template = string.Template((PAGE / "index.html").read_text())
    return template.substitute(head=head, answers=answers, nonce=nonce)
