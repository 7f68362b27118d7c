-- The newest member map that the capsule took.
CREATE TABLE fabric (
    id            INTEGER PRIMARY KEY CHECK (id = 1),
    fabric_id     TEXT NOT NULL,
    generation    INTEGER NOT NULL,       -- no older map of this fabric is ever taken
    map           BLOB                    -- capsule.v1.SignedMap; NULL where that generation removed the capsule
) STRICT;
