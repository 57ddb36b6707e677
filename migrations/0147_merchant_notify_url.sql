-- Which merchants are told at an address, for events of the gateway that name no merchant.
CREATE INDEX merchant_notify_url ON merchant (notify_url, id);
