//! A connection that may not stall: whoever sends the head of a request or takes an answer too slowly loses it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long the peer may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For the head of a request, from its first byte; of the first request from the beginning.
    pub head: Duration,
    /// For taking an answer, from when it did not fit into the buffers of the kernel.
    pub write: Duration,
}

/// Which request a connection is at; told by the service, asked by the stream below it.
#[derive(Debug, Default)]
pub(super) struct Turn {
    heads: AtomicU64,
    in_hand: AtomicBool,
}

impl Turn {
    /// A head has been read, and its request is in hand.
    pub fn begin(&self) {
        self.heads.fetch_add(1, Ordering::Relaxed);
        self.in_hand.store(true, Ordering::Relaxed);
    }

    /// It is answered, and the next head may come.
    pub fn end(&self) {
        self.in_hand.store(false, Ordering::Relaxed);
    }
}

/// A deadline that is set once, until it is lifted.
#[derive(Default)]
struct Deadline(Option<Pin<Box<Sleep>>>);

impl Deadline {
    fn set(&mut self, after: Duration) {
        if self.0.is_none() {
            self.0 = Some(Box::pin(sleep_until(Instant::now() + after)));
        }
    }

    fn lift(&mut self) {
        self.0 = None;
    }

    /// Pending until it has passed; for ever without one.
    fn poll(&mut self, context: &mut Context<'_>, what: &'static str) -> Poll<io::Error> {
        let Some(sleep) = &mut self.0 else { return Poll::Pending };
        ready!(sleep.as_mut().poll(context));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, what))
    }
}

/// The stream of a connection.
pub(super) struct Timed<S> {
    stream: S,
    patience: Patience,
    turn: Arc<Turn>,
    /// Heads before the one that is awaited.
    heads: u64,
    /// Its time runs.
    has_begun: bool,
    head: Deadline,
    write: Deadline,
}

impl<S> Timed<S> {
    pub fn new(stream: S, patience: Patience, turn: Arc<Turn>) -> Self {
        let (head, write) = (Deadline::default(), Deadline::default());
        Self { stream, patience, turn, heads: 0, has_begun: true, head, write }
    }

    /// What `done` says, unless the peer has not taken an answer for too long.
    fn written<T>(&mut self, context: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_pending() {
            self.write.set(self.patience.write);
            return self.write.poll(context, "the peer does not take the answer").map(Err);
        }
        done
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let heads = this.turn.heads.load(Ordering::Relaxed);
        if heads != this.heads {
            this.heads = heads;
            this.has_begun = false;
            this.head.lift();
        }
        let awaits_head = !this.turn.in_hand.load(Ordering::Relaxed);

        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if !awaits_head {
            return read;
        }
        this.has_begun |= buffer.filled().len() > before;
        if read.is_pending() && this.has_begun {
            this.head.set(this.patience.head);
            return this.head.poll(context, "the head of the request does not come").map(Err);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.written(context, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(context);
        // Only a whole answer counts: one that is taken byte by byte would hold its place as well.
        if done.is_ready() {
            self.write.lift();
        }
        self.written(context, done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_shutdown(context);
        self.written(context, done)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const LONG: Duration = Duration::from_secs(3_600);
    const SHORT: Duration = Duration::from_millis(5);

    fn pair(buffer: usize, patience: Patience) -> (Timed<tokio::io::DuplexStream>, tokio::io::DuplexStream, Arc<Turn>) {
        let (ours, theirs) = duplex(buffer);
        let turn = Arc::new(Turn::default());
        (Timed::new(ours, patience, Arc::clone(&turn)), theirs, turn)
    }

    #[tokio::test]
    async fn a_head_has_its_time_from_its_first_byte() {
        let (mut ours, mut theirs, turn) = pair(64, Patience { head: SHORT, write: LONG });
        let mut byte = [0; 1];
        assert_eq!(ours.read(&mut byte).await.unwrap_err().kind(), io::ErrorKind::TimedOut, "the first head");

        // Between two requests only the idle limit above counts, and while one is in hand neither does.
        turn.begin();
        assert!(tokio::time::timeout(SHORT * 4, ours.read(&mut byte)).await.is_err());
        turn.end();
        assert!(tokio::time::timeout(SHORT * 4, ours.read(&mut byte)).await.is_err());
        theirs.write_all(b"G").await.unwrap();
        ours.read_exact(&mut byte).await.unwrap();
        assert_eq!(ours.read(&mut byte).await.unwrap_err().kind(), io::ErrorKind::TimedOut, "the next one has begun");
    }

    #[tokio::test]
    async fn an_answer_taken_byte_by_byte_is_given_up() {
        let (mut ours, mut theirs, _turn) = pair(8, Patience { head: LONG, write: SHORT });
        let reader = async {
            let mut byte = [0; 1];
            while theirs.read(&mut byte).await.is_ok_and(|count| count > 0) {
                tokio::time::sleep(SHORT).await;
            }
        };
        let writer = async {
            let done = ours.write_all(&[0; 10_000]).await;
            drop(ours);
            done
        };
        let (done, ()) = tokio::join!(writer, reader);
        assert_eq!(done.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
