//! The queue of a group writer: who is written when more come than can be written, and who is not.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::poll;
use ruyi::db::DbError;
use ruyi::db::group::{Batch, Bounds, Group, GroupError};
use ruyi::watchdog::Watchdog;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};

const LONG: Duration = Duration::from_secs(3_600);
const MOMENT: Duration = Duration::from_millis(1);

type Answer<'g> = Pin<Box<dyn Future<Output = Result<u32, GroupError>> + 'g>>;

/// A group of batches of four, whose transactions begin when the test lets them, and tell what they write.
struct Held {
    group: Group<u32, u32>,
    begin: Arc<Semaphore>,
    written: mpsc::UnboundedReceiver<Vec<u32>>,
    writer: tokio::task::JoinHandle<()>,
}

impl Held {
    fn new(waiting: usize, patience: Duration, writers: usize) -> Self {
        let begin = Arc::new(Semaphore::new(0));
        let (told, written) = mpsc::unbounded_channel();
        let of_writer = Arc::clone(&begin);
        let bounds = Bounds { waiting, batch: 4, patience, writers };
        let (group, writer) = Group::new(Watchdog::default().part("writer"), bounds, move |batch: Batch<u32>| {
            let (begin, told) = (Arc::clone(&of_writer), told.clone());
            async move {
                begin.acquire().await.unwrap().forget();
                let requests = batch.requests().to_vec();
                told.send(requests.clone()).unwrap();
                Ok::<_, DbError>(requests)
            }
        });
        Self { group, begin, written, writer: tokio::spawn(writer) }
    }

    /// These requests, queued in this order; none of them does anything before it is asked.
    async fn queued(&self, numbers: std::ops::Range<u32>) -> Vec<Answer<'_>> {
        let mut answers = Vec::new();
        for number in numbers {
            let mut answer: Answer<'_> = Box::pin(self.group.submit(number));
            assert!(poll!(answer.as_mut()).is_pending());
            answers.push(answer);
        }
        answers
    }
}

#[tokio::test]
async fn who_left_before_the_transaction_is_not_written() {
    let mut held = Held::new(64, LONG, 1);
    let (group, begin) = (held.group.clone(), Arc::clone(&held.begin));
    let (mut left, stays) = (Box::pin(group.submit(1)), Box::pin(group.submit(2)));
    assert!(poll!(left.as_mut()).is_pending());
    let stays = async {
        drop(left);
        begin.add_permits(1);
        stays.await
    };
    assert_eq!(stays.await.unwrap(), 2);
    assert_eq!(held.written.recv().await.unwrap(), [2]);

    // When all have left, the transaction that was about to begin writes nothing, and the next one goes on.
    let mut left = Box::pin(group.submit(3));
    assert!(poll!(left.as_mut()).is_pending());
    while held.begin.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    sleep(MOMENT).await;
    drop(left);
    begin.add_permits(2);
    assert_eq!(group.submit(4).await.unwrap(), 4);
}

#[tokio::test]
async fn a_moving_queue_is_written_oldest_first() {
    let mut held = Held::new(64, LONG, 1);
    let begin = Arc::clone(&held.begin);
    let group = held.group.clone();
    let mut waiting = Vec::new();
    for number in 0..6 {
        let mut answer = Box::pin(group.submit(number));
        assert!(poll!(answer.as_mut()).is_pending());
        waiting.push(answer);
    }
    begin.add_permits(2);
    assert_eq!(held.written.recv().await.unwrap(), [0, 1, 2, 3]);
    assert_eq!(held.written.recv().await.unwrap(), [4, 5]);
    for (number, answer) in (0..).zip(waiting) {
        assert_eq!(answer.await.unwrap(), number);
    }
}

#[tokio::test]
async fn a_standing_queue_is_written_newest_first() {
    let mut held = Held::new(64, MOMENT, 1);
    let begin = Arc::clone(&held.begin);
    let group = held.group.clone();
    let mut waiting = Vec::new();
    for number in 0..10 {
        let mut answer = Box::pin(group.submit(number));
        assert!(poll!(answer.as_mut()).is_pending());
        waiting.push(answer);
    }
    sleep(MOMENT * 2).await;
    begin.add_permits(1);
    // A batch is in the order of arrival all the same.
    assert_eq!(held.written.recv().await.unwrap(), [6, 7, 8, 9]);

    // Whoever is still passed over is told so, and the next batch waits on, however long it takes to begin.
    let mut late = Vec::new();
    for (number, mut answer) in (0..).zip(waiting) {
        match timeout(MOMENT * 50, answer.as_mut()).await {
            Ok(Ok(written)) => assert_eq!(written, number),
            Ok(Err(error)) => {
                assert!(matches!(error, GroupError::Late), "{error}");
                late.push(number);
            }
            Err(_) => {
                begin.add_permits(1);
                assert_eq!(answer.await.unwrap(), number);
            }
        }
    }
    assert_eq!(late, [0, 1]);
}

#[tokio::test]
async fn the_queue_is_bounded_and_ends_with_its_writer() {
    let held = Held::new(3, LONG, 1);
    let waiting = held.queued(0..3).await;
    assert!(matches!(held.group.submit(3).await, Err(GroupError::Full)));
    held.writer.abort();
    for answer in waiting {
        assert!(matches!(answer.await, Err(GroupError::Stopped)));
    }
    assert!(matches!(held.group.submit(4).await, Err(GroupError::Stopped)));
}

#[tokio::test]
async fn several_writers_write_at_once() {
    let running = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&running);
    let bounds = Bounds { waiting: 64, batch: 1, patience: LONG, writers: 3 };
    // Nobody is done before three are at it.
    let (group, writer) = Group::new(Watchdog::default().part("writer"), bounds, move |batch: Batch<u32>| {
        let counted = Arc::clone(&counted);
        async move {
            let requests = batch.requests().to_vec();
            counted.fetch_add(requests.len(), Ordering::SeqCst);
            while counted.load(Ordering::SeqCst) < 3 {
                sleep(MOMENT).await;
            }
            Ok::<_, DbError>(requests)
        }
    });
    tokio::spawn(writer);
    let answers = tokio::join!(group.submit(1), group.submit(2), group.submit(3));
    assert_eq!((answers.0.unwrap(), answers.1.unwrap(), answers.2.unwrap()), (1, 2, 3));
}

/// Many times what can be written, from callers who give up after two seconds and come again at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_leaves_nine_tenths_of_the_goodput() {
    const BATCH: usize = 32;
    const TRANSACTIONS: usize = 60;
    let (begun, stored) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, counts) = (Arc::clone(&begun), Arc::clone(&stored));
    let bounds = Bounds { waiting: 4_096, batch: BATCH, patience: Duration::from_secs(1), writers: 1 };
    // Each transaction waits to begin, and takes as long.
    let (group, writer) = Group::new(Watchdog::default().part("writer"), bounds, move |batch: Batch<()>| {
        let (begun, stored) = (Arc::clone(&counted), Arc::clone(&counts));
        async move {
            begun.fetch_add(1, Ordering::SeqCst);
            sleep(Duration::from_millis(50)).await;
            let requests = batch.requests().to_vec();
            stored.fetch_add(requests.len(), Ordering::SeqCst);
            sleep(Duration::from_millis(50)).await;
            Ok::<_, DbError>(requests)
        }
    });
    tokio::spawn(writer);

    let callers = (0..40 * BATCH).map(|_| {
        let (group, begun) = (group.clone(), Arc::clone(&begun));
        tokio::spawn(async move {
            let mut told = 0;
            while begun.load(Ordering::SeqCst) < TRANSACTIONS {
                match timeout(Duration::from_secs(2), group.submit(())).await {
                    Ok(Ok(())) => told += 1,
                    _ => sleep(Duration::from_millis(100)).await,
                }
            }
            told
        })
    });
    let callers: Vec<_> = callers.collect();
    let mut told = 0;
    for caller in callers {
        told += caller.await.unwrap();
    }
    let stored = stored.load(Ordering::SeqCst);
    assert!(told * 10 >= stored * 9, "{stored} stored, {told} told");
    assert!(told * 10 >= BATCH * TRANSACTIONS * 9, "{told} told of {}", BATCH * TRANSACTIONS);
}
