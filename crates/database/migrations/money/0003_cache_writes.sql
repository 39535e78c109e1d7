-- Input tokens written to a provider's prompt cache, which cost more than others.
ALTER TABLE generations ADD COLUMN cache_write_tokens BIGINT NOT NULL DEFAULT 0;
