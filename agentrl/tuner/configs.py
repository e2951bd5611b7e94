"""Configs of the tuner: a data set, a model, an algorithm."""

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from agentrl import hub
from agentrl.tasks.hf import told
from agentrl.tasks.jsonl import without_padding
from agentrl.types import Task


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Rows of a data set: a hub name or a folder, as ``datasets.load_dataset`` takes it."""

    path: str
    name: str | None = None
    """The subset."""
    split: str | None = "train"
    total_epochs: int = 1
    total_steps: int | None = None
    """In the place of epochs."""

    def rows(self, n: int | None = None) -> list[Task]:
        """The first n, or all. Raises ValueError, in a sentence, where they cannot be read."""
        # Slow to import, and only needed here.
        from datasets import load_dataset

        if not Path(self.path).exists():
            hub.stay_offline_where_unreachable()
        with told(self.path, "({}): give a folder of jsonl, or a hub name that is within reach"):
            split = self.split or "train"
            found = load_dataset(self.path, self.name, split=split, streaming=n is not None)
            return [without_padding(row) for row in islice(found, n)]

    def preview(self, n: int = 5) -> list[Task]:
        """The first n rows, which are printed, too."""
        samples = self.rows(n)
        print(json.dumps(samples, indent=2, ensure_ascii=False, default=str))
        return samples

    def __str__(self) -> str:
        return " ".join(filter(None, (self.path, self.name, self.split)))


@dataclass(frozen=True, kw_only=True)
class TunerModelConfig:
    """The model that is trained, or an auxiliary one."""

    model_path: str
    max_model_len: int
    temperature: float = 1.0
    top_p: float = 1.0
    """1 for the model that is trained: its tokens are drawn from the whole distribution."""
    max_tokens: int = 8192
    """Of one call."""
    enable_thinking: bool | None = None
    """What chat templates such as Qwen3's are told. None: nothing."""
    tensor_parallel_size: int = 1
    inference_engine_num: int | None = None
    """None: as many as there are processes for."""
    tool_call_parser: str | None = "hermes"
    reasoning_parser: str | None = None
    """None: deepseek_r1 where the model's tokenizer knows </think>, else none."""

    @cached_property
    def _tokenizer(self) -> Any:
        # Slow to import.
        from transformers import AutoTokenizer

        hub.check_model(self.model_path)
        return AutoTokenizer.from_pretrained(self.model_path)

    @property
    def thinking_parser(self) -> str | None:
        """The reasoning parser, found where none is given."""
        found = "deepseek_r1" if "</think>" in self._tokenizer.get_vocab() else None
        return self.reasoning_parser or found

    @property
    def template_arguments(self) -> dict[str, Any]:
        """What every call brings for the chat template, as the client takes it.

        Raises ValueError where the template does not know it.
        """
        if self.enable_thinking is None:
            return {}
        if "enable_thinking" not in str(self._tokenizer.chat_template):
            raise ValueError(
                f"enable_thinking is {self.enable_thinking}, of which the chat template of "
                f"{self.model_path} knows nothing: leave it out"
            )
        return {"extra_body": {"chat_template_kwargs": {"enable_thinking": self.enable_thinking}}}

    @property
    def sampling(self) -> dict[str, Any]:
        """What every call is drawn with, unless the agent says otherwise."""
        names = ("temperature", "top_p", "max_tokens")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig:
    algorithm_type: str = "multi_step_grpo"
    """One of ``agentrl/algorithms``, several with a +, or the path of a file."""
    learning_rate: float = 1e-6
    group_size: int = 8
    batch_size: int = 32
    """Tasks of a step."""
    save_interval_steps: int = 100
    eval_interval_steps: int = 100
