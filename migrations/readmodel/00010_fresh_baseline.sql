-- +goose Up

-- Whether the wipe that ended a duty began with a baseline taken there and then. Duties
-- that ended before this migration: false, until the read models are built again.
ALTER TABLE wipe_duties ADD COLUMN baseline_fresh boolean NOT NULL DEFAULT false;

-- +goose Down
ALTER TABLE wipe_duties DROP COLUMN baseline_fresh;
