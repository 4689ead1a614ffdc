// Calls an OpenAI-compatible endpoint and records what it cost, in PostgreSQL.
//
//   DATABASE_URL=postgresql://... OPENAI_BASE_URL=https://api.openai.com/v1 OPENAI_API_KEY=... node pg.mjs
import { createRequire } from "node:module";
// Modules are looked for where the program runs, so that the example needs no package.json of its own.
const { Client } = createRequire(process.cwd() + "/")("pg");

const reply = await fetch(process.env.OPENAI_BASE_URL + "/chat/completions", {
  method: "POST",
  headers: { "Content-Type": "application/json", Authorization: "Bearer " + (process.env.OPENAI_API_KEY ?? "") },
  body: JSON.stringify({ model: "gpt-4o", messages: [{ role: "user", content: "Say hello." }] }),
});
const response = await reply.json();

const db = new Client({ connectionString: process.env.DATABASE_URL });
await db.connect();
const event = {
  user_id: 42, agent_id: "greeter", ai_provider: "openai", ai_model: response.model,
  request_id: response.id, response,
};
const result = await db.query("SELECT token_usage_record($1) AS recorded", [JSON.stringify(event)]);
console.log(JSON.stringify(result.rows[0].recorded));
await db.end();
