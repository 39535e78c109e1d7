-- Prompts that can be found by meaning, each pointing to a stored answer; what labels taught.
DROP TABLE answers;
CREATE TABLE answers (
    id          TEXT PRIMARY KEY,
    tenant_id   TEXT NOT NULL,
    fingerprint BYTEA NOT NULL,
    model       TEXT NOT NULL,
    provider    TEXT NOT NULL,
    tags        TEXT NOT NULL,
    reply       TEXT NOT NULL,
    created_ms  BIGINT NOT NULL,
    expires_ms  BIGINT NOT NULL
);
CREATE INDEX answers_by_tenant ON answers (tenant_id, created_ms);
CREATE INDEX answers_by_expiry ON answers (expires_ms);

CREATE TABLE prompts (
    id             TEXT PRIMARY KEY,
    tenant_id      TEXT NOT NULL,
    scope          BYTEA NOT NULL,
    embedder       TEXT NOT NULL,
    prompt         TEXT NOT NULL,
    vector         BYTEA NOT NULL,
    earlier_prompt TEXT NOT NULL,
    earlier_vector BYTEA,
    principal      BIGINT NOT NULL,
    answer_id      TEXT NOT NULL,
    created_ms     BIGINT NOT NULL,
    expires_ms     BIGINT NOT NULL
);
CREATE INDEX prompts_by_embedder ON prompts (embedder, created_ms);
CREATE INDEX prompts_by_answer ON prompts (tenant_id, answer_id);
CREATE INDEX prompts_by_expiry ON prompts (expires_ms);

-- kind `same`: answer `a` says what answer `b` says; `apart`: answer `b` is wrong for prompt `a`; `confirmed`: answer `a`
-- was given to another principal too.
CREATE TABLE ties (
    tenant_id  TEXT NOT NULL,
    kind       TEXT NOT NULL,
    a          TEXT NOT NULL,
    b          TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, kind, a, b)
);

CREATE TABLE judges (
    tenant_id  TEXT NOT NULL,
    policy     TEXT NOT NULL,
    embedder   TEXT NOT NULL,
    state      TEXT NOT NULL,
    updated_ms BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, policy, embedder)
);

-- Counted up to forget everything of a tenant at once.
CREATE TABLE epochs (
    tenant_id TEXT PRIMARY KEY,
    epoch     BIGINT NOT NULL
);
