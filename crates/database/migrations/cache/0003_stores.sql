-- Pages of prompts go by time and id; what tells one installation's vectors from another's in a shared store.
DROP INDEX prompts_by_embedder;
CREATE INDEX prompts_by_age ON prompts (embedder, created_ms, id);

CREATE TABLE installation (
    one BIGINT PRIMARY KEY CHECK (one = 1),
    id  TEXT NOT NULL
);
