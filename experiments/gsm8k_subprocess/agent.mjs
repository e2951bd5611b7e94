// The gsm8k agent in Node, without packages: a question on stdin, the answer on stdout.
import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { text } from "node:stream/consumers";

const { OPENAI_BASE_URL, OPENAI_API_KEY, PATH } = process.env;
const MAX_TURNS = 6;

async function chat(request) {
  const response = await fetch(`${OPENAI_BASE_URL}/chat/completions`, {
    method: "POST",
    headers: { Authorization: `Bearer ${OPENAI_API_KEY}`, "Content-Type": "application/json" },
    body: JSON.stringify(request),
  });
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  return (await response.json()).choices[0].message;
}

// What a call's code prints. It stays in the process group, so that it ends with this program.
function runPython(json) {
  let code;
  try {
    code = JSON.parse(json)?.code;
  } catch {
    // Said below, as where there is no code.
  }
  if (code == null) return 'The arguments must be JSON like {"code": "print(1 + 2)"}.';
  const limited = ["-c", "ulimit -v 1048576; exec python3 -I - 2>&1"];
  // sh, because bash would read ~/.bashrc where its stdin is a socket, as Node's is.
  const options = { timeout: 5000, killSignal: "SIGKILL", env: { PATH }, cwd: tmpdir() };
  return new Promise((resolve) => {
    const child = execFile("sh", limited, options, (error, printed) => {
      const said = printed.slice(0, 2000) + (error?.killed ? "The code ran longer than 5 s." : "");
      resolve(said.trimEnd() || "(nothing was printed: use print)");
    });
    child.stdin.on("error", () => {}).end(String(code));
  });
}

const request = JSON.parse(readFileSync(new URL("request.json", import.meta.url)));
request.messages.push({ role: "user", content: await text(process.stdin) });
let reply;
for (let turn = 0; turn < MAX_TURNS; turn++) {
  reply = await chat(request);
  request.messages.push(reply);
  if (!reply.tool_calls?.length) break;
  for (const call of reply.tool_calls) {
    const content = await runPython(call.function.arguments);
    request.messages.push({ role: "tool", tool_call_id: call.id, content });
  }
}
console.log(reply.content ?? "");
