#!/usr/bin/python3
"""Streams from an OpenAI-compatible endpoint and records what it cost, in PostgreSQL.

    DATABASE_URL=postgresql://... OPENAI_BASE_URL=https://api.openai.com/v1 OPENAI_API_KEY=... ./psycopg2_streaming.py

The usage comes in the last chunk, because the request asks for it; all chunks are recorded as they came."""
import json
import os
import urllib.request

import psycopg2

request = urllib.request.Request(
    os.environ["OPENAI_BASE_URL"] + "/chat/completions",
    json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Say hello."}],
                "stream": True, "stream_options": {"include_usage": True}}).encode(),
    {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ.get("OPENAI_API_KEY", "")})
chunks = []
for line in urllib.request.urlopen(request):
    if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
        chunks.append(json.loads(line[len(b"data: "):]))

event = {"user_id": 42, "agent_id": "greeter", "ai_provider": "openai", "ai_model": chunks[0]["model"],
         "request_id": chunks[0]["id"], "response": chunks}
with psycopg2.connect(os.environ["DATABASE_URL"]) as db, db.cursor() as cursor:
    cursor.execute("SELECT token_usage_record(%s)::text", (json.dumps(event),))
    print(cursor.fetchone()[0])
