-- +goose Up

-- Why an operator acted in a tenant, where it has to say so.
ALTER TABLE audit ADD COLUMN reason text NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE audit DROP COLUMN reason;
