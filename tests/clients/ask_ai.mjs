// The AI SDK of Vercel, with the provider that is named: `openai-compatible`, `openai` (which
// speaks Responses), `openai-chat` or `anthropic`.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, embedMany, generateText, jsonSchema } from "ai";
import { stepCountIs, streamText, tool } from "ai";

import { DIALECT, MODEL, QUESTIONS, TOO_LONG, URL_ } from "./questions.mjs";
import { called, report, told } from "./questions.mjs";

const given = { baseURL: `${URL_}/v1`, apiKey: "none" };
const openai = createOpenAI(given);
const compatible = createOpenAICompatible({
  ...given,
  name: "samovar",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const providers = {
  "openai-compatible": compatible,
  openai,
  "openai-chat": openai.chat,
  anthropic: createAnthropic(given),
};
const modelOf = (name) => providers[DIALECT](name);

const asking = (prompt, more = {}) => ({
  ...{ model: modelOf(MODEL), temperature: 0, maxOutputTokens: 64, maxRetries: 0, prompt },
  ...more,
});
const ask = (prompt, more) => generateText(asking(prompt, more));

async function answer() {
  const { text, usage } = await ask(QUESTIONS.hello);
  return told(text, usage.inputTokens, usage.outputTokens);
}

async function stream() {
  const result = streamText(asking(QUESTIONS.hello));
  const pieces = [];
  for await (const text of result.textStream) pieces.push(text);
  const usage = await result.usage;
  return told(pieces.join(""), usage.inputTokens, usage.outputTokens, pieces.length);
}

const TOOLS = {
  [QUESTIONS.tool.name]: tool({
    description: QUESTIONS.tool.description,
    inputSchema: jsonSchema(QUESTIONS.tool.parameters),
    execute: async () => JSON.parse(QUESTIONS.result),
  }),
};

function calledIn(steps, said) {
  const { toolName, input } = steps[0].toolCalls[0];
  return called(toolName, input, said);
}

// The SDK runs the function and asks again by itself.
const rounds = { tools: TOOLS, stopWhen: stepCountIs(2) };

async function call() {
  const { steps, text } = await ask(QUESTIONS.weather, rounds);
  return calledIn(steps, text);
}

async function streamedCall() {
  const result = streamText(asking(QUESTIONS.weather, rounds));
  await result.consumeStream();
  return calledIn(await result.steps, await result.text);
}

async function form() {
  const output = Output.object({ schema: jsonSchema(QUESTIONS.form) });
  return (await ask(QUESTIONS.cow, { output })).output;
}

// Which error it is says the status, in this SDK.
async function statusOf(asked) {
  try {
    await asked();
    return "none";
  } catch (error) {
    if (!APICallError.isInstance(error)) throw error;
    return `APICallError ${error.statusCode}`;
  }
}

const asks = {
  answer,
  stream,
  call,
  streamed_call: streamedCall,
  form,
  too_long: () => statusOf(() => ask(TOO_LONG)),
  missing: () => statusOf(() => ask("Hi", { model: modelOf("no-such-model") })),
};
if (DIALECT !== "anthropic") {
  const provider = DIALECT === "openai-compatible" ? compatible : openai;
  const embedder = provider.embeddingModel(MODEL);
  asks.vectors = async () => {
    const { embeddings } = await embedMany({ model: embedder, values: ["a", "b"] });
    return embeddings.map((one) => one.length);
  };
}
await report(asks);
