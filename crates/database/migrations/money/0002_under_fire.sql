-- The order in which keys of a tenant are served when an endpoint is at its limit: the highest first.
ALTER TABLE keys ADD COLUMN priority BIGINT NOT NULL DEFAULT 0;
-- Sum of corrections made after settlement; a running gateway takes over what changed.
ALTER TABLE keys ADD COLUMN adjusted_nano BIGINT NOT NULL DEFAULT 0;
-- Share of the turns beside other tenants.
ALTER TABLE tenants ADD COLUMN weight BIGINT NOT NULL DEFAULT 1;
-- So that a request which a crash left open still belongs to its end user.
ALTER TABLE reservations ADD COLUMN end_user TEXT NOT NULL DEFAULT '';
-- Time a request waited for an endpoint at its limit.
ALTER TABLE generations ADD COLUMN queue_ms BIGINT NOT NULL DEFAULT 0;
CREATE INDEX generations_unconfirmed ON generations (created_ms) WHERE state = 'unconfirmed';

CREATE VIEW weighted_keys AS
    SELECT keys.*, tenants.weight AS tenant_weight FROM keys JOIN tenants ON tenants.id = keys.tenant_id;
