"""What can be known to fail, before minutes are spent on it.

``check_surroundings`` needs no model; ``check_model`` prints what training one will take beside
what there is. Each raises ValueError with a sentence that says what to change, or prints a warning
where it cannot be sure. Nothing is loaded but configs and tokenizers. What only a batch can show is
checked in the first: ``check_first_batch``.
"""

import errno
import importlib.util
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from agentrl import hub
from agentrl.config import Config, EngineConfig, ServerConfig
from agentrl.runs import memory
from agentrl.runs.memory import Shape
from agentrl.runs.progress import Display
from agentrl.runs.quiet import quiet
from agentrl.serving.remote import key_of
from agentrl.types import Group, Task, TooManyFailed

MAX_LEN = 4096
"""Of a context, where ``model.max_model_len`` is absent and the model allows it."""
TOLERANCE = 1.3
"""How far off the estimate of memory may be."""
KEPT_BY_MALLOC = 2
"""How often activations are held on a CPU: glibc keeps what was freed in pieces that the next layer
does not fit into. From 1.3 times to 2.7 was seen."""
GIB = 2**30
WORKING_BYTES = GIB
"""What vLLM takes on a CPU besides its weights and its cache."""


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
    check_serving_addresses(config, ranks)
    _check_trackers(config.trackers)
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
        else:
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


def _check_trackers(names: Sequence[str]) -> None:
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"trackers has {name}, which is not installed: install the {name} that "
                "requirements.txt pins, or leave it out"
            )
        if name in HAS_LOGIN and not HAS_LOGIN[name]():
            variable = name.upper()
            raise ValueError(
                f"trackers has {name}, and nobody is logged in: run `{name} login`, set "
                f"{variable}_API_KEY, or keep its files here with {variable}_MODE=offline"
            )


def _has_wandb_login() -> bool:
    # Slow to import, as the next.
    import wandb

    with quiet():
        if wandb.setup().settings.mode != "online":
            return True
        try:
            # Asks the server, too, where there is a key.
            return wandb.login(prompt=False)
        except wandb.Error as error:
            raise ValueError(
                f"trackers has wandb, which cannot log in ({error}): see to the key with "
                "`wandb login --relogin`, or keep its files here with WANDB_MODE=offline"
            ) from error


def _has_swanlab_login() -> bool:
    import swanlab

    settings = swanlab.Settings()
    return settings.mode != "online" or settings.api_key is not None


HAS_LOGIN = {"wandb": _has_wandb_login, "swanlab": _has_swanlab_login}
"""Whether a tracker that sends what it gets knows as whom, or has been told to stay offline."""


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
) -> tuple[Shape, PreTrainedTokenizerBase]:
    """Whether vLLM would serve the model of a folder as the config wants it; its sizes."""
    model, tokenizer = config.model, AutoTokenizer.from_pretrained(folder)
    shape = memory.shape_of(folder)
    _check_positions(folder, model.max_model_len)
    # vLLM knows which parsers there are, and is slow to import.
    with display.phase("checking"), quiet():
        from agentrl.serving.chat_template import ChatTemplate
        from agentrl.serving.output_parser import OutputParser
        from agentrl.serving.process import prepare_process

        prepare_process()
        parser = OutputParser(tokenizer, model.tool_parser, model.reasoning_parser)
    ChatTemplate(tokenizer, parser.reasoning_end)
    return shape, tokenizer


def with_max_model_len(config: Config, folder: str | Path, display: Display) -> Config:
    """The config with a ``model.max_model_len``; what the model alone decides is said."""
    if config.model.max_model_len is not None:
        return config
    positions = _num_positions(folder)
    if positions and positions < MAX_LEN:
        display.line(f"model.max_model_len: {positions}, as many positions as the model has")
    max_model_len = min(MAX_LEN, positions or MAX_LEN)
    return replace(config, model=replace(config.model, max_model_len=max_model_len))


def _num_positions(folder: str | Path) -> int | None:
    """How long a model's contexts may be; None where nothing says so."""
    text = AutoConfig.from_pretrained(folder).get_text_config()
    scaling = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    is_stretched = scaling.get("rope_type", "default") != "default"
    return None if is_stretched else getattr(text, "max_position_embeddings", None)


def _check_positions(folder: str | Path, max_model_len: int) -> None:
    positions = _num_positions(folder)
    if positions and max_model_len > positions:
        raise ValueError(
            f"model.max_model_len is {max_model_len}, but the model has {positions} positions: "
            f"give --model.max-model-len {positions} or less"
        )


def check_model(
    config: Config,
    folder: str | Path,
    train: Sequence[Task],
    *,
    num_steps: int,
    ranks: int,
    ranks_here: int,
    dtype: str,
    attention: str,
    device: torch.device,
    display: Display,
) -> None:
    """Whether the model can be served and trained here; prints what it takes as a table.

    ranks: all that share the policy; ranks_here: those of them on this machine.
    """
    shape, tokenizer = check_serving(config, folder, display)
    state = memory.state_bytes(shape, ranks)
    activations = _activations(config, shape, dtype, attention, device)
    engine = _engine(config.engine, shape, dtype, config.model.max_model_len, device)
    needed, free, remedies = _in_all(config, state, activations, engine, ranks_here, device)
    checkpoint, disk = memory.checkpoint_bytes(shape), shutil.disk_usage(config.runs).free
    longest = _longest_question(train, tokenizer)
    display.table(
        f"{shape.parameters / 1e6:.1f} million weights, {_count(ranks, 'rank')} on {device.type}",
        ("", "needed", "there is"),
        [
            ("weights, gradients, AdamW's moments", size(state), ""),
            (f"activations ({config.micro_batch_tokens} tokens at once)", size(activations), ""),
            ("vLLM", size(engine), ""),
            ("memory in all", size(needed), size(free)),
            ("disk, for each checkpoint", size(checkpoint), size(disk)),
            ("longest question, in tokens", str(longest), str(config.model.max_model_len)),
        ],
    )
    _judge_memory(needed, free, remedies, display)
    _judge_disk(config, checkpoint, disk, num_steps, display)
    _judge_question(longest, config.model.max_model_len, display)
    if dtype == "bfloat16" and device.type == "cpu":
        display.line("warning: few CPUs are quick in bfloat16: --model.dtype float32 may be faster")


def _activations(
    config: Config, shape: Shape, dtype: str, attention: str, device: torch.device
) -> int:
    held = memory.activation_bytes(
        shape,
        # A call that is longer than the budget is a micro-batch of its own.
        tokens=max(config.micro_batch_tokens, config.model.max_model_len),
        longest=config.model.max_model_len,
        dtype=dtype,
        recompute=config.model.recompute,
        kernels=attention,
    )
    return KEPT_BY_MALLOC * held if device.type == "cpu" else held


def _engine(
    engine: EngineConfig, shape: Shape, dtype: str, max_model_len: int, device: torch.device
) -> int:
    """What vLLM holds while it is awake. Raises ValueError where one call would not fit."""
    # A rank has its share of an engine that spans several.
    weights = memory.BYTES[dtype] * shape.parameters // engine.tensor_parallel_size
    call = max_model_len * memory.cache_bytes_per_token(shape, dtype) // engine.tensor_parallel_size
    if device.type == "cpu":
        room, cause = engine.cpu_cache_gib * GIB, "engine.cpu_cache_gib"
        held = weights + room + WORKING_BYTES
    else:
        held = int(engine.gpu_memory_utilization * torch.cuda.mem_get_info(device)[1])
        room, cause = held - weights, "engine.gpu_memory_utilization"
    if call > room:
        raise ValueError(
            f"model.max_model_len {max_model_len} takes {size(call)} of KV cache a call, and there "
            f"is {size(max(0, room))}: raise {cause}, or lower model.max_model_len"
        )
    return held


def _in_all(
    config: Config, state: int, activations: int, engine: int, ranks_here: int, device: torch.device
) -> tuple[int, int, list[str]]:
    """Bytes needed, bytes free, and what would help, the best first."""
    remedies = ["a smaller model"]
    if activations > state:
        if config.model.recompute != "full":
            remedies.insert(0, "--model.recompute full")
        if config.micro_batch_tokens > config.model.max_model_len:
            remedies.insert(0, "a smaller --micro-batch-tokens")
        else:
            remedies.insert(0, "a smaller --model.max-model-len")
    if device.type == "cpu":
        # Its ranks share a machine's RAM, and nothing sleeps there.
        return (
            ranks_here * (state + activations + engine),
            memory.free_bytes(),
            remedies,
        )
    # vLLM sleeps while the trainer trains, and its weights and moments stay while vLLM works.
    remedies.insert(1, "more ranks")
    if engine > activations:
        remedies.insert(0, "a smaller --engine.gpu-memory-utilization")
    needed = state + max(activations, engine)
    return needed, torch.cuda.mem_get_info(device)[0], remedies


def _judge_memory(needed: int, free: int, remedies: list[str], display: Display) -> None:
    help_ = f"try {' or '.join(remedies)}"
    if needed > TOLERANCE * free:
        raise ValueError(
            f"about {size(needed)} of memory are needed and {size(free)} free: {help_}"
        )
    if needed * TOLERANCE > free:
        display.line(
            f"warning: {size(needed)} of {size(free)} may be too close: if it fails, {help_}"
        )


def _judge_disk(
    config: Config, checkpoint: int, disk: int, num_steps: int, display: Display
) -> None:
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


def _longest_question(tasks: Sequence[Task], tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest ``question``, which an agent is likely to hand on; 0: there is none."""
    questions = [task["question"] for task in tasks if isinstance(task.get("question"), str)]
    longest = sorted(questions, key=len)[-8:]
    return max((len(tokenizer.encode(text)) for text in longest), default=0)


def _judge_question(longest: int, max_model_len: int, display: Display) -> None:
    # Whether an agent puts all of it into a prompt is its own affair.
    if longest >= max_model_len:
        display.line(
            f"warning: the longest question has {longest} tokens and model.max_model_len is "
            f"{max_model_len}: an agent that asks all of it gets no answer; raise "
            "--model.max-model-len or leave it out"
        )


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


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
