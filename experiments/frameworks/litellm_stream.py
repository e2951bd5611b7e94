import json
import sys

import litellm

ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
messages = []
for question in sys.argv[1:]:
    messages.append({"role": "user", "content": question})
    while messages[-1]["role"] != "assistant":
        chunks = litellm.completion("openai/policy", messages, tools=[ADD], stream=True)
        answer = litellm.stream_chunk_builder(list(chunks))
        messages.append((reply := answer.choices[0].message).model_dump())
        for call in reply.tool_calls or ():
            total = str(sum(json.loads(call.function.arguments).values()))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": total})
    print(reply.content)
