-- +goose Up

-- The catalog of images: the site's, and projects' own.
CREATE TABLE images (
    id             text PRIMARY KEY,
    number         bigint NOT NULL,
    tenant_id      text NOT NULL,  -- '': the site's
    project_id     text NOT NULL,
    name           text NOT NULL,
    version        text NOT NULL,
    digest         text NOT NULL,
    size_bytes     bigint NOT NULL,
    disk_bytes     bigint NOT NULL,
    format         text NOT NULL,
    driver         text NOT NULL,
    fabric         text NOT NULL,
    secure_boot    boolean NOT NULL,
    reports_ready  boolean NOT NULL,
    created_at     timestamptz NOT NULL,
    retired_at     timestamptz
);
CREATE INDEX ON images (project_id, number);
ALTER TABLE images ENABLE ROW LEVEL SECURITY;
CREATE POLICY platform ON images FOR SELECT TO gpuaas_reader USING ((SELECT current_setting('app.platform', true)) = 'on');
CREATE POLICY own ON images FOR SELECT TO gpuaas_reader USING (tenant_id <> '' AND tenant_id = (SELECT current_setting('app.tenant', true)));
CREATE POLICY everyone ON images FOR SELECT TO gpuaas_reader USING (tenant_id = '');
GRANT SELECT ON images TO gpuaas_reader;

-- +goose Down
DROP TABLE images;
