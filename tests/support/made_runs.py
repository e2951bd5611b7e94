"""Runs for the viewer's tests, made without a model: a small agent with a tool, invented numbers,
written by the real recorder.
"""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agentrl.records.recorder import Recorder
from agentrl.records.scores import Scores
from agentrl.types import Call, Episode, Group, Message, Sample

START, END = "<|im_start|>", "<|im_end|>"
NAMES = ("Ada", "Grace", "Edsger", "Barbara", "Alan", "Emmy")
HABIT = "habit/no_print"
SYSTEM = {"role": "system", "content": "You are careful."}


def tokenizer(folder: Path):
    """A small byte-level one; saved where a run has its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=[START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = random.Random(0)
    texts = [f"{question(rng)[0]}<think>{thinking(3, 4)}</think>{code(3, 4)}" for _ in range(50)]
    made.train_from_iterator(texts, trainer=trainer)
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return made


def question(rng: random.Random) -> tuple[str, int, int]:
    a, b = rng.randint(2, 90), rng.randint(2, 90)
    name = rng.choice(NAMES)
    return f"{name} has {a} apples and buys {b} more. How many apples has {name} now?", a, b


def thinking(a: int, b: int) -> str:
    return f"\nThere are {a} and {b} more, so I add them.\n"


def code(a: int, b: int) -> str:
    arguments = f'{{"code": "print({a} + {b})"}}'
    return f'<tool_call>\n{{"name": "python", "arguments": {arguments}}}\n</tool_call>'


def long_group(
    rng: np.random.Generator,
    name: str,
    *,
    episodes: int = 8,
    turns: int = 3,
    sampled: int = 300,
    prompt: int = 600,
    tool: int = 80,
) -> Group:
    """Episodes of many tokens, which share their prompt; the ids of a vocabulary of 150,000."""

    def tokens(count: int) -> list[int]:
        # As in text, some are far more frequent than others.
        return np.minimum(rng.zipf(1.2, count), 149_999).tolist()

    task, said, made = {"id": name}, tokens(prompt), []
    for index in range(episodes):
        context, calls = said, []
        for _ in range(turns):
            logprobs = (-rng.exponential(0.5, sampled)).tolist()
            ids = tokens(sampled)
            calls.append(Call(prompt_ids=context, completion_ids=ids, logprobs=logprobs))
            context = calls[-1].ids + tokens(tool)
        reward = float(rng.integers(2))
        made.append(
            Episode(
                task=task,
                index=index,
                calls=tuple(calls),
                status="timeout" if rng.random() < 0.01 else "ok",
                reward=reward,
                success=reward == 1,
                metrics={HABIT: 1 - reward},
                seconds=float(rng.random()),
            )
        )
    return Group(task, tuple(made))


def long_scores(rng: np.random.Generator, samples: Sequence[Sample]) -> list[Scores]:
    drawn = np.array([p for s in samples for p in s.call.logprobs], np.float32)
    trainer = (drawn + rng.normal(0, 0.01, len(drawn))).astype(np.float32)
    weights = np.minimum(np.exp(trainer - drawn), np.float32(2))
    values = [trainer, rng.exponential(size=len(drawn)), np.zeros(len(drawn)), weights]
    names = ("clipped", "importance")
    return [Scores(np.arange(len(samples)), np.stack(values).astype(np.float32), names)]


class Maker:
    """Writes one run into a folder, a step at a time."""

    def __init__(self, folder: Path, *, seed: int = 0, num_steps: int = 30):
        self.folder, self.seed, self.num_steps = folder, seed, num_steps
        self.rng = random.Random(seed)
        folder.mkdir(parents=True)
        self.tokenizer = tokenizer(folder / "tokenizer")
        config = {"seed": seed, "steps": num_steps, "optim": {"lr": 1e-3}, "runs": "runs"}
        described = {"experiment": folder.parent.name, "commit": "0" * 40, "config": config}
        (folder / "config.json").write_text(json.dumps(described))

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids

    def log(self, step: int) -> None:
        """A row of metrics, on the way up."""
        done = step / self.num_steps
        success = 0.42 + 0.5 * (1 - math.exp(-4 * done))
        noisy = lambda value, width: value + self.rng.gauss(0, width)  # noqa: E731
        row = {
            "step": step,
            "reward/mean": noisy(success, 0.04),
            "loss": noisy(-0.1 * (1 - done), 0.02),
            "entropy": noisy(0.4 * math.exp(-3 * done) + 0.05, 0.01),
            "grad_norm": abs(noisy(0.4, 0.08)),
            "tokens/trained": round(2400 - 900 * done + self.rng.gauss(0, 60)),
            "time/step_seconds": abs(noisy(2.6 - 0.5 * done, 0.2)),
            "gap/max_abs_logprob": 1e-5 * (1 + self.rng.random()),
            HABIT: max(0.0, noisy(0.3 * math.exp(-5 * done), 0.02)),
            "failure": None,
        }
        if step % 10 == 0 or step == self.num_steps:
            row["eval/success"] = noisy(success, 0.015)
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def record(self, step: int, groups: Sequence[Group], *, held_out: bool = False) -> None:
        """Everything but failed episodes and what was drawn under a grammar is trained."""
        samples = [
            Sample(call, float(np.float32(self.rng.gauss(0, 1))))
            for group in groups
            for episode in group.episodes
            if not episode.failed and not held_out
            for call in episode.calls
            if not call.under_grammar
        ]
        sampled = np.array([p for s in samples for p in s.call.logprobs], np.float32)
        trainer = sampled + np.float32(1e-3) * np.sin(np.arange(len(sampled), dtype=np.float32))
        weights = np.minimum(np.exp(trainer - sampled), 2.0)
        values = np.stack([trainer, -sampled / 2, weights]).astype(np.float32)
        scores = [Scores(np.arange(len(samples)), values, ("importance",))] if samples else []
        recorder = Recorder(self.folder / "records")
        recorder.add(step, groups, samples, scores, held_out=held_out)
        recorder.close()

    def group(self, task_id: str, size: int = 4) -> Group:
        """One task's episodes: most add with the tool, some forget to, one fails now and then."""
        told, a, b = question(random.Random(task_id))
        task = {"id": task_id, "question": told}
        return Group(task, tuple(self.episode(task, told, a, b, i) for i in range(size)))

    def episode(self, task: dict, told: str, a: int, b: int, index: int) -> Episode:
        rng = self.rng
        said = [SYSTEM, {"role": "user", "content": told}]
        begun = f"{START}system\n{SYSTEM['content']}{END}\n{START}user\n{told}{END}\n"
        asked = f"{begun}{START}assistant\n"
        called, reasoned = code(a, b), thinking(a, b)
        reply = {"role": "assistant", "content": "", "reasoning_content": reasoned}
        reply["tool_calls"] = [{"id": "1", "function": {"name": "python", "arguments": "{}"}}]
        first = self.call(self.ids(asked), f"<think>{reasoned}</think>{called}{END}", said, reply)

        said = [*said, reply, {"role": "tool", "content": str(a + b)}]
        right = rng.random() < 0.6
        answer = f"The answer is {a + b if right else a * b}."
        result = f"\n{START}tool\n{a + b}{END}\n{START}assistant\n"
        reply = {"role": "assistant", "content": answer}
        second = self.call(first.ids + self.ids(result), answer + END, said, reply)

        # The template strips the thinking of an earlier turn: what follows it is another branch.
        said = [*said, reply, {"role": "user", "content": "Are you sure?"}]
        again = f"\n{START}user\nAre you sure?{END}\n{START}assistant\n"
        prompt = self.ids(asked) + self.ids(called + END + result) + self.ids(answer + END + again)
        sure = f"Yes: {a} + {b} = {a + b}."
        reply = {"role": "assistant", "content": sure}
        third = self.call(prompt, sure + END, said, reply)

        said = [*said, reply, {"role": "user", "content": "As JSON."}]
        prompt = third.ids + self.ids(f"\n{START}user\nAs JSON.{END}\n{START}assistant\n")
        fourth = self.call(
            prompt, f'{{"answer": {a + b}}}{END}', said, {"role": "assistant"}, under_grammar=True
        )
        is_error = rng.random() < 0.1
        habit = float(rng.random() < 0.25)
        return Episode(
            task=task,
            index=index,
            calls=(first, second) if is_error or index % 2 else (first, second, third, fourth),
            status="error" if is_error else "ok",
            error="ValueError: the tool was given no code" if is_error else None,
            reward=None if is_error else float(right),
            success=None if is_error else right,
            metrics={HABIT: habit},
            seconds=rng.uniform(0.4, 3.0),
        )

    def call(
        self, prompt: list[int], text: str, said: list[Message], reply: Message, **fields: object
    ) -> Call:
        ids = self.ids(text)
        return Call(
            prompt_ids=prompt,
            completion_ids=ids,
            logprobs=[-self.rng.expovariate(2.5) for _ in ids],
            messages=tuple(said),
            reply=reply,
            **fields,
        )

    def long_episode(self, num_tokens: int, num_turns: int = 20) -> Group:
        """One conversation of that many tokens, half of them sampled."""
        turn = num_tokens // (2 * num_turns)
        said = self.ids(" ".join(question(self.rng)[0] for _ in range(turn // 8)))[:turn]
        path: list[int] = []
        calls = []
        for _ in range(num_turns):
            path = path + self.rng.sample(said, len(said))
            sampled = self.rng.sample(said, len(said))
            logprobs = [-self.rng.expovariate(1.0) for _ in sampled]
            calls.append(Call(prompt_ids=path, completion_ids=sampled, logprobs=logprobs))
            path = path + sampled
        task = {"id": "long"}
        return Group(task, (Episode(task=task, index=0, calls=tuple(calls), reward=1.0),))


def make_run(folder: Path, *, seed: int = 0, num_steps: int = 30, recorded: int = 2) -> Maker:
    """A run of some steps, the last few of which are recorded."""
    maker = Maker(folder, seed=seed, num_steps=num_steps)
    for step in range(1, num_steps + 1):
        maker.log(step)
        if step > num_steps - recorded:
            maker.record(step, [maker.group(f"apples-{i}") for i in range(3)])
    maker.record(num_steps, [maker.group("apples-held-out", 1)], held_out=True)
    return maker
