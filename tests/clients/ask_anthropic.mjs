// The @anthropic-ai/sdk package.

import Anthropic from "@anthropic-ai/sdk";

import { MODEL, QUESTIONS, TOO_LONG, URL_ } from "./questions.mjs";
import { called, errorOf, report, told, user } from "./questions.mjs";

const client = new Anthropic({ baseURL: URL_, apiKey: "none", maxRetries: 0 });
const { name, description, parameters } = QUESTIONS.tool;
const TOOLS = [{ name, description, input_schema: parameters }];

const asking = (messages, more = {}) => ({
  ...{ model: MODEL, temperature: 0, max_tokens: 64, messages },
  ...more,
});
const ask = (messages, more) => client.messages.create(asking(messages, more));

const textOf = (message) =>
  message.content
    .filter((block) => block.type === "text")
    .map((block) => block.text)
    .join("");

// `input_tokens` is only what was not read from the cache.
function seen(message, pieces) {
  const { input_tokens, cache_read_input_tokens, output_tokens } = message.usage;
  return told(textOf(message), input_tokens + cache_read_input_tokens, output_tokens, pieces);
}

async function stream() {
  let pieces = 0;
  const stream = client.messages.stream(asking(user(QUESTIONS.hello)));
  stream.on("text", () => (pieces += 1));
  return seen(await stream.finalMessage(), pieces);
}

const callIn = (message) => message.content.find((block) => block.type === "tool_use");

async function call() {
  const asked = user(QUESTIONS.weather);
  const first = await ask(asked, { tools: TOOLS, tool_choice: { type: "any" } });
  const one = callIn(first);
  const result = { type: "tool_result", tool_use_id: one.id, content: QUESTIONS.result };
  const turns = [{ role: "assistant", content: first.content }, ...user([result])];
  const said = await ask([...asked, ...turns], { tools: TOOLS });
  return called(one.name, one.input, textOf(said));
}

async function streamedCall() {
  const asked = asking(user(QUESTIONS.weather), { tools: TOOLS, tool_choice: { type: "any" } });
  const one = callIn(await client.messages.stream(asked).finalMessage());
  return called(one.name, one.input, "");
}

async function form() {
  const format = { type: "json_schema", schema: QUESTIONS.form };
  return JSON.parse(textOf(await ask(user(QUESTIONS.cow), { output_config: { format } })));
}

await report({
  answer: async () => seen(await ask(user(QUESTIONS.hello))),
  stream,
  call,
  streamed_call: streamedCall,
  form,
  too_long: () => errorOf(() => ask(user(TOO_LONG))),
  missing: () => errorOf(() => ask(user("Hi"), { model: "no-such-model" })),
});
