-- +goose Up

-- Builds of one day knew another version 12: with it names were indexed in part, and leases
-- not by their allocation. What was built with it is slow there.
-- +goose StatementBegin
DO $$
BEGIN
	IF EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('allocations_named') AND indpred IS NOT NULL) THEN
		DROP INDEX allocations_named;
		CREATE INDEX allocations_named ON allocations (project_id, name, number);
	END IF;
END
$$;
-- +goose StatementEnd
CREATE INDEX IF NOT EXISTS leases_allocation_id_idx ON leases (allocation_id) WHERE allocation_id <> '';

-- +goose Down
