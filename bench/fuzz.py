"""Fuzzers: atheris on what reads a model's text, and on flags; ``python -m bench.fuzz reply``.

    python -m bench.fuzz text reply template flags path.py:function [--seconds 1200] [--seed 1]

Inputs grow out of those that reached new lines of ours and of vLLM's parsers, and out of the marks
that models write. None may raise, or take a second. Each text is also taken again and again: one
that takes longer a character than any before joins the inputs, and where twice as much of it takes
more than 2.6 times as long, that is a finding. Ends with 0, or with the inputs that are one. Each
target has the seconds to itself, in a process of its own.
"""

import argparse
import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import cycle
from pathlib import Path

import atheris

from agentrl.serving.process import prepare_process
from bench.house import settings

if __name__ == "__main__":
    prepare_process()

# All that a parser needs, but parsers themselves.
for name in ("entrypoints.openai.chat_completion.protocol", "reasoning", "tool_parsers"):
    import_module(f"vllm.{name}")

# What is imported here has lines that guide.
with atheris.instrument_imports(include=["agentrl", "vllm"]):
    from agentrl.callables import load_callable
    from agentrl.cli import parse
    from bench import parsers
    from bench.parsers import Parser, growth, repeated, seconds
    from tests.support.families import FAMILIES

    PARSERS = parsers.parsers()

MOST, ROUNDS = 2.6, 5
PART, SHORT, LONG = 100, 2_000, 50_000
"""Characters: of an input at most, and of what is made of it."""
MARKS = [*parsers.PARTS, *(mark for f in FAMILIES for mark in (*f.markup, *f.special_tokens))]
VALUES = ["0", "-1", "nan", "inf", "1e400", str(2**63), "None", "True", "{}", "[]", "", "\0", "é"]
Target = Callable[[bytes], None]


class Texts:
    """Parsers before a text: the first byte says which."""

    def __init__(self, named: Sequence[tuple[str, Parser]], corpus: Path):
        self.named, self.corpus = named, corpus
        self.slowest = {name: 0.0 for name, _ in named}

    def __call__(self, data: bytes) -> None:
        name, parser = self.named[data[0] % len(self.named)] if data else self.named[0]
        text = data[1:].decode("utf-8", "replace")
        took = seconds(parser, text, 1)
        assert took < 1, f"{name} takes {took:.1f} s of {text!r}"
        if text and self.is_slowest(name, parser, text):
            (self.corpus / f"{len(list(self.corpus.iterdir())):06}").write_bytes(data)
            self.grow(name, parser, text)

    def is_slowest(self, name: str, parser: Parser, part: str) -> bool:
        """By a tenth, and not only once."""
        text, most = repeated(part, SHORT), 1.1 * self.slowest[name]
        if seconds(parser, text, 1) < most or (took := seconds(parser, text, ROUNDS)) < most:
            return False
        self.slowest[name] = took
        return True

    def grow(self, name: str, parser: Parser, part: str) -> None:
        texts = repeated(part, LONG), repeated(part, 4 * LONG)
        times, took = growth(parser, *texts, 1)
        if took > parsers.SHORTEST and times > MOST:
            times, took = growth(parser, *texts, ROUNDS)
        print(f"{name}: {took:.3f} s, {times:.2f} times, of {part!r}", flush=True)
        assert took < parsers.SHORTEST or times <= MOST, f"{name} is not linear in {part!r}"


def flags(data: bytes) -> None:
    """A few flags with values that cannot be meant: a Config, or an end in a sentence."""
    provider, argv = atheris.FuzzedDataProvider(data), ["--exp", "gsm8k_offline"]
    for _ in range(provider.ConsumeIntInRange(1, 3)):
        name = provider.PickValueInList(NAMES)
        argv += [name, provider.PickValueInList([*VALUES, provider.ConsumeUnicode(9)])]
    said, end = io.StringIO(), None
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            parse(argv, "")
    except SystemExit as error:
        end = error.code
    assert end is None or end == 0 or f"{end}{said.getvalue()}".strip(), argv


NAMES = [f"--{name.replace('_', '-')}" for name in settings()]


def target(kind: str, corpus: Path) -> Target:
    if kind == "flags":
        return flags
    if ":" in kind:
        with atheris.instrument_imports():
            return Texts([(kind, load_callable(kind))], corpus)
    plain = [name for name in PARSERS if "," not in name]
    names = plain if kind == "text" else [name for name in PARSERS if name.startswith(f"{kind},")]
    return Texts([(name, PARSERS[name]) for name in names], corpus)


def dictionary() -> str:
    """What libFuzzer writes into its inputs."""
    escaped = ("".join(f"\\x{byte:02x}" for byte in mark.encode()) for mark in MARKS)
    return "".join(f'"{mark}"\n' for mark in escaped)


def fuzz(kind: str, seconds: int, seed: int) -> None:
    """Ends the process."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (corpus := folder / "corpus").mkdir()
    for number, (mark, first) in enumerate(zip(MARKS, cycle(range(len(FAMILIES))))):
        (corpus / f"{number:06}").write_bytes(bytes([first]) + mark.encode())
    (folder / "marks").write_text(dictionary())
    options = {
        "max_total_time": seconds,
        "seed": seed,
        "max_len": PART,
        "dict": folder / "marks",
        "artifact_prefix": f"{folder}/",
        "timeout": 60,
        "rss_limit_mb": 0,
        "reload": 1,
        "verbosity": 0,
        "print_final_stats": 1,
    }
    argv = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *argv, str(corpus)], target(kind, corpus))
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="+", help="text, reply, template, flags, or of a text")
    parser.add_argument("--seconds", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=1)
    given, found = parser.parse_args(), []
    for kind in given.kinds:
        print(f"fuzzing {kind}", flush=True)
        if (child := os.fork()) == 0:
            fuzz(kind, given.seconds, given.seed)
        _, status = os.waitpid(child, 0)
        found += [kind] * bool(status)
    sys.exit(f"found something in {', '.join(found)}" if found else 0)


if __name__ == "__main__":
    main()
