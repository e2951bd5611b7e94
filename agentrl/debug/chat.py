"""Chat with a checkpoint in the terminal, with the tools that its experiment gives it."""

import asyncio
from collections.abc import Callable
from typing import Any

import openai

from agentrl.agents.tools import ChatSetting
from agentrl.debug.transcript import print_message
from agentrl.runs.progress import Display
from agentrl.types import Message

HELP = "Ctrl-D ends, Ctrl-C stops an answer, /new starts over."


def talk(model: Any, setting: ChatSetting, display: Display, check: Callable[[], None]) -> None:
    """Talk until Ctrl-D; ``model``: a client of it. Raises what ``check`` does after an answer."""
    # Arrow keys and history at the prompt.
    import readline  # noqa: F401

    tools = ", ".join(tool.name for tool in setting.tools) or "none"
    display.line(f"{HELP} Tools: {tools}.")
    with asyncio.Runner() as runner:
        messages = _opening(setting)
        while (said := _read(display)) is not None:
            if said == "/new":
                messages = _opening(setting)
            elif said:
                messages = _answer(runner, model, setting, messages, said, display)
                check()


def _opening(setting: ChatSetting) -> list[Message]:
    return [{"role": "system", "content": setting.system}] if setting.system else []


def _read(display: Display) -> str | None:
    """What a person types; nothing, where Ctrl-C gives it up; None at the end."""
    try:
        return input("> ").strip()
    except (KeyboardInterrupt, EOFError) as end:
        display.line("")
        return "" if isinstance(end, KeyboardInterrupt) else None


def _answer(
    runner: asyncio.Runner,
    model: Any,
    setting: ChatSetting,
    messages: list[Message],
    said: str,
    display: Display,
) -> list[Message]:
    """The conversation with what was said and answered; as it was, where there is no answer."""
    going_on = [*messages, {"role": "user", "content": said}]
    try:
        runner.run(_take_turns(model, setting, going_on, display))
    except KeyboardInterrupt:
        display.console.print("stopped; what you said is forgotten", style="bold")
        return messages
    except openai.APIError as error:
        detail = error.body.get("message") if isinstance(error.body, dict) else None
        display.console.print(f"{detail or error} /new starts over.", style="red", markup=False)
        return messages
    return going_on


async def _take_turns(
    model: Any, setting: ChatSetting, messages: list[Message], display: Display
) -> None:
    """Add the model's answers to the messages, and the tools' results, until it calls no more."""
    options = {"tools": [tool.schema for tool in setting.tools]} if setting.tools else {}
    while True:
        with display.console.status("..."):
            completion = await model.openai.chat.completions.create(
                model=model.name, messages=messages, **options
            )
        reply = completion.choices[0].message.model_dump(exclude_none=True)
        messages.append(reply)
        print_message(display.console, reply)
        if completion.choices[0].finish_reason == "length":
            display.console.print("[its length ended it]", style="dim", markup=False)
        calls = reply.get("tool_calls") or []
        for call in calls:
            content = await _run_tool(setting, call["function"])
            result = {"role": "tool", "tool_call_id": call["id"], "content": content}
            messages.append(result)
            print_message(display.console, result)
        if not calls:
            return


async def _run_tool(setting: ChatSetting, function: dict[str, str]) -> str:
    tool = next((tool for tool in setting.tools if tool.name == function["name"]), None)
    if tool is None:
        return f"There is no tool {function['name']}."
    try:
        return await tool.run(function["arguments"])
    # Whatever goes wrong in it is for the model to read.
    except Exception as error:
        return f"{type(error).__name__}: {error}"
