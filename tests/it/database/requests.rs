//! Requests that were answered before, by their keys.

use ruyi::db::requests::{self, Known, RequestKey};

use crate::support::servers::{TestDb, count, write_tx};

pub(super) async fn a_key_belongs_to_its_first_request(test: TestDb) {
    let key = |caller: &str, key: &str, request: &str| RequestKey::new("adjust", caller, key, request);
    let claim = async |key: RequestKey| {
        write_tx!(test.db, [key], |tx| {
            let known = requests::claim(tx, &key).await?;
            if known == Known::New {
                requests::answer(tx, &key, "12").await?;
            }
            Ok(known)
        })
        .unwrap()
    };
    assert_eq!(claim(key("shop", "k", "A1 5")).await, Known::New);
    assert_eq!(claim(key("shop", "k", "A1 5")).await, Known::Answered("12".to_owned()));
    assert_eq!(claim(key("shop", "k", "A1 6")).await, Known::Other);
    // Neither another caller's key is the same, nor one with a blank at its end, nor the parts cut in another place.
    for other in [key("desk", "k", "A1 5"), key("shop", "k ", "A1 5"), key("shopk", "", "A1 5")] {
        assert_eq!(claim(other).await, Known::New);
    }

    // What changed nothing keeps nothing.
    let refused = key("shop", "r", "A1 7");
    write_tx!(test.db, [refused], |tx| {
        requests::claim(tx, &refused).await?;
        requests::give_back(tx, &refused).await
    })
    .unwrap();
    assert_eq!(claim(key("shop", "r", "A1 8")).await, Known::New);

    // Of many at once, one is first, and all others see its answer.
    let at_once = (0..16).map(|_| {
        let (db, key) = (test.db.clone(), key("shop", "many", "A1 9"));
        tokio::spawn(async move {
            write_tx!(db, [key], |tx| {
                let known = requests::claim(tx, &key).await?;
                if known == Known::New {
                    requests::answer(tx, &key, "21").await?;
                }
                Ok(known)
            })
        })
    });
    let mut first = 0;
    for done in at_once.collect::<Vec<_>>() {
        match done.await.unwrap().unwrap() {
            Known::New => first += 1,
            known => assert_eq!(known, Known::Answered("21".to_owned())),
        }
    }
    assert_eq!(first, 1);
}

pub(super) async fn old_keys_go_with_new_ones(test: TestDb) {
    let claim = async |number: usize| {
        let key = RequestKey::new("adjust", "shop", &number.to_string(), "");
        write_tx!(test.db, [key], |tx| { requests::claim(tx, &key).await }).unwrap()
    };
    for number in 0..20 {
        claim(number).await;
    }
    let day_ms = 86_400_000;
    test.clock.advance_ms(29 * day_ms);
    assert_eq!(claim(0).await, Known::Answered(String::new()));
    test.clock.advance_ms(2 * day_ms);
    assert_eq!(claim(20).await, Known::New);
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM request_key").await, 5, "a few with each");
    assert_eq!(claim(21).await, Known::New);
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM request_key").await, 2);
}
