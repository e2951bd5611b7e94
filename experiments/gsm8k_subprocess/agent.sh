#!/usr/bin/env bash
# The gsm8k agent with curl and jq: a question on stdin, the answer on stdout.
set -euo pipefail
cd "$(dirname "$0")"

chat() {
  curl --silent --show-error --fail "$OPENAI_BASE_URL/chat/completions" --data-binary @- \
    --header "Authorization: Bearer $OPENAI_API_KEY" --header "Content-Type: application/json"
}

# What a call's code prints. It stays in the process group, so that it ends with this program.
run_python() {
  local code printed
  if ! code=$(jq -er '.function.arguments | fromjson | .code' 2>/dev/null); then
    echo 'The arguments must be JSON like {"code": "print(1 + 2)"}.'
    return
  fi
  printed=$(
    ulimit -v 1048576
    cd "${TMPDIR:-/tmp}"
    { env -i PATH="$PATH" timeout --foreground 5 python3 -I - <<<"$code" 2>&1 ||
      [ $? -ne 124 ] || echo "The code ran longer than 5 s."; } | head -c 2000 | tr -d '\0'
  ) || true
  echo "${printed:-(nothing was printed: use print)}"
}

request=$(jq --raw-input --slurp --slurpfile request request.json \
  '. as $question | $request[0] | .messages += [{role: "user", content: $question}]')
for _ in {1..6}; do
  reply=$(chat <<<"$request" | jq '.choices[0].message')
  request=$(jq --slurpfile reply <(echo "$reply") '.messages += $reply' <<<"$request")
  calls=$(jq --compact-output '.tool_calls[]?' <<<"$reply")
  [ -n "$calls" ] || break
  while read -r call; do
    printed=$(run_python <<<"$call")
    request=$(jq --argjson call "$call" --arg printed "$printed" \
      '.messages += [{role: "tool", tool_call_id: $call.id, content: $printed}]' <<<"$request")
  done <<<"$calls"
done
jq --raw-output '.content // ""' <<<"$reply"
