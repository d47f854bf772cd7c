// What clients written in JavaScript ask, and how they say what came of it.

import { readFileSync } from "node:fs";

export const QUESTIONS = JSON.parse(readFileSync(new URL("questions.json", import.meta.url)));
export const MODEL = QUESTIONS.model;
export const TOO_LONG = QUESTIONS.long.repeat(QUESTIONS.times);
export const [URL_, DIALECT] = process.argv.slice(2);

export const user = (content) => [{ role: "user", content }];

// An answer, and the tokens that it and its prompt were.
export const told = (text, asked, answered, pieces = 1) => ({ text, asked, answered, pieces });

// A call, and what the model said of its result.
export const called = (name, args, said) => ({ name, arguments: args, said });

// The name of the error that asking ends with.
export async function errorOf(ask) {
  try {
    await ask();
    return "none";
  } catch (error) {
    return error.constructor.name;
  }
}

// Ask everything, whatever fails, and print one JSON object of it.
export async function report(asks) {
  const said = {};
  for (const [name, ask] of Object.entries(asks)) {
    try {
      said[name] = await ask();
    } catch (error) {
      said[name] = { failed: error.stack ?? String(error) };
    }
  }
  process.stdout.write(JSON.stringify(said));
}
