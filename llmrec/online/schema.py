"""The tables of an event log."""

from __future__ import annotations

VERSION = 1
"""Of the tables."""
APPLICATION = 0x6C6C6D72
"""SQLite's `application_id`: "llmr", by which a log is told from any other database."""

TABLES = """
CREATE TABLE mark(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE slate(
  seq INTEGER PRIMARY KEY,
  slate_id TEXT NOT NULL UNIQUE,
  user_id TEXT,
  time INTEGER NOT NULL,
  clock INTEGER NOT NULL,
  version INTEGER NOT NULL,
  exploration TEXT NOT NULL,
  items TEXT NOT NULL,
  propensities TEXT NOT NULL,
  state TEXT
);
CREATE INDEX slate_user ON slate(user_id) WHERE user_id IS NOT NULL;
CREATE INDEX slate_time ON slate(time);
CREATE TABLE feedback(
  seq INTEGER PRIMARY KEY,
  slate_seq INTEGER NOT NULL REFERENCES slate(seq),
  name TEXT NOT NULL,
  item_id TEXT NOT NULL,
  kind TEXT NOT NULL,
  value REAL,
  time INTEGER NOT NULL,
  clock INTEGER NOT NULL,
  late INTEGER NOT NULL,
  UNIQUE(slate_seq, name)
);
"""
"""In the words of SQLite; see `databases` for those of others."""
KEEPING = """
CREATE TRIGGER slate_is_kept BEFORE UPDATE ON slate
  BEGIN SELECT RAISE(ABORT, 'a log is only added to'); END;
CREATE TRIGGER feedback_is_kept BEFORE UPDATE ON feedback
  BEGIN SELECT RAISE(ABORT, 'a log is only added to'); END;
CREATE TRIGGER slate_stays BEFORE DELETE ON slate
  WHEN (SELECT value FROM mark WHERE name = 'forgetting') = 0
  BEGIN SELECT RAISE(ABORT, 'a log is only added to'); END;
CREATE TRIGGER feedback_stays BEFORE DELETE ON feedback
  WHEN (SELECT value FROM mark WHERE name = 'forgetting') = 0
  BEGIN SELECT RAISE(ABORT, 'a log is only added to'); END;
"""
"""A log is only added to, whoever writes."""
KEEPING_ON_POSTGRES = """
CREATE FUNCTION log_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN RAISE EXCEPTION 'a log is only added to'; END $$;
CREATE FUNCTION log_stays() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    IF (SELECT value FROM llmrec.mark WHERE name = 'forgetting') = 0 THEN
      RAISE EXCEPTION 'a log is only added to';
    END IF;
    RETURN OLD;
  END $$;
CREATE TRIGGER slate_is_kept BEFORE UPDATE ON slate FOR EACH ROW EXECUTE FUNCTION log_is_kept();
CREATE TRIGGER feedback_is_kept BEFORE UPDATE ON feedback FOR EACH ROW EXECUTE FUNCTION log_is_kept();
CREATE TRIGGER slate_stays BEFORE DELETE ON slate FOR EACH ROW EXECUTE FUNCTION log_stays();
CREATE TRIGGER feedback_stays BEFORE DELETE ON feedback FOR EACH ROW EXECUTE FUNCTION log_stays();
"""
MARKS = ("last_seq", "time", "clock", "jumps", "window", "forgetting")
"""Whole numbers of a log: the last sequence number given out, the log's time, the clock at the last entry, how often
it had jumped back, seconds within which feedback counts, and 1 while a user is being forgotten."""
