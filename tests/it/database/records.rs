//! Inbox and parked messages as an operator reads them, and one that is tried again.

use ruyi::db::inbox::{self, Claim, Outcome, log as handled};
use ruyi::db::look;
use ruyi::db::outbox::log as sent;
use ruyi::db::retry::log::{self as parked, Again, Filter};
use ruyi::db::retry::{self, Parked, Status};

use crate::support::servers::{START_MS, TestDb, count, write_tx};

fn handled_ids(rows: &[handled::Handled]) -> Vec<&str> {
    rows.iter().map(|row| row.message_id.as_str()).collect()
}

pub(super) async fn the_inbox_is_read_from_its_end(test: TestDb) {
    let done = write_tx!(test.db, [], |tx| {
        for group in ["g", "h"] {
            let ids: Vec<String> = (1..=9).map(|number| format!("10{number}:E")).collect();
            let claim = |id| Claim {
                message_id: id,
                topic: if id < "105" { "LOW" } else { "HIGH" },
                key: &id[..3],
                resent: None,
            };
            let claims: Vec<Claim<'_>> = ids.iter().map(|id| claim(id.as_str())).collect();
            inbox::claim(tx, group, if group == "g" { 1 } else { 2 }, &claims, START_MS).await?;
        }
        inbox::bury(tx, "g", "103:E", None, "hopeless", START_MS + 5).await
    });
    done.unwrap();
    let mut conn = test.db.read().await.unwrap();
    let all = handled::Filter::default();
    let first = handled::last(&mut conn, "g", &all, 3).await.unwrap();
    assert_eq!(handled_ids(&first), ["109:E", "108:E", "107:E"]);
    assert_eq!((first[0].topic.as_str(), first[0].key.as_str(), first[0].outcome), ("HIGH", "109", Outcome::Done));
    let before = |and_this| handled::Filter { before: Some("107:E".into()), and_this, ..all.clone() };
    assert_eq!(handled_ids(&handled::last(&mut conn, "g", &before(false), 2).await.unwrap()), ["106:E", "105:E"]);
    assert_eq!(handled_ids(&handled::last(&mut conn, "g", &before(true), 2).await.unwrap()), ["107:E", "106:E"]);
    let dead = handled::Filter { outcome: Some(Outcome::Dead), topic: Some("LOW".into()), ..all.clone() };
    let found = handled::last(&mut conn, "g", &dead, 9).await.unwrap();
    assert_eq!((handled_ids(&found), found[0].reason.as_deref()), (vec!["103:E"], Some("hopeless")));
    let of_key = handled::Filter { key: Some("108".into()), ..all.clone() };
    assert_eq!(handled_ids(&handled::last(&mut conn, "h", &of_key, 9).await.unwrap()), ["108:E"]);
    // Looked through down to the fifth row.
    let floor = handled::floor(&mut conn, "g", &all, 4).await.unwrap();
    assert_eq!(floor.as_deref(), Some("105:E"));
    let low = handled::Filter { from: floor, topic: Some("LOW".into()), ..all.clone() };
    assert!(handled::last(&mut conn, "g", &low, 9).await.unwrap().is_empty());
    assert_eq!(handled::floor(&mut conn, "g", &all, 9).await.unwrap(), None);
    assert_eq!(handled::floor(&mut conn, "g", &before(false), 1).await.unwrap().as_deref(), Some("105:E"));
}

fn row(id: i64, key: &str, next_at: Option<i64>) -> Parked {
    Parked {
        id,
        message_id: format!("{id}:E"),
        topic: "E".into(),
        tag: "E".into(),
        key: key.into(),
        body: vec![1],
        properties: vec![],
        blocks: true,
        attempts: 1,
        next_at,
        first_failed_at: START_MS,
        last_error: "no".into(),
    }
}

/// 1 waits, 2 behind it; 3 was given up; 4 was handled in the end.
async fn four(test: &TestDb) {
    let later = Some(START_MS + 10_000);
    let rows = [row(1, "k", later), row(2, "k", None), row(3, "d", later), row(4, "f", later)];
    let done = write_tx!(test.db, [rows], |tx| {
        let ids = ["1:E", "2:E", "3:E", "4:E"];
        let claims = ids.map(|id| Claim { message_id: id, topic: "E", key: "k", resent: None });
        inbox::claim(tx, "g", 7, &claims, START_MS).await?;
        retry::park(tx, "g", &rows, START_MS).await?;
        let ids = ids.map(str::to_owned).to_vec();
        inbox::set_outcome(tx, "g", ids, Outcome::Parked, None).await?;
        retry::finish(tx, "g", &rows[2], Status::Dead, "never").await?;
        inbox::bury(tx, "g", "3:E", None, "never", START_MS).await?;
        retry::finish(tx, "g", &rows[3], Status::Done, "").await
    });
    done.unwrap();
}

pub(super) async fn parked_messages_are_read_page_by_page(test: TestDb) {
    four(&test).await;
    let mut conn = test.db.read().await.unwrap();
    let mut of = async |filter: Filter, before: i64, limit: i64| {
        let rows = parked::newest(&mut conn, &filter, before, limit).await.unwrap();
        rows.iter().map(|row| row.id).collect::<Vec<_>>()
    };
    assert_eq!(of(Filter::default(), i64::MAX, 3).await, [4, 3, 2]);
    assert_eq!(of(Filter::default(), 2, 3).await, [1]);
    assert_eq!(of(Filter { status: Some(Status::Waiting), ..Filter::default() }, i64::MAX, 9).await, [2, 1]);
    assert_eq!(of(Filter { key: Some("d".into()), ..Filter::default() }, i64::MAX, 9).await, [3]);
    assert_eq!(of(Filter { group: Some("h".into()), ..Filter::default() }, i64::MAX, 9).await, [0_i64; 0]);
    let both = Filter { topic: Some("E".into()), group: Some("g".into()), from_id: Some(3), ..Filter::default() };
    assert_eq!(of(both, i64::MAX, 9).await, [4, 3]);
    assert_eq!(look::floor(&mut conn, "message_retry_log", i64::MAX, 3).await.unwrap(), Some(1));
    assert_eq!(look::floor(&mut conn, "message_record", i64::MAX, 0).await.unwrap(), None);
    let from = sent::Filter { from_id: Some(5), ..sent::Filter::default() };
    assert!(sent::newest(&mut conn, &from, 9, 9).await.unwrap().is_empty());
}

pub(super) async fn a_parked_message_is_tried_again(test: TestDb) {
    four(&test).await;
    let again = async |id: i64| write_tx!(test.db, [], |tx| { parked::again(tx, id).await }).unwrap();
    let due = |again: Again| match again {
        Again::Due(row) => (row.id, row.status, row.attempts, row.next_at),
        other => panic!("{other:?}"),
    };
    let now_ms = START_MS;
    assert_eq!(again(9).await, Again::Unknown);
    assert_eq!(again(4).await, Again::Done);
    assert_eq!(again(2).await, Again::Behind(1));
    // Once and again: it is due.
    for _ in 0..2 {
        assert_eq!(due(again(1).await), (1, Status::Waiting, 1, Some(now_ms)));
    }
    let claim = async || write_tx!(test.db, [], |tx| { retry::claim(tx, "g", 10, 1_000).await }).unwrap();
    let taken = claim().await;
    assert_eq!(taken.iter().map(|row| row.id).collect::<Vec<_>>(), [1]);
    assert_eq!(again(1).await, Again::Running);
    // A lane that died with it.
    test.clock.advance_ms(1_000);
    assert_eq!(due(again(1).await).3, Some(now_ms + 1_000));
    let failed = Parked { attempts: 2, ..claim().await.remove(0) };
    write_tx!(test.db, [failed], |tx| { retry::postpone(tx, &failed, now_ms + 60_000, "no").await }).unwrap();
    assert_eq!(due(again(1).await), (1, Status::Waiting, 2, Some(now_ms + 1_000)));

    // What was given up begins anew, and is claimed like everything else.
    assert_eq!(due(again(3).await), (3, Status::Waiting, 0, Some(now_ms + 1_000)));
    assert_eq!(count(&test.db, "SELECT outcome FROM message_process_log WHERE message_id = '3:E'").await, 2);
    let taken = claim().await;
    assert_eq!(
        taken.iter().map(|row| (row.id, row.attempts, row.blocks)).collect::<Vec<_>>(),
        [(1, 2, true), (3, 0, false)]
    );
    let third = taken[1].clone();
    write_tx!(test.db, [third], |tx| {
        assert!(retry::lock_waiting(tx, &third).await?);
        retry::finish(tx, "g", &third, Status::Dead, "never").await
    })
    .unwrap();
    // Its dead letter was sent again meanwhile.
    let done =
        write_tx!(test.db, [], |tx| { inbox::set_outcome(tx, "g", vec!["3:E".into()], Outcome::Done, None).await });
    done.unwrap();
    assert_eq!(again(3).await, Again::Elsewhere);
}
