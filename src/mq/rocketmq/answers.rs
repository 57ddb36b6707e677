//! Answers that the client crate cannot read as Java processes and brokers write them, put right before it sees them.

use std::net::SocketAddr;
use std::sync::Arc;

use rocketmq_client_rust::ClientError;
use rocketmq_protocol::protocol::RemotingCommand;
use rocketmq_protocol::protocol::header::pull_message_request_header::PullMessageRequestHeader;
use rocketmq_transport::api::RPCHook;

use super::frames;
use super::holes::{Asked, Holes};

/// RocketMQ's request code for what a consumer does at the moment.
const GET_CONSUMER_RUNNING_INFO: i32 = 307;

/// RocketMQ's request codes whose answers are messages: pull, query, view by id, pull of lite consumers.
const READS: [i32; 4] = [PULL, 12, 33, 361];
const PULL: i32 = 11;
/// Response code of an answer that has what was asked for.
const SUCCESS: i32 = 0;
/// Response codes to a pull that say where to go on: nothing new, nothing that fits, not from there.
const GO_ON: [i32; 3] = [19, 20, 21];
/// What asks for every message of a topic.
const EVERYTHING: &str = "*";

/// Between a client and the wire; `inner` signs what goes out, where that is wanted.
pub(super) struct Answers {
    pub inner: Option<Arc<dyn RPCHook>>,
    pub holes: Arc<Holes>,
}

impl RPCHook for Answers {
    fn do_before_request(
        &self,
        remote_addr: SocketAddr,
        request: &mut RemotingCommand,
    ) -> Result<(), rocketmq_error::SharedError> {
        self.inner.as_ref().map_or(Ok(()), |inner| inner.do_before_request(remote_addr, request))
    }

    fn do_after_response(
        &self,
        remote_addr: SocketAddr,
        request: &RemotingCommand,
        response: &mut RemotingCommand,
    ) -> Result<(), rocketmq_error::SharedError> {
        if request.code() == GET_CONSUMER_RUNNING_INFO {
            let text = response.get_body().and_then(|body| std::str::from_utf8(body).ok());
            // The crate wants the last letters small, and takes nothing of an answer that has them otherwise.
            if let Some(text) = text.filter(|text| text.contains("\"cachedMsgSizeInMiB\"")) {
                let text = text.replace("\"cachedMsgSizeInMiB\"", "\"cachedMsgSizeInMib\"");
                response.set_body_mut_ref(text);
            }
        }
        if READS.contains(&request.code()) && response.code() == SUCCESS {
            mark_messages(remote_addr, response)?;
        }
        if request.code() == PULL && (response.code() == SUCCESS || GO_ON.contains(&response.code())) {
            note_holes(&self.holes, request, response);
        }
        self.inner.as_ref().map_or(Ok(()), |inner| inner.do_after_response(remote_addr, request, response))
    }
}

/// An answer with a message that nobody can read fails as a whole: passed on, the messages behind it would be lost.
fn mark_messages(broker: SocketAddr, response: &mut RemotingCommand) -> Result<(), rocketmq_error::SharedError> {
    match response.get_body().map(frames::mark).transpose() {
        Ok(marked) => {
            if let Some(marked) = marked.flatten() {
                response.set_body_mut_ref(marked);
            }
            Ok(())
        }
        Err(error) => {
            tracing::error!(%broker, %error, "a broker gave messages that cannot be read; nothing behind them is handled");
            Err(ClientError::illegal_argument_source(error).into_shared_error())
        }
    }
}

/// Notes what a broker leaves out of a queue of which everything was asked for.
fn note_holes(holes: &Holes, request: &RemotingCommand, response: &RemotingCommand) {
    let Ok(pull) = request.try_read_custom_header_ref::<PullMessageRequestHeader>() else { return };
    if pull.subscription.as_deref() != Some(EVERYTHING) {
        return;
    }
    let next = response.ext_fields().and_then(|fields| fields.get("nextBeginOffset"));
    let Some(next) = next.and_then(|next| next.parse().ok()) else { return };
    let broker = pull.topic_request.as_ref().and_then(|topic| topic.rpc.as_ref()?.broker_name.as_ref());
    let Some(broker) = broker else { return };
    let asked = || Asked {
        group: pull.consumer_group.to_string(),
        topic: pull.topic.to_string(),
        broker: broker.to_string(),
        queue: pull.queue_id,
    };
    let messages = response.get_body().filter(|_| response.code() == SUCCESS).cloned().unwrap_or_default();
    holes.note(asked, pull.queue_offset, frames::offsets(&messages), next);
}
