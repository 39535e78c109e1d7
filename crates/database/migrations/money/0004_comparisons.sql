-- What the gateway's own comparisons cost on a day is summed at every start.
CREATE INDEX generations_shadow ON generations (created_ms) WHERE cache = 'shadow';
