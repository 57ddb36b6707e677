//! One e-mail to the mail server (RFC 5321), over a connection of its own: what a conversation that broke off has left
//! behind never reaches the next one.

use std::io;
use std::time::{Duration, UNIX_EPOCH};

use lettre::address::Envelope;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, SinglePart};
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters, TlsParametersBuilder,
};
use lettre::transport::smtp::commands::{Data, Mail as MailFrom, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::response::Response;
use lettre::{Address, Message};
use rustls::CertificateError;
use secrecy::ExposeSecret;

use crate::config::{Email, Filled, SmtpTls};
use crate::delivery::mask;
use crate::delivery::schedule::Outcome;

/// How long the farewell may take: what came of the message is known by then.
const QUIT: Duration = Duration::from_secs(1);

/// The mail server, as configured.
pub(in crate::delivery) struct Server {
    host: String,
    port: u16,
    from: Mailbox,
    /// What we call ourselves.
    hello: ClientId,
    protection: Protection,
    credentials: Option<Credentials>,
    /// Only authorities of `ca_file` are trusted.
    own_authority: bool,
}

enum Protection {
    None,
    Starttls(TlsParameters),
    Tls(TlsParameters),
}

/// An e-mail to one user.
pub(in crate::delivery) struct Mail {
    call_id: i64,
    to: Address,
    filled: Filled,
    written_ms: i64,
}

impl Mail {
    /// Written at a time that is the same for every attempt, epoch ms.
    ///
    /// # Errors
    /// An address that is none.
    pub fn new(call_id: i64, to: &str, filled: Filled, written_ms: i64) -> Result<Self, String> {
        let to = to.parse::<Address>().map_err(|_| "the e-mail address of the user is none".to_owned())?;
        Ok(Self { call_id, to, filled, written_ms })
    }
}

/// What came of sending one e-mail.
pub(in crate::delivery) struct Sent {
    pub outcome: Outcome,
    /// What was sent, as people may see it.
    pub request: Option<String>,
    /// What the server answered, as people may see it.
    pub answer: Option<String>,
}

/// Why the server did not take it.
enum Failure {
    /// May work later: the connection, the login, the sender, or the server's own "later".
    Again(String),
    /// The server will never take this message.
    Refused(String),
}

impl Server {
    /// # Errors
    /// A sender or an authority that cannot be used.
    pub fn new(config: &Email) -> Result<Self, String> {
        let from = config.from.parse::<Mailbox>().map_err(|error| format!("notices.email.from: {error}"))?;
        let tls = || parameters(config).map_err(|error| format!("notices.email: {error}"));
        let protection = match config.tls {
            SmtpTls::None => Protection::None,
            SmtpTls::Starttls => Protection::Starttls(tls()?),
            SmtpTls::Tls => Protection::Tls(tls()?),
        };
        let credentials = (!config.user.is_empty())
            .then(|| Credentials::new(config.user.clone(), config.password.expose_secret().to_owned()));
        let hello = if config.hello.is_empty() { from.email.domain() } else { config.hello.as_str() };
        let hello = ClientId::Domain(hello.to_owned());
        let own_authority = !config.ca_file.is_empty();
        Ok(Self { host: config.host.clone(), port: config.port, from, hello, protection, credentials, own_authority })
    }

    /// Hands one e-mail over.
    pub async fn send(&self, mail: &Mail, limit: Duration) -> Sent {
        let (message, shown) = match self.message(mail) {
            Ok(message) => message,
            Err(error) => {
                let outcome = Outcome::Refused(format!("the e-mail cannot be written: {error}"));
                return Sent { outcome, request: None, answer: None };
            }
        };
        let to = mail.to.to_string();
        let hidden = |text: String| mask::without(&text, &to);
        let result = match tokio::time::timeout(limit, self.talk(mail, &message, limit)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::Again("timeout: the mail server did not answer in time".to_owned())),
        };
        let (outcome, answer) = match result {
            Ok((mut connection, answer)) => {
                // Whatever it says to this: it has the message.
                let _ = tokio::time::timeout(QUIT, connection.quit()).await;
                (Outcome::Delivered, Some(hidden(answer)))
            }
            Err(Failure::Again(error)) => (Outcome::Again { error: hidden(error), retry_after_ms: None }, None),
            Err(Failure::Refused(error)) => (Outcome::Refused(hidden(error)), None),
        };
        Sent { outcome, request: Some(shown), answer }
    }

    /// The message, and what people may see of it.
    fn message(&self, mail: &Mail) -> Result<(Vec<u8>, String), String> {
        let Mail { call_id, to, filled, written_ms } = mail;
        // The same for every attempt: a repeated one is known by it.
        let message_id = format!("<{call_id}.ruyi@{}>", self.from.email.domain());
        let automatic = HeaderValue::new(
            HeaderName::new_from_ascii("Auto-Submitted".to_owned()).map_err(|error| error.to_string())?,
            "auto-generated".to_owned(),
        );
        let message = Message::builder()
            .from(self.from.clone())
            .to(Mailbox::new(None, to.clone()))
            .subject(filled.subject.clone())
            .message_id(Some(message_id.clone()))
            .date(UNIX_EPOCH + Duration::from_millis(written_ms.unsigned_abs()))
            .raw_header(automatic)
            .singlepart(SinglePart::builder().header(ContentType::TEXT_PLAIN).body(filled.text.clone()))
            .map_err(|error| error.to_string())?;
        let (host, port, mask) = (&self.host, self.port, mask::MASK);
        // A word that may name a secret hides the text, and not where it went.
        let text = mask::body(&format!("subject: {}\n\n{}", filled.subject, filled.text));
        let shown = format!("MAIL smtp://{host}:{port}\nmessage-id: {message_id}\nto: {mask}\n{text}");
        Ok((message.formatted(), shown))
    }

    async fn talk(
        &self,
        mail: &Mail,
        message: &[u8],
        limit: Duration,
    ) -> Result<(AsyncSmtpConnection, String), Failure> {
        let again = |what: &'static str| move |error: Error| Failure::Again(format!("{what}: {error}"));
        let mut connection = self.connect(limit).await?;
        let envelope = Envelope::new(Some(self.from.email.clone()), vec![mail.to.clone()])
            .map_err(|error| Failure::Refused(error.to_string()))?;
        // A sender that the server does not like is for the operator to mend, as the login is.
        let from = MailFrom::new(envelope.from().cloned(), vec![]);
        connection.command(from).await.map_err(again("the sender was refused"))?;
        connection.command(Rcpt::new(mail.to.clone(), vec![])).await.map_err(of("the recipient was refused"))?;
        connection.command(Data).await.map_err(of("the message was refused"))?;
        let answer = connection.message(message).await.map_err(of("the message was refused"))?;
        Ok((connection, text(&answer)))
    }

    /// What to do about a certificate that was not accepted, where the library's words say it to nobody.
    fn advice(&self, error: &Error) -> &'static str {
        match distrust(error) {
            Some(CertificateError::Other(other)) if other.to_string().contains("CaUsedAsEndEntity") => {
                ": the server shows the certificate of an authority, as `openssl req -x509` makes it; make it one of a \
                 server (basicConstraints=critical,CA:FALSE), or have an authority sign one"
            }
            Some(CertificateError::UnknownIssuer) if self.own_authority => {
                ": the certificate of the server is signed by none of the authorities in notices.email.ca_file"
            }
            Some(CertificateError::UnknownIssuer) => {
                ": no authority that this machine knows has signed the certificate of the server; name one with \
                 notices.email.ca_file"
            }
            Some(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
                ": the certificate of the server is for another name than notices.email.host"
            }
            _ => "",
        }
    }

    /// A connection that may send.
    async fn connect(&self, limit: Duration) -> Result<AsyncSmtpConnection, Failure> {
        let again =
            |what: &'static str| move |error: Error| Failure::Again(format!("{what}: {error}{}", self.advice(&error)));
        let at_once = match &self.protection {
            Protection::Tls(parameters) => Some(parameters.clone()),
            Protection::None | Protection::Starttls(_) => None,
        };
        let server = (self.host.as_str(), self.port);
        let connecting = AsyncSmtpConnection::connect_tokio1(server, Some(limit), &self.hello, at_once, None);
        let mut connection = connecting.await.map_err(again("no connection to the mail server"))?;
        if let Protection::Starttls(parameters) = &self.protection {
            let started = connection.starttls(parameters.clone(), &self.hello).await;
            started.map_err(again("no TLS with the mail server"))?;
        }
        if let Some(credentials) = &self.credentials {
            let login = connection.auth(&[Mechanism::Plain, Mechanism::Login], credentials).await;
            login.map_err(again("the login was refused"))?;
        }
        Ok(connection)
    }
}

/// The server's certificate was not accepted: why.
fn distrust<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a CertificateError> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(why)) = error.downcast_ref() {
            return Some(why);
        }
        // What an I/O error wraps is no cause of it, but itself.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = wrapped.map(|inner| inner as _).or_else(|| error.source());
    }
    None
}

/// A 5yz reply is final (RFC 5321, 4.2.1).
fn of(what: &'static str) -> impl Fn(Error) -> Failure {
    move |error| {
        let text = format!("{what}: {error}");
        if error.is_permanent() { Failure::Refused(text) } else { Failure::Again(text) }
    }
}

fn text(answer: &Response) -> String {
    let lines: Vec<&str> = answer.message().collect();
    mask::body(&format!("{} {}", answer.code(), lines.join("\n")))
}

fn parameters(config: &Email) -> Result<TlsParameters, String> {
    let builder: TlsParametersBuilder = TlsParameters::builder(config.host.clone());
    if config.ca_file.is_empty() {
        return builder.build_rustls().map_err(|error| error.to_string());
    }
    let pem = std::fs::read(&config.ca_file).map_err(|error| format!("ca_file {}: {error}", config.ca_file))?;
    let authority = Certificate::from_pem(&pem).map_err(|error| format!("ca_file {}: {error}", config.ca_file))?;
    let builder = builder.certificate_store(CertificateStore::None).add_root_certificate(authority);
    builder.build_rustls().map_err(|error| error.to_string())
}
