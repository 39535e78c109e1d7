CREATE TABLE tenants (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    created_ms  BIGINT NOT NULL
);

-- One row: what the operator proves to be the operator with, as SHA-256.
CREATE TABLE admin_keys (
    hash        TEXT PRIMARY KEY,
    created_ms  BIGINT NOT NULL
);

CREATE TABLE keys (
    hash        TEXT PRIMARY KEY,
    tenant_id   TEXT NOT NULL REFERENCES tenants (id),
    name        TEXT NOT NULL,
    label       TEXT NOT NULL,
    limit_nano  BIGINT,
    usage_nano  BIGINT NOT NULL DEFAULT 0,
    disabled    BOOLEAN NOT NULL DEFAULT FALSE,
    created_ms  BIGINT NOT NULL,
    updated_ms  BIGINT NOT NULL
);
CREATE INDEX keys_updated ON keys (updated_ms);

-- Money set aside for requests under way; a row left here after a crash is settled as unconfirmed.
CREATE TABLE reservations (
    generation_id TEXT PRIMARY KEY,
    tenant_id     TEXT NOT NULL,
    key_hash      TEXT NOT NULL,
    model         TEXT NOT NULL,
    nano          BIGINT NOT NULL,
    created_ms    BIGINT NOT NULL
);

CREATE TABLE generations (
    id                TEXT PRIMARY KEY,
    tenant_id         TEXT NOT NULL,
    key_hash          TEXT NOT NULL,
    created_ms        BIGINT NOT NULL,
    state             TEXT NOT NULL,
    model_asked       TEXT NOT NULL,
    model             TEXT NOT NULL,
    endpoint          TEXT NOT NULL,
    provider          TEXT NOT NULL,
    policy            TEXT NOT NULL,
    streamed          BOOLEAN NOT NULL,
    cache             TEXT NOT NULL,
    cache_source      TEXT NOT NULL,
    input_tokens      BIGINT NOT NULL,
    cache_read_tokens BIGINT NOT NULL,
    output_tokens     BIGINT NOT NULL,
    reasoning_tokens  BIGINT NOT NULL,
    estimated         BOOLEAN NOT NULL,
    reserved_nano     BIGINT NOT NULL,
    upstream_nano     BIGINT NOT NULL,
    charged_nano      BIGINT NOT NULL,
    overrun_nano      BIGINT NOT NULL,
    saved_nano        BIGINT NOT NULL,
    latency_ms        BIGINT NOT NULL,
    finish_reason     TEXT NOT NULL,
    end_user          TEXT NOT NULL,
    attempts          TEXT NOT NULL,
    reasons           TEXT NOT NULL,
    failure           TEXT NOT NULL
);
CREATE INDEX generations_by_key ON generations (tenant_id, key_hash, created_ms);
