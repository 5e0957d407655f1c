-- +goose Up

-- A slot changes its state with every launch. No index may have the state, or each
-- change would be a new entry in all of them: only whether it is for rent or rented at
-- all, so that those that are not are found among a million.
DROP INDEX slots_state_ordinal_idx;
ALTER TABLE slots ADD COLUMN in_service boolean NOT NULL
    GENERATED ALWAYS AS (state IN ('available', 'reserved', 'active')) STORED;
CREATE INDEX slots_out_of_service ON slots (ordinal) WHERE NOT in_service;

-- +goose Down
DROP INDEX slots_out_of_service;
ALTER TABLE slots DROP COLUMN in_service;
CREATE INDEX ON slots (state, ordinal);
