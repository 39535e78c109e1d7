-- What an open request may cost upstream, apart from what its key may be charged, and what it is sold as where that hides more.
ALTER TABLE reservations ADD COLUMN upstream_nano BIGINT NOT NULL DEFAULT 0;
ALTER TABLE reservations ADD COLUMN sold_as TEXT NOT NULL DEFAULT '';
UPDATE reservations SET upstream_nano = nano;

-- Refunds that arrived before the payment that they pay back; `nano` is money, fee included.
CREATE TABLE refunds_ahead (
    id          TEXT PRIMARY KEY,
    payment     TEXT NOT NULL,
    nano        BIGINT NOT NULL,
    created_ms  BIGINT NOT NULL
);
CREATE INDEX refunds_ahead_by_payment ON refunds_ahead (payment);
