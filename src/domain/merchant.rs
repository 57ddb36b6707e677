//! Merchants: which payments they may open.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::id::is_code;
use super::money::Money;

/// A kind of payment that a merchant may open at the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Accept {
    /// Product, 1 to 64 characters.
    pub product_id: String,
    /// Channel that takes the money, 1 to 64 characters.
    pub channel_id: String,
    /// Not less than this.
    #[serde(default)]
    #[schema(value_type = f64, example = 0.01)]
    pub min_amount: Money,
    /// Not more than this; without it no limit but that of money itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub max_amount: Option<Money>,
}

/// Whether this can be the name of a product, a channel or a tenant: 1 to 64 characters out of `A-Z a-z 0-9 . _ -`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    is_code(text)
}

/// Why a merchant may not open a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No entry for the product and channel.
    #[error("this merchant may not use this product with this channel")]
    NotAccepted,
    /// Outside the entry's limits.
    #[error("the amount is less than this merchant may take with this product and channel")]
    TooLittle,
    /// Outside the entry's limits.
    #[error("the amount is more than this merchant may take with this product and channel")]
    TooMuch,
}

/// Judges a payment that a merchant with these entries wants to open.
///
/// # Errors
/// [`Refused`].
pub fn admits(accepts: &[Accept], product_id: &str, channel_id: &str, amount: Money) -> Result<(), Refused> {
    let entry = accepts.iter().find(|entry| entry.product_id == product_id && entry.channel_id == channel_id);
    match entry {
        None => Err(Refused::NotAccepted),
        Some(entry) if amount < entry.min_amount => Err(Refused::TooLittle),
        Some(entry) if entry.max_amount.is_some_and(|most| amount > most) => Err(Refused::TooMuch),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_include_their_ends() {
        let money = |minor| Money::from_minor(minor).unwrap();
        let entry = |product: &str, max| Accept {
            product_id: product.into(),
            channel_id: "c".into(),
            min_amount: money(100),
            max_amount: max,
        };
        let accepts = [entry("h5", Some(money(500))), entry("qr", None)];
        assert_eq!(admits(&accepts, "h5", "d", money(200)), Err(Refused::NotAccepted));
        assert_eq!(admits(&accepts, "h5", "c", money(99)), Err(Refused::TooLittle));
        assert_eq!(admits(&accepts, "h5", "c", money(501)), Err(Refused::TooMuch));
        for (product, minor) in [("h5", 100), ("h5", 500), ("qr", 9_999_999)] {
            assert_eq!(admits(&accepts, product, "c", money(minor)), Ok(()));
        }
    }
}
