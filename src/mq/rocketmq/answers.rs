//! Answers that the client crate cannot read as Java processes and brokers write them, put right before it sees them.

use std::net::SocketAddr;
use std::sync::Arc;

use rocketmq_client_rust::ClientError;
use rocketmq_protocol::protocol::RemotingCommand;
use rocketmq_transport::api::RPCHook;

use super::frames;

/// RocketMQ's request code for what a consumer does at the moment.
const GET_CONSUMER_RUNNING_INFO: i32 = 307;

/// RocketMQ's request codes whose answers are messages: pull, query, view by id, pull of lite consumers.
const READS: [i32; 4] = [11, 12, 33, 361];
/// Response code of an answer that has what was asked for.
const SUCCESS: i32 = 0;

/// Between a client and the wire; `inner` signs what goes out, where that is wanted.
pub(super) struct Answers {
    pub inner: Option<Arc<dyn RPCHook>>,
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
