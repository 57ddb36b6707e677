//! The databases of the roles.

use super::{Finding, Findings, clock};
use crate::cmd::Context;
use crate::config::SecretUrl;
use crate::db::look::{self, Settings};
use crate::db::{self, Db, DbError, migrate};
use crate::domain::event::Role;
use crate::fault::Faults;

pub(super) async fn look(context: &Context, url: &SecretUrl, roles: &[Role], findings: &Findings) {
    let names: Vec<&str> = roles.iter().map(|role| role.name()).collect();
    let subject = url.masked();
    let (text, whose) = (url.expose(), names.join(", "));
    let is_file = matches!(migrate::sqlite_file(text), Ok(Some(_)));
    if let Ok(Some(file)) = migrate::sqlite_file(text)
        && !file.exists()
    {
        let message = format!("there is no file yet; the first start of a role ({whose}) makes it");
        findings.add(Finding::info("database.schema", subject, message));
        return;
    }
    match migrate::pending(text).await {
        Ok(missing) if missing.is_empty() => {
            let message = format!("its schema is up to date (version {}) for {whose}", migrate::newest());
            findings.add(Finding::ok("database.schema", &subject, message));
        }
        Ok(missing) => {
            let steps: Vec<String> = missing.iter().map(|step| format!("{} {}", step.version, step.name)).collect();
            let message = format!("its schema lacks {} steps", missing.len());
            // Whoever starts on a file migrates it; a server's schema is changed on purpose only.
            let make = if is_file { Finding::warning } else { Finding::error };
            let finding = make("database.schema", subject, message).seen(steps.join(", "));
            findings.add(finding.fix("run `ruyi db migrate`"));
            return;
        }
        Err(error @ DbError::Migrate(_)) => {
            let message = "its schema is not one that this program can use";
            let fix = "use the ruyi that migrated it, or a newer one";
            findings.add(Finding::error("database.newer", subject, message).seen(error.to_string()).fix(fix));
            return;
        }
        Err(error) => {
            let message = format!("it cannot be reached, and {whose} cannot work without it");
            let evidence = format!("{:#}", anyhow::Error::new(error));
            let fix = "check database.url and database.roles (host, port, user, password, name), and that it runs";
            findings.add(Finding::error("database.connect", subject, message).seen(evidence).fix(fix));
            return;
        }
    }
    let options =
        db::Options { url: text.to_owned(), max_connections: 1, clock: context.clock.clone(), faults: Faults::none() };
    let looked = async {
        let db = Db::open(&options).await?;
        open(context, &db, &subject, findings).await
    };
    if let Err(error) = looked.await {
        let message = "it could not be looked at";
        let fix = "see whether it is overloaded, or refuses this user";
        findings.add(Finding::error("database.connect", subject, message).seen(error.to_string()).fix(fix));
    }
}

async fn open(context: &Context, db: &Db, subject: &str, findings: &Findings) -> Result<(), DbError> {
    let mut conn = db.read().await?;
    let version = look::version(&mut conn).await?;
    findings.add(Finding::ok("database.connect", subject, format!("{version} answers")));
    let before = context.clock.now_ms();
    if let Some(theirs) = look::now_ms(&mut conn).await? {
        findings.add(clock::compare(subject, theirs, before, context.clock.now_ms(), 1));
    }
    match look::may_write(&mut conn).await {
        Ok(()) => findings.add(Finding::ok("database.permission", subject, "rows may be read and written")),
        Err(error) => {
            let fix = "GRANT SELECT, INSERT, UPDATE, DELETE ON <database>.* to its user, and see that the server is not \
                       read-only (a replica?)";
            let message = "rows cannot be written";
            findings.add(Finding::error("database.permission", subject, message).seen(error.to_string()).fix(fix));
        }
    }
    if let Ok(Some(settings)) = look::settings(&mut conn).await {
        for finding in judge(subject, &settings, context) {
            findings.add(finding);
        }
    }
    Ok(())
}

fn judge(subject: &str, settings: &Settings, context: &Context) -> Vec<Finding> {
    let mut found = Vec::new();
    let largest = i64::try_from(context.config.mq.producer.max_message.bytes()).unwrap_or(i64::MAX);
    if settings.max_packet < largest {
        let message = "it refuses rows that hold the largest messages";
        let seen = format!("max_allowed_packet {} < mq.producer.max_message {largest}", settings.max_packet);
        let fix = format!("SET GLOBAL max_allowed_packet = {} (and in its configuration)", largest.saturating_mul(2));
        found.push(Finding::error("database.packet", subject, message).seen(seen).fix(fix));
    }
    if settings.flush_at_commit != 1 {
        let message = "a crash of its machine loses what it had acknowledged";
        let seen = format!("innodb_flush_log_at_trx_commit {}", settings.flush_at_commit);
        let fix = "SET GLOBAL innodb_flush_log_at_trx_commit = 1 (and in its configuration)";
        found.push(Finding::warning("database.durability", subject, message).seen(seen).fix(fix));
    }
    let wanted = i64::from(context.config.database.max_connections);
    if settings.max_connections < wanted {
        let message = "it takes fewer connections than one process opens";
        let seen = format!("max_connections {} < database.max_connections {wanted}", settings.max_connections);
        let fix = "raise max_connections on the server, or lower database.max_connections";
        found.push(Finding::error("database.connections", subject, message).seen(seen).fix(fix));
    }
    found
}
