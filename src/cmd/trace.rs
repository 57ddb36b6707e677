//! `ruyi trace`: what happened to one order, payment or event, from all tables and brokers, as one story.

mod copies;
mod effects;
mod messages;
mod step;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;

pub(in crate::cmd) use step::Row;

use self::messages::Messages;
use self::step::Story;
use super::{Context, WithHelp, audit};
use crate::audit::RoleDbs;
use crate::db::DbError;
use crate::db::trace::{self as facts, By};
use crate::domain::id::parse_id;
use crate::output::Format;

/// Arguments of `ruyi trace`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    /// Do not look for the copies on the brokers
    #[arg(long, global = true)]
    no_broker: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// What happened to an order: states, events, who handled them, calls, money, stock, points; and what is missing
    ///
    /// Times are those of the processes that wrote them, and of the brokers: where clocks differ, steps may be out of
    /// order. Brokers that are away are told on stderr, and left out.
    #[command(
        after_help = "Examples:\n  ruyi trace order 382402245859213314\n  ruyi trace order 382402245859213314 --output jsonl | jq -r 'select(.missing) | .what'"
    )]
    Order {
        /// Id of the order
        #[arg(value_parser = id)]
        id: i64,
    },
    /// What happened to the order of a payment
    #[command(after_help = "Example:\n  ruyi trace payment 382402245859213399")]
    Payment {
        /// Id of the payment
        #[arg(value_parser = id)]
        id: i64,
    },
    /// What happened to one event: when it was written and sent, where it lies, who handled it
    #[command(after_help = "Example:\n  ruyi trace event 382402245859213314:ORDER_CREATED")]
    Event {
        /// Id of the event
        id: String,
    },
}

fn id(text: &str) -> Result<i64, String> {
    parse_id("the id", text).map_err(|error| error.to_string())
}

/// Runs `ruyi trace ...`.
///
/// # Errors
/// A database cannot be read, or nothing is known of it.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let dbs = audit::open(context).await?;
    let story = gather(context, &args, &dbs).await;
    dbs.close().await;
    let mut story = story?;
    let mut output = context.output();
    match context.format() {
        Format::Table => output.text(&story.text())?,
        Format::Json | Format::Jsonl => {
            for row in story.rows() {
                output.row(&row)?;
            }
        }
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}

async fn gather(context: &Context, args: &Args, dbs: &RoleDbs) -> anyhow::Result<Story> {
    const CANNOT: &str = "cannot read the databases";
    let now_ms = context.clock.now_ms();
    let (mut story, messages) = match &args.command {
        Command::Order { id } => of_order(dbs, *id, now_ms).await.context(CANNOT)?,
        Command::Payment { id } => {
            let order_id = order_of(dbs, *id).await.context(CANNOT)?;
            let missing = || anyhow::anyhow!("there is no payment {id}");
            let order_id = order_id.ok_or_else(missing).help("`ruyi trace order` takes the id of its order")?;
            of_order(dbs, order_id, now_ms).await.context(CANNOT)?
        }
        Command::Event { id } => {
            let messages = Messages::of_event(dbs, id).await.context(CANNOT)?;
            let mut story = Story { title: format!("event {id}"), ..Story::default() };
            messages.tell(&mut story, now_ms);
            (story, messages)
        }
    };
    if !args.no_broker
        && let Err(error) = copies::tell(context, &messages, &mut story).await
    {
        writeln!(std::io::stderr(), "where the events lie on the brokers is not known: {error:#}")?;
    }
    if story.is_empty() {
        let nothing: anyhow::Result<()> = Err(anyhow::anyhow!("nothing is known of {}", story.title));
        nothing
            .help("ids are as `ruyi order list` and `ruyi mq outbox list` print them; rows are kept for retention.*")?;
    }
    Ok(story)
}

async fn order_of(dbs: &RoleDbs, payment_id: i64) -> Result<Option<i64>, DbError> {
    let mut conn = dbs.payment.read().await?;
    Ok(facts::payment(&mut conn, By::Id(payment_id)).await?.map(|payment| payment.order_id))
}

async fn of_order(dbs: &RoleDbs, id: i64, now_ms: i64) -> Result<(Story, Messages), DbError> {
    let mut story = Story { title: format!("order {id}"), ..Story::default() };
    effects::tell(dbs, id, &mut story).await?;
    let messages = Messages::of_key(dbs, &id.to_string()).await?;
    messages.tell(&mut story, now_ms);
    Ok((story, messages))
}
