//! Calls about merchants, their payments, and how users are reached.

use super::{Api, Call, CallError, Reply};
use crate::domain::event::Role;
use bytes::Bytes;

impl Api {
    /// `PUT /merchants/{merchantId}`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn put_merchant(&self, merchant_id: i64, body: impl Into<Bytes>) -> Result<Reply, CallError> {
        self.call(Call::put(Role::Notify, format!("/merchants/{merchant_id}"), body)).await
    }

    /// `POST /merchants/{merchantId}/secret`: a new one, which only this answer shows.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn rotate_secret(&self, merchant_id: i64, body: impl Into<Bytes>) -> Result<Reply, CallError> {
        self.call(Call::post(Role::Notify, format!("/merchants/{merchant_id}/secret"), body)).await
    }

    /// `PUT /contacts/{userId}`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn put_contact(&self, user_id: &str, body: impl Into<Bytes>) -> Result<Reply, CallError> {
        self.call(Call::put(Role::Notify, format!("/contacts/{user_id}"), body)).await
    }

    /// `POST /payments`: the merchant's number in it makes a repetition harmless.
    ///
    /// # Errors
    /// [`CallError`]; 404 while the payment role does not know the merchant.
    pub async fn open_payment(&self, body: impl Into<Bytes>) -> Result<Reply, CallError> {
        self.call(Call::post(Role::Payment, "/payments".to_owned(), body)).await
    }

    /// `GET /merchants/{merchantId}/payments/{outOrderNo}`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn gateway_payment(&self, merchant_id: i64, number: &str) -> Result<Reply, CallError> {
        self.call(Call::get(Role::Payment, format!("/merchants/{merchant_id}/payments/{number}"))).await
    }

    /// `POST /merchants/{merchantId}/payments/{outOrderNo}/close`.
    ///
    /// # Errors
    /// [`CallError`]; 409 when it is paid.
    pub async fn close_payment(&self, merchant_id: i64, number: &str) -> Result<Reply, CallError> {
        let path = format!("/merchants/{merchant_id}/payments/{number}/close");
        self.call(Call::post(Role::Payment, path, Bytes::from_static(b"{}"))).await
    }

    /// `POST /merchants/{merchantId}/payments/{outOrderNo}/refund`. The key makes a repetition harmless.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn refund_payment(
        &self,
        merchant_id: i64,
        number: &str,
        body: impl Into<Bytes>,
        key: &str,
    ) -> Result<Reply, CallError> {
        let path = format!("/merchants/{merchant_id}/payments/{number}/refund");
        self.call(Call::post(Role::Payment, path, body).key(key)).await
    }
}
