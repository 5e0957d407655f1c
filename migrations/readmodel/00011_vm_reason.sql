-- +goose Up

-- Why a VM is off. Those that stopped before this migration: '', until they stop again
-- or the read models are built again.
ALTER TABLE vms ADD COLUMN reason text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE vms DROP COLUMN reason;
