//! The texts are looked at when the program starts.

use ruyi::config::{Config, Sources, Texts};
use ruyi::domain::notice::{Language, OWN_TEXTS, Way};
use serde_json::json;

fn refused(sets: &[&str]) -> String {
    let sets = sets.iter().map(|one| (*one).to_owned()).collect();
    let error = Config::load(&Sources { sets, ..Sources::default() }).unwrap_err();
    format!("{error}\n{}", error.help().unwrap_or_default())
}

#[test]
fn what_cannot_work_is_named_with_a_way_out() {
    let text = r#"{ sms = "s", subject = "s", body = "b" }"#;
    for (set, wanted) in [
        (r#"notices.templates.ORDER_SIGNED.zh.sms={{ amout }}"#.to_owned(), "nothing fills {{ amout }}"),
        (r#"notices.templates.ORDER_SIGNED.zh.sms={% if x"#.to_owned(), "cannot be read"),
        (r#"notices.templates.ORDER_SIGNED.en.subject="#.to_owned(), "an e-mail has a subject and a body"),
        (r#"notices.templates.ORDER_SIGNED.en.sms="#.to_owned(), "empty in this language"),
        (r#"notices.templates.ORDER_SIGNED.params=["days"]"#.to_owned(), "never has \"days\""),
        (format!("notices.templates.NEWS={{ zh = {text} }}"), "missing: a text has every language"),
        (format!("notices.templates.NEWS={{ zh = {text}, en = {text}, fr = {text} }}"), "fr"),
        (r#"notices.language=fr"#.to_owned(), "notices.language"),
        (r#"notices.email.host=mail.example.com"#.to_owned(), "notices.email.from"),
        (r#"notices.sms.endpoint=ftp://x"#.to_owned(), "notices.sms.endpoint"),
    ] {
        let error = refused(&[&set]);
        assert!(error.contains(wanted), "{set}: {error}");
    }
    let known = refused(&["notices.templates.ORDER_CANCELED.zh.sms={{ amount }}"]);
    assert!(known.contains("there are by, orderId, reason"), "{known}");
    let clear = ["notices.email.host=mail.example.com", "notices.email.from=a@example.com", "notices.email.tls=none"];
    let login = ["notices.email.user=shop", "notices.email.password=p"];
    assert!(refused(&[&clear[..], &login[..]].concat()).contains("in the clear"));
}

#[test]
fn every_own_text_is_there_in_every_language() {
    let texts = Texts::new(&Config::example().unwrap().notices);
    let params =
        json!({ "amount": 59.8, "by": "USER", "reason": "changed my mind", "carrier": "SF", "trackingNo": "S1" });
    for (name, own) in OWN_TEXTS {
        for language in Language::ALL {
            for way in Way::ALL {
                let filled = texts.fill(name, way, Some(language), 77, &params).unwrap();
                let all = format!("{}{}", filled.subject, filled.text);
                assert!(all.contains("77") && !all.contains("{{"), "{all}");
                assert!(!own.contains(&"amount") || way == Way::Email || all.contains("59.80"), "{all}");
                // Without anything to fill it, it can be read as well.
                let bare = texts.fill(name, way, Some(language), 77, &json!({ "carrier": null })).unwrap();
                assert!(!bare.text.to_lowercase().contains("none"), "{bare:?}");
            }
        }
    }
}
