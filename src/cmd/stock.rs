//! `ruyi stock`: what is available.

use std::process::ExitCode;

use clap::Subcommand;
use futures_util::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Context, Usage, bulk};
use crate::client::{Api, Reply};
use crate::domain::id::Sku;

/// Arguments of `ruyi stock`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Set what is available of a SKU
    #[command(after_help = "Example:\n  ruyi stock set TEA-1 1000")]
    Set(Set),
    /// Print the stock of SKUs
    #[command(after_help = "Example:\n  ruyi stock get TEA-1 TEA-2")]
    Get(Get),
}

#[derive(Debug, clap::Args)]
struct Get {
    /// SKUs; - reads them from stdin, plain or as JSON lines with a sku
    #[arg(required = true)]
    sku: Vec<String>,
    #[command(flatten)]
    bulk: bulk::Parallel,
}

#[derive(Debug, clap::Args)]
struct Set {
    /// The SKU; - reads JSON lines {"sku":..,"available":..} from stdin
    sku: String,
    /// Pieces available
    #[arg(value_name = "QTY", value_parser = clap::value_parser!(i64).range(0..))]
    available: Option<i64>,
    #[command(flatten)]
    dry: bulk::DryRun,
    #[command(flatten)]
    bulk: bulk::Parallel,
}

#[derive(Deserialize)]
struct Line {
    sku: Sku,
    available: i64,
}

#[derive(Serialize)]
struct Body {
    available: i64,
}

/// Runs `ruyi stock ...`.
///
/// # Errors
/// The input or output fails; items that fail only make the exit code 1.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let api = &bulk::api(context)?;
    match args.command {
        Command::Get(args) => {
            bulk::run(context, bulk::from_args(&args.sku)?, args.bulk.concurrency(), |line| async move {
                Ok(api.stock(&sku_of(&line.text)?).await?)
            })
            .await
        }
        Command::Set(args) => {
            let lines = match (args.sku.as_str(), args.available) {
                ("-", None) => bulk::from_args(std::slice::from_ref(&args.sku))?,
                ("-", Some(_)) => return Err(Usage("with - the quantities come from stdin".to_owned()).into()),
                (_, None) => return Err(Usage("say how many: ruyi stock set SKU QTY".to_owned()).into()),
                (sku, Some(available)) => {
                    let text = json!({"sku": sku, "available": available}).to_string();
                    stream::iter([Ok(bulk::Line { number: 1, text })]).boxed()
                }
            };
            let dry = args.dry.dry_run;
            bulk::run(context, lines, args.bulk.concurrency(), |line| set(api, line, dry)).await
        }
    }
}

async fn set(api: &Api, line: bulk::Line, dry: bool) -> anyhow::Result<Reply> {
    let Line { sku, available } = serde_json::from_str(&line.text)?;
    let body = &Body { available };
    if dry {
        return bulk::Planned { method: "PUT", path: format!("/stock/{sku}"), idempotency_key: None, body }.row();
    }
    Ok(api.put_stock(&sku, serde_json::to_vec(body)?).await?)
}

/// A SKU: plain, or the field `sku` of a JSON object.
///
/// # Errors
/// It is neither.
pub(super) fn sku_of(text: &str) -> anyhow::Result<Sku> {
    #[derive(Deserialize)]
    struct Named {
        sku: Sku,
    }
    let text = text.trim();
    if text.starts_with('{') {
        return Ok(serde_json::from_str::<Named>(text)?.sku);
    }
    Ok(text.parse()?)
}
