//! Whether a member gets its share of its group's queues. A client that was told of a topic or of the other members too
//! late, or wrongly, is otherwise well and has nothing to do, while messages wait.

use std::time::Duration;

use tokio::time::Instant;

use super::rocketmq::GroupConsumer;
use crate::watchdog::Part;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(10);
/// Members share queues out anew every 20 s, and hear of new queues within 30 s: until then one may lack some.
const PATIENCE: Duration = Duration::from_secs(60);

/// Since when a member lacks queues.
#[derive(Default)]
struct Share {
    lacking_since: Option<Instant>,
}

impl Share {
    /// It lacks queues of these topics at `now`: since when, and what is wrong, once that is for too long.
    fn told(&mut self, lacking: &[String], now: Instant) -> Option<(Instant, String)> {
        if lacking.is_empty() {
            self.lacking_since = None;
            return None;
        }
        let since = *self.lacking_since.get_or_insert(now);
        let why = || format!("this member gets too few queues of {}, and messages wait there", lacking.join(", "));
        (now.duration_since(since) > PATIENCE).then(|| (since, why()))
    }
}

/// Tells by `part` when this member lacks queues of `topics`, for as long as it runs.
pub(super) async fn watch(member: &GroupConsumer, topics: &[String], part: &Part) {
    let mut share = Share::default();
    loop {
        tokio::time::sleep(LOOK).await;
        let now = Instant::now();
        let wrong = match member.lacks(topics).await {
            Ok(lacking) => share.told(&lacking, now),
            // Nobody can say. That brokers are away is told elsewhere.
            Err(error) => {
                tracing::debug!(group = member.group(), %error, "its share of the queues is not known");
                None
            }
        };
        match wrong {
            Some((since, why)) => part.tried(since, &Err::<(), _>(why)),
            None => part.tried(now, &Ok::<(), String>(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_told_after_a_while() {
        let (mut share, start, lacking) = (Share::default(), Instant::now(), ["T".to_owned(), "U".to_owned()]);
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(share.told(&lacking, after(0)), None);
        assert_eq!(share.told(&lacking, after(60)), None, "the queues may be on their way");
        let (since, why) = share.told(&lacking, after(61)).unwrap();
        assert!(since == start && why.contains("queues of T, U"), "{why}");
        assert_eq!(share.told(&[], after(70)), None);
        assert_eq!(share.told(&lacking, after(80)), None, "it begins anew");
        assert!(share.told(&lacking[..1], after(141)).is_some());
    }
}
