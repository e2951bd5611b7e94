"""A taskset of verifiers: a word backwards, and what becomes of it; as text, because it is imported
where verifiers is."""

REVERSAL = """
import os
import time

import verifiers.v1 as vf

__all__ = ["Reversal"]


class Word(vf.TaskData):
    word: str


class Backwards(vf.Task[Word]):
    @vf.reward(weight=1.0)
    async def is_reversed(self, trace: vf.Trace) -> float:
        match trace.last_reply:
            case "hang":
                time.sleep(1000)
            case "die":
                os.abort()
            case "raise":
                raise OSError("no dictionary")
        return float(trace.last_reply == self.data.word[::-1])

    @vf.reward(weight=0.25)
    async def is_even(self, trace: vf.Trace) -> float:
        return float(len(trace.last_reply) % 2 == 0)


class Boxed(Backwards):
    @vf.reward
    async def is_there(self, runtime) -> float:
        return 1.0


class Settings(vf.TasksetConfig):
    count: int = 20
    boxed: bool = False


class Reversal(vf.Taskset[Backwards, Settings]):
    def load(self):
        kind = Boxed if self.config.boxed else Backwards
        for number in range(self.config.count):
            word = f"word{number}"
            asked = [vf.UserMessage(content="Reverse it:"), vf.UserMessage(content=word)]
            prompt = asked if number % 2 else f"Reverse {word}."
            yield kind(Word(word=word, prompt=prompt, system_prompt="Be brief."), self.config.task)
"""
