"""What can be known to fail, before minutes are spent on it.

``check_surroundings`` needs no model; ``check_model`` prints what training one will take beside
what there is. Each raises ValueError with a sentence that says what to change, or prints a warning
where it cannot be sure. Nothing is loaded but configs and tokenizers. What only a batch can show is
checked in the first: ``check_first_batch``.
"""

import errno
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from agentrl import hub
from agentrl.config import Config, ServerConfig, compute_dtype
from agentrl.runs import memory
from agentrl.runs.progress import Display
from agentrl.runs.quiet import quiet
from agentrl.runs.trackers import check_trackers
from agentrl.serving.remote import key_of
from agentrl.types import Group, Task, TooManyFailed

MAX_LEN = 4096
"""Of a context, where ``model.max_model_len`` is absent and the model allows it."""
GIB = 2**30


class CannotStart(Exception):
    """Something that was typed, or that it names, cannot be used; in a sentence."""


def check_surroundings(
    config: Config, train: Sequence[Task], held_out: Sequence[Task], *, ranks: int, display: Display
) -> None:
    """Tasks, ranks, the port, the keys, the trackers, and the folder where runs are written."""
    if ranks > config.tasks_per_step:
        raise ValueError(
            f"{ranks} ranks share tasks_per_step {config.tasks_per_step}: launch fewer processes, "
            "or give at least one task a rank with --tasks-per-step"
        )
    if config.tasks_per_step % ranks:
        display.line(
            f"warning: {config.tasks_per_step} tasks a step do not divide over {ranks} ranks: "
            "some wait for the others at every step"
        )
    _check_ids(train, held_out, display)
    if isinstance(config.algorithm.reference, str):
        hub.check_model(config.algorithm.reference)
    check_serving_addresses(config, ranks)
    check_trackers(config.trackers)
    _check_writable(config.runs)


def _check_ids(train: Sequence[Task], held_out: Sequence[Task], display: Display) -> None:
    for kind, tasks in {"train": train, "held-out": held_out}.items():
        counts = Counter(task["id"] for task in tasks)
        repeated = [task for task in tasks if counts[task["id"]] > 1]
        first = {task["id"]: task for task in reversed(repeated)}
        for task in repeated:
            if task != first[task["id"]]:
                raise ValueError(
                    f"two different {kind} tasks have the id {task['id']!r}: "
                    "give each its own, or none, and one is made from what it holds"
                )
        if repeated:
            display.line(f"warning: {len(repeated)} {kind} tasks are repetitions of each other")
    shared = {task["id"] for task in train} & {task["id"] for task in held_out}
    if shared:
        display.line(f"warning: {len(shared)} held-out tasks are train tasks, too")


def check_serving_addresses(config: Config, ranks: int = 1) -> None:
    """What agents reach models by: the port to serve at, auxiliary models and their keys."""
    _check_port(config.server, ranks)
    for name, model in config.auxiliary_models.items():
        if model.url:
            key_of(name, model)
        elif model.model is not None:
            hub.check_model(model.model)


def _check_port(server: ServerConfig, ranks: int) -> None:
    if server.port and ranks > 1:
        raise ValueError(
            f"server.port is {server.port}, but each of {ranks} ranks needs one: leave it 0"
        )
    try:
        socket.create_server((server.host, server.port)).close()
    except (OSError, OverflowError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise ValueError(
                f"server.port {server.port} is taken: give another, or 0 for any that is free"
            ) from error
        raise ValueError(
            f"cannot serve at server.host {server.host}, port {server.port} ({error}): "
            "give an address of this machine"
        ) from error


def _check_writable(runs: Path) -> None:
    try:
        runs.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=runs).close()
    except OSError as error:
        raise ValueError(
            f"cannot write to {runs} ({error.strerror}): give another folder with --runs"
        ) from error


def check_serving(
    config: Config, folder: str | Path, display: Display
) -> tuple[PreTrainedConfig, int, PreTrainedTokenizerBase]:
    """Whether vLLM would serve the model of a folder as the config wants it.

    Returns the model's config, how many weights it has, and its tokenizer.
    """
    model, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    parameters = memory.num_parameters(model)
    positions, length = _num_positions(model), config.model.max_model_len
    if positions and length > positions:
        raise ValueError(
            f"model.max_model_len is {length}, but the model has {positions} positions: "
            f"give --model.max-model-len {positions} or less"
        )
    # vLLM knows which parsers there are, and is slow to import.
    with display.phase("checking"), quiet():
        from agentrl.serving.chat_template import ChatTemplate
        from agentrl.serving.output_parser import OutputParser
        from agentrl.serving.process import prepare_process

        prepare_process()
        parser = OutputParser(tokenizer, config.model.tool_parser, config.model.reasoning_parser)
    ChatTemplate(tokenizer, parser.reasoning_end)
    return model, parameters, tokenizer


def with_max_model_len(config: Config, folder: str | Path, display: Display) -> Config:
    """The config with a ``model.max_model_len``; what the model alone decides is said."""
    if config.model.max_model_len is not None:
        return config
    positions = _num_positions(AutoConfig.from_pretrained(folder))
    if positions and positions < MAX_LEN:
        display.line(f"model.max_model_len: {positions}, as many positions as the model has")
    max_model_len = min(MAX_LEN, positions or MAX_LEN)
    return replace(config, model=replace(config.model, max_model_len=max_model_len))


def _num_positions(model: PreTrainedConfig) -> int | None:
    """How long a model's contexts may be; None where nothing says so."""
    text = model.get_text_config()
    scaling = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    is_stretched = scaling.get("rope_type", "default") != "default"
    return None if is_stretched else getattr(text, "max_position_embeddings", None)


def check_model(
    config: Config,
    folder: str | Path,
    train: Sequence[Task],
    *,
    num_steps: int,
    ranks: int,
    ranks_here: int,
    display: Display,
) -> None:
    """Whether the model can be served and trained here; prints what it takes as a table.

    ranks: all that share the policy; ranks_here: those of them on this machine.
    """
    model, parameters, tokenizer = check_serving(config, folder, display)
    rows = [
        _check_memory(config, model, parameters, ranks, ranks_here),
        _check_cache(config, model, parameters),
        _check_disk(config, parameters, num_steps, display),
        _check_questions(train, tokenizer, config.model.max_model_len, display),
    ]
    where = f"{ranks} rank{'s' * (ranks > 1)} on {'cuda' if torch.cuda.is_available() else 'cpu'}"
    title = f"{parameters / 1e6:.1f} million weights, {where}"
    display.table(title, ("", "needed", "there is"), rows)
    if compute_dtype(config.model) == "bfloat16" and not torch.cuda.is_available():
        display.line("warning: few CPUs are quick in bfloat16: --model.dtype float32 may be faster")


Row = tuple[str, str, str]
"""Of the table: what it is, what is needed, and what there is."""


def _check_memory(
    config: Config, model: PreTrainedConfig, parameters: int, ranks: int, ranks_here: int
) -> Row:
    needed, remedy = memory.state_bytes(config, parameters, ranks), "or launch more ranks"
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
    else:
        # Its ranks share a machine's RAM, and nothing sleeps there.
        needed = ranks_here * (needed + memory.bytes_on_cpu(config, model, parameters))
        free, remedy = (
            memory.free_bytes(),
            "launch fewer processes, or lower --engine.cpu-cache-gib",
        )
    if needed > free:
        raise ValueError(
            f"{size(needed)} of memory are needed, without activations, and {size(free)} are free: "
            f"train a smaller model, {remedy}"
        )
    return "memory, without activations", size(needed), size(free)


def _check_cache(config: Config, model: PreTrainedConfig, parameters: int) -> Row:
    weights, call = memory.engine_bytes(config, model, parameters)
    cache, setting = config.engine.cpu_cache_gib * GIB, "engine.cpu_cache_gib"
    if torch.cuda.is_available():
        share, setting = config.engine.gpu_memory_utilization, "engine.gpu_memory_utilization"
        cache = max(0, int(share * torch.cuda.mem_get_info()[1]) - weights)
    if call > cache:
        raise ValueError(
            f"model.max_model_len {config.model.max_model_len} takes {size(call)} of KV cache a "
            f"call, and there is {size(cache)}: raise {setting}, or lower model.max_model_len"
        )
    return "KV cache, for the longest call", size(call), size(cache)


def _check_disk(config: Config, parameters: int, num_steps: int, display: Display) -> Row:
    # The weights in fp32, and what a run resumes with: two moments of each.
    checkpoint, disk = 3 * memory.FP32 * parameters, shutil.disk_usage(config.runs).free
    if checkpoint > disk:
        raise ValueError(
            f"a checkpoint takes {size(checkpoint)} and {config.runs} has {size(disk)} left: "
            "make room, or give another folder with --runs"
        )
    count = -(-num_steps // (config.save_every or num_steps))
    if count * checkpoint > disk:
        display.line(
            f"warning: {count} checkpoints take {size(count * checkpoint)} and {size(disk)} are "
            "left: raise --save-every, or make room"
        )
    return "disk, for each checkpoint", size(checkpoint), size(disk)


def _check_questions(
    tasks: Sequence[Task],
    tokenizer: PreTrainedTokenizerBase,
    max_model_len: int,
    display: Display,
) -> Row:
    """The longest ``question``, which an agent is likely to hand on."""
    questions = [task["question"] for task in tasks if isinstance(task.get("question"), str)]
    texts = sorted(questions, key=len)[-8:]
    longest = max((len(tokenizer.encode(text)) for text in texts), default=0)
    # Whether an agent puts all of it into a prompt is its own affair.
    if longest >= max_model_len:
        display.line(
            f"warning: the longest question has {longest} tokens and model.max_model_len is "
            f"{max_model_len}: an agent that asks all of it gets no answer; "
            "raise --model.max-model-len or leave it out"
        )
    return "longest question, in tokens", str(longest), str(max_model_len)


def check_failures(groups: Sequence[Group], max_failed: float) -> None:
    """Raise TooManyFailed, with the commonest cause, where a larger share of episodes failed."""
    episodes = [episode for group in groups for episode in group.episodes]
    causes = Counter(episode.error for episode in episodes if episode.failed)
    if causes.total() > max_failed * len(episodes):
        ((cause, count),) = causes.most_common(1)
        raise TooManyFailed(
            f"{causes.total()} of {len(episodes)} episodes failed, which is more than "
            f"--max-failed {max_failed:g}. The commonest cause, {count} times: {cause}"
        )


def check_first_batch(groups: Sequence[Group], config: Config, display: Display) -> None:
    """Raise CannotStart where nothing of a run's first batch can be trained on."""
    check_trained_agents(groups, config.trained_agents, display)
    _check_prompts_fit(groups, config.model.max_model_len)


def check_trained_agents(
    groups: Sequence[Group], trained_agents: Sequence[str] | None, display: Display
) -> None:
    callers = {agent for group in groups for e in group.episodes for agent in e.agents}
    silent = set(trained_agents or ()) - callers
    # Where nobody called, the episodes failed, and their cause is on the screen.
    if not silent or not callers:
        return
    sentence = (
        f"trained_agents names {', '.join(sorted(silent))}, but the first batch has no such call: "
        f"its agents are {', '.join(sorted(callers))}"
    )
    if silent == set(trained_agents):
        raise CannotStart(f"{sentence}. Choose of them with --trained-agents")
    display.line(f"warning: {sentence}")


def _check_prompts_fit(groups: Sequence[Group], max_model_len: int) -> None:
    episodes = [episode for group in groups for episode in group.episodes]
    if all(episode.status == "truncated" and not episode.calls for episode in episodes):
        raise CannotStart(
            f"every first prompt is longer than model.max_model_len {max_model_len}, so that "
            "nothing can be sampled: raise --model.max-model-len, or shorten the agent's prompt"
        )


def size(num_bytes: int) -> str:
    """
    >>> size(3_200_000), size(5_000_000_000)
    ('3.1 MiB', '4.7 GiB')
    """
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 2**20:.1f} MiB"
