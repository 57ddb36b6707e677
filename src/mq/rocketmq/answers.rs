//! Answers that the client crate cannot read as Java processes write them, put right before it sees them.

use std::net::SocketAddr;
use std::sync::Arc;

use rocketmq_protocol::protocol::RemotingCommand;
use rocketmq_transport::api::RPCHook;

/// RocketMQ's request code for what a consumer does at the moment.
const GET_CONSUMER_RUNNING_INFO: i32 = 307;

/// Between the administration client and the wire; `inner` signs what goes out, where that is wanted.
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
        self.inner.as_ref().map_or(Ok(()), |inner| inner.do_after_response(remote_addr, request, response))
    }
}
