// The openai package: chat completions (`openai`) or responses (`responses`).

import OpenAI from "openai";

import { DIALECT, MODEL, QUESTIONS, TOO_LONG, URL_ } from "./questions.mjs";
import { called, errorOf, report, told, user } from "./questions.mjs";

const client = new OpenAI({ baseURL: `${URL_}/v1`, apiKey: "none", maxRetries: 0 });
const FUNCTION = { type: "function", function: QUESTIONS.tool };

const GREEDY = { model: MODEL, temperature: 0 };
const FORM = { name: "answer", schema: QUESTIONS.form, strict: true };

const chat = (messages, more = {}) =>
  client.chat.completions.create({ ...GREEDY, max_tokens: 64, messages, ...more });

function seen(text, usage, pieces) {
  return told(text, usage.prompt_tokens, usage.completion_tokens, pieces);
}

async function answer() {
  const whole = await chat(user(QUESTIONS.hello));
  return seen(whole.choices[0].message.content, whole.usage);
}

async function stream() {
  const options = { stream: true, stream_options: { include_usage: true } };
  const pieces = [];
  let usage;
  for await (const chunk of await chat(user(QUESTIONS.hello), options)) {
    const text = chunk.choices[0]?.delta.content;
    if (text) pieces.push(text);
    usage = chunk.usage ?? usage;
  }
  return seen(pieces.join(""), usage, pieces.length);
}

async function call() {
  const asked = user(QUESTIONS.weather);
  const whole = await chat(asked, { tools: [FUNCTION], tool_choice: "required" });
  const message = whole.choices[0].message;
  const [one] = message.tool_calls;
  const result = { role: "tool", tool_call_id: one.id, content: QUESTIONS.result };
  const said = await chat([...asked, message, result], { tools: [FUNCTION] });
  const text = said.choices[0].message.content;
  return called(one.function.name, JSON.parse(one.function.arguments), text);
}

async function streamedCall() {
  const asked = { ...GREEDY, messages: user(QUESTIONS.weather), tools: [FUNCTION] };
  const runner = client.chat.completions.stream({ ...asked, tool_choice: "required" });
  const message = await runner.finalMessage();
  const [one] = message.tool_calls;
  return called(one.function.name, JSON.parse(one.function.arguments), "");
}

async function form() {
  const response_format = { type: "json_schema", json_schema: FORM };
  const asked = { ...GREEDY, messages: user(QUESTIONS.cow), response_format };
  return (await client.chat.completions.parse(asked)).choices[0].message.parsed;
}

const respond = (input, more = {}) =>
  client.responses.create({ ...GREEDY, max_output_tokens: 64, input, ...more });

function responded(whole, pieces) {
  return told(whole.output_text, whole.usage.input_tokens, whole.usage.output_tokens, pieces);
}

async function responseStream() {
  const asked = { ...GREEDY, max_output_tokens: 64, input: QUESTIONS.hello };
  const stream = client.responses.stream(asked);
  let pieces = 0;
  for await (const event of stream) {
    if (event.type === "response.output_text.delta") pieces += 1;
  }
  return responded(await stream.finalResponse(), pieces);
}

const NESTED = { type: "function", strict: true, ...QUESTIONS.tool };

async function responseCall() {
  const options = { tools: [NESTED], tool_choice: "required" };
  const first = await respond(QUESTIONS.weather, options);
  const one = first.output.find((item) => item.type === "function_call");
  const output = { type: "function_call_output", call_id: one.call_id, output: QUESTIONS.result };
  const next = { tools: [NESTED], previous_response_id: first.id };
  const said = await respond([output], next);
  return called(one.name, JSON.parse(one.arguments), said.output_text);
}

async function streamedResponseCall() {
  const asked = { ...GREEDY, input: QUESTIONS.weather, tools: [NESTED] };
  const whole = await client.responses
    .stream({ ...asked, tool_choice: "required" })
    .finalResponse();
  const one = whole.output.find((item) => item.type === "function_call");
  return called(one.name, one.parsed_arguments, "");
}

async function responseForm() {
  const text = { format: { type: "json_schema", ...FORM } };
  const asked = { ...GREEDY, input: QUESTIONS.cow, text };
  return (await client.responses.parse(asked)).output_parsed;
}

const CHAT = {
  answer,
  stream,
  call,
  streamed_call: streamedCall,
  form,
  too_long: () => errorOf(() => chat(user(TOO_LONG))),
  missing: () => errorOf(() => chat(user("Hi"), { model: "no-such-model" })),
  async vectors() {
    const made = await client.embeddings.create({ model: MODEL, input: ["a", "b"] });
    return made.data.map((one) => one.embedding.length);
  },
};

const RESPONSES = {
  answer: async () => responded(await respond(QUESTIONS.hello)),
  stream: responseStream,
  call: responseCall,
  streamed_call: streamedResponseCall,
  form: responseForm,
  too_long: () => errorOf(() => respond(TOO_LONG)),
  missing: () => errorOf(() => respond("Hi", { model: "no-such-model" })),
};

await report(DIALECT === "openai" ? CHAT : RESPONSES);
