-- Workloads with their addresses and ports, and the volumes they mount.
CREATE TABLE workload (
    name          TEXT PRIMARY KEY,
    manifest      BLOB NOT NULL,          -- capsule.v1.Manifest
    spec_hash     TEXT NOT NULL,
    desired       INTEGER NOT NULL,       -- capsule.v1.DesiredState
    generation    INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    -- Of the last run; what is running now is asked of the runtime.
    restarts      INTEGER NOT NULL DEFAULT 0,
    last_exit     BLOB,                   -- capsule.v1.ExitStatus
    stop_grace    INTEGER                 -- seconds, where the operator's stop named one
) STRICT;

CREATE TABLE address (
    workload      TEXT PRIMARY KEY,
    ipv4          INTEGER NOT NULL UNIQUE -- host part; the IPv6 address follows from it
) STRICT;

CREATE TABLE host_port (
    workload        TEXT NOT NULL,
    protocol        INTEGER NOT NULL,     -- capsule.v1.Protocol
    host_ip         TEXT NOT NULL,
    host_port       INTEGER NOT NULL,
    container_port  INTEGER NOT NULL,
    picked          INTEGER NOT NULL,     -- 1 where the capsule chose it
    PRIMARY KEY (protocol, host_ip, host_port)
) STRICT;
CREATE INDEX host_port_workload ON host_port (workload);

CREATE TABLE network (
    id            INTEGER PRIMARY KEY CHECK (id = 1),
    subnet        TEXT NOT NULL,          -- CIDR of the bridge
    subnet6       TEXT NOT NULL
) STRICT;

CREATE TABLE volume (
    name          TEXT PRIMARY KEY,
    labels        TEXT NOT NULL,          -- JSON object
    size_bytes    INTEGER NOT NULL,
    state         INTEGER NOT NULL,       -- 0 making, 1 ready, 2 growing, 3 deleting
    created_at    INTEGER NOT NULL
) STRICT;

CREATE TABLE volume_claim (
    volume        TEXT NOT NULL REFERENCES volume (name),
    workload      TEXT NOT NULL,
    read_only     INTEGER NOT NULL,
    PRIMARY KEY (volume, workload)
) STRICT;
