-- Whose bundles are installed. A key that was removed stays, so that no start brings it back.
CREATE TABLE release_key (
    number        TEXT PRIMARY KEY,       -- 16 hexadecimal digits
    key           TEXT NOT NULL,          -- base64 line of a minisign public key
    comment       TEXT NOT NULL,
    added_by      TEXT NOT NULL,          -- name of an operator key; empty where the image brought it
    added_at      INTEGER NOT NULL,
    is_trusted    INTEGER NOT NULL
) STRICT;

-- What was pushed to the slots, and what became of it.
CREATE TABLE system_update (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    version       TEXT NOT NULL,
    from_version  TEXT NOT NULL,
    slot          TEXT NOT NULL,          -- a or b
    manifest      TEXT NOT NULL,          -- SHA-256 of the bundle's manifest
    state         INTEGER NOT NULL,       -- capsule.v1.UpdateState
    reason        TEXT NOT NULL,
    armed_in      TEXT NOT NULL,          -- boot id of the boot that armed it
    started_at    INTEGER NOT NULL,
    changed_at    INTEGER NOT NULL
) STRICT;
