//! `ruyi stock`: what is available.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use futures_util::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Context, Usage, bulk, import};
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
    /// Set what is available of the SKUs of a CSV file: columns sku, available
    #[command(
        after_help = "Examples:\n  ruyi stock import counted.csv --reason \"stocktaking of May\"\n  ruyi stock import - --reason wms --dry-run < export.csv"
    )]
    Import(ImportArgs),
    /// Change what is available of a SKU by so many pieces
    #[command(after_help = "Example:\n  ruyi stock adjust TEA-1 -3 --reason \"broken in the warehouse\"")]
    Adjust(Adjust),
    /// Print the movements of a SKU, the newest first
    #[command(after_help = "Example:\n  ruyi stock ledger TEA-1 --limit 50")]
    Ledger(Ledger),
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

#[derive(Debug, clap::Args)]
struct ImportArgs {
    /// The file; - is stdin
    file: PathBuf,
    /// Why; it stands in the ledger
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    dry: import::DryRun,
}

#[derive(Debug, clap::Args)]
struct Adjust {
    /// The SKU
    sku: Sku,
    /// Pieces more, or with - less
    #[arg(value_name = "BY", allow_hyphen_values = true)]
    change: i64,
    /// Why; it stands in the ledger
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    dry: bulk::DryRun,
}

#[derive(Debug, clap::Args)]
struct Ledger {
    /// The SKU
    sku: Sku,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

/// A line of the file, sent as it is.
#[derive(Deserialize, Serialize)]
struct Counted {
    sku: Sku,
    available: i64,
}

impl import::Row for Counted {
    const COLUMNS: &'static [&'static str] = &["sku", "available"];
    const OPTIONAL: &'static [&'static str] = &[];

    fn read(field: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let available: i64 = field("available").unwrap_or_default().parse().context("available is no whole number")?;
        anyhow::ensure!((0..=1_000_000_000).contains(&available), "available must be 0 to 1000000000");
        Ok(Self { sku: field("sku").unwrap_or_default().parse()?, available })
    }

    fn key(&self) -> &str {
        self.sku.as_str()
    }
}

#[derive(Serialize)]
struct AdjustBody<'a> {
    change: i64,
    reason: &'a str,
}

#[derive(Deserialize)]
struct Movements {
    items: Vec<Reply>,
    next: Option<String>,
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
        Command::Import(args) => {
            let reason = &args.reason;
            import::run::<Counted, _>(context, &args.file, args.dry.dry_run, async |items| {
                Ok(api.put_stocks(serde_json::to_vec(&json!({"items": items, "reason": reason}))?).await?)
            })
            .await
        }
        Command::Adjust(args) => adjust(context, api, &args).await,
        Command::Ledger(args) => ledger(context, api, &args).await,
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

async fn adjust(context: &Context, api: &Api, args: &Adjust) -> anyhow::Result<ExitCode> {
    let body = AdjustBody { change: args.change, reason: &args.reason };
    let mut output = context.output();
    if args.dry.dry_run {
        let path = format!("/stock/{}/adjust", args.sku);
        output.row(&bulk::Planned { method: "POST", path, idempotency_key: None, body: &body }.row()?)?;
    } else {
        output.row(&api.adjust_stock(&args.sku, serde_json::to_vec(&body)?).await?)?;
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
}

async fn ledger(context: &Context, api: &Api, args: &Ledger) -> anyhow::Result<ExitCode> {
    let mut output = context.output();
    let (mut left, mut before) = (args.limit, None::<String>);
    while left > 0 {
        let page = api.ledger(&args.sku, left.min(200), before.as_deref()).await?;
        let page: Movements = serde_json::from_str(page.get())?;
        for row in page.items.iter().take(left) {
            output.row(row)?;
        }
        left = left.saturating_sub(page.items.len());
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    output.finish()?;
    Ok(ExitCode::SUCCESS)
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
