-- Gateways that are alive; what one of them reserved or leased is settled by another once it has expired.
CREATE TABLE replicas (
    id         TEXT PRIMARY KEY,
    started_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL
);

-- What limits spending: key:HASH, tenant:ID, credits:ID (what was paid in advance), user:TENANT/USER. spent_nano is what was
-- settled since window_ms.
CREATE TABLE budgets (
    id         TEXT PRIMARY KEY,
    tenant_id  TEXT NOT NULL,
    limit_nano BIGINT,
    reset      TEXT NOT NULL DEFAULT '',
    window_ms  BIGINT NOT NULL DEFAULT 0,
    spent_nano BIGINT NOT NULL DEFAULT 0,
    -- When a gateway found too little because others hold the rest.
    wanted_ms  BIGINT NOT NULL DEFAULT 0,
    updated_ms BIGINT NOT NULL
);
CREATE INDEX budgets_by_change ON budgets (updated_ms);
CREATE INDEX budgets_wanted ON budgets (wanted_ms) WHERE wanted_ms > 0;
INSERT INTO budgets (id, tenant_id, updated_ms) SELECT 'tenant:' || id, id, created_ms FROM tenants;
INSERT INTO budgets (id, tenant_id, updated_ms) SELECT 'credits:' || id, id, created_ms FROM tenants;
INSERT INTO budgets (id, tenant_id, limit_nano, spent_nano, updated_ms)
    SELECT 'key:' || hash, tenant_id, limit_nano, usage_nano, updated_ms FROM keys;

-- The part of a budget that one gateway may spend: what it has reserved, and what it may still reserve.
CREATE TABLE leases (
    budget_id  TEXT NOT NULL,
    replica_id TEXT NOT NULL,
    nano       BIGINT NOT NULL,
    PRIMARY KEY (budget_id, replica_id)
);
CREATE INDEX leases_by_replica ON leases (replica_id);

-- The ledger: each row takes from one account and gives to another; rows are added and never changed.
CREATE TABLE transfers (
    reference  TEXT NOT NULL,
    kind       TEXT NOT NULL,
    tenant_id  TEXT NOT NULL,
    debit      TEXT NOT NULL,
    credit     TEXT NOT NULL,
    nano       BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (reference, kind)
);
CREATE INDEX transfers_by_tenant ON transfers (tenant_id, created_ms);
INSERT INTO transfers (reference, kind, tenant_id, debit, credit, nano, created_ms)
    SELECT id, 'charge', tenant_id, 'tenant:' || tenant_id, 'revenue', charged_nano, created_ms
    FROM generations WHERE charged_nano <> 0;
INSERT INTO transfers (reference, kind, tenant_id, debit, credit, nano, created_ms)
    SELECT id, 'cost', tenant_id, 'cost', 'provider:' || provider, upstream_nano, created_ms
    FROM generations WHERE upstream_nano <> 0;
UPDATE budgets SET spent_nano = COALESCE(
    (SELECT SUM(charged_nano) FROM generations WHERE generations.tenant_id = budgets.tenant_id), 0)
    WHERE id LIKE 'tenant:%' OR id LIKE 'credits:%';

-- What was paid or given in advance, in the order in which it is used up.
CREATE TABLE credits (
    id            TEXT PRIMARY KEY,
    tenant_id     TEXT NOT NULL,
    kind          TEXT NOT NULL,
    nano          BIGINT NOT NULL,
    fee_nano      BIGINT NOT NULL,
    used_nano     BIGINT NOT NULL DEFAULT 0,
    refunded_nano BIGINT NOT NULL DEFAULT 0,
    expired_nano  BIGINT NOT NULL DEFAULT 0,
    created_ms    BIGINT NOT NULL,
    expires_ms    BIGINT
);
CREATE INDEX credits_by_tenant ON credits (tenant_id, created_ms);

-- Sums by day (days since 1970, UTC), so that a month of activity is not a scan of its generations.
CREATE TABLE usage_days (
    tenant_id        TEXT NOT NULL,
    day              BIGINT NOT NULL,
    key_hash         TEXT NOT NULL,
    model            TEXT NOT NULL,
    endpoint         TEXT NOT NULL,
    provider         TEXT NOT NULL,
    sold_as          TEXT NOT NULL,
    app              TEXT NOT NULL,
    step             TEXT NOT NULL,
    cache            TEXT NOT NULL,
    requests         BIGINT NOT NULL,
    failed           BIGINT NOT NULL,
    input_tokens     BIGINT NOT NULL,
    output_tokens    BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    upstream_nano    BIGINT NOT NULL,
    charged_nano     BIGINT NOT NULL,
    saved_nano       BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, day, key_hash, model, endpoint, provider, sold_as, app, step, cache)
);
CREATE INDEX usage_by_day ON usage_days (day);

ALTER TABLE reservations ADD COLUMN replica_id TEXT NOT NULL DEFAULT '';
-- The tenant's own name of a model whose source it hides from its clients; and who asked, as clients say of themselves.
ALTER TABLE generations ADD COLUMN sold_as TEXT NOT NULL DEFAULT '';
ALTER TABLE generations ADD COLUMN app TEXT NOT NULL DEFAULT '';
ALTER TABLE generations ADD COLUMN referer TEXT NOT NULL DEFAULT '';
ALTER TABLE generations ADD COLUMN user_agent TEXT NOT NULL DEFAULT '';
ALTER TABLE generations ADD COLUMN session_id TEXT NOT NULL DEFAULT '';
ALTER TABLE generations ADD COLUMN step TEXT NOT NULL DEFAULT '';
CREATE INDEX generations_by_user ON generations (tenant_id, end_user) WHERE end_user <> '';
CREATE INDEX generations_by_age ON generations (created_ms);

INSERT INTO usage_days (tenant_id, day, key_hash, model, endpoint, provider, sold_as, app, step, cache, requests, failed,
    input_tokens, output_tokens, reasoning_tokens, upstream_nano, charged_nano, saved_nano)
    SELECT tenant_id, created_ms / 86400000, key_hash, model, endpoint, provider, '', '', '', cache, COUNT(*),
    SUM(CASE WHEN state = 'failed' THEN 1 ELSE 0 END), SUM(input_tokens + cache_read_tokens + cache_write_tokens),
    SUM(output_tokens + reasoning_tokens), SUM(reasoning_tokens), SUM(upstream_nano), SUM(charged_nano), SUM(saved_nano)
    FROM generations GROUP BY tenant_id, created_ms / 86400000, key_hash, model, endpoint, provider, cache;

-- Limits are budgets now; a key has a role, an end and rules of its own.
DROP VIEW weighted_keys;
ALTER TABLE keys DROP COLUMN limit_nano;
ALTER TABLE keys DROP COLUMN adjusted_nano;
ALTER TABLE keys ADD COLUMN role TEXT NOT NULL DEFAULT 'member';
ALTER TABLE keys ADD COLUMN creator TEXT;
ALTER TABLE keys ADD COLUMN expires_ms BIGINT;
ALTER TABLE keys ADD COLUMN deleted BOOLEAN NOT NULL DEFAULT FALSE;
-- JSON: what it may ask for, and how often.
ALTER TABLE keys ADD COLUMN rules TEXT NOT NULL DEFAULT '{}';
-- JSON: what its requests cost beside what providers take, and what holds for all its keys and users.
ALTER TABLE tenants ADD COLUMN terms TEXT NOT NULL DEFAULT '{}';
ALTER TABLE tenants ADD COLUMN updated_ms BIGINT NOT NULL DEFAULT 0;

-- Requests whose traces are erased; each gateway takes them out of its own cache.
CREATE TABLE erasures (
    generation_id TEXT PRIMARY KEY,
    tenant_id     TEXT NOT NULL,
    created_ms    BIGINT NOT NULL
);
CREATE INDEX erasures_by_age ON erasures (created_ms);

-- Requests counted in windows, as for limits by minute or day; gateways take shares of them.
CREATE TABLE counters (
    id        TEXT PRIMARY KEY,
    window_ms BIGINT NOT NULL,
    taken     BIGINT NOT NULL
);
