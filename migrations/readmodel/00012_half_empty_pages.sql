-- +goose Up

-- The slots of a host lie in one page and are let one after the other, often all of them
-- in one transaction: each needs room there for its next form, which is longer, or the
-- change is a new entry in all indexes, too. What is there already gets it when the read
-- models are built again.
ALTER TABLE slots SET (fillfactor = 45);

-- +goose Down
ALTER TABLE slots SET (fillfactor = 70);
