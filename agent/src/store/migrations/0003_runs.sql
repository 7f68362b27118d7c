-- What a workload's next run answers, so that an agent that dies forgets no `restart` and repeats no
-- run that was to be the only one.
ALTER TABLE workload ADD COLUMN epoch   INTEGER NOT NULL DEFAULT 1; -- rises with a changed spec, a start, a restart
ALTER TABLE workload ADD COLUMN restart INTEGER NOT NULL DEFAULT 0; -- epoch of the last restart that was asked for
ALTER TABLE workload ADD COLUMN begun   INTEGER NOT NULL DEFAULT 0; -- epoch of the last run known to have begun
