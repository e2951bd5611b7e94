import sys

import dspy


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


dspy.configure(lm=dspy.LM("openai/policy", cache=False))
agent, history = dspy.ReAct("history: dspy.History, question -> answer", [add]), []
for question in sys.argv[1:]:
    answer = agent(question=question, history=dspy.History(messages=history)).answer
    history.append({"question": question, "answer": answer})
    print(answer)
