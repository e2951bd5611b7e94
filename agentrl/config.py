"""Config: what a run is made of, as two levels of frozen dataclasses.

An experiment is one instance of it, and ``cli`` lets flags override that. Callables are ordinary
fields: on the command line they are written ``package.module:function`` or
``path/file.py:function``.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from agentrl.agents.contract import check_signatures
from agentrl.algorithms import GRPO
from agentrl.callables import callable_name, experiment_modules, load_callable, load_named
from agentrl.types import Task

MAX_NUM_BATCHED_TOKENS = 16_384
"""Of vLLM on a GPU, whose default for an engine is 2,048: a prompt of 16k would take eight steps.
"""
_OPENS_WORLDS = re.compile(r"agentrl\.environments|[\"']env[\"']")
LONGEST_SECONDS = 1e9
"""Clocks count nanoseconds, in 63 bits."""
_FROM_COMMAND_LINE = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="MODULE:FUNCTION",
    instance_from_str=lambda args: None if args == ["None"] else load_callable(args[0]),
    is_instance=lambda value: value is None or callable(value),
    str_from_instance=lambda function: [callable_name(function)],
)
_TASKS_BY_NAME = replace(
    _FROM_COMMAND_LINE,
    metavar="NAME:WHAT",
    instance_from_str=lambda args: load_named(args[0], "agentrl.tasks"),
)


def _check(config: Any, prefix: str = "", **fields: tuple[bool, str]) -> None:
    """Raise ValueError for a field that cannot be used. fields: whether it can; else what to do."""
    for name, (is_right, remedy) in fields.items():
        if not is_right:
            raise ValueError(f"{prefix}{name} is {getattr(config, name)}: {remedy}")


def _may_open_worlds(workflow: Callable) -> bool:
    """Whether an experiment's modules speak of ``agentrl.environments``, or of a task's "env"."""
    modules = experiment_modules([callable_name(workflow)]).values()
    files = [Path(getattr(module, "__file__", None) or "") for module in modules]
    texts = [file.read_text("utf-8", "replace") for file in files if file.is_file()]
    return not texts or any(map(_OPENS_WORLDS.search, texts))


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    rank: int | None = None
    """Train adapters of this rank beside frozen weights. Absent: every weight is trained."""
    alpha: int = 32
    """Adapters count alpha / rank: what a learning rate does is then the same for every rank."""
    targets: tuple[str, ...] | None = None
    """Linear layers that get one, such as q_proj. Absent: all of the decoder's layers."""

    def __post_init__(self):
        # Without a rank the others would be ignored.
        is_off = (self.rank, self.alpha, self.targets) == (None, 32, None)
        remedy = "give at least 1, or leave all of model.lora out"
        _check(self, "model.lora.", rank=(is_off or (self.rank or 0) > 0, remedy))
        _check(self, "model.lora.", alpha=(self.alpha > 0, "give at least 1"))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    path: str | None = None
    """A transformers folder or hub name. Absent: what the experiment's make_model makes."""
    max_model_len: int | None = None
    """Longest prompt + completion in tokens. Absent: 4096, or the model's, where that is less."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What both engines compute in. In the trainer, what is trained stays fp32; in bfloat16 FSDP2
    casts it a layer at a time, on one rank as on several. auto: bfloat16 on a GPU, else float32."""
    recompute: Literal["off", "full", "selective"] = "off"
    """Recompute activations in the backward pass, layer by layer: less memory, 1/3 more work.
    selective: attention, the dearest per byte, is kept."""
    tool_parser: str | None = "hermes"
    """The vLLM tool parser that fits the model's way of writing tool calls."""
    reasoning_parser: str | None = None
    """The vLLM reasoning parser that fits the model's way of thinking, where it thinks."""
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self):
        is_enough = self.max_model_len is None or self.max_model_len >= 16
        _check(self, "model.", max_model_len=(is_enough, "give at least 16 tokens"))


def compute_dtype(model: ModelConfig) -> str:
    """What the trainer and vLLM compute in, by its name in torch."""
    if model.dtype != "auto":
        return model.dtype
    # Slow to import, and not needed to read flags.
    import torch

    return "bfloat16" if torch.cuda.is_available() else "float32"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    path: str | None = None
    """A local folder with train.jsonl and test.jsonl, instead of the experiment's own source."""
    env: Annotated[str | None, tyro.conf.arg(aliases=("--env",))] = None
    """The world of tasks that name none, as NAME:WHAT: see docs/environments.md."""
    question: str | None = None
    """The column that is a task's ``question``. Absent: the one of that name."""
    answer: str | None = None
    """The column that is its ``answer``."""
    train_split: str | None = None
    """Of a data set by name, as ``datasets`` writes it, such as train[:80%]. Absent: train."""
    held_out_split: str | None = None
    """Absent: test, validation or dev; where there is none, some of the train rows."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    temperature: float = 1.0
    """Of every training and evaluation call; what an agent asks for is overridden."""
    max_tokens: int = 1024
    """Longest completion of one call; an agent may ask for less."""
    strict_tools: bool = False
    """Whether a tool's ``strict`` binds a call's arguments, where the model may choose whether to
    call at all. What is drawn so is not trained."""

    def __post_init__(self):
        bounds = "give 0.01, the lowest at which vLLM draws, to 2, the highest of OpenAI's API"
        _check(
            self,
            "sampling.",
            temperature=(0.01 <= self.temperature <= 2, bounds),
            max_tokens=(self.max_tokens > 0, "give at least 1"),
        )


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    lr: float = 1e-6
    """AdamW's learning rate after warm-up."""
    warmup_steps: int = 0
    """The rate rises linearly over this many steps."""
    final_lr_share: float = 1.0
    """From there it falls linearly, to this share of lr at the last step."""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0

    def __post_init__(self):
        are_betas = all(0 <= beta < 1 for beta in self.betas)
        shrinks = self.weight_decay >= 0 and self.lr * self.weight_decay <= 1
        _check(
            self,
            "optim.",
            lr=(0 <= self.lr <= 1, "give 0 to 1: AdamW moves every weight by about that in a step"),
            warmup_steps=(self.warmup_steps >= 0, "give 0 or more"),
            final_lr_share=(0 <= self.final_lr_share <= 1, "give 0 to 1"),
            betas=(are_betas, "give two numbers from 0 to below 1"),
            weight_decay=(shrinks, "give 0 to 1 / lr: a step takes lr times that off a weight"),
            max_grad_norm=(self.max_grad_norm > 0, "give above 0"),
        )

    def rate(self, step: int, num_steps: int) -> float:
        """The learning rate of a step, counted from 1.

        >>> optim = OptimConfig(lr=1.0, warmup_steps=2, final_lr_share=0.5)
        >>> [optim.rate(step, num_steps=4) for step in (1, 2, 3, 4)]
        [0.5, 1.0, 0.75, 0.5]
        """
        if step < self.warmup_steps:
            return self.lr * step / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, num_steps - self.warmup_steps)
        return self.lr * (1 - done * (1 - self.final_lr_share))


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    every: int | None = 20
    """Evaluate at step 0, every so many steps, and at the end. None: never."""
    num_tasks: int = 200
    """Held-out tasks, the first ones of each set."""
    samples: int = 1
    """Episodes of each: the k of mean@k and pass@k."""
    temperature: float | None = None
    """None: training's. 0: always the likeliest token."""
    sampling: Literal["training", "agent"] = "training"
    """As in training; or agent: as the agent asks for, where it does (temperature, top_p, ...)."""
    sets: tuple[str, ...] = ()
    """Held-out sets besides the experiment's own, which is called test then: NAME=FILE.jsonl ..."""
    best: str = "eval/success"
    """The metric that is highest for the best checkpoint, which keep_last keeps."""
    patience: int | None = None
    """End the run after so many evaluations in which best did not rise. None: never."""

    def __post_init__(self):
        names = {one.partition("=")[0] for one in self.sets if "=" in one}
        once = "give 1 or more, and 1 where eval.temperature is 0: the others would be the same"
        _check(
            self,
            "eval.",
            every=(self.every is None or self.every > 0, "give 1 or more"),
            num_tasks=(self.num_tasks > 0, "give 1 or more"),
            samples=(self.samples == 1 or (self.samples > 1 and self.temperature != 0), once),
            temperature=(0 <= (self.temperature or 0) <= 2, "give 0 to 2"),
            sets=(len(names) == len(self.sets), "give each as NAME=FILE.jsonl, and its own name"),
            best=(self.best.startswith("eval/"), "name a metric of an evaluation, eval/..."),
            patience=(
                self.patience is None or (self.patience > 0 and self.every is not None),
                "give 1 or more, and --eval.every: it counts evaluations",
            ),
        )


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    gpu_memory_utilization: float | None = None
    """Share of the GPU's memory for vLLM's weights and KV cache. None: 0.4 beside a trainer, 0.9
    where nothing trains."""
    sleep_level: Literal[1, 2] = 1
    """What stays of vLLM's weights while the trainer has the GPU: a copy in the host's memory (1),
    or nothing (2): the next push brings them all. 2 has not been measured on a GPU."""
    cpu_cache_gib: int = 1
    """KV cache where there is no GPU."""
    max_num_seqs: int = 256
    """Calls that decode together."""
    async_scheduling: bool = False
    """On a GPU, prepare a step while the one before it computes. Not measured there."""
    tensor_parallel_size: int = 1
    """Ranks that hold one engine together; each has its share of every layer."""

    def __post_init__(self):
        share = "give a share of the GPU's memory, between 0 and 1"
        seqs = f"give 1 to {MAX_NUM_BATCHED_TOKENS}, the tokens that vLLM computes at once"
        taken = self.gpu_memory_utilization
        _check(
            self,
            "engine.",
            gpu_memory_utilization=(taken is None or 0 < taken < 1, share),
            cpu_cache_gib=(self.cpu_cache_gib > 0, "give 1 or more"),
            max_num_seqs=(0 < self.max_num_seqs <= MAX_NUM_BATCHED_TOKENS, seqs),
            tensor_parallel_size=(self.tensor_parallel_size > 0, "give 1 or more"),
        )


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    host: str = "127.0.0.1"
    """Where agents that come over HTTP find the model. Whoever reaches it still needs a key."""
    port: int = 0
    """0: any that is free."""

    def __post_init__(self):
        _check(self, "server.", port=(0 <= self.port < 65536, "give 0 to 65535; 0: any free"))


@dataclass(frozen=True, kw_only=True)
class AuxiliaryModel:
    """A model beside the trained one: never recorded, never trained."""

    model: str | None
    """Its name at ``url``; without a url, a transformers folder or hub name that gets an engine of
    its own in this process. None: the model that the trained one starts from, such as an opponent
    that ``after_step`` gives newer weights."""
    url: str | None = None
    """An OpenAI-compatible server, ``/v1`` included."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the server's key."""
    max_model_len: int = 4096
    """Of an engine of its own: longest prompt + completion in tokens."""
    tool_parser: str | None = "hermes"
    reasoning_parser: str | None = None
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(gpu_memory_utilization=0.2))

    def __post_init__(self):
        if self.url is not None and self.model is None:
            raise ValueError(f"an auxiliary model has no name: give it the one that {self.url} has")


@dataclass(frozen=True, kw_only=True)
class Config:
    workflow: Annotated[Callable, _FROM_COMMAND_LINE]
    """The agent: async (task, model[, auxiliary_models]) -> WorkflowOutput | float | dict."""
    judge: Annotated[Callable | None, _FROM_COMMAND_LINE] = None
    """Scores what the workflow returns. Absent: the workflow's own reward counts."""
    tasks: Annotated[Callable[[DataConfig], tuple[list[Task], list[Task]]], _TASKS_BY_NAME]
    """Reads the train and the held-out tasks; also hf:owner/name[:subset], or files:PATH."""
    make_model: Annotated[Callable[..., Path] | None, _FROM_COMMAND_LINE] = None
    """(report[, data]) -> the model folder to start from where model.path is absent: made, or found
    in the cache. data: the DataConfig, for those that declare it."""
    algorithm: GRPO = field(default_factory=GRPO)
    """Credit, weights and loss; ``--algorithm NAME | path.py | a+b`` picks another."""
    collect: Annotated[Callable | None, _FROM_COMMAND_LINE] = None
    """(tasks, config, serving, ranks, run, step) -> the step's groups, all ranks' on every rank.
    Absent: ``rollout.collect``."""
    batches: Annotated[Callable | None, _FROM_COMMAND_LINE] = None
    """(tasks, config) -> a sequence of the tasks of every step, which may decide when it is asked.
    Absent: ``agentrl.tasks.batches.task_batches``."""
    after_step: Annotated[Callable | None, _FROM_COMMAND_LINE] = None
    """(Moment) -> metrics of its own, or None; called when a step's weights have been pushed."""
    load_policy: Annotated[Callable | None, _FROM_COMMAND_LINE] = None
    """(folder, config, ranks) -> the Policy to train. Absent: ``agentrl.learning.loading``."""
    trained_agents: tuple[str, ...] | None = None
    """Agents whose calls are trained; the others' are recorded alone. Absent: all."""

    steps: int | None = None
    """Optimizer steps at most. Absent: the epochs decide."""
    epochs: int | None = None
    """Passes over the train tasks at most. Absent: as many as the steps need, else one."""
    tasks_per_step: int = 16
    group_size: int = 8
    """Episodes per task, which are compared with each other."""
    seed: int = 0
    episode_seconds: float = 300.0
    """An episode that runs longer is given up."""
    concurrent_episodes: int = 256
    """Episodes that run at once."""
    workers: int = 0
    """Processes in which episodes run. 0: in the engine's."""
    overlap: bool = False
    """Train on a group as soon as it is complete, while the others are drawn: engine and trainer
    are in memory together. The gradient is the same up to the order of summation."""
    max_failed: float = 0.5
    """The run stops where a larger share of a batch's episodes fails. 1: never."""
    failed_reward: float | None = None
    """The reward of an episode that fails. Absent: it is left out of its group."""
    micro_batch_tokens: int = 16384
    """Tree tokens that go through the policy at once: memory against speed, never the gradient."""
    attention: Literal["auto", "reference", "triton", "flash", "segments"] = "auto"
    """How the trainer attends. auto: segments on CPU, triton on GPU."""
    compile: bool = False
    """Compile the layers of the trainer's model: fewer ways through memory, after a minute at the
    start. Off, because no GPU has measured it."""
    save_every: int | None = None
    """Save a checkpoint every so many steps, besides the ones at the end and when interrupted."""
    keep_last: int | None = None
    """Keep so many of the last checkpoints, and the one that did best on held-out tasks. Absent:
    all."""
    deterministic: bool = False
    """Repeat bit for bit, and resume so: the engine steps only while every episode waits for it,
    and one thread computes. Slower."""
    rank_timeout_seconds: float = 1800.0
    """How long ranks wait for one another, before they say who is missing and end."""
    runs: Path = Path("runs")
    """Where runs/<experiment>/<time>/ is made."""
    trackers: tuple[Literal["tensorboard", "wandb", "swanlab"], ...] = ()
    """Where metrics go besides the run's folder."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    auxiliary_models: dict[str, AuxiliaryModel] = field(default_factory=dict)
    """What workflows and judges get as ``auxiliary_models``, by name."""

    def __post_init__(self):
        counts = ("tasks_per_step", "micro_batch_tokens", "concurrent_episodes")
        for name in (*counts, "steps", "epochs", "save_every", "keep_last"):
            is_right = getattr(self, name) is None or getattr(self, name) > 0
            _check(self, **{name: (is_right, "give at least 1")})
        compared = "give at least 2, because episodes of a group are compared with each other"
        repeated = "what auxiliary models answer, and when, cannot be repeated: leave one out"
        apart = (
            "this needs groups one by one, one optimizer step a batch and no --deterministic: "
            "leave it out"
        )
        alone = "give 0 to 256, and 0 with --deterministic: no two processes take turns to the bit"
        wait = f"give above 0, at most {LONGEST_SECONDS:.0e}, which clocks can count to"
        timed = "what is compiled may depend on times, which cannot be repeated: leave one out"
        own_way = f"the algorithm {self.algorithm.name} collects in a way of its own: leave one out"
        _check(
            self,
            episode_seconds=(0 < self.episode_seconds <= LONGEST_SECONDS, wait),
            rank_timeout_seconds=(0 < self.rank_timeout_seconds <= LONGEST_SECONDS, wait),
            seed=(0 <= self.seed < 2**63, "give 0 to 2**63 - 1, the seeds that torch has"),
            failed_reward=(math.isfinite(self.failed_reward or 0), "give a finite number"),
            group_size=(self.group_size > 1, compared),
            max_failed=(0 <= self.max_failed <= 1, "give a share from 0 to 1"),
            trained_agents=(self.trained_agents != (), "name one, or leave it out to train all"),
            deterministic=(not (self.deterministic and self.auxiliary_models), repeated),
            overlap=(not self.overlap or self._may_overlap, apart),
            workers=(0 <= self.workers <= (0 if self.deterministic else 256), alone),
            compile=(not (self.deterministic and self.compile), timed),
            collect=(self.collect is None or self.algorithm.collect is None, own_way),
        )
        reads_env = self.data.env is None or _may_open_worlds(self.workflow)
        ignored = "this workflow opens no world, leave it out, or give --exp environment"
        _check(self.data, "data.", env=(reads_env, ignored))
        if self.model.path is None and self.make_model is None:
            raise ValueError("model.path is None: name a transformers folder or a hub model")
        for name, auxiliary in self.auxiliary_models.items():
            size = self.engine.tensor_parallel_size
            if auxiliary.url is None and auxiliary.engine.tensor_parallel_size != size:
                raise ValueError(
                    f"auxiliary_models.{name}.engine.tensor_parallel_size is not {size}: "
                    "all engines of a run span as many ranks"
                )
        check_signatures(self.workflow, self.judge)

    @property
    def _may_overlap(self) -> bool:
        algorithm = self.algorithm
        is_whole = self.collect or algorithm.collect or self.deterministic
        steps = algorithm.updates * algorithm.passes
        return algorithm.separable and steps == 1 and not is_whole
