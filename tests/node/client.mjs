// Speaks to OPENAI_BASE_URL through openai's own package, and prints what it understood as JSON.
import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0 });
const messages = [{ role: "user", content: "2+3?" }];
const parameters = { type: "object", properties: { a: { type: "integer" } } };
const tools = [{ type: "function", function: { name: "add", parameters } }];

const calls = (message) =>
  message.tool_calls.map((call) => [call.function.name, JSON.parse(call.function.arguments)]);

async function chat() {
  const plain = await client.chat.completions.create({ model: "m", messages });
  const stream = client.chat.completions.stream({ model: "m", messages });
  const streamed = await stream.finalChatCompletion();
  return [plain, streamed].map((answer) => answer.choices[0].message.content.trim());
}

async function toolCalls() {
  const plain = await client.chat.completions.create({ model: "m", messages, tools });
  const stream = client.chat.completions.stream({ model: "m", messages, tools });
  const streamed = await stream.finalChatCompletion();
  return [plain, streamed].map((answer) => calls(answer.choices[0].message));
}

async function responses() {
  const plain = await client.responses.create({ model: "m", input: "2+3?" });
  const stream = client.responses.stream({ model: "m", input: "2+3?" });
  const streamed = await stream.finalResponse();
  return [plain, streamed].map((answer) => answer.output_text.trim());
}

async function completions() {
  const plain = await client.completions.create({ model: "m", prompt: "six," });
  const stream = await client.completions.create({ model: "m", prompt: "six,", stream: true });
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.text ?? "";
  return [plain.choices[0].text, text];
}

const answers = {
  chat: await chat(),
  calls: await toolCalls(),
  responses: await responses(),
  completions: await completions(),
  models: [],
};
for await (const model of client.models.list()) answers.models.push(model.id);
console.log(JSON.stringify(answers));
