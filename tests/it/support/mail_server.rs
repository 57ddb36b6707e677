//! A mail server: real SMTP on a real port, which can refuse, hang, close and be late.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// Where in the conversation something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Greeting,
    Sender,
    Recipient,
    /// Before the message.
    Data,
    /// After the message.
    End,
}

/// What it does in one conversation, instead of taking the message.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    Take,
    Say(At, &'static str),
    Hang(At),
    Close(At),
    /// Takes the message, and closes without a word.
    Swallow,
    /// Takes the message, and says so twice.
    Twice,
}

/// A message that it took.
#[derive(Clone, Debug)]
pub struct Mail {
    /// What the other side called itself.
    pub hello: String,
    pub to: String,
    pub text: String,
}

impl Mail {
    /// A header, with what was folded put together.
    pub fn header(&self, name: &str) -> String {
        let head = self.text.split("\r\n\r\n").next().unwrap().replace("\r\n ", " ");
        let line = head.lines().find(|line| line.to_lowercase().starts_with(&format!("{}:", name.to_lowercase())));
        line.map_or_else(String::new, |line| line.split_once(':').unwrap().1.trim().to_owned())
    }

    /// The names of its headers.
    pub fn headers(&self) -> Vec<String> {
        let head = self.text.split("\r\n\r\n").next().unwrap().replace("\r\n ", " ");
        head.lines().map(|line| line.split(':').next().unwrap().to_owned()).collect()
    }
}

/// The server. A cheap clone.
#[derive(Clone)]
pub struct MailServer {
    pub port: u16,
    inner: Arc<Inner>,
}

struct Inner {
    script: Mutex<VecDeque<Act>>,
    taken: Mutex<Vec<Mail>>,
    conversations: Semaphore,
}

/// How a conversation goes on.
enum Next {
    Go,
    Stop,
}

/// How a conversation ends.
enum End {
    Over,
    /// It goes on behind TLS.
    Starttls,
}

/// How connections are protected.
#[derive(Clone)]
pub enum Tls {
    None,
    /// TLS after STARTTLS, and no message before.
    Starttls(TlsAcceptor),
    /// From the beginning.
    AtOnce(TlsAcceptor),
}

impl MailServer {
    pub async fn start() -> Self {
        Self::behind(Tls::None).await
    }

    pub async fn behind(tls: Tls) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inner = Inner { script: Mutex::default(), taken: Mutex::default(), conversations: Semaphore::new(0) };
        let server = Self { port: listener.local_addr().unwrap().port(), inner: Arc::new(inner) };
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = serving.clone();
                let act = server.inner.script.lock().unwrap().pop_front().unwrap_or(Act::Take);
                server.inner.conversations.add_permits(1);
                let tls = tls.clone();
                tokio::spawn(async move { server.serve(stream, act, tls).await });
            }
        });
        server
    }

    /// The next conversations.
    pub fn script(&self, acts: impl IntoIterator<Item = Act>) {
        self.inner.script.lock().unwrap().extend(acts);
    }

    pub fn taken(&self) -> Vec<Mail> {
        self.inner.taken.lock().unwrap().clone()
    }

    /// How often somebody connected.
    pub fn conversations(&self) -> usize {
        self.inner.conversations.available_permits()
    }

    async fn serve(&self, stream: TcpStream, act: Act, tls: Tls) -> Option<End> {
        match tls {
            Tls::None => self.talk(&mut BufReader::new(stream), act, true, false).await,
            Tls::AtOnce(acceptor) => {
                let stream = acceptor.accept(stream).await.ok()?;
                self.talk(&mut BufReader::new(stream), act, true, false).await
            }
            Tls::Starttls(acceptor) => {
                let mut stream = BufReader::new(stream);
                match self.talk(&mut stream, act, true, true).await? {
                    End::Over => None,
                    End::Starttls => {
                        let stream = acceptor.accept(stream.into_inner()).await.ok()?;
                        self.talk(&mut BufReader::new(stream), act, false, false).await
                    }
                }
            }
        }
    }

    /// Until the other side is gone or has said enough.
    async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut BufReader<S>,
        act: Act,
        greets: bool,
        starttls: bool,
    ) -> Option<End> {
        if greets {
            self.say(stream, act, At::Greeting, "220 mail.example.com ESMTP").await?;
        }
        let (mut hello, mut to) = (String::new(), String::new());
        loop {
            let line = line(stream).await?;
            let verb = line.get(..4).unwrap_or_default().to_uppercase();
            if verb == "EHLO" {
                hello = line.split_whitespace().nth(1).unwrap_or_default().to_owned();
            }
            match verb.as_str() {
                "EHLO" if starttls => write(stream, "250-mail.example.com\r\n250 STARTTLS").await?,
                "EHLO" => write(stream, "250-mail.example.com\r\n250-AUTH PLAIN LOGIN\r\n250 8BITMIME").await?,
                "STAR" => {
                    write(stream, "220 go on").await?;
                    return Some(End::Starttls);
                }
                "AUTH" => {
                    let is_known = line.trim_end() == "AUTH PLAIN AHNob3AAc2VjcmV0";
                    write(stream, if is_known { "235 welcome" } else { "535 who are you?" }).await?;
                }
                _ if starttls => write(stream, "530 STARTTLS first").await?,
                "MAIL" => self.say(stream, act, At::Sender, "250 sender ok").await?,
                "RCPT" => {
                    to = line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                    self.say(stream, act, At::Recipient, "250 recipient ok").await?;
                }
                "DATA" => {
                    self.say(stream, act, At::Data, "354 go on").await?;
                    if matches!(act, Act::Say(At::Data, _)) {
                        continue;
                    }
                    let mut text = String::new();
                    loop {
                        let mut line = String::new();
                        if stream.read_line(&mut line).await.ok()? == 0 {
                            return None;
                        }
                        if line == ".\r\n" {
                            break;
                        }
                        text.push_str(line.strip_prefix('.').unwrap_or(&line));
                    }
                    let refuses = matches!(act, Act::Say(At::End, _));
                    if !refuses {
                        self.inner.taken.lock().unwrap().push(Mail { hello: hello.clone(), to: to.clone(), text });
                    }
                    if matches!(act, Act::Swallow) {
                        return None;
                    }
                    // As some do, it names whom it is for.
                    let queued = format!("250 queued for <{to}>");
                    let twice = format!("{queued}\r\n{queued}");
                    self.say(stream, act, At::End, if matches!(act, Act::Twice) { &twice } else { &queued }).await?;
                }
                "QUIT" => {
                    write(stream, "221 bye").await?;
                    return Some(End::Over);
                }
                _ => write(stream, "502 not known here").await?,
            }
        }
    }

    async fn say<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut BufReader<S>,
        act: Act,
        at: At,
        usual: &str,
    ) -> Option<()> {
        let next = match act {
            Act::Say(when, what) if when == at => {
                write(stream, what).await?;
                Next::Go
            }
            Act::Hang(when) if when == at => {
                // Until the other side has had enough.
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
                Next::Stop
            }
            Act::Close(when) if when == at => Next::Stop,
            _ => {
                write(stream, usual).await?;
                Next::Go
            }
        };
        match next {
            Next::Go => Some(()),
            Next::Stop => None,
        }
    }
}

async fn line<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<String> {
    let mut line = String::new();
    (stream.read_line(&mut line).await.ok()? > 0).then_some(line)
}

async fn write<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufReader<S>, text: &str) -> Option<()> {
    stream.get_mut().write_all(format!("{text}\r\n").as_bytes()).await.ok()?;
    stream.get_mut().flush().await.ok()
}
