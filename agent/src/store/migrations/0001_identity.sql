-- Who this capsule is, who may talk to it, and what happened.
CREATE TABLE identity (
    id            INTEGER PRIMARY KEY CHECK (id = 1),
    capsule_id    TEXT NOT NULL,
    certificate   BLOB NOT NULL,          -- DER; its key is a file, mode 0400
    created_at    INTEGER NOT NULL        -- milliseconds since the epoch, as every *_at here
) STRICT;

CREATE TABLE operator_key (
    key_id        TEXT PRIMARY KEY,
    public_key    BLOB NOT NULL UNIQUE,
    name          TEXT NOT NULL,
    role          INTEGER NOT NULL,       -- capsule.v1.Role
    enrolled_at   INTEGER NOT NULL,
    last_used_at  INTEGER,
    claimed_in    TEXT UNIQUE             -- the claim window that enrolled it, where one did
) STRICT;

CREATE TABLE event (
    sequence      INTEGER PRIMARY KEY AUTOINCREMENT,
    at            INTEGER NOT NULL,
    severity      INTEGER NOT NULL,       -- capsule.v1.Severity
    subject_kind  TEXT NOT NULL,
    subject       TEXT NOT NULL,
    reason        TEXT NOT NULL,
    message       TEXT NOT NULL
) STRICT;
CREATE INDEX event_subject ON event (subject_kind, subject, sequence);
