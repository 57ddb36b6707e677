//! Where users are reached.

use std::collections::BTreeSet;

use ruyi::db::contacts::{self, Contact};
use ruyi::domain::notice::{Language, QuietHours, Topic, Way};

use crate::support::servers::{TestDb, write_tx};

pub(super) async fn the_last_contact_counts(test: TestDb) {
    let full = Contact {
        user_id: 7,
        phone: Some("+8613800138000".to_owned()),
        email: Some("bob@example.com".to_owned()),
        language: Some(Language::En),
        sms_off: BTreeSet::from(Topic::ALL),
        email_off: BTreeSet::from([Topic::Parcel, Topic::Other]),
        quiet: Some(QuietHours { from: 1_320, to: 480, time_zone: "Asia/Shanghai".to_owned() }),
    };
    let bare = Contact { user_id: 8, ..Contact::default() };
    for contact in [&full, &bare, &full] {
        write_tx!(test.db, [contact], |tx| { contacts::put(tx, &contact).await }).unwrap();
    }
    let mut conn = test.db.read().await.unwrap();
    let found = contacts::of_users(&mut conn, vec![9, 8, 7, 7]).await.unwrap();
    assert!(found.len() == 2 && found[&7] == full && found[&8] == bare);
    assert!(!found[&7].wants(Way::Sms, Topic::Order) && !found[&7].wants(Way::Email, Topic::Other));
    assert!(found[&7].wants(Way::Email, Topic::Order) && found[&8].wants(Way::Sms, Topic::Parcel));
    assert!(contacts::of_user(&mut conn, 9).await.unwrap().is_none());
    drop(conn);
    let emptied = Contact { user_id: 7, ..Contact::default() };
    write_tx!(test.db, [emptied], |tx| { contacts::put(tx, &emptied).await }).unwrap();
    assert!(contacts::of_user(&mut test.db.read().await.unwrap(), 7).await.unwrap() == Some(emptied));
}
