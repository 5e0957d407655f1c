-- +goose Up

ALTER TABLE hosts ADD COLUMN removed_at timestamptz;

-- Devices that left their slots with a tenant's data perhaps still on them.
CREATE TABLE wipe_duties (
    id             text PRIMARY KEY,
    number         bigint NOT NULL,
    state          text NOT NULL,  -- 'owed', 'destruction_reported', 'destroyed', 'discharged'
    component      text NOT NULL,
    serial         text NOT NULL,
    slot_id        text NOT NULL,  -- that it left
    host_id        text NOT NULL,
    generation     bigint NOT NULL,
    cause          text NOT NULL,
    since          timestamptz NOT NULL,
    found_slot_id  text NOT NULL DEFAULT '',  -- where it was wiped
    found_host_id  text NOT NULL DEFAULT '',
    reported_by    text NOT NULL DEFAULT '',
    confirmed_by   text NOT NULL DEFAULT '',
    evidence       text NOT NULL DEFAULT '',
    changed_at     timestamptz NOT NULL
);
CREATE INDEX ON wipe_duties (number);
ALTER TABLE wipe_duties ENABLE ROW LEVEL SECURITY;
CREATE POLICY platform ON wipe_duties FOR SELECT TO gpuaas_reader USING ((SELECT current_setting('app.platform', true)) = 'on');
GRANT SELECT ON wipe_duties TO gpuaas_reader;

-- +goose Down
DROP TABLE wipe_duties;
ALTER TABLE hosts DROP COLUMN removed_at;
