-- What the gateway's own comparisons cost on a day is summed at every start.
CREATE INDEX generations_shadow ON generations (created_ms) WHERE cache = 'shadow';
-- What the gateway asks for itself: no key pays, also not for what a crash left open; and for which generation it was.
ALTER TABLE reservations ADD COLUMN is_free BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE reservations ADD COLUMN source TEXT NOT NULL DEFAULT '';
