//! The mail server: what it may do.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use ruyi::db::delivery::{Kind as Call, Status};
use ruyi::fault::Faults;
use serde_json::json;
use tokio_rustls::TlsAcceptor;

use crate::support::mail_server::{Act, At, MailServer, Tls};
use crate::support::notice_shop::{EMAIL, NoticeShop, read};

/// One e-mail to a server that does this first; where it then stands.
async fn after(act: Act) -> (NoticeShop, (Status, i64, Option<i64>, String)) {
    let mut notices = NoticeShop::new().await;
    notices.contact(json!({ "phone": null })).await;
    notices.mail.script([act]);
    notices.told(101, "ORDER_SIGNED", json!({})).await;
    let hangs = matches!(act, Act::Hang(_));
    let _ = if hangs { notices.send_in_vain().await } else { notices.send().await };
    let state = notices.state(Call::Email, 101).await;
    notices.nothing_is_told().await;
    (notices, state)
}

#[tokio::test]
async fn what_fails_for_now_is_sent_again() {
    for act in [
        Act::Say(At::Greeting, "421 come back later"),
        Act::Say(At::Sender, "553 not from here"),
        Act::Say(At::Recipient, "450 <bob.lee@example.com> is busy"),
        Act::Say(At::Data, "452 no room"),
        Act::Say(At::End, "451 no disk"),
        Act::Say(At::Greeting, "what?"),
        Act::Close(At::Greeting),
        Act::Close(At::Recipient),
        Act::Close(At::Data),
        Act::Close(At::End),
        Act::Swallow,
    ] {
        let (notices, (status, attempts, _, error)) = after(act).await;
        assert_eq!((status, attempts), (Status::Pending, 1), "{act:?}: {error}");
        assert!(!error.to_lowercase().contains("bob"), "{error}");
        notices.shop.clock.advance_ms(10_000);
        assert_eq!(notices.send().await, 1);
        let (status, attempts, ..) = notices.state(Call::Email, 101).await;
        assert_eq!((status, attempts), (Status::Done, 2), "{act:?}");
        // What it took without saying so came twice, and is known by its id.
        let ids: Vec<String> = notices.mail.taken().iter().map(|mail| mail.header("message-id")).collect();
        assert!(ids.iter().all(|id| *id == ids[0] && id.ends_with(".ruyi@tea.example>")), "{ids:?}");
        let dates: Vec<String> = notices.mail.taken().iter().map(|mail| mail.header("date")).collect();
        assert!(dates.iter().all(|date| *date == dates[0] && !date.is_empty()), "{dates:?}");
        assert!(notices.mail.taken().iter().all(|mail| mail.hello == "tea.example"));
    }
}

#[tokio::test]
async fn the_machine_is_called_what_is_set() {
    let mail = MailServer::start().await;
    let mut notices = NoticeShop::behind(mail, &["notices.email.hello=mta7.shop.example"]).await;
    notices.contact(json!({ "phone": null })).await;
    notices.told(101, "ORDER_SIGNED", json!({})).await;
    notices.send().await;
    assert_eq!(notices.mail.taken()[0].hello, "mta7.shop.example");
}

#[tokio::test]
async fn what_the_server_refuses_is_final() {
    for act in [
        Act::Say(At::Recipient, "550 5.1.1 <Bob.Lee@example.com> unknown"),
        Act::Say(At::Data, "554 no valid recipients"),
        Act::Say(At::End, "554 spam"),
    ] {
        let (notices, (status, attempts, _, error)) = after(act).await;
        assert_eq!((status, attempts), (Status::Refused, 1), "{error}");
        assert!(error.contains("refused") && !error.to_lowercase().contains("bob"), "{error}");
        notices.shop.clock.advance_ms(86_400_000);
        assert_eq!((notices.send().await, notices.mail.taken().len()), (0, 0));
    }
}

/// Recorded while another server was configured: who is told of its end is told where it went.
#[tokio::test]
async fn the_server_of_today_is_named() {
    let text = r#"{ sms = "{{ what }}", subject = "Your address", body = "{{ what }}" }"#;
    let template = format!(r#"notices.templates.NEWS={{ params = ["what"], zh = {text}, en = {text} }}"#);
    let mut notices = NoticeShop::with(&[template.as_str()], Faults::none()).await;
    notices.shop.db.alert_by("http://127.0.0.1:1/alerts");
    notices.contact(json!({ "phone": null })).await;
    notices.mail.script([Act::Say(At::Data, "554 no valid recipients")]);
    notices.told(101, "NEWS", json!({ "what": "token" })).await;
    let moved = notices.shop.db.write("test", |tx| {
        Box::pin(async move {
            let text = "UPDATE delivery SET url = 'smtp://old.example:25' WHERE kind = 9";
            ruyi::db::sql::execute(tx, text, vec![]).await
        })
    });
    assert_eq!(moved.await.unwrap(), 1);
    notices.send().await;

    let server = format!("127.0.0.1:{}", notices.mail.port);
    let alerts = notices.shop.rows("SELECT body FROM delivery WHERE kind = 6").await;
    let alert: serde_json::Value = serde_json::from_str(&alerts[0][0]).unwrap();
    assert_eq!((&alert["alert"], &alert["target"]), (&"CALL_GIVEN_UP".into(), &server.as_str().into()));
    // What may be a secret hides the text, and not the server.
    let attempts = "SELECT request FROM delivery_attempt JOIN delivery ON id = delivery_id WHERE kind = 9";
    let request = &notices.shop.rows(attempts).await[0][0];
    assert!(request.starts_with(&format!("MAIL smtp://{server}\n")) && request.ends_with("\n***"), "{request}");
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_on() {
    for at in [At::Greeting, At::Recipient, At::Data, At::End] {
        let (notices, (status, attempts, _, error)) = after(Act::Hang(at)).await;
        assert_eq!((status, attempts), (Status::Pending, 1), "{at:?}");
        assert!(error.contains("timeout"), "{error}");
        notices.shop.clock.advance_ms(10_000);
        notices.send().await;
        assert_eq!(notices.state(Call::Email, 101).await.0, Status::Done, "{at:?}");
        // It had taken one that it has not answered for: both are the same message.
        let ids: Vec<String> = notices.mail.taken().iter().map(|mail| mail.header("message-id")).collect();
        assert_eq!(ids, vec![ids[0].clone(); if at == At::End { 2 } else { 1 }], "{at:?}");
    }
}

#[tokio::test]
async fn a_server_that_answers_twice_has_one_message() {
    let (mut notices, (status, attempts, ..)) = after(Act::Twice).await;
    assert_eq!((status, attempts), (Status::Done, 1));
    notices.told(102, "ORDER_SIGNED", json!({})).await;
    notices.send().await;
    assert_eq!((notices.state(Call::Email, 102).await.0, notices.mail.taken().len()), (Status::Done, 2));
}

#[tokio::test]
async fn unreachable_server_is_tried_again() {
    let mut notices = NoticeShop::with(&["notices.email.port=9"], Faults::none()).await;
    notices.contact(json!({ "phone": null })).await;
    notices.told(101, "ORDER_SIGNED", json!({})).await;
    notices.send().await;
    let (status, _, _, error) = notices.state(Call::Email, 101).await;
    assert_eq!(status, Status::Pending);
    assert!(error.contains("no connection to the mail server"), "{error}");
}

/// A server without STARTTLS, where it is wanted, gets no message.
#[tokio::test]
async fn nothing_is_sent_in_the_clear() {
    let mut notices = NoticeShop::with(&["notices.email.tls=starttls"], Faults::none()).await;
    notices.contact(json!({ "phone": null })).await;
    notices.told(101, "ORDER_SIGNED", json!({})).await;
    notices.send().await;
    let (status, _, _, error) = notices.state(Call::Email, 101).await;
    assert_eq!((status, notices.mail.taken().len()), (Status::Pending, 0));
    assert!(error.contains("TLS"), "{error}");
}

/// Parameters of other systems may hold anything: a header stays one header.
#[tokio::test]
async fn parameters_make_no_headers() {
    let text = r#"{ sms = "{{ what }}", subject = "About {{ what }}", body = "{{ what }}\n.\n" }"#;
    let template = format!(r#"notices.templates.NEWS={{ params = ["what"], zh = {text}, en = {text} }}"#);
    let mut notices = NoticeShop::with(&[template.as_str()], Faults::none()).await;
    notices.contact(json!({ "phone": null })).await;
    for (order, what) in
        [(101, "x\r\nBcc: eve@evil.example\r\n\r\nhello"), (102, "y\nSubject: z"), (103, "茶\r\nX-Evil: 1")]
    {
        notices.told(order, "NEWS", json!({ "what": what })).await;
    }
    assert_eq!(notices.send().await, 6, "three of them have no phone number");
    let mails = notices.mail.taken();
    assert_eq!(mails.len(), 3);
    for mail in &mails {
        let mut names: Vec<String> = mail.headers().iter().map(|name| name.to_lowercase()).collect();
        names.sort();
        let wanted = [
            "auto-submitted",
            "content-transfer-encoding",
            "content-type",
            "date",
            "from",
            "message-id",
            "mime-version",
            "subject",
            "to",
        ];
        // MIME-Version is there where the body needs it.
        names.retain(|name| name != "mime-version");
        assert_eq!(names, wanted.into_iter().filter(|name| *name != "mime-version").collect::<Vec<_>>(), "{mail:?}");
        assert_eq!(mail.to, EMAIL);
    }
    let subjects: Vec<String> = mails.iter().map(|mail| read(mail).0).collect();
    assert!(subjects.iter().any(|subject| subject == "About y Subject: z"), "{subjects:?}");
}

/// A subject that is too long says so by its end.
#[tokio::test]
async fn a_cut_subject_ends_with_an_ellipsis() {
    let text = r#"{ sms = "{{ what }}", subject = "{{ what }}", body = "{{ what }}" }"#;
    let template = format!(r#"notices.templates.NEWS={{ params = ["what"], zh = {text}, en = {text} }}"#);
    let mut notices = NoticeShop::with(&[template.as_str()], Faults::none()).await;
    notices.contact(json!({ "phone": null })).await;
    notices.told(101, "NEWS", json!({ "what": "x".repeat(250) })).await;
    notices.told(102, "NEWS", json!({ "what": "y".repeat(200) })).await;
    notices.send().await;
    let mut subjects: Vec<String> = notices.mail.taken().iter().map(|mail| read(mail).0).collect();
    subjects.sort();
    assert_eq!(subjects, [format!("{}\u{2026}", "x".repeat(199)), "y".repeat(200)]);
}

/// A certificate for this machine, and in `ca.pem` the authority that signed it; in `self.pem` one that nobody signed.
fn acceptor(dir: &Path, certificate: &str) -> TlsAcceptor {
    let script = r#"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=mail -keyout self.key -out self.pem \
  -addext subjectAltName=IP:127.0.0.1 &&
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-authority -keyout ca.key -out ca.pem \
  -addext basicConstraints=critical,CA:TRUE &&
openssl req -newkey rsa:2048 -nodes -subj /CN=mail -keyout server.key -out server.csr &&
printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' > ext &&
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem
"#;
    let made = std::process::Command::new("sh").args(["-c", script]).current_dir(dir).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let certificates =
        CertificateDer::pem_file_iter(dir.join(format!("{certificate}.pem"))).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(dir.join(format!("{certificate}.key"))).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    TlsAcceptor::from(Arc::new(config.with_no_client_auth().with_single_cert(certificates, key).unwrap()))
}

#[tokio::test]
async fn over_tls_with_a_login() {
    let dir = tempfile::tempdir().unwrap();
    let acceptor = acceptor(dir.path(), "server");
    let ca = format!("notices.email.ca_file={}", dir.path().join("ca.pem").display());
    for (name, tls) in [("starttls", Tls::Starttls(acceptor.clone())), ("tls", Tls::AtOnce(acceptor.clone()))] {
        let tls_as = format!("notices.email.tls={name}");
        let right = [tls_as.as_str(), ca.as_str(), "notices.email.user=shop", "notices.email.password=secret"];
        let wrong = [tls_as.as_str(), ca.as_str(), "notices.email.user=shop", "notices.email.password=guess"];
        // The authorities of this machine have not signed it.
        let unknown = [tls_as.as_str(), "notices.email.user=shop", "notices.email.password=secret"];
        for (settings, wanted) in [(&right[..], None), (&wrong[..], Some("login")), (&unknown[..], Some("certificate"))]
        {
            let mut notices = NoticeShop::behind(MailServer::behind(tls.clone()).await, settings).await;
            notices.contact(json!({ "phone": null })).await;
            notices.told(101, "ORDER_SIGNED", json!({})).await;
            notices.send().await;
            let (status, _, _, error) = notices.state(Call::Email, 101).await;
            let taken = notices.mail.taken().len();
            match wanted {
                None => assert_eq!((status, taken), (Status::Done, 1), "{name}: {error}"),
                Some(wanted) => {
                    assert_eq!((status, taken), (Status::Pending, 0), "{name}: {error}");
                    assert!(error.contains(wanted) && !error.contains("guess"), "{error}");
                }
            }
        }
    }
}

/// The words of the library tell nobody what to do about a certificate.
#[tokio::test]
async fn a_certificate_that_is_not_accepted_has_advice() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| format!("notices.email.ca_file={}", dir.path().join(name).display());
    let cases = [
        ("self", Some(file("self.pem")), "make it one of a server"),
        ("server", Some(file("self.pem")), "none of the authorities in notices.email.ca_file"),
        ("server", None, "name one with notices.email.ca_file"),
    ];
    for (certificate, ca_file, advice) in cases {
        let server = MailServer::behind(Tls::AtOnce(acceptor(dir.path(), certificate))).await;
        let settings: Vec<String> = ca_file.into_iter().chain(["notices.email.tls=tls".to_owned()]).collect();
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let mut notices = NoticeShop::behind(server, &settings).await;
        notices.contact(json!({ "phone": null })).await;
        notices.told(101, "ORDER_SIGNED", json!({})).await;
        notices.send().await;
        let (status, _, _, error) = notices.state(Call::Email, 101).await;
        assert_eq!(status, Status::Pending);
        assert!(error.contains(advice), "{certificate}: {error}");
    }
}
