-- +goose Up

-- Conventions: ids are text; money is bigint micros; n is a commit's number,
-- number an event's, and lists are ordered by it; '' and NULL times mean none.

CREATE TABLE checkpoint (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    site    text    NOT NULL,
    n       bigint  NOT NULL DEFAULT 0,
    hash    bytea   NOT NULL DEFAULT '',
    number  bigint  NOT NULL DEFAULT 0,
    at      timestamptz,
    run     bigint  NOT NULL DEFAULT 0,     -- rises with every projector that takes over
    retired boolean NOT NULL DEFAULT false  -- a rebuilt schema took this one's place
) WITH (fillfactor = 10);

CREATE TABLE organizations (
    id                 text PRIMARY KEY,
    number             bigint NOT NULL,
    name               text NOT NULL,
    state              text NOT NULL,
    currency           text NOT NULL,
    credit_line_micros bigint NOT NULL,
    stripe_customer_id text NOT NULL DEFAULT '',
    grace_until        timestamptz,
    credit_ends_at     timestamptz,
    created_at         timestamptz NOT NULL
);
CREATE INDEX ON organizations (number);

CREATE TABLE tenant_memberships (
    tenant_id text NOT NULL,
    user_id   text NOT NULL,
    number    bigint NOT NULL,
    role      text NOT NULL,
    added_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, user_id),
    UNIQUE (user_id)
);
CREATE INDEX ON tenant_memberships (tenant_id, number);

CREATE TABLE projects (
    id         text PRIMARY KEY,
    number     bigint NOT NULL,
    tenant_id  text NOT NULL,
    name       text NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX ON projects (tenant_id, number);

CREATE TABLE project_memberships (
    project_id text NOT NULL,
    user_id    text NOT NULL,
    tenant_id  text NOT NULL,
    number     bigint NOT NULL,
    role       text NOT NULL,
    added_at   timestamptz NOT NULL,
    PRIMARY KEY (project_id, user_id)
);
CREATE INDEX ON project_memberships (project_id, number);
CREATE INDEX ON project_memberships (user_id);

CREATE TABLE operators (
    user_id text PRIMARY KEY,
    number  bigint NOT NULL,
    roles   text[] NOT NULL,
    set_at  timestamptz NOT NULL
);

CREATE TABLE api_keys (
    id         text PRIMARY KEY,
    number     bigint NOT NULL,
    tenant_id  text NOT NULL,  -- '': an operator's
    user_id    text NOT NULL,
    name       text NOT NULL,
    hash       bytea NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz
);
CREATE INDEX ON api_keys (tenant_id, number);

CREATE TABLE policies (
    tenant_id  text NOT NULL,
    project_id text NOT NULL,
    key        text NOT NULL,
    value      jsonb NOT NULL,
    number     bigint NOT NULL,  -- of the event that set it
    set_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, project_id, key)
);

CREATE TABLE skus (
    id         text PRIMARY KEY,
    number     bigint NOT NULL,
    name       text NOT NULL,
    shape      integer NOT NULL,
    gpu_class  text NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX ON skus (number);

CREATE TABLE prices (
    id                   text PRIMARY KEY,
    number               bigint NOT NULL,
    sku_id               text NOT NULL,
    tenant_id            text NOT NULL,  -- '': the book's
    currency             text NOT NULL,
    micros_per_unit_hour bigint NOT NULL,
    effective_at         timestamptz NOT NULL,
    recorded_at          timestamptz NOT NULL
);
CREATE INDEX ON prices (sku_id, effective_at, number);

CREATE TABLE hosts (
    id                 text PRIMARY KEY,
    number             bigint NOT NULL,
    name               text NOT NULL,
    rack               text NOT NULL,
    leaf               text NOT NULL,
    spine              text NOT NULL,
    enrolled_at        timestamptz NOT NULL,
    admitted_at        timestamptz,
    nats_public_key    text NOT NULL DEFAULT '',
    signing_public_key bytea,
    gpu_class          text NOT NULL DEFAULT '',
    proposal_digest    text NOT NULL DEFAULT '',
    proposal           jsonb,
    proposed_at        timestamptz,
    map_digest         text NOT NULL DEFAULT '',
    map                jsonb,
    approved_at        timestamptz,
    cordoned           boolean NOT NULL DEFAULT false,
    draining           boolean NOT NULL DEFAULT false,
    silent_since       timestamptz,
    faulted            boolean NOT NULL DEFAULT false,
    journal            text NOT NULL DEFAULT '',
    acked_report       bigint NOT NULL DEFAULT 0,
    reported_at        timestamptz
) WITH (fillfactor = 70);
CREATE INDEX ON hosts (number);

-- What a tenant may know of hosts: which are silent. The view reads as its owner.
CREATE VIEW silent_hosts AS SELECT id FROM hosts WHERE silent_since IS NOT NULL;
CREATE INDEX ON hosts (id) WHERE silent_since IS NOT NULL;

CREATE TABLE slots (
    id            text PRIMARY KEY,
    ordinal       bigint NOT NULL,  -- approving event's number * 64 + position: the order of lists
    host_id       text NOT NULL,
    position      integer NOT NULL,
    gpu_class     text NOT NULL,
    numa_node     integer NOT NULL,
    wipe_policy   text NOT NULL,
    spec          jsonb NOT NULL,
    state         text NOT NULL,
    generation    bigint NOT NULL,
    attempt       bigint NOT NULL,
    wipe_deadline timestamptz,
    tenant_id     text NOT NULL,
    allocation_id text NOT NULL,
    vm_id         text NOT NULL,
    condemned     boolean NOT NULL,
    component     text NOT NULL,  -- of the fault, with scope and reason
    scope         text NOT NULL,
    reason        text NOT NULL,
    changed_at    timestamptz NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX ON slots (host_id, ordinal);
CREATE INDEX ON slots (ordinal);
CREATE INDEX ON slots (state, ordinal);

CREATE TABLE allocations (
    id                   text PRIMARY KEY,
    number               bigint NOT NULL,
    tenant_id            text NOT NULL,
    project_id           text NOT NULL,
    name                 text NOT NULL,
    sku_id               text NOT NULL,
    shape                integer NOT NULL,
    count                integer NOT NULL,
    image                text NOT NULL,
    image_digest         text NOT NULL,
    user_data_digest     text NOT NULL,
    requested_by_user_id text NOT NULL,
    locked_micros        bigint NOT NULL,  -- per unit-hour; -1: follows the price book
    created_at           timestamptz NOT NULL,
    expires_at           timestamptz,
    state                text NOT NULL,
    reason               text NOT NULL,
    hold_micros          bigint NOT NULL,
    released_at          timestamptz,
    changed_at           timestamptz NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX ON allocations (project_id, number);

CREATE TABLE vms (
    allocation_id text NOT NULL,
    position      integer NOT NULL,
    id            text NOT NULL,
    tenant_id     text NOT NULL,
    project_id    text NOT NULL,
    sku_id        text NOT NULL,
    host_id       text NOT NULL,
    slot_ids      jsonb NOT NULL,
    gpus          integer NOT NULL,
    state         text NOT NULL,
    power         text NOT NULL,
    boot          bigint NOT NULL,
    address       text NOT NULL,
    overdue       boolean NOT NULL,
    started_at    timestamptz,
    usage_number  bigint NOT NULL,  -- event that opened its line; 0: not billed yet
    bill_start    timestamptz,
    bill_end      timestamptz,
    free          boolean NOT NULL,
    changed_at    timestamptz NOT NULL,
    PRIMARY KEY (allocation_id, position)
) WITH (fillfactor = 70);
CREATE INDEX ON vms (tenant_id, usage_number) WHERE usage_number > 0;

-- A lease is (slot, generation); generation 0 is the first wipe, of nobody's data.
CREATE TABLE leases (
    slot_id       text NOT NULL,
    generation    bigint NOT NULL,
    host_id       text NOT NULL,
    tenant_id     text NOT NULL,
    allocation_id text NOT NULL,
    vm_id         text NOT NULL,
    started_at    timestamptz NOT NULL,
    ended_at      timestamptz,
    wipe_result   text NOT NULL DEFAULT '',  -- 'verified' or 'quarantined'
    wiped_at      timestamptz,
    evidence      jsonb,
    PRIMARY KEY (slot_id, generation)
) WITH (fillfactor = 80);
CREATE INDEX ON leases (allocation_id) WHERE allocation_id <> '';

CREATE TABLE ledger_entries (
    tenant_id     text NOT NULL,
    number        bigint NOT NULL,
    leg           integer NOT NULL,
    n             bigint NOT NULL,
    tx_id         text NOT NULL,
    kind          text NOT NULL,
    account       text NOT NULL,
    amount_micros bigint NOT NULL,
    currency      text NOT NULL,
    allocation_id text NOT NULL,
    vm_id         text NOT NULL,
    effective_at  timestamptz NOT NULL,
    recorded_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, number, leg)
);

-- Sums of the entries: lots, receivable and customer_credit a tenant, its holds
-- together as 'hold'; the platform's accounts under tenant ''.
CREATE TABLE balances (
    tenant_id     text NOT NULL,
    account       text NOT NULL,
    currency      text NOT NULL,
    amount_micros bigint NOT NULL,
    PRIMARY KEY (tenant_id, account, currency)
) WITH (fillfactor = 50);

CREATE TABLE grants (
    id            text PRIMARY KEY,
    number        bigint NOT NULL,
    tenant_id     text NOT NULL,
    currency      text NOT NULL,
    amount_micros bigint NOT NULL,
    kind          text NOT NULL,
    priority      bigint NOT NULL,
    granted_at    timestamptz NOT NULL,
    expires_at    timestamptz,
    lapsed_at     timestamptz
);
CREATE INDEX ON grants (tenant_id, number);

CREATE TABLE audit (
    n          bigint NOT NULL,
    position   integer NOT NULL,
    at         timestamptz NOT NULL,
    command_id text NOT NULL,
    type       text NOT NULL,
    actor      text NOT NULL,
    key_id     text NOT NULL,
    host_id    text NOT NULL,
    tenant_id  text NOT NULL,  -- of what was changed; '': the site's
    resource   text NOT NULL,
    events     integer NOT NULL,
    number     bigint NOT NULL,  -- of the first event
    PRIMARY KEY (n, position)
);
CREATE INDEX ON audit (tenant_id, n, position) WHERE tenant_id <> '';

-- The second line of defence: whatever a query asks for, a reader sees only rows
-- of app.tenant, or everything when app.platform is on.
-- +goose StatementBegin
DO $$
DECLARE
    t text;
    platform CONSTANT text := '(SELECT current_setting(''app.platform'', true)) = ''on''';
    own CONSTANT text := '%I <> '''' AND %I = (SELECT current_setting(''app.tenant'', true))';
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO gpuaas_reader', current_schema());
    FOREACH t IN ARRAY ARRAY['organizations', 'tenant_memberships', 'projects', 'project_memberships', 'api_keys', 'policies',
        'prices', 'slots', 'allocations', 'vms', 'leases', 'ledger_entries', 'balances', 'grants', 'audit', 'hosts', 'operators'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY platform ON %I FOR SELECT TO gpuaas_reader USING (' || platform || ')', t);
        IF t = 'organizations' THEN
            EXECUTE format('CREATE POLICY own ON %I FOR SELECT TO gpuaas_reader USING (' || own || ')', t, 'id', 'id');
        ELSIF t NOT IN ('hosts', 'operators', 'slots') THEN
            EXECUTE format('CREATE POLICY own ON %I FOR SELECT TO gpuaas_reader USING (' || own || ')', t, 'tenant_id', 'tenant_id');
        END IF;
        IF t IN ('policies', 'prices') THEN
            EXECUTE format('CREATE POLICY everyone ON %I FOR SELECT TO gpuaas_reader USING (tenant_id = '''')', t);
        END IF;
        IF t <> 'api_keys' THEN
            EXECUTE format('GRANT SELECT ON %I TO gpuaas_reader', t);
        END IF;
    END LOOP;
END $$;
-- +goose StatementEnd
GRANT SELECT (id, number, tenant_id, user_id, name, created_at, expires_at, revoked_at) ON api_keys TO gpuaas_reader;
GRANT SELECT ON checkpoint, skus, silent_hosts TO gpuaas_reader;

-- +goose Down
DROP VIEW silent_hosts;
DROP TABLE audit, grants, balances, ledger_entries, leases, vms, allocations, slots, hosts, prices, skus, policies,
    api_keys, operators, project_memberships, projects, tenant_memberships, organizations, checkpoint;
