-- What tenants agreed to have kept: prompts and answers by generation; the file may be deleted at any time.
CREATE TABLE contents (
    generation_id TEXT PRIMARY KEY,
    tenant_id     TEXT NOT NULL,
    created_ms    BIGINT NOT NULL,
    end_user      TEXT NOT NULL,
    policy        TEXT NOT NULL,
    model         TEXT NOT NULL,
    question      TEXT NOT NULL,
    messages      TEXT NOT NULL,
    answer        TEXT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cost_nano     BIGINT NOT NULL,
    source_id     TEXT NOT NULL
);
CREATE INDEX contents_by_age ON contents (created_ms, generation_id);
CREATE INDEX contents_by_user ON contents (tenant_id, end_user);

-- How good an answer was, 0 to 1, as each of those who said so sees it: `client`, `judge` or `agreement`.
CREATE TABLE scores (
    tenant_id     TEXT NOT NULL,
    generation_id TEXT NOT NULL,
    rater         TEXT NOT NULL,
    score         DOUBLE PRECISION NOT NULL,
    created_ms    BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, generation_id, rater)
);
CREATE INDEX scores_by_age ON scores (created_ms);
