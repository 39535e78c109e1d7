-- The same sums by at most one of key, app, step and cache (`cut` says which, or nothing), so that a month of activity is read
-- out of hundreds of rows and not out of every combination.
CREATE TABLE usage_cuts (
    tenant_id        TEXT NOT NULL,
    cut              TEXT NOT NULL,
    day              BIGINT NOT NULL,
    value            TEXT NOT NULL,
    model            TEXT NOT NULL,
    endpoint         TEXT NOT NULL,
    provider         TEXT NOT NULL,
    sold_as          TEXT NOT NULL,
    requests         BIGINT NOT NULL,
    failed           BIGINT NOT NULL,
    input_tokens     BIGINT NOT NULL,
    output_tokens    BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    upstream_nano    BIGINT NOT NULL,
    charged_nano     BIGINT NOT NULL,
    saved_nano       BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, cut, day, value, model, endpoint, provider, sold_as)
);
CREATE INDEX usage_cuts_by_day ON usage_cuts (cut, day);
INSERT INTO usage_cuts
    SELECT tenant_id, cut, day, value, model, endpoint, provider, sold_as, SUM(requests), SUM(failed), SUM(input_tokens),
    SUM(output_tokens), SUM(reasoning_tokens), SUM(upstream_nano), SUM(charged_nano), SUM(saved_nano)
    FROM (SELECT usage_days.*, '' AS cut, '' AS value FROM usage_days
          UNION ALL SELECT usage_days.*, 'key_hash', key_hash FROM usage_days
          UNION ALL SELECT usage_days.*, 'app', app FROM usage_days
          UNION ALL SELECT usage_days.*, 'step', step FROM usage_days
          UNION ALL SELECT usage_days.*, 'cache', cache FROM usage_days) AS cuts
    GROUP BY tenant_id, cut, day, value, model, endpoint, provider, sold_as;
