//! Outgoing calls that keep their order, and those that are asked for once more.

use ruyi::db::delivery::{self, Attempt, Delivery, Kind, Open, Status};

use crate::support::servers::{TestDb, write_tx};

fn call(id: i64, order_id: i64, next_at: i64) -> Delivery {
    Delivery {
        id,
        kind: Kind::Merchant,
        reference: id.to_string(),
        order_id,
        url: "http://127.0.0.1:1/".into(),
        body: "{}".into(),
        attempts: 0,
        next_at,
        trace: None,
    }
}

fn attempt(id: i64, status: Status, next_at: Option<i64>) -> Attempt {
    Attempt {
        delivery_id: id,
        attempt: 1,
        started_at: 1,
        duration_ms: 1,
        http_status: None,
        error: None,
        request: Some("POST".into()),
        answer: None,
        status,
        next_at,
        unanswered: 0,
    }
}

pub(super) async fn next_call_of_order_waits_for_the_one_before(test: TestDb) {
    let now_ms = test.clock.now_ms();
    // Two orders; the first call of 1 waits for its next try, that of 2 is due. No order: each for itself.
    let calls = [
        call(1, 1, now_ms + 5_000),
        call(2, 1, now_ms),
        call(3, 1, now_ms),
        call(4, 2, now_ms),
        call(5, 2, now_ms),
        Delivery { kind: Kind::Warehouse, ..call(6, 1, now_ms) },
    ];
    write_tx!(test.db, [calls], |tx| { delivery::insert(tx, &calls).await?.all() }).unwrap();
    let claim = async || {
        let claimed =
            write_tx!(test.db, [], |tx| { delivery::claim(tx, &[Kind::Merchant, Kind::Warehouse], 2, 1_000).await });
        claimed.unwrap().iter().map(|call| call.id).collect::<Vec<_>>()
    };
    let settle = async |id: i64, status| {
        let (attempts, settled) = ([attempt(id, status, None)], [calls[usize::try_from(id).unwrap() - 1].clone()]);
        let done = write_tx!(test.db, [attempts, settled], |tx| {
            delivery::record(tx, &attempts).await?;
            delivery::release_next(tx, settled.iter()).await
        });
        done.unwrap();
    };
    let mut first = claim().await;
    first.extend(claim().await);
    assert_eq!(first, [4, 6], "what waits is passed over, whatever the limit");
    assert!(claim().await.is_empty());
    settle(4, Status::Dead).await;
    assert_eq!(claim().await, [5], "the one before has been settled, if not well");
    test.clock.advance_ms(5_000);
    // 4 is over, 5 and 6 are due again after their lease.
    assert_eq!([claim().await, claim().await].concat(), [5, 6, 1]);
    settle(1, Status::Done).await;
    assert_eq!(claim().await, [2]);
    let retry = [attempt(2, Status::Pending, Some(now_ms + 50_000))];
    write_tx!(test.db, [retry], |tx| { delivery::record(tx, &retry).await }).unwrap();
    settle(1, Status::Done).await;
    let mut conn = test.db.read().await.unwrap();
    let second = delivery::standing(&mut conn, 2).await.unwrap().unwrap();
    assert_eq!(second.next_at, Some(now_ms + 50_000), "its own wait is kept");
    settle(2, Status::Canceled).await;
    assert!(claim().await.contains(&3));
}

pub(super) async fn asked_for_once_more_its_schedule_begins_anew(test: TestDb) {
    let now_ms = test.clock.now_ms();
    let (calls, dead) = ([call(1, 1, now_ms), call(2, 2, now_ms)], [attempt(1, Status::Dead, None)]);
    let done = write_tx!(test.db, [calls, dead], |tx| {
        delivery::insert(tx, &calls).await?.all()?;
        delivery::record(tx, &dead).await
    });
    done.unwrap();
    test.clock.advance_ms(1_000);
    let found = write_tx!(test.db, [], |tx| {
        assert_eq!(delivery::revive(tx, Kind::Merchant, vec!["1".into(), "2".into()]).await?, 1);
        let old = delivery::armed_before(tx, vec![2, 1, 3], now_ms).await?;
        Ok((delivery::lock_made(tx, vec![1, 2]).await?, old))
    });
    let open = |id, attempts, base| Open { id, attempts, base, status: Status::Pending, unanswered: 0 };
    assert_eq!(found.unwrap(), (vec![open(1, 1, 1), open(2, 0, 0)], vec![2]));
    let mut conn = test.db.read().await.unwrap();
    let read = delivery::by_ids(&mut conn, vec![2, 1, 9]).await.unwrap();
    assert_eq!(read.iter().map(|call| (call.id, call.attempts)).collect::<Vec<_>>(), [(1, 1), (2, 0)]);
}

/// What somebody has begun to make stays: its answer counts.
pub(super) async fn only_calls_that_nobody_has_begun_are_deleted(test: TestDb) {
    let now_ms = test.clock.now_ms();
    let question = |id, next_at| Delivery { kind: Kind::ChannelQuery, ..call(id, 1, next_at) };
    let calls = [question(1, now_ms), question(2, now_ms), question(3, now_ms), question(4, now_ms + 1), call(5, 1, 0)];
    write_tx!(test.db, [calls], |tx| { delivery::insert(tx, &calls).await?.all() }).unwrap();
    let claimed = write_tx!(test.db, [], |tx| { delivery::claim(tx, &[Kind::ChannelQuery], 9, 1_000).await }).unwrap();
    assert_eq!(claimed.len(), 3);
    // 1 is being asked, 2 was asked before, and 3 was given back.
    let attempts = [attempt(2, Status::Pending, Some(now_ms + 5_000))];
    write_tx!(test.db, [attempts], |tx| { delivery::record(tx, &attempts).await }).unwrap();
    write_tx!(test.db, [], |tx| { delivery::postpone(tx, vec![3], now_ms).await }).unwrap();

    let references: Vec<String> = (1..=9).map(|id: i64| id.to_string()).collect();
    let deleted =
        write_tx!(test.db, [references], |tx| { delivery::delete_unbegun(tx, Kind::ChannelQuery, references).await });
    assert_eq!(deleted.unwrap(), 2);
    let left = delivery::by_ids(&mut test.db.read().await.unwrap(), (1..=9).collect()).await.unwrap();
    assert_eq!(left.iter().map(|call| call.id).collect::<Vec<_>>(), [1, 2, 5]);
}

/// What the other side may have carried out is never said to it in other words.
pub(super) async fn only_calls_nobody_carried_out_are_reworded(test: TestDb) {
    let now_ms = test.clock.now_ms();
    let submission = |id, next_at| Delivery { kind: Kind::ChannelSubmit, ..call(id, id, next_at) };
    let mut calls: Vec<Delivery> = (1..=5).map(|id| submission(id, now_ms)).collect();
    calls.push(submission(6, now_ms + 1));
    write_tx!(test.db, [calls], |tx| { delivery::insert(tx, &calls).await?.all() }).unwrap();
    let claimed = write_tx!(test.db, [], |tx| { delivery::claim(tx, &[Kind::ChannelSubmit], 9, 1_000).await }).unwrap();
    assert_eq!(claimed.len(), 5);
    // 1 is under way, 2 was refused, 3 stayed without an answer, 4 was taken, and 5 never reached the other side.
    let silent = Attempt { unanswered: 1, ..attempt(3, Status::Pending, Some(now_ms + 5_000)) };
    let attempts =
        [attempt(2, Status::Refused, None), silent, attempt(4, Status::Done, None), attempt(5, Status::Dead, None)];
    write_tx!(test.db, [attempts], |tx| { delivery::record(tx, &attempts).await }).unwrap();

    let mut reworded = Vec::new();
    for id in 1..=7_i64 {
        let reference = id.to_string();
        let done = write_tx!(test.db, [reference], |tx| {
            delivery::reword(tx, Kind::ChannelSubmit, reference, "other words".to_owned()).await
        });
        reworded.extend(done.unwrap().then_some(id));
    }
    assert_eq!(reworded, [2, 5, 6]);
    let now = delivery::by_ids(&mut test.db.read().await.unwrap(), (1..=6).collect()).await.unwrap();
    let changed = now.iter().filter(|call| call.body == "other words").map(|call| call.id);
    assert_eq!(changed.collect::<Vec<_>>(), reworded);
    let open = write_tx!(test.db, [], |tx| { delivery::lock_made(tx, vec![2, 5]).await }).unwrap();
    let anew = |id| Open { id, attempts: 1, base: 1, status: Status::Pending, unanswered: 0 };
    assert_eq!(open, [anew(2), anew(5)], "its schedule begins anew");
}
