-- The attempts of one event.
CREATE INDEX message_tx_state_event ON message_tx_state (event_id);
