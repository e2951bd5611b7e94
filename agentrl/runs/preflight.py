"""What can be known to fail, before minutes are spent on it.

``check_surroundings`` needs no model; ``check_model`` says what training one will take of what is
there. Each raises ValueError with a sentence that says what to change. Nothing is loaded but
configs and tokenizers. What only a batch can show is checked in the first: ``check_first_batch``.
"""

import resource
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.filesize import decimal as size
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

from agentrl import hub
from agentrl.config import Config, LoraConfig, ServerConfig
from agentrl.learning.architecture import check_architecture
from agentrl.runs import memory
from agentrl.runs.progress import Display
from agentrl.runs.quiet import quiet
from agentrl.runs.trackers import check_trackers
from agentrl.serving.remote import key_of
from agentrl.tasks.jsonl import content_id
from agentrl.types import CannotStart, Group, NothingToTrain, Task, TooManyFailed

MAX_LEN = 4096
"""Of a context, where ``model.max_model_len`` is absent and the model allows it."""


def check_surroundings(
    config: Config, train: Sequence[Task], held_out: Sequence[Task], ranks: int, display: Display
) -> None:
    """Tasks, ranks, the port, the keys, the trackers, and the folder where runs are written."""
    if ranks > config.tasks_per_step:
        raise ValueError(
            f"{ranks} ranks share tasks_per_step {config.tasks_per_step}: launch fewer processes, "
            "or give at least one task a rank with --tasks-per-step"
        )
    check_ids(train, held_out, display)
    if isinstance(config.algorithm.reference, str):
        hub.check_model(config.algorithm.reference)
    check_serving_addresses(config, ranks)
    _check_open_files(config)
    check_trackers(config.trackers)
    _check_writable(config.runs)


def check_same_lora(config: Config, before: Mapping) -> None:
    """Whether a run that goes on trains the weights that it did. before: its settings then."""
    was = vars(LoraConfig()) | before["model"].get("lora", {})
    for name, now in vars(config.model.lora).items():
        if ([*now] if isinstance(now, tuple) else now) != (then := was[name]):
            raise ValueError(
                f"model.lora.{name} was {then} when the run began, and is {now}: give what it was, "
                "or begin another run from the run's checkpoint, with --model.path"
            )


def check_ids(train: Sequence[Task], held_out: Sequence[Task], display: Display) -> None:
    found: list[dict[str, Task]] = []
    for kind, tasks in {"train": train, "held-out": held_out}.items():
        by_id: dict[str, Task] = {}
        for task in tasks:
            first = by_id.setdefault(task["id"], task)
            if first is not task and content_id(first) != content_id(task):
                raise ValueError(
                    f"two different {kind} tasks have the id {task['id']!r}: "
                    "give each its own, or none, and one is made from what it holds; leave each in "
                    "one set"
                )
        found.append(by_id)
    if shared := found[0].keys() & found[1].keys():
        display.line(f"warning: {len(shared)} held-out tasks are train tasks, too")


def check_serving_addresses(config: Config, ranks: int = 1) -> None:
    """What agents reach models by: the port to serve at, auxiliary models and their keys."""
    _check_vllm()
    _check_ports(config.server, ranks, config.workers)
    for name, model in config.auxiliary_models.items():
        if model.url:
            key_of(name, model)
        elif model.model is not None:
            hub.check_model(model.model)


def _check_vllm() -> None:
    if find_spec("vllm") is None:
        raise ValueError(
            "vLLM is not installed: install what requirements.txt lists, or on a machine without a "
            "GPU requirements-cpu.txt, whose first lines say how"
        )


def _check_ports(server: ServerConfig, ranks: int, workers: int) -> None:
    if server.port and ranks > 1:
        raise ValueError(
            f"server.port is {server.port}, but each of {ranks} ranks needs one: leave it 0"
        )
    # That of each worker, or of this process.
    for port in range(server.port, server.port + (max(1, workers) if server.port else 1)):
        try:
            socket.create_server((server.host, port)).close()
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"cannot serve at server.host {server.host}, server.port {port} ({error}): "
                "give an address of this machine, and a port that is free, or 0 for any"
            ) from error


def _check_open_files(config: Config) -> None:
    at_once = min(config.concurrent_episodes, config.tasks_per_step * config.group_size)
    needed, allowed = 256 + 8 * at_once, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if allowed != resource.RLIM_INFINITY and needed > allowed:
        raise ValueError(
            f"concurrent_episodes is {config.concurrent_episodes}: they may have {needed} files "
            f"open at once, and {allowed} are allowed (ulimit -Hn): raise that, or give "
            f"--concurrent-episodes {max(1, (allowed - 256) // 8)} or less"
        )


def _check_writable(runs: Path) -> None:
    try:
        runs.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=runs).close()
    except OSError as error:
        raise ValueError(
            f"cannot write to {runs} ({error.strerror}): give another folder with --runs"
        ) from error


def check_serving(config: Config, folder: str | Path, display: Display) -> memory.NumParameters:
    """Whether vLLM would serve a folder's model as the config wants it; returns its parameters."""
    model, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    positions, length = _num_positions(model), config.model.max_model_len
    if positions and length > positions:
        raise ValueError(
            f"model.max_model_len is {length}, but the model has {positions} positions: "
            f"give --model.max-model-len {positions} or less"
        )
    if config.engine.async_scheduling and not torch.cuda.is_available():
        raise ValueError("engine.async_scheduling is True: vLLM has it on GPUs alone, leave it out")
    # vLLM knows which parsers there are, and is slow to import.
    with display.phase("checking"), quiet():
        from agentrl.serving.chat_template import ChatTemplate
        from agentrl.serving.output_parser import OutputParser
        from agentrl.serving.process import prepare_process

        prepare_process()
        parser = OutputParser(tokenizer, config.model.tool_parser, config.model.reasoning_parser)
    ChatTemplate(tokenizer, parser.reasoning_end)
    return memory.num_parameters(model, config.model.lora)


def with_max_model_len(config: Config, folder: str | Path, display: Display) -> Config:
    """The config with a ``model.max_model_len``; what the model alone decides is said."""
    if config.model.max_model_len is not None:
        return config
    positions = _num_positions(AutoConfig.from_pretrained(folder))
    if positions and positions < MAX_LEN:
        display.line(f"model.max_model_len: {positions}, as many positions as the model has")
    max_model_len = min(MAX_LEN, positions or MAX_LEN)
    return replace(config, model=replace(config.model, max_model_len=max_model_len))


def with_max_tokens(config: Config) -> Config:
    """The config whose algorithm knows how long a call may be, where it asks for that."""
    if getattr(config.algorithm, "max_tokens", 0) is not None:
        return config
    algorithm = replace(config.algorithm, max_tokens=config.sampling.max_tokens)
    return replace(config, algorithm=algorithm)


def _num_positions(model: PreTrainedConfig) -> int | None:
    """How long a model's contexts may be; None where nothing says so."""
    text = model.get_text_config()
    scaling = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    is_stretched = scaling.get("rope_type", "default") != "default"
    return None if is_stretched else getattr(text, "max_position_embeddings", None)


def check_model(
    config: Config, folder: str | Path, ranks: int, ranks_here: int, display: Display
) -> None:
    """Whether the model can be served and trained here; says what that takes of what there is.

    ranks: all that share the policy; ranks_here: those of them on this machine.
    """
    _check_teacher(config.algorithm.reference, folder)
    parameters, device, push = check_serving(config, folder, display), "cpu", ""
    with display.phase("checking"), quiet():
        _check_architectures(config, folder)
    remedy = "launch fewer processes, or lower --engine.cpu-cache-gib"
    if torch.cuda.is_available():
        device, remedy = "cuda", "or launch more ranks"
        push = f", in a push {size(memory.push_bytes(config, parameters, ranks))}"
    needed = memory.needed_bytes(config, parameters, ranks, ranks_here)
    free = memory.free_bytes()
    if needed > free:
        raise ValueError(
            f"{size(needed)} of memory are needed, without activations, and {size(free)} are free: "
            f"train a smaller model, {remedy}"
        )
    checkpoint = memory.checkpoint_bytes(config, parameters)
    disk = shutil.disk_usage(config.runs).free
    if checkpoint > disk:
        raise ValueError(
            f"a checkpoint takes {size(checkpoint)} and {config.runs} has {size(disk)} left: "
            "make room, or give another folder with --runs"
        )
    trained = f", of LoRA {parameters.trained / 1e6:.2f}" * (config.model.lora.rank is not None)
    display.line(
        f"{parameters.total / 1e6:.1f} million weights{trained}, {ranks} rank{'s' * (ranks > 1)} "
        f"on {device}: {size(needed)} of {size(free)} memory, without activations{push}; "
        f"{size(checkpoint)} of {size(disk)} disk a checkpoint"
    )


def _check_architectures(config: Config, folder: str | Path) -> None:
    """Of what is trained, and of a reference that is another model."""
    teacher = config.algorithm.reference
    for name in (folder, teacher) if isinstance(teacher, str) else (folder,):
        model = AutoConfig.from_pretrained(name)
        check_architecture(model, config.model.max_model_len, config.model.recompute)


def _check_teacher(reference: bool | str, folder: str | Path) -> None:
    """Whether what another model says of token ids means the same."""
    if isinstance(reference, str):
        own, its = (AutoTokenizer.from_pretrained(f).get_vocab() for f in (folder, reference))
        if own != its:
            raise ValueError(
                f"the algorithm's reference is {reference}, whose tokens are not those of "
                f"{folder}: name a model that has the same tokenizer"
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


def check_trainable(groups: Sequence[Group], trained_agents: Sequence[str] | None) -> None:
    """Raise NothingToTrain where a batch was scored, and none of its tokens can be trained."""
    calls = [(e, call) for group in groups for e in group.scored for call in e.calls]
    own = [
        call
        for episode, call in calls
        if (trained_agents is None or call.agent in trained_agents)
        and episode.reward_of(call.agent) is not None
    ]
    is_scored = any(group.scored for group in groups)
    if not is_scored or any(call.completion_ids and not call.under_grammar for call in own):
        return
    cause = (
        f"all {len(own)} calls that could be were drawn under a grammar: let the agent ask without "
        "a schema and with tool_choice auto, and leave sampling.strict_tools off"
        if own
        else f"of {len(calls)} calls none is an agent's that is trained and has a reward: let the "
        "agent call the model that it gets, and see --trained-agents and the rewards by name"
    )
    raise NothingToTrain(f"nothing that the batch sampled can be trained: {cause}")


def check_first_batch(groups: Sequence[Group], config: Config, display: Display) -> None:
    """Raise CannotStart where nothing of a run's first batch can be trained on."""
    check_trained_agents(groups, config.trained_agents, display)
    _check_parts(groups, config.algorithm.part_weights)
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


def _check_parts(groups: Sequence[Group], weights: Mapping[str, float]) -> None:
    parts = {name for group in groups for episode in group.scored for name in episode.parts}
    if unknown := weights.keys() - parts:
        raise CannotStart(
            f"algorithm.part_weights names {', '.join(sorted(unknown))}, but the first batch's "
            f"rewards are made of {', '.join(sorted(parts)) or 'no parts'}"
        )


def _check_prompts_fit(groups: Sequence[Group], max_model_len: int) -> None:
    episodes = [episode for group in groups for episode in group.episodes]
    if all(episode.status == "truncated" and not episode.calls for episode in episodes):
        raise CannotStart(
            f"every first prompt is longer than model.max_model_len {max_model_len}, so that "
            "nothing can be sampled: raise --model.max-model-len, or shorten the agent's prompt"
        )
