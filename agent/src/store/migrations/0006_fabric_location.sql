-- Where workloads of other members are, as each said last: policies go by it while it is away.
CREATE TABLE fabric_location (
    member    TEXT NOT NULL,
    workload  TEXT NOT NULL,
    ipv4      TEXT NOT NULL,
    ipv6      TEXT NOT NULL,
    PRIMARY KEY (member, workload)
) STRICT, WITHOUT ROWID;
