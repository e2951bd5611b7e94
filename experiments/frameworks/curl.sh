ADD='{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}'
KEY="Authorization: Bearer $OPENAI_API_KEY"
messages='[]'
for question in "$@"; do
  messages=$(jq --arg said "$question" '. + [{role: "user", content: $said}]' <<<"$messages")
  while [ "$(jq -r '.[-1].role' <<<"$messages")" != assistant ]; do
    reply=$(jq "{model: \"policy\", messages: ., tools: [$ADD]}" <<<"$messages" |
      curl -sSf "$OPENAI_BASE_URL/chat/completions" -H "$KEY" -d @- | jq '.choices[0].message')
    results=$(jq '[.tool_calls[]? | {role: "tool", tool_call_id: .id,
      content: (.function.arguments | fromjson | add | tostring)}]' <<<"$reply")
    messages=$(jq -s '.[0] + [.[1]] + .[2]' <<<"$messages $reply $results")
  done
  jq -r '.[-1].content' <<<"$messages"
done
