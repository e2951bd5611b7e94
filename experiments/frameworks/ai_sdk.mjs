import { openai } from "@ai-sdk/openai";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const inputSchema = z.object({ a: z.number(), b: z.number() });
const add = tool({ description: "Add.", inputSchema, execute: async ({ a, b }) => a + b });
const ask = process.env.STREAM ? streamText : generateText;
const messages = [];
for (const question of process.argv.slice(2)) {
  messages.push({ role: "user", content: question });
  const asked = { model: openai("policy"), messages, tools: { add }, stopWhen: stepCountIs(5) };
  const result = await ask(asked);
  console.log(await result.text);
  messages.push(...(await result.response).messages);
}
