-- Where workloads are in the capsule's slice of the fabric, and whom they may talk to there.
CREATE TABLE fabric_address (
    workload      TEXT PRIMARY KEY,
    host          INTEGER NOT NULL UNIQUE, -- offset in the slice, the same in IPv4 and IPv6
    spec          BLOB NOT NULL,           -- capsule.v1.FabricSpec
    released_at   INTEGER                  -- Unix time in seconds; NULL while the workload has it
) STRICT;
