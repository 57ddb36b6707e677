//! Merchants, their payments, and statistics.

use std::collections::BTreeMap;

use ruyi::config::{Config, Sources};
use ruyi::db::gateway::{self, GatewayRow};
use ruyi::db::merchants::{self, Merchant, OldSecret, Profile};
use ruyi::db::payments::{self, PaymentRow};
use ruyi::db::statistics::{self, Filter, Key, Sum};
use ruyi::domain::event::MerchantChanged;
use ruyi::domain::id::MerchantId;
use ruyi::domain::merchant::Accept;
use ruyi::domain::money::Money;
use ruyi::domain::statistics::Type;
use ruyi::roles::payment::channels::Channels;
use ruyi::roles::payment::gateway::{Open, Opened, open};
use secrecy::ExposeSecret;

use super::business::payment;
use crate::support::servers::{TestDb, count, write_tx};

fn merchant(id: i64) -> Merchant {
    let accepts = vec![Accept {
        product_id: "h5".into(),
        channel_id: "c".into(),
        min_amount: Money::from_minor(1).unwrap(),
        max_amount: Money::from_minor(Money::MAX_MINOR).ok(),
    }];
    let (name, notify_url) = ("größe 😀".to_owned(), format!("https://shop.example/{id}"));
    let profile = Profile { name, tenant_id: "t".into(), notify_url, active: true, accepts };
    Merchant {
        id,
        profile,
        secret: "whsec_a".to_owned().into(),
        old: Vec::new(),
        version: 1,
        created_at: 5,
        updated_at: 5,
    }
}

pub(super) async fn merchants_(test: TestDb) {
    let put = async |merchant: Merchant| {
        write_tx!(test.db, [merchant], |tx| { merchants::put(tx, &merchant).await }).unwrap();
    };
    put(merchant(1)).await;
    put(merchant(3)).await;
    let mut rotated = merchant(3);
    rotated.profile.active = false;
    rotated.profile.accepts.clear();
    let secret = "whsec_c".to_owned().into();
    let old =
        [("whsec_b", 7), ("whsec_a", 9)].map(|(secret, until)| OldSecret { secret: secret.to_owned().into(), until });
    put(Merchant { secret, old: old.to_vec(), version: 2, created_at: 99, updated_at: 6, ..rotated }).await;
    let mut conn = test.db.read().await.unwrap();
    let found = merchants::get(&mut conn, vec![3, 2, 1, 3]).await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!((&found[&1].profile, found[&1].version), (&merchant(1).profile, 1));
    let third = &found[&3];
    assert_eq!((third.profile.active, third.profile.accepts.len(), third.version), (false, 0, 2));
    assert_eq!((third.created_at, third.updated_at), (5, 6));
    let secrets = |at| third.secrets(at).iter().map(|one| one.expose_secret().to_owned()).collect::<Vec<_>>();
    assert_eq!(secrets(6), ["whsec_c", "whsec_b", "whsec_a"]);
    assert_eq!(
        (secrets(8), secrets(9)),
        (vec!["whsec_c".to_owned(), "whsec_a".to_owned()], vec!["whsec_c".to_owned()])
    );
    let page = merchants::page(&mut conn, 1, 10).await.unwrap();
    assert_eq!(page.iter().map(|one| one.id).collect::<Vec<_>>(), [3]);
    assert_eq!(merchants::with_url(&mut conn, "https://shop.example/3").await.unwrap(), [3]);
    drop(conn);

    let changed = merchant(1).changed();
    let other = ruyi::domain::event::MerchantChanged { version: 2, active: false, ..changed.clone() };
    let done = write_tx!(test.db, [changed, other], |tx| {
        merchants::put_accounts(tx, &[&changed]).await?;
        assert_eq!(merchants::accounts(tx, vec![1, 2]).await?[&1], changed);
        merchants::put_accounts(tx, &[&other]).await?;
        merchants::lock_accounts(tx, vec![1]).await
    });
    assert_eq!((done.unwrap()[&1].version, count(&test.db, "SELECT COUNT(*) FROM merchant_account").await), (2, 1));
}

fn row(payment_id: i64, merchant_id: i64, number: &str) -> GatewayRow {
    GatewayRow {
        payment_id,
        merchant_id,
        out_order_no: number.to_owned(),
        product_id: "h5".into(),
        tenant_id: "t".into(),
        notify_url: String::new(),
        extra_arg: "x 😀".into(),
    }
}

pub(super) async fn numbers_(test: TestDb) {
    let first = [row(1, 9, "A"), row(2, 8, "A"), row(3, 9, "a")];
    let again = [row(4, 9, "A"), row(5, 9, "B")];
    let taken = write_tx!(test.db, [first, again], |tx| {
        let taken = gateway::take(tx, &first).await?.count();
        Ok::<_, ruyi::db::DbError>((taken, gateway::take(tx, &again).await?.count()))
    });
    assert_eq!(taken.unwrap(), (3, 1));
    let mut conn = test.db.read().await.unwrap();
    let wanted = [(9, "A".to_owned()), (9, "B".to_owned()), (8, "A".to_owned()), (8, "B".to_owned())];
    let found = gateway::by_number(&mut conn, &wanted).await.unwrap();
    let mut ids: Vec<i64> = found.values().map(|row| row.payment_id).collect();
    ids.sort_unstable();
    assert_eq!((ids, &found[&wanted[0]]), (vec![1, 2, 5], &row(1, 9, "A")));
    assert_eq!(gateway::by_id(&mut conn, vec![3, 7]).await.unwrap()[&3], row(3, 9, "a"));
    drop(conn);

    // Its own money, and nobody's order.
    let own = payment(7, PaymentRow::without_order(7), Money::from_minor(500).unwrap());
    assert!(own.is_gateway());
    assert_eq!(own.business_id(), 7);
    write_tx!(test.db, [own], |tx| { payments::insert(tx, &[own]).await }).unwrap();
    assert_eq!(count(&test.db, "SELECT kind FROM payment_record WHERE id = 7").await, 2);
    let mut conn = test.db.read().await.unwrap();
    assert!(payments::of_order(&mut conn, 7).await.unwrap().is_none());
    assert!(payments::refund_by_key(&mut conn, "7:k:none").await.unwrap().is_none());
}

pub(super) async fn statistics_(test: TestDb) {
    let key = |date: &str, product: &str, kind| Key {
        date: date.into(),
        product_id: product.into(),
        channel_id: "c".into(),
        tenant_id: String::new(),
        kind,
    };
    let add = async |sums: Vec<(Key, i64, &'static str)>| {
        let mut all: BTreeMap<Key, Sum> = BTreeMap::new();
        for (key, money, extra) in sums {
            all.entry(key.clone()).or_default().add(key.kind, money, extra);
        }
        write_tx!(test.db, [all], |tx| { statistics::add(tx, &all).await }).unwrap();
    };
    let (one, two) = (|kind| key("2026-01-01", "p", kind), |kind| key("2026-01-02", "q", kind));
    add(vec![(one(Type::Submit), 10, "b"), (one(Type::Success), 10, ""), (two(Type::Submit), 5, "")]).await;
    add(vec![(one(Type::Success), 20, "a"), (one(Type::Submit), 20, "a")]).await;
    let mut conn = test.db.read().await.unwrap();
    let all = statistics::all(&mut conn).await.unwrap();
    let sum = |count, money, extra: &str| Sum { count, money, extra_arg: extra.into() };
    assert_eq!(all[&one(Type::Submit)], sum(2, 0, "b"));
    assert_eq!(all[&one(Type::Success)], sum(2, 30, "a"));
    assert_eq!(all[&two(Type::Submit)], sum(1, 0, ""));
    let filter = Filter { from: "2026-01-01".into(), to: "2026-01-02".into(), ..Filter::default() };
    let lines = statistics::lines(&mut conn, &filter, None, 10).await.unwrap();
    let seen: Vec<_> = lines.iter().map(|one| (one.submit_count, one.success_count, one.success_money)).collect();
    assert_eq!((seen, lines[0].extra_arg.as_str()), (vec![(2, 2, 30), (1, 0, 0)], "b"));
    let after = ["2026-01-01", "p", "c", ""].map(str::to_owned);
    let rest = statistics::lines(&mut conn, &filter, Some(&after), 10).await.unwrap();
    assert_eq!(rest.iter().map(|one| one.product_id.as_str()).collect::<Vec<_>>(), ["q"]);
    let of_p = Filter { product_id: Some("p".into()), ..filter };
    assert_eq!(statistics::lines(&mut conn, &of_p, None, 10).await.unwrap().len(), 1);
}

/// Merchant 9 may take up to so much by the sandbox; a wish of 59.80 under the number M-1.
async fn may_take(test: &TestDb, most: Option<Money>) -> (Channels, Open) {
    let account = MerchantChanged {
        merchant_id: MerchantId(9),
        version: 1,
        active: true,
        tenant_id: String::new(),
        notify_url: String::new(),
        accepts: vec![Accept {
            product_id: "h5".into(),
            channel_id: "sandbox".into(),
            min_amount: Money::ZERO,
            max_amount: most,
        }],
    };
    write_tx!(test.db, [account], |tx| { ruyi::db::merchants::put_accounts(tx, &[&account]).await }).unwrap();
    let channels = Channels::of(&Config::load(&Sources::default()).unwrap());
    let wish = Open {
        merchant_id: 9,
        out_order_no: "M-1".into(),
        amount: Money::from_minor(5_980).unwrap(),
        product_id: "h5".into(),
        channel_id: "sandbox".into(),
        notify_url: None,
        extra_arg: String::new(),
        user_id: 0,
        trace: None,
    };
    (channels, wish)
}

/// The wishes of one transaction under one number: each has its own answer, and the payment is what was admitted.
pub async fn a_refused_wish_lends_nothing_but_its_number(test: TestDb) {
    let money = |minor| Money::from_minor(minor).unwrap();
    let (channels, wish) = may_take(&test, Some(money(50_000))).await;
    let answers = async |number: &str, minors: &[i64]| {
        let wishes = minors.iter().map(|minor| Open {
            out_order_no: number.into(),
            amount: money(*minor),
            extra_arg: minor.to_string(),
            ..wish.clone()
        });
        let wishes: Vec<Open> = wishes.collect();
        let answers = open(test.db.clone(), channels.clone(), wishes.into()).await.unwrap();
        let shown = answers.into_iter().map(|answer| match answer {
            Opened::New(payment) => {
                assert_eq!(payment.gateway.extra_arg, payment.row.state.amount.minor().to_string());
                format!("new {}", payment.row.state.amount.minor())
            }
            Opened::Replayed(payment) => format!("again {}", payment.row.state.amount.minor()),
            other => format!("{other:?}"),
        });
        shown.collect::<Vec<_>>()
    };
    assert_eq!(answers("M-1", &[99_999_900, 1_000]).await, ["Refused(TooMuch)", "new 1000"]);
    assert_eq!(answers("M-2", &[1_000, 99_999_900]).await, ["new 1000", "Different"]);
    let three = answers("M-3", &[99_999_900, 1_000, 1_000]).await;
    assert_eq!(three, ["Refused(TooMuch)", "new 1000", "again 1000"]);
    assert_eq!(answers("M-4", &[99_999_900, 99_999_800]).await, ["Refused(TooMuch)"; 2]);
    // It has its number by now, and so it is answered with what is there.
    assert_eq!(answers("M-1", &[99_999_900, 1_000]).await, ["Different", "again 1000"]);
    for text in [
        "SELECT COUNT(*) FROM payment_record",
        "SELECT COUNT(*) FROM payment_record WHERE amount = 1000",
        "SELECT COUNT(*) FROM gateway_payment",
        "SELECT COUNT(*) FROM message_record WHERE topic = 'CALLBACK_SUBMIT'",
    ] {
        assert_eq!(count(&test.db, text).await, 3, "{text}");
    }
}

/// 64 wishes under one number, in transactions of their own: one payment.
pub async fn one_of_64_wishes(test: TestDb) {
    let (channels, wish) = may_take(&test, None).await;
    let wishes = (0..64).map(|n| {
        let (db, channels) = (test.db.clone(), channels.clone());
        // Beside it another number of its own, so that batches meet in different orders.
        let other = Open { out_order_no: format!("N-{n}"), ..wish.clone() };
        let mut batch = vec![wish.clone(), other];
        if n % 2 == 0 {
            batch.reverse();
        }
        tokio::spawn(async move { open(db, channels, batch.into()).await.unwrap() })
    });
    let (mut new, mut ids) = (0, std::collections::BTreeSet::new());
    for answers in wishes.collect::<Vec<_>>() {
        for answer in answers.await.unwrap() {
            match answer {
                Opened::New(payment) if payment.gateway.out_order_no == "M-1" => {
                    new += 1;
                    ids.insert(payment.row.id);
                }
                Opened::Replayed(payment) => drop(ids.insert(payment.row.id)),
                Opened::New(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!((new, ids.len()), (1, 1));
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM payment_record WHERE kind = 2").await, 65);
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM message_record WHERE topic = 'CALLBACK_SUBMIT'").await, 65);
    assert_eq!(count(&test.db, "SELECT COUNT(*) FROM message_record WHERE topic = 'DAY_STATISTICS'").await, 65);
}
