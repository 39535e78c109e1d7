-- Where somebody is told, and nothing is refused.
ALTER TABLE budgets ADD COLUMN soft_nano BIGINT;
CREATE INDEX budgets_with_soft ON budgets (soft_nano) WHERE soft_nano IS NOT NULL;

-- What webhooks are told, each once; due_ms is empty once it is told or given up.
CREATE TABLE notices (
    id         TEXT PRIMARY KEY,
    tenant_id  TEXT NOT NULL,
    budget_id  TEXT NOT NULL,
    window_ms  BIGINT NOT NULL,
    soft_nano  BIGINT NOT NULL,
    limit_nano BIGINT,
    spent_nano BIGINT NOT NULL,
    created_ms BIGINT NOT NULL,
    tries      BIGINT NOT NULL DEFAULT 0,
    due_ms     BIGINT
);
CREATE INDEX notices_due ON notices (due_ms) WHERE due_ms IS NOT NULL;
