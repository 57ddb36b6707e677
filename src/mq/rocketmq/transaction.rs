//! Transaction messages: a half message is stored, the caller's local transaction decides it, and when the broker never
//! hears of that, it asks ("check-back") any member of the producer group.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use rocketmq_client_rust::{
    ClientInstanceHandle, ClientRuntime, LocalTransactionState, SendResult, SendStatus, TransactionListener,
    TransactionMQProducer,
};
use rocketmq_model::common::message::message_accessor::MessageAccessor;
use rocketmq_model::common::message::message_ext::MessageExt;
use rocketmq_model::common::message::message_queue::MessageQueue;
use rocketmq_model::common::message::{MessageConst, MessageTrait};
use rocketmq_model::common::sys_flag::message_sys_flag::MessageSysFlag;
use rocketmq_protocol::common::message::message_decoder::decode_message_id;
use rocketmq_protocol::protocol::header::end_transaction_request_header::EndTransactionRequestHeader;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::publish::{check, encode, key_hash, other_broker};
use super::{LIFECYCLE_TIMEOUT, MqError, PublishError, RENEW_AFTER, RocketMq, client_runtime, within};
use crate::mq::message::Outgoing;

/// User property that names the local transaction of a message.
pub const TX_ID: &str = "txId";
/// Check-backs answered at the same time, each on a thread of its own.
const CHECKS: u32 = 4;
/// The answer to a check-back that takes longer is "unknown": the broker asks again.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);
/// How long telling the broker a decision may take; what does not get through is asked for.
const END_TIMEOUT_MS: u64 = 3_000;
/// The client tells instances of one process apart by this number.
const DOMAIN: u64 = 1;

/// How a local transaction went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is committed: the message is to be delivered.
    Commit,
    /// It is not, and never will be: the message is to be dropped.
    Rollback,
    /// Nobody knows yet: the broker is to ask again.
    Unknown,
}

/// A half message that the broker asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Property [`TX_ID`].
    pub tx_id: String,
    /// Property `eventId`.
    pub event_id: String,
    /// Business key.
    pub key: String,
}

/// Answers the broker. It is given [`CHECK_TIMEOUT`].
pub type CheckBack = Arc<dyn Fn(Asked) -> BoxFuture<'static, Verdict> + Send + Sync>;

/// A half message that the broker has stored, and that nobody sees until it is decided.
#[derive(Debug)]
pub struct Half {
    broker_addr: String,
    header: EndTransactionRequestHeader,
}

/// A member of a producer group that sends transaction messages. A cheap clone.
#[derive(Clone)]
pub struct Transactions {
    inner: Arc<Inner>,
}

struct Inner {
    mq: RocketMq,
    /// With its namespace: the broker looks it up as it stands in the message.
    group: String,
    producer: tokio::sync::Mutex<Option<TransactionMQProducer>>,
    ender: RwLock<Arc<Ender>>,
    renewing: AtomicBool,
    runtime: Arc<ClientRuntime>,
}

/// A connection for telling decisions.
struct Ender {
    handle: ClientInstanceHandle,
    runtime: Arc<ClientRuntime>,
    made: Instant,
}

impl RocketMq {
    /// Joins the producer group `group`, whose members send half messages to `topics` and answer for each other with
    /// `check`, which runs on the caller's Tokio runtime.
    ///
    /// # Errors
    /// [`MqError`] when the client does not start.
    pub async fn transactions(
        &self,
        group: &str,
        topics: &[String],
        check: CheckBack,
    ) -> Result<Transactions, MqError> {
        let shared = &self.shared;
        let runtime = client_runtime(shared.clients.component("transactions"))?;
        let physical: Vec<String> = topics.iter().map(|topic| shared.names.physical(topic).to_owned()).collect();
        let builder = TransactionMQProducer::builder(Arc::clone(&runtime))
            .client_config(shared.client_config(&shared.next_instance()))
            .producer_group(group)
            .topics(physical)
            .check_thread_pool_min_size(CHECKS)
            .check_thread_pool_max_size(CHECKS)
            .transaction_listener(Listener { check, runtime: Handle::current() })
            .rpc_hook(Arc::clone(&shared.hook));
        let mut producer = builder.build();
        within("start the transaction producer", LIFECYCLE_TIMEOUT, Box::pin(producer.start())).await?;
        let ender = Ender::start(self).await?;
        Ok(Transactions {
            inner: Arc::new(Inner {
                mq: self.clone(),
                group: self.with_namespace(group),
                producer: tokio::sync::Mutex::new(Some(producer)),
                ender: RwLock::new(Arc::new(ender)),
                renewing: AtomicBool::new(false),
                runtime,
            }),
        })
    }
}

impl Transactions {
    /// Stores `message` as a half message of the local transaction `tx_id`, trying other brokers as a usual send does.
    ///
    /// # Errors
    /// [`PublishError`]: the broker may have stored it all the same, and will ask.
    pub async fn prepare(&self, message: &Outgoing, tx_id: &str) -> Result<Half, PublishError> {
        let shared = &self.inner.mq.shared;
        check(message, &shared.config)?;
        let topic = shared.names.physical(&message.topic).to_owned();
        let timeout = Duration::from_millis(u64::from(shared.config.send_timeout_ms));
        let deadline = Instant::now() + timeout * (shared.config.retries + 1);
        let hash = key_hash(&message.key);
        let sender = shared.sender();
        let mut queues = self.inner.mq.route(&topic, false).await?;
        let mut queue = queues[hash % queues.len()].clone();
        let mut attempt = 0;
        loop {
            let error = match self.prepare_once(message, tx_id, &queue).await {
                Ok(half) => return Ok(half),
                Err(error) => error,
            };
            attempt += 1;
            if error.is_permanent() || attempt > shared.config.retries || Instant::now() >= deadline {
                shared.renew_sender(&sender).await;
                return Err(error);
            }
            tracing::debug!(topic, %error, attempt, "half message not stored, trying again");
            if let Ok(fresh) = self.inner.mq.route(&topic, true).await {
                queues = fresh;
            }
            queue = other_broker(&queues, queue.broker_name(), hash);
        }
    }

    async fn prepare_once(&self, message: &Outgoing, tx_id: &str, queue: &MessageQueue) -> Result<Half, PublishError> {
        let shared = &self.inner.mq.shared;
        let mut encoded = encode(&shared.names, message)?;
        let properties = [
            (MessageConst::PROPERTY_TRANSACTION_PREPARED, "true"),
            (MessageConst::PROPERTY_PRODUCER_GROUP, self.inner.group.as_str()),
            (TX_ID, tx_id),
        ];
        for (name, value) in properties {
            MessageAccessor::put_property(&mut encoded, name.into(), value.into());
        }
        let timeout_ms = u64::from(shared.config.send_timeout_ms);
        let sender = shared.sender();
        let call = Box::pin(sender.producer.send_to_queue_with_timeout(encoded, queue.clone(), timeout_ms));
        // The client's own timeout does not cover connecting.
        let sent = match tokio::time::timeout(Duration::from_millis(timeout_ms), call).await {
            Ok(Ok(Some(sent))) => sent,
            Ok(Ok(None)) => return Err(PublishError::Send(String::from("the broker gave no result"))),
            Ok(Err(error)) => return Err(PublishError::Send(error.to_string())),
            Err(_) => return Err(PublishError::Send(format!("no answer within {timeout_ms} ms"))),
        };
        if sent.send_status != SendStatus::SendOk {
            return Err(PublishError::NotSafe(format!("{:?}", sent.send_status)));
        }
        sender.note_success();
        self.half(shared.names.physical(&message.topic), queue, sent)
    }

    fn half(&self, topic: &str, queue: &MessageQueue, sent: SendResult) -> Result<Half, PublishError> {
        let odd = |what: &str| PublishError::Send(format!("the broker's answer to a half message has {what}"));
        let message_id = sent.offset_msg_id.as_deref().ok_or_else(|| odd("no message id"))?;
        let id = decode_message_id(message_id).map_err(|_| odd("a message id that cannot be read"))?;
        let mut header = EndTransactionRequestHeader {
            topic: self.inner.mq.with_namespace(topic).into(),
            producer_group: self.inner.group.as_str().into(),
            tran_state_table_offset: i64::try_from(sent.queue_offset).map_err(|_| odd("an offset out of range"))?,
            commit_log_offset: id.offset,
            commit_or_rollback: MessageSysFlag::TRANSACTION_NOT_TYPE,
            from_transaction_check: false,
            msg_id: sent.msg_id.unwrap_or_default(),
            transaction_id: sent.transaction_id.map(Into::into),
            ..EndTransactionRequestHeader::default()
        };
        header.rpc_request_header.broker_name = Some(queue.broker_name().clone());
        Ok(Half { broker_addr: id.address.to_string(), header })
    }

    /// Tells the broker how the local transaction of a half message went. It does not answer; what it does not hear
    /// it asks for later.
    pub async fn end(&self, half: Half, verdict: Verdict) {
        let Half { broker_addr, mut header } = half;
        header.commit_or_rollback = match verdict {
            Verdict::Commit => MessageSysFlag::TRANSACTION_COMMIT_TYPE,
            Verdict::Rollback => MessageSysFlag::TRANSACTION_ROLLBACK_TYPE,
            Verdict::Unknown => return,
        };
        let ender = self.inner.ender();
        let addr = broker_addr.as_str().into();
        let call = ender.handle.end_transaction(&addr, header, "".into(), END_TIMEOUT_MS);
        let told = tokio::time::timeout(Duration::from_millis(END_TIMEOUT_MS), Box::pin(call)).await;
        let error = match told {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("not within {END_TIMEOUT_MS} ms"),
        };
        tracing::debug!(error, broker_addr, "the broker was not told of a decision, and will ask");
        self.inner.renew_ender(&ender).await;
    }

    /// Leaves the producer group.
    pub async fn shutdown(&self) {
        if let Some(mut producer) = self.inner.producer.lock().await.take() {
            let _ = tokio::time::timeout(LIFECYCLE_TIMEOUT, producer.shutdown()).await;
        }
        self.inner.ender().stop().await;
        self.inner.runtime.shutdown().await;
    }
}

impl Inner {
    fn ender(&self) -> Arc<Ender> {
        Arc::clone(&self.ender.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// As with senders: a client that could not connect refuses to try for long, also when the broker is back.
    async fn renew_ender(&self, failed: &Arc<Ender>) {
        if failed.made.elapsed() < RENEW_AFTER || self.renewing.swap(true, Ordering::AcqRel) {
            return;
        }
        if Arc::ptr_eq(failed, &self.ender()) {
            match Ender::start(&self.mq).await {
                Ok(fresh) => {
                    *self.ender.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
                    let unused = Arc::clone(failed);
                    tokio::spawn(async move { unused.stop().await });
                }
                Err(error) => tracing::debug!(%error, "could not renew the connection for decisions"),
            }
        }
        self.renewing.store(false, Ordering::Release);
    }
}

impl Ender {
    async fn start(mq: &RocketMq) -> Result<Self, MqError> {
        let shared = &mq.shared;
        let runtime = client_runtime(shared.clients.component("decisions"))?;
        let config = shared.client_config(&shared.next_instance());
        let operation = "start the connection for decisions";
        let handle = ClientInstanceHandle::get_or_create(&runtime, DOMAIN, config, Some(Arc::clone(&shared.hook)))
            .map_err(super::client_error(operation))?;
        within(operation, LIFECYCLE_TIMEOUT, Box::pin(handle.start())).await?;
        Ok(Self { handle, runtime, made: Instant::now() })
    }

    async fn stop(&self) {
        let _ = tokio::time::timeout(LIFECYCLE_TIMEOUT, self.handle.shutdown_owned()).await;
        self.runtime.shutdown().await;
    }
}

/// The client asks it on a thread that may block.
struct Listener {
    check: CheckBack,
    runtime: Handle,
}

impl TransactionListener for Listener {
    /// Never asked: local transactions run beside the client, not under it.
    fn execute_local_transaction(
        &self,
        _: &dyn MessageTrait,
        _: Option<&(dyn Any + Send + Sync)>,
    ) -> LocalTransactionState {
        LocalTransactionState::Unknown
    }

    fn check_local_transaction(&self, message: &MessageExt) -> LocalTransactionState {
        let property = |name: &str| message.property(&name.into()).map(|value| value.to_string()).unwrap_or_default();
        let asked =
            Asked { tx_id: property(TX_ID), event_id: property("eventId"), key: property(MessageConst::PROPERTY_KEYS) };
        if asked.tx_id.is_empty() || asked.event_id.is_empty() {
            tracing::warn!(topic = %message.topic(), "the broker asks about a half message that is none of ours");
            return LocalTransactionState::Unknown;
        }
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        let check = (self.check)(asked.clone());
        self.runtime.spawn(async move {
            let verdict = tokio::time::timeout(CHECK_TIMEOUT, check).await.unwrap_or(Verdict::Unknown);
            let _ = answer.send(verdict);
        });
        // Longer than the task may take, in case it never runs.
        let verdict = answered.recv_timeout(CHECK_TIMEOUT * 2).unwrap_or(Verdict::Unknown);
        tracing::info!(event_id = asked.event_id, tx_id = asked.tx_id, ?verdict, "the broker asked");
        match verdict {
            Verdict::Commit => LocalTransactionState::CommitMessage,
            Verdict::Rollback => LocalTransactionState::RollbackMessage,
            Verdict::Unknown => LocalTransactionState::Unknown,
        }
    }
}
