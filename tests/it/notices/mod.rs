//! SMS and e-mail to users.

mod contacts;
mod order_notices;
mod sms;
mod sms_faults;
mod smtp;
mod texts;
