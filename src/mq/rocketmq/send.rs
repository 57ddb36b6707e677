//! Sending one message: waiting for the answer, collecting it later, or not asking for one.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::{PublishError, RocketMq};
use crate::mq::message::{Outgoing, QueueId, Receipt};

/// Sends that [`RocketMq::send_async`] has under way at most: the client refuses when too many wait in its own queue.
pub(super) const ASYNC_IN_FLIGHT: usize = 64;

impl RocketMq {
    /// Sends one message and waits until it is stored; tried again as [`RocketMq::publish`] does, on another broker.
    ///
    /// # Errors
    /// [`PublishError`]; unless it is permanent the message may be stored all the same.
    pub async fn send(&self, message: &Outgoing) -> Result<Receipt, PublishError> {
        let sender = self.shared.sender();
        let deadline = self.deadline();
        let mut refused = [Ok(())];
        let lanes = self.plan(std::slice::from_ref(message), &mut refused).await;
        let [refused] = refused;
        let sent = match (refused, lanes.first()) {
            (Ok(()), Some(lane)) => self.send_together(lane, &[message], deadline).await,
            (Err(error), _) => Err(error),
            (Ok(()), None) => Err(PublishError::Send(String::from("it was not planned"))),
        };
        if sent.as_ref().is_err_and(PublishError::is_unanswered) {
            self.shared.renew_sender(&sender).await;
        }
        sent.map(|sent| Receipt {
            message_id: sent.msg_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            queue: QueueId {
                topic: message.topic.clone(),
                broker: sent.message_queue.as_ref().map(|queue| queue.broker_name().to_string()).unwrap_or_default(),
                queue: sent.message_queue.as_ref().map_or(0, |queue| queue.queue_id()),
            },
            offset: i64::try_from(sent.queue_offset).unwrap_or(i64::MAX),
        })
    }

    /// Begins to send one message; await what it returns for the answer. Waits only while 64 others are under way.
    /// Messages that are under way at the same time overtake one another: what has an order goes through
    /// [`RocketMq::publish`].
    pub async fn send_async(&self, message: Outgoing) -> Sending {
        let slot = Arc::clone(&self.shared.in_flight).acquire_owned().await;
        let client = self.clone();
        Sending(tokio::spawn(async move {
            let _slot = slot;
            client.send(&message).await
        }))
    }

    /// Hands one message to the connection of its broker and asks for no answer: for what may be lost, such as a hint
    /// that a cache is old. Not tried again.
    ///
    /// # Errors
    /// [`PublishError`] when it did not even leave.
    pub async fn send_one_way(&self, message: &Outgoing) -> Result<(), PublishError> {
        let mut refused = [Ok(())];
        let lanes = self.plan(std::slice::from_ref(message), &mut refused).await;
        let [refused] = refused;
        refused?;
        let Some(lane) = lanes.first() else { return Err(PublishError::Send(String::from("it was not planned"))) };
        let queue = lane.queues[lane.hash % lane.queues.len()].clone();
        let encoded = super::publish::encode(&self.shared.names, message)?;
        let timeout_ms = u64::from(self.shared.config.send_timeout_ms);
        let sender = self.shared.sender();
        let call = Box::pin(sender.producer.send_oneway_to_queue(encoded, queue));
        let left = match tokio::time::timeout(Duration::from_millis(timeout_ms), call).await {
            Ok(left) => left.map_err(|error| PublishError::Send(error.to_string())),
            Err(_) => Err(PublishError::Send(format!("not written within {timeout_ms} ms"))),
        };
        if left.is_err() {
            self.shared.renew_sender(&sender).await;
        }
        left
    }
}

/// A send under way. Dropping it gives up the answer, not the send.
#[derive(Debug)]
pub struct Sending(JoinHandle<Result<Receipt, PublishError>>);

impl Future for Sending {
    type Output = Result<Receipt, PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|ended| ended.unwrap_or_else(|stopped| Err(PublishError::Send(stopped.to_string()))))
    }
}
