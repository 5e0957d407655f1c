-- +goose Up

-- Which read model is read. The row is written by whoever opens the database
-- first; a rebuild moves it.
CREATE TABLE gpuaas.current (
    one         boolean PRIMARY KEY DEFAULT true CHECK (one),
    site        text    NOT NULL,
    schema_name text    NOT NULL,
    last        integer NOT NULL  -- number of the newest schema ever made
);

-- Reads run as this role, so that row-level security binds them. Roles belong to
-- the whole server: where the account may not make one, an administrator does
-- (CREATE ROLE gpuaas_reader NOLOGIN; GRANT gpuaas_reader TO the account).
-- +goose StatementBegin
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'gpuaas_reader') THEN
        BEGIN
            CREATE ROLE gpuaas_reader NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END IF;
    IF NOT pg_has_role(current_user, 'gpuaas_reader', 'MEMBER') THEN
        EXECUTE format('GRANT gpuaas_reader TO %I', current_user);
    END IF;
END $$;
-- +goose StatementEnd

GRANT USAGE ON SCHEMA gpuaas TO gpuaas_reader;
GRANT SELECT ON gpuaas.current TO gpuaas_reader;

-- +goose Down
DROP TABLE gpuaas.current;
