//! `ruyi order create`: one order from flags, or one per line.

use std::path::PathBuf;
use std::process::ExitCode;

use futures_util::stream::{self, StreamExt};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::client::{Api, Reply};
use crate::cmd::{Context, Usage, bulk};
use crate::config::Millis;
use crate::domain::id::Sku;

/// Fields of a line that belong to the request; the others are somebody else's.
const BODY_FIELDS: [&str; 8] =
    ["userId", "items", "remark", "address", "channelId", "couponId", "holdSeconds", "payWithinSeconds"];
/// The field that becomes the header.
const KEY_FIELD: &str = "idempotencyKey";

/// Arguments of `ruyi order create`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  ruyi order create --user 1001 --item TEA-1=2\n  ruyi order create orders.jsonl | ruyi payment pay -"
)]
pub struct Args {
    /// One order per line: the body of POST /orders, and idempotencyKey if you have one; - is stdin
    #[arg(value_name = "FILE", conflicts_with_all = ["user", "items"])]
    file: Option<PathBuf>,
    /// Who orders
    #[arg(long, value_name = "ID", value_parser = super::user_id, requires = "items")]
    user: Option<i64>,
    /// What is ordered; may be repeated
    #[arg(long = "item", value_name = "SKU=QTY", value_parser = item, requires = "user")]
    items: Vec<(Sku, i64)>,
    /// Remark of the customer
    #[arg(long, requires = "user")]
    remark: Option<String>,
    /// Where to send it
    #[arg(long, requires = "user")]
    address: Option<String>,
    /// Time to pay, in whole seconds [default: order.timeout.after of the server]
    #[arg(long, value_name = "TIME", requires = "user")]
    pay_within: Option<Millis>,
    /// Idempotency key of this order [default: a new one]
    #[arg(long, value_name = "KEY", requires = "user")]
    key: Option<String>,
    #[command(flatten)]
    dry: bulk::DryRun,
    #[command(flatten)]
    bulk: bulk::Parallel,
}

fn item(text: &str) -> Result<(Sku, i64), String> {
    let (sku, quantity) = text.split_once('=').unwrap_or((text, "1"));
    let quantity = quantity.parse().map_err(|_| format!("{quantity:?} is not a quantity"))?;
    Ok((sku.parse().map_err(|error: crate::domain::id::ParseError| error.to_string())?, quantity))
}

/// Runs `ruyi order create`.
///
/// # Errors
/// Neither a file nor an order is given; the input or output fails.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let api = &bulk::api(context)?;
    let run_id = &format!("{}-{}", context.clock.now_ms(), std::process::id());
    let lines = match (&args.file, args.user) {
        (Some(file), _) => bulk::from_file(file)?,
        (None, Some(user)) => {
            let text = from_flags(&args, user).to_string();
            stream::iter([Ok(bulk::Line { number: 1, text })]).boxed()
        }
        (None, None) => return Err(Usage("give --user and --item, or a FILE, or - for stdin".to_owned()).into()),
    };
    let dry = args.dry.dry_run;
    bulk::run(context, lines, args.bulk.concurrency(), |line| one(api, line, run_id, dry)).await
}

fn from_flags(args: &Args, user: i64) -> Value {
    let items: Vec<Value> =
        args.items.iter().map(|(sku, quantity)| json!({"sku": sku.to_string(), "quantity": quantity})).collect();
    let mut order =
        Map::from_iter([("userId".to_owned(), user.to_string().into()), ("items".to_owned(), items.into())]);
    let optional = [
        ("remark", args.remark.clone().map(Value::from)),
        ("address", args.address.clone().map(Value::from)),
        ("payWithinSeconds", args.pay_within.map(|time| Value::from(time.ms() / 1000))),
        (KEY_FIELD, args.key.clone().map(Value::from)),
    ];
    order.extend(optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    order.into()
}

async fn one(api: &Api, line: bulk::Line, run_id: &str, dry: bool) -> anyhow::Result<Reply> {
    let mut fields = bulk::object_of(&line.text)?;
    let key = match fields.remove(KEY_FIELD) {
        Some(Value::String(key)) => key,
        Some(_) => anyhow::bail!("{KEY_FIELD} is not a string"),
        None => generated_key(run_id, &line),
    };
    fields.retain(|name, _| BODY_FIELDS.contains(&name.as_str()));
    if dry {
        let path = "/orders".to_owned();
        return bulk::Planned { method: "POST", path, idempotency_key: Some(&key), body: &fields }.row();
    }
    Ok(api.create_order(serde_json::to_vec(&fields)?, &key).await?)
}

/// The same for every try of this line in this run, and for nothing else.
fn generated_key(run_id: &str, line: &bulk::Line) -> String {
    let hash = Sha256::digest(format!("{run_id}\n{}\n{}", line.number, line.text));
    hex::encode(hash.get(..16).unwrap_or(&hash))
}
