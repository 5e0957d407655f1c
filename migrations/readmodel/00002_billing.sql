-- +goose Up

ALTER TABLE organizations ADD COLUMN billing_time_zone text NOT NULL DEFAULT 'UTC';

-- A correction names what it corrects: the last of the original transactions, the
-- late price that is the reason ('': a late stop), and the usage it is about.
ALTER TABLE ledger_entries
    ADD COLUMN corrects_tx_id text NOT NULL DEFAULT '',
    ADD COLUMN price_id text NOT NULL DEFAULT '',
    ADD COLUMN usage_from timestamptz,
    ADD COLUMN usage_to timestamptz;

-- +goose Down
ALTER TABLE ledger_entries DROP COLUMN corrects_tx_id, DROP COLUMN price_id, DROP COLUMN usage_from, DROP COLUMN usage_to;
ALTER TABLE organizations DROP COLUMN billing_time_zone;
