-- +goose Up

-- What VMs have beyond the plain, as bits (domain.Features).
ALTER TABLE skus ADD COLUMN features integer NOT NULL DEFAULT 0;
ALTER TABLE images ADD COLUMN needs integer NOT NULL DEFAULT 0;
ALTER TABLE allocations ADD COLUMN features integer NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE allocations DROP COLUMN features;
ALTER TABLE images DROP COLUMN needs;
ALTER TABLE skus DROP COLUMN features;
