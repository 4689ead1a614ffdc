#!/usr/bin/python3
"""Calls an OpenAI-compatible endpoint and records what it cost, in SQLite.

    OPENAI_BASE_URL=https://api.openai.com/v1 OPENAI_API_KEY=... ./sqlite3_python.py usage.db ./token_usage

The first argument is the database file, the second the library without its suffix."""
import json
import os
import sqlite3
import sys
import urllib.request

db = sqlite3.connect(sys.argv[1])
db.enable_load_extension(True)
db.load_extension(sys.argv[2])
db.execute("SELECT token_usage_migrate()")

request = urllib.request.Request(
    os.environ["OPENAI_BASE_URL"] + "/chat/completions",
    json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Say hello."}]}).encode(),
    {"Content-Type": "application/json", "Authorization": "Bearer " + os.environ.get("OPENAI_API_KEY", "")})
response = json.load(urllib.request.urlopen(request))

event = {"user_id": 42, "agent_id": "greeter", "ai_provider": "openai", "ai_model": response["model"],
         "request_id": response["id"], "response": {"model": response["model"], "usage": response["usage"]}}
print(db.execute("SELECT token_usage_record(?)", (json.dumps(event),)).fetchone()[0])
db.commit()
