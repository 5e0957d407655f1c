-- +goose Up

-- Where devices were, and when: a device is known by its component and serial.
CREATE TABLE device_places (
    ordinal         bigint NOT NULL,  -- event's number * 256 + position in its map * 4 + component: the order of lists
    serial          text   NOT NULL,
    component       text   NOT NULL,  -- 'gpu', 'nvme', 'ib_vf'
    pf              text   NOT NULL,  -- of a virtual function whose serial is made of its physical function's: that one's
    model           text   NOT NULL,
    serial_from     text   NOT NULL,
    slot_id         text   NOT NULL,
    host_id         text   NOT NULL,
    generation      bigint NOT NULL,  -- the slot's first lease with it,
    last_generation bigint,           -- and its last; NULL: it is there
    since           timestamptz NOT NULL,
    until           timestamptz,
    until_number    bigint NOT NULL DEFAULT 0,  -- of the event that took it out
    cause           text   NOT NULL DEFAULT '',  -- of that: 'replaced', 'retired'
    PRIMARY KEY (slot_id, component, ordinal)
);
CREATE INDEX ON device_places (serial);
CREATE INDEX ON device_places (pf) WHERE pf <> '';
CREATE UNIQUE INDEX ON device_places (slot_id, component) WHERE until IS NULL;

CREATE INDEX wipe_duties_serial ON wipe_duties (serial);

-- Outcomes of wipes that another attempt for the same lease came after: leases has
-- the last one.
CREATE TABLE earlier_wipes (
    slot_id    text   NOT NULL,
    generation bigint NOT NULL,
    number     bigint NOT NULL,  -- of the event that the next outcome came with
    evidence   jsonb  NOT NULL,
    PRIMARY KEY (slot_id, generation, number)
);

-- What the tables can tell: a GPU stays in its slot, another device is there since
-- the last lease of nobody's at the latest. What was before comes with a rebuild.
INSERT INTO device_places (ordinal, serial, component, pf, model, serial_from, slot_id, host_id, generation, last_generation, since, until, cause)
SELECT s.ordinal * 4 + c.k, d.spec->>'serial', c.name, CASE WHEN d.spec->>'serial_from' = 'pf' THEN regexp_replace(d.spec->>'serial', '/vf[0-9]+$', '') ELSE '' END,
    coalesce(d.spec->>'model', ''), coalesce(d.spec->>'serial_from', ''), s.id, s.host_id, l.generation, CASE WHEN s.state = 'retired' THEN s.generation END,
    l.started_at, CASE WHEN s.state = 'retired' THEN s.changed_at END, CASE WHEN s.state = 'retired' THEN 'retired' ELSE '' END
FROM slots s CROSS JOIN (VALUES (0, 'gpu'), (1, 'nvme'), (2, 'ib_vf')) c(k, name)
CROSS JOIN LATERAL (SELECT s.spec->c.name AS spec) d
CROSS JOIN LATERAL (SELECT generation, started_at FROM leases WHERE slot_id = s.id AND tenant_id = '' AND (c.k > 0 OR generation = 0) ORDER BY generation DESC LIMIT 1) l
WHERE d.spec->>'serial' <> '';

-- +goose StatementBegin
DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['device_places', 'earlier_wipes'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY platform ON %I FOR SELECT TO gpuaas_reader USING ((SELECT current_setting(''app.platform'', true)) = ''on'')', t);
        EXECUTE format('GRANT SELECT ON %I TO gpuaas_reader', t);
    END LOOP;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP INDEX wipe_duties_serial;
DROP TABLE earlier_wipes, device_places;
