-- +goose Up

-- Each launch makes an entry in every index of the tables that it has rows in. Two of
-- them nobody misses: most allocations have no name, and those of a certificate find
-- their leases by the slots of their VMs.
DROP INDEX allocations_named, leases_allocation_id_idx;
CREATE INDEX allocations_named ON allocations (project_id, name, number) WHERE name <> '';

-- +goose Down
DROP INDEX allocations_named;
CREATE INDEX allocations_named ON allocations (project_id, name, number);
CREATE INDEX ON leases (allocation_id) WHERE allocation_id <> '';
