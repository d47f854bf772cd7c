// The ollama package.

import { Ollama } from "ollama";

import { MODEL, QUESTIONS, TOO_LONG, URL_ } from "./questions.mjs";
import { called, errorOf, report, told, user } from "./questions.mjs";

const client = new Ollama({ host: URL_ });
const TOOLS = [{ type: "function", function: QUESTIONS.tool }];
const GREEDY = { temperature: 0, num_predict: 64 };

const ask = (messages, more = {}) =>
  client.chat({ model: MODEL, messages, options: GREEDY, ...more });

function seen(last, text, pieces) {
  return told(text, last.prompt_eval_count, last.eval_count, pieces);
}

async function answer() {
  const whole = await ask(user(QUESTIONS.hello));
  return seen(whole, whole.message.content);
}

async function stream() {
  const pieces = [];
  let last;
  for await (last of await ask(user(QUESTIONS.hello), { stream: true })) {
    if (last.message.content) pieces.push(last.message.content);
  }
  return seen(last, pieces.join(""), pieces.length);
}

async function call() {
  const asked = user(QUESTIONS.weather);
  const { message } = await ask(asked, { tools: TOOLS });
  const { name, arguments: args } = message.tool_calls[0].function;
  const result = { role: "tool", tool_name: name, content: QUESTIONS.result };
  const said = await ask([...asked, message, result], { tools: TOOLS });
  return called(name, args, said.message.content);
}

async function streamedCall() {
  for await (const { message } of await ask(user(QUESTIONS.weather), {
    tools: TOOLS,
    stream: true,
  })) {
    if (message.tool_calls) {
      const { name, arguments: args } = message.tool_calls[0].function;
      return called(name, args, "");
    }
  }
}

async function form() {
  return JSON.parse((await ask(user(QUESTIONS.cow), { format: QUESTIONS.form })).message.content);
}

await report({
  answer,
  stream,
  call,
  streamed_call: streamedCall,
  form,
  too_long: () => errorOf(() => ask(user(TOO_LONG))),
  missing: () => errorOf(() => ask(user("Hi"), { model: "no-such-model" })),
  async vectors() {
    const { embeddings } = await client.embed({ model: MODEL, input: ["a", "b"] });
    return embeddings.map((one) => one.length);
  },
});
