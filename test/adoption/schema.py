"""What a database holds, as data that tests can compare: columns, indexes, constraints, foreign keys."""
import json

COLUMNS = ("id user_id content_id workflow_id agent_id request_id endpoint ai_provider ai_model "
           "prompt_tokens completion_tokens total_tokens cost_usd cost_rub platform content_type "
           "task_type execution_time_ms request_metadata response_metadata created_at").split()
# The columns of recording, after the contract's.
RECORDING = ("cache_read_tokens cache_write_tokens cache_write_1h_tokens cache_read_audio_tokens "
             "cache_read_image_tokens reasoning_tokens input_audio_tokens output_audio_tokens input_image_tokens "
             "output_image_tokens web_search_requests cost_source").split()
INDEXES = {
    "idx_token_usage_user_date": ("user_id", "created_at DESC"),
    "idx_token_usage_user_agent": ("user_id", "agent_id"),
    "idx_token_usage_user_provider_model": ("user_id", "ai_provider", "ai_model"),
    "idx_token_usage_workflow": ("workflow_id",),
    "idx_token_usage_detailed": ("user_id", "agent_id", "created_at DESC"),
    "idx_token_usage_request_id": ("request_id",),
    "idx_token_usage_created_at": ("created_at DESC",),
}


def migrate(database, argument=""):
    """The steps of token_usage_migrate, as {step: action}."""
    text = database.query(f"SELECT token_usage_migrate({argument})").rows[0][0]
    steps = json.loads(text)
    assert all(set(s) == {"step", "action"} for s in steps), steps
    return {s["step"]: s["action"] for s in steps}


def table_exists(database, name="token_usage"):
    if database.dialect == "sqlite":
        return bool(database.query("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).rows)
    return database.query(f"SELECT to_regclass('{name}') IS NOT NULL").rows == [(True,)]


def columns(database):
    """{column: (type, not null, default)} in order."""
    if database.dialect == "sqlite":
        return {r[1]: (r[2], bool(r[3]), r[4])
                for r in database.query("PRAGMA table_info(token_usage)").rows}
    return {r[0]: tuple(r[1:]) for r in database.query(
        "SELECT attname::text, format_type(atttypid, atttypmod), attnotnull, "
        "pg_get_expr(adbin, adrelid) FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid "
        "AND adnum = attnum WHERE attrelid = 'token_usage'::regclass AND attnum > 0 AND NOT "
        "attisdropped ORDER BY attnum").rows}


def indexes(database):
    """{index: definition} of the ledger."""
    if database.dialect == "sqlite":
        return dict(database.query("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND "
                                   "tbl_name = 'token_usage'").rows)
    return dict(database.query("SELECT indexname::text, indexdef FROM pg_indexes WHERE tablename = "
                               "'token_usage'").rows)


def constraints(database):
    """{constraint: definition} on PostgreSQL."""
    return dict(database.query("SELECT conname::text, pg_get_constraintdef(oid) FROM pg_constraint "
                               "WHERE conrelid = 'token_usage'::regclass AND contype <> 'n'").rows)


def foreign_keys(database):
    """{column: (table, on delete)}."""
    if database.dialect == "sqlite":
        return {r[3]: (r[2], r[6]) for r in
                database.query("PRAGMA foreign_key_list(token_usage)").rows}
    words = {"c": "CASCADE", "n": "SET NULL", "a": "NO ACTION"}
    return {r[0]: (r[1], words[r[2]]) for r in database.query(
        "SELECT a.attname::text, c.confrelid::regclass::text, c.confdeltype FROM pg_constraint c JOIN "
        "pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1] "
        "WHERE c.conrelid = 'token_usage'::regclass AND c.contype = 'f'").rows}


def everything(database):
    """All objects of the application's schema, so that a test can say: nothing has changed."""
    if database.dialect == "sqlite":
        return sorted(database.query("SELECT type, name, tbl_name, sql FROM sqlite_master").rows,
                      key=str)
    return sorted(database.query(
        "SELECT 'relation', c.relname::text, c.relkind::text, c.relfilenode::text FROM pg_class c "
        "WHERE c.relnamespace = 'public'::regnamespace UNION ALL "
        "SELECT 'column', a.attrelid::regclass::text, a.attname::text, format_type(a.atttypid, "
        "a.atttypmod) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE "
        "c.relnamespace = 'public'::regnamespace AND a.attnum > 0 UNION ALL "
        "SELECT 'constraint', conrelid::regclass::text, conname::text, pg_get_constraintdef(oid) "
        "FROM pg_constraint WHERE connamespace = 'public'::regnamespace").rows)
