-- W3C trace context of what opened a payment: a channel that calls back need not pass one on.
ALTER TABLE payment_record ADD COLUMN trace VARCHAR(128);
