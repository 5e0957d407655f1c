-- +goose Up

-- What people look for among all allocations that there ever were: a name, and what
-- is not gone yet.
CREATE INDEX allocations_named ON allocations (project_id, name, number);
CREATE INDEX allocations_live ON allocations (project_id, number) WHERE released_at IS NULL;

-- +goose Down
DROP INDEX allocations_named, allocations_live;
