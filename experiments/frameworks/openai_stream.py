import json
import sys

from openai import OpenAI

ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
asked = {"model": "policy", "messages": (messages := []), "tools": [ADD]}
for question in sys.argv[1:]:
    messages.append({"role": "user", "content": question})
    while messages[-1]["role"] != "assistant":
        with OpenAI().chat.completions.stream(**asked) as stream:
            reply = stream.get_final_completion().choices[0].message
        messages.append(reply.model_dump(exclude_none=True))
        for call in reply.tool_calls or ():
            total = str(sum(json.loads(call.function.arguments).values()))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": total})
    print(reply.content)
