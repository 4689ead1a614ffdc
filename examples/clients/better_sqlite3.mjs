// Streams from an OpenAI-compatible endpoint and records what it cost, in SQLite.
//
//   OPENAI_BASE_URL=https://api.openai.com/v1 OPENAI_API_KEY=... node better_sqlite3.mjs usage.db ./token_usage.so
import { createRequire } from "node:module";
// Modules are looked for where the program runs, so that the example needs no package.json of its own.
const Database = createRequire(process.cwd() + "/")("better-sqlite3");

const db = new Database(process.argv[2]);
db.loadExtension(process.argv[3]);
db.prepare("SELECT token_usage_migrate()").get();

const reply = await fetch(process.env.OPENAI_BASE_URL + "/chat/completions", {
  method: "POST",
  headers: { "Content-Type": "application/json", Authorization: "Bearer " + (process.env.OPENAI_API_KEY ?? "") },
  body: JSON.stringify({
    model: "gpt-4o", messages: [{ role: "user", content: "Say hello." }],
    stream: true, stream_options: { include_usage: true },
  }),
});
const chunks = (await reply.text()).split("\n")
  .filter((line) => line.startsWith("data: ") && line !== "data: [DONE]")
  .map((line) => JSON.parse(line.slice("data: ".length)));

const event = {
  user_id: 42, agent_id: "greeter", ai_provider: "openai", ai_model: chunks[0].model,
  request_id: chunks[0].id, response: chunks,
};
console.log(db.prepare("SELECT token_usage_record(?)").pluck().get(JSON.stringify(event)));
