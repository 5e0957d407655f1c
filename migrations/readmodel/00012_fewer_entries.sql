-- +goose Up

-- Each launch makes an entry in every index of the tables that it has rows in. Two of
-- them nobody misses: most allocations have no name, and those of a certificate find
-- their leases by the slots of their VMs.
DROP INDEX allocations_named, leases_allocation_id_idx;
CREATE INDEX allocations_named ON allocations (project_id, name, number) WHERE name <> '';

-- The slots of a host lie in one page and are let one after the other, often all of them
-- in one transaction: each needs room there for its next form, which is longer, or the
-- change is a new entry in all indexes, too. What is there already gets it when the read
-- models are built again.
ALTER TABLE slots SET (fillfactor = 45);

-- +goose Down
ALTER TABLE slots SET (fillfactor = 70);
DROP INDEX allocations_named;
CREATE INDEX allocations_named ON allocations (project_id, name, number);
CREATE INDEX ON leases (allocation_id) WHERE allocation_id <> '';
