"""Worlds that misbehave, for the tests: each reads from its task how."""

import ctypes
import mmap
import os
import random
import subprocess
import sys
import time

from agentrl.environments.protocol import Observation

ECHO = {
    "type": "function",
    "function": {
        "name": "echo",
        "description": "Says it again.",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
    },
}


class Odd:
    """``task["way"]`` is how it ends; every step draws from the process's own generator."""

    def reset(self, task, seed):
        self.way, self.turns = task["way"], 0
        return Observation(text=f"begin {os.getpid()}")

    def step(self, action):
        self.turns += 1
        if self.way == "hangs":
            # In C, where nothing can be interrupted.
            (lambda: 9**9**9)()
        if self.way == "sleeps":
            time.sleep(1000)
        if self.way == "dies":
            ctypes.string_at(0)
        if self.way == "exits":
            sys.exit("enough")
        if self.way == "leaks":
            # Asked for, and never touched.
            self.kept = [mmap.mmap(-1, 1 << 30, mmap.MAP_PRIVATE) for _ in range(64)]
        if self.way == "raises":
            raise KeyError(action)
        if self.way == "starts":
            self.program = subprocess.Popen(["sleep", "1000"])
            return Observation(text=str(self.program.pid))
        drawn = random.random()
        return Observation(text=f"{drawn}", reward=drawn, done=self.turns == 3)

    def close(self):
        if self.way == "hangs at the end":
            time.sleep(1000)


class Loop:
    """The same on the episode's event loop."""

    async def reset(self, task, seed):
        self.way = task["way"]
        return Observation(text="begin", tools=[ECHO])

    async def step(self, action):
        if self.way == "hangs":
            while True:
                pass
        if self.way == "raises":
            raise KeyError("lost")
        return Observation(text=f"{action}", reward=1.0, done=True, success=True)

    async def close(self):
        self.way = "closed"


class Table:
    """Two players, who take turns; each number said is its reward, and the last ends it."""

    def reset(self, task, seed):
        self.said = []
        return Observation(text="Say a number.", player="left", actions=("1", "2"))

    def step(self, action):
        self.said.append(float(action) if action in ("1", "2") else 0.0)
        if len(self.said) == 4:
            rewards = {"left": self.said[0] - self.said[1], "right": self.said[1] - self.said[0]}
            return Observation(text="", reward=rewards, done=True, success=True)
        player = ("left", "right")[len(self.said) % 2]
        return Observation(text=f"The other said {action}.", player=player, actions=("1", "2"))

    def close(self):
        pass


class Refused:
    def __init__(self):
        raise ValueError("there is no board")


class Steps:
    """Tools until something is said; a call is worth 1, and the word that ends it 10."""

    def reset(self, task, seed):
        return Observation(text="begin", tools=[ECHO])

    def step(self, action):
        if isinstance(action, str):
            return Observation(text="", reward=10.0, done=True)
        return Observation(text=f"{action.name}({action.arguments})", tools=[ECHO], reward=1.0)

    def close(self):
        pass


class Mute:
    """Of which nothing can be drawn."""

    def reset(self, task, seed):
        return Observation(text="begin")

    def step(self, action):
        return Observation(text="", done=True)
