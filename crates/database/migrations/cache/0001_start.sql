-- Stored answers with what is needed to find them again; the file may be deleted at any time.
CREATE TABLE answers (
    id          TEXT PRIMARY KEY,
    tenant_id   TEXT NOT NULL,
    fingerprint BYTEA NOT NULL,
    scope       BYTEA,
    embedder    TEXT NOT NULL,
    vector      BYTEA,
    prompt      TEXT NOT NULL,
    model       TEXT NOT NULL,
    provider    TEXT NOT NULL,
    reply       TEXT NOT NULL,
    created_ms  BIGINT NOT NULL,
    expires_ms  BIGINT NOT NULL
);
CREATE UNIQUE INDEX answers_by_fingerprint ON answers (tenant_id, fingerprint);
CREATE INDEX answers_by_expiry ON answers (expires_ms);
