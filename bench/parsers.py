"""Parsers over the worst text: CPU seconds as it grows; ``python -m bench.parsers``.

What reads a model's text has to take time in proportion to it. Each parser gets each text that is
made of one part again and again, plain and in a box that something at its end keeps from being a
number. Of each the slowest is shown, with how many times as long twice the text takes: the root of
what four times the text does, which a noisy machine moves half as much.
"""

import argparse
import gc
import time
from collections.abc import Callable, Iterator, Mapping

from agentrl.serving.process import prepare_process

if __name__ == "__main__":
    prepare_process()

from agentrl.agents.judges.numbers import boxed_equals, last_boxed
from agentrl.agents.judges.penalties import malformed, mixed, unclosed
from agentrl.agents.judges.text import f1, is_exact, last_object
from agentrl.printable import printable
from agentrl.serving.chat_template import ChatTemplate
from agentrl.serving.output_parser import OutputParser
from agentrl.serving.protocol import Request
from agentrl.types import Call, Episode, message_key, parsed_arguments
from tests.support.families import FAMILIES, Family, tokenizer

SIZE, ROUNDS = 50_000, 5
SHORTEST = 0.05
"""CPU seconds; what takes less is noise."""
PARTS = (
    *(
        r"\boxed{",
        r"\boxed ",
        r"\frac{1}{",
        r"\frac",
        "18 ",
        "1",
        ",111",
        " ",
        "\n",
        "{",
        "}",
        "\\",
    ),
    *(
        "=",
        "a b",
        "^",
        "(",
        "[",
        "[]",
        '"',
        '{"a":',
        "-",
        "not ",
        "<",
        "<tool_call>",
        "</tool_call>",
    ),
    *("<think>", "</think>", "<think></think>", '<tool_call>{"name": "add", "arguments": {', "é"),
    *('<tool_call>{"name": "add", "arguments": {}}</tool_call>', "[TOOL_CALLS]", "[add(a="),
    *('{"name": "add", "parameters": {"a": 1}};', "<function=add>", "<parameter=a>", "#### "),
    "<\uff5ctool▁calls▁begin\uff5c>",
)
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
Parser = Callable[[str], object]


def texts(size: int) -> Iterator[tuple[str, str]]:
    for part in PARTS:
        text = repeated(part, size)
        yield part, text
        yield f"{part} in a box", f"\\boxed{{{text}!}}"


def parsers() -> Mapping[str, Parser]:
    """What reads a text of a model's, by name; templates and vLLM's parsers by their families."""
    plain = {
        "last_boxed": last_boxed,
        "boxed_equals": lambda text: boxed_equals(text, "#### 18"),
        "is_exact": lambda text: is_exact(text, "18"),
        "f1": lambda text: f1(text, "18"),
        "last_object": last_object,
        "penalties": habits,
        "parsed_arguments": parsed_arguments.__wrapped__,
        "message_key": lambda text: message_key({"role": "assistant", "content": text}),
        "printable": printable,
    }
    replies = {f"reply, {family.name}": reply_parser(family) for family in FAMILIES}
    return plain | replies | {f"template, {f.name}": template(f) for f in FAMILIES}


def habits(text: str) -> object:
    reply = {"content": text, "reasoning_content": text}
    call = Call(prompt_ids=[], completion_ids=[], logprobs=[], tools=(TOOL,), reply=reply)
    episode = Episode(task={}, index=0, calls=(call,))
    return [penalty.measure(episode) for penalty in (malformed, unclosed, mixed)]


def reply_parser(family: Family) -> Parser:
    parser = OutputParser(tokenizer(family), family.tool_parser, family.reasoning_parser)
    request = Request(messages=({"role": "user", "content": "?"},), tools=(TOOL,))
    return lambda text: parser.parse(request, [1], [], text)


def template(family: Family) -> Parser:
    rendered = ChatTemplate(tokenizer(family))
    user = {"role": "user", "content": "?"}

    def render(text: str) -> object:
        messages = (user, {"role": "assistant", "content": text}, user)
        return rendered._render([*messages], Request(messages=messages))

    return render


def seconds(parser: Parser, text: str, rounds: int) -> float:
    """Of CPU, the least of so many rounds; without the collector, whose time is all objects'."""
    times = []
    gc.disable()
    for _ in range(rounds):
        started = time.process_time()
        parser(text)
        times.append(time.process_time() - started)
    gc.enable()
    return min(times)


def worst(parser: Parser, size: int = SIZE, rounds: int = ROUNDS) -> tuple[float, float, str]:
    """How many times as long twice the worst text takes; the seconds of four times it, its part."""
    found = (0.0, 0.0, "")
    for (part, text), (_, longer) in zip(texts(size), texts(4 * size), strict=True):
        # One look tells which are worth measuring.
        once = seconds(parser, longer, 1)
        if once < max(SHORTEST, found[1] / 2):
            found = max(found, (0.0, once, part))
            continue
        found = max(found, (*growth(parser, text, longer, rounds), part))
    return found


def growth(parser: Parser, text: str, longer: str, rounds: int = ROUNDS) -> tuple[float, float]:
    """How many times as long twice the text takes; the seconds of what is four times as long."""
    # In turn: another program's minute is in both.
    pairs = [[seconds(parser, one, 1) for one in (text, longer)] for _ in range(rounds)]
    short, long = map(min, zip(*pairs, strict=True))
    return (long / short) ** 0.5, long


def repeated(part: str, size: int) -> str:
    return (part * (size // len(part) + 1))[:size]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--size", type=int, default=SIZE)
    size = options.parse_args().size
    print(f"{'':24} CPU s at {4 * size:,}  times, of twice the text  of")
    for name, parser in parsers().items():
        times, long, part = worst(parser, size)
        print(f"{name:24} {long:17.3f}  {times:24.2f}  {part!r}")


if __name__ == "__main__":
    main()
