-- W3C trace context of what caused a call.
ALTER TABLE delivery ADD COLUMN trace VARCHAR(128);
