"""PostgreSQL: verify, rebuild and compact as users call them, recording and repricing over rollups, and taking them out."""
import json
import re
from decimal import Decimal

import pytest

from rollup.test_concurrent_pg import insert
from rollup.test_keep_pg import Session, clean, fill, place, used  # noqa: F401
from support import paths


def test_every_form_of_the_calls_resolves(place):  # noqa: F811
    for call in ("", "NULL", "1", "1::bigint", "'1'", "'1'::text"):
        assert place(f"SELECT * FROM token_usage_verify({call})") == []
        assert place(f"SELECT token_usage_rebuild({call})")[0][0] > 0
    place("UPDATE token_usage_rollup SET prompt = prompt + 1 WHERE user_id = 1 AND kind = 30")
    rows = place("SELECT user_id, bucket, dimension, measure, ledger, rollup FROM token_usage_verify()")
    assert rows and all(r[0] == "1" and r[2:4] == ("none", "prompt_tokens") and int(r[5]) == int(r[4]) + 1 for r in rows)
    assert place("SELECT * FROM token_usage_verify(1)") != [] == place("SELECT * FROM token_usage_verify(2)")
    assert place("SELECT token_usage_rebuild(2)")[0][0] > 0
    assert place("SELECT * FROM token_usage_verify()") == rows
    place("SELECT token_usage_rebuild(1)")
    clean(place)
    insert(place, 5, "now() - i * interval '9 hours'")
    assert place("SELECT token_usage_compact(1)")[0][0] <= 1
    assert place("SELECT token_usage_compact()")[0][0] >= 0
    assert place("SELECT token_usage_compact(NULL)") == [(0,)]
    clean(place)
    for bad in ("token_usage_verify('x')", "token_usage_rebuild('x')"):
        with pytest.raises(Exception, match="user_id must be a bigint, got x"):
            place(f"SELECT {bad}")
    with pytest.raises(Exception, match="max_rows must be"):
        place("SELECT token_usage_compact(0)")


def test_where_there_is_no_ledger(pg):
    database = pg.database(migrate=False)
    session = Session(pg.server, database.name)
    for call in ("verify", "rebuild", "compact"):
        with pytest.raises(Exception, match="token_usage: no token_usage table; run SELECT token_usage_migrate()"):
            session(f"SELECT token_usage_{call}()")
    session.close()
    database.close()


def test_uuid_users(pg):
    database = pg.database("uuid")
    session = Session(pg.server, database.name)
    who = "00000000-0000-0000-0000-000000000001"
    insert(session, 200, "now() - i * interval '5 hours'", user=f"'{who}'::uuid")
    for form in (f"'{who}'", f"'{who}'::uuid", "NULL"):
        assert session(f"SELECT token_usage_rebuild({form})")[0][0] > 0
        assert session(f"SELECT * FROM token_usage_verify({form})") == []
    session.close()
    database.close()


def test_void_rollups_have_nothing_to_compare(place):  # noqa: F811
    place("TRUNCATE token_usage")
    insert(place, 50, "now() - i * interval '9 hours'")
    assert not used(place)
    clean(place)


def test_recording_and_repricing(place):  # noqa: F811
    """They write through the same triggers: late and new events, an idempotent repetition, and costs that change afterwards."""
    event = {"user_id": 1, "agent_id": "agent 1", "ai_provider": "openai", "ai_model": "m-1", "prompt_tokens": 10,
             "completion_tokens": 5}
    late = {"created_at": place("SELECT to_char(now() - interval '50 hours', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')")[0][0]}
    for more in ({}, late, {"request_id": "a", **late}, {"request_id": "a", **late}):
        place("SELECT token_usage_record(%s::jsonb)", (json.dumps({**event, **more}),))
        clean(place)
    batch = [{**event, **late, "request_id": f"b{i}"} for i in range(40)] + [event] * 20
    place("SELECT token_usage_record_batch(%s::jsonb)", (json.dumps(batch),))
    clean(place)
    assert place("SELECT count(*) FROM token_usage WHERE ai_model = 'm-1' AND cost_usd IS NULL") == [(63,)]
    assert place("SELECT (SELECT count(*) FROM token_usage_delta WHERE model = 'm-1') + "
                 "(SELECT count(*) FROM token_usage_rollup WHERE key2 = 'm-1') > 0") == [(True,)]
    place("INSERT INTO token_usage_price (ai_provider, ai_model, token_class, usd_per_million) "
          "VALUES ('openai', 'm-1', 'input', 2), ('openai', 'm-1', 'output', 4)")
    assert place("SELECT (token_usage_reprice(NULL, NULL, NULL) ->> 'rows')::int") == [(63,)]
    clean(place)
    place("SELECT token_usage_compact()")
    clean(place)
    assert place("SELECT unpriced_count, cost_usd FROM token_usage_by_model(1, 60) WHERE ai_model = 'm-1'") == \
        [(0, 63 * Decimal("0.00004"))]


def test_taken_out_and_put_back_as_documented(place):  # noqa: F811
    text = (paths.ROOT / "docs" / "rollups.md").read_text()
    section = text[text.index("## How to take it out"):]
    before = place("SELECT * FROM token_usage_by_agent(1, 60)")
    place(re.search(r"```sql\n(.*?)```", section, re.S).group(1))
    assert place("SELECT count(*) FROM pg_class WHERE relname LIKE 'token\\_usage\\_rollup%' OR relname LIKE 'token\\_usage\\_delta%'") == [(0,)]
    assert place("SELECT count(*) FROM pg_proc WHERE proname LIKE 'token\\_usage\\_rollup%'") == [(0,)]
    assert place("SELECT * FROM token_usage_by_agent(1, 60)") == before
    insert(place, 5, "now() - i * interval '9 hours'")
    assert place("SELECT * FROM token_usage_verify()") == []
    assert place("SELECT token_usage_rebuild(), token_usage_compact()") == [(0, 0)]
    place("SELECT token_usage_migrate()")
    place("SELECT token_usage_rebuild()")
    assert used(place)
    clean(place)


def test_compact_begins_with_a_user_of_whom_nothing_is_rolled(place):  # noqa: F811
    insert(place, 300, "now() - i * interval '1 hour'", user="77")
    for table in ("rollup", "rollup_month", "rollup_user", "delta"):  # as if no writer had had his turn
        place(f"DELETE FROM token_usage_{table} WHERE user_id = 77")
    assert place("SELECT token_usage_compact()")[0][0] >= 300
    assert place("SELECT sealed_until > now() - interval '1 minute' FROM token_usage_rollup_user WHERE user_id = 77") == [(True,)]
    clean(place)


def test_compact_ends_where_a_visit_moves_nothing(place):  # noqa: F811
    (text,), = place("SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = 'token_usage_rollup_visit'")
    assert "\nBEGIN\n" in text
    place(text.replace("\nBEGIN\n", "\nBEGIN\n  RETURN 5;\n", 1))
    place("SET statement_timeout = '20s'")
    (folded,), = place("SELECT token_usage_compact()")
    assert 0 < folded < 1000
    place(text)
    place("SELECT token_usage_compact()")
    clean(place)


TRIGGERS = "SELECT tgrelid::regclass::text, tgname, pg_get_triggerdef(oid), tgenabled FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE 'token%' ORDER BY 1, 2"


def test_migrate_makes_triggers_anew_that_are_not_word_for_word_right(place):  # noqa: F811
    def made():
        return place("SELECT oid FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE 'token%' ORDER BY 1")

    place("SELECT token_usage_migrate()")  # the trigger of the tests, which asks for maintenance more often, is none of ours
    place("SELECT token_usage_rebuild()")
    right, oids = place(TRIGGERS), made()
    assert len(right) == 11
    place("SELECT token_usage_migrate()")
    assert place(TRIGGERS) == right and made() == oids and used(place), "triggers that were right were made anew"
    for table, name, text, enabled in right:
        for old, new in (("FOR EACH ROW WHEN (", "FOR EACH ROW WHEN (random() > 2 AND "), ("FOR EACH STATEMENT", "FOR EACH STATEMENT WHEN (random() > 2)")):
            if old in text:
                place(f"DROP TRIGGER {name} ON {table}")
                place(text.replace(old, new, 1))
                place(f"ALTER TABLE {table} ENABLE {'ALWAYS' if enabled == 'A' else 'REPLICA'} TRIGGER {name}")
                assert place(TRIGGERS) != right
                place("SELECT token_usage_migrate()")
                assert place(TRIGGERS) == right, name
    # Rows that passed by a trigger which was not right are in no rollup, so what was rolled is void.
    assert not used(place)
    clean(place)
    place("ALTER TABLE token_usage DISABLE TRIGGER token_usage_rollup_insert")
    place("SELECT token_usage_migrate()")
    assert place(TRIGGERS) == right


def test_rebuild_takes_note_of_users_with_thin_months(place):  # noqa: F811
    """Or else a visit to each would read all that they have."""
    insert(place, 30, "now() - i * interval '11 days'", user="78")
    insert(place, 3, "now() - i * interval '11 days'", user="79")
    place("SELECT token_usage_rebuild()")
    known = "SELECT user_id FROM token_usage_rollup_user WHERE user_id IN (78, 79) AND sealed_until > now() - interval '1 minute'"
    assert place(known) == [(78,)]
    assert place("SELECT count(*) FROM token_usage_rollup_month WHERE user_id = 78") == [(0,)]
    place("DELETE FROM token_usage_rollup_user WHERE user_id = 78")
    place("SELECT token_usage_rebuild(78)")
    assert place(known) == [(78,)]
    clean(place)
