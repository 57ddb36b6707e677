//! `ruyi product`: what is sold, and for how much.

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
use crate::domain::money::Money;

/// Arguments of `ruyi product`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add or change a product
    #[command(after_help = "Example:\n  ruyi product set TEA-1 --name \"Longjing tea\" --price 59.80")]
    Set(Set),
    /// Add or change the products of a CSV file: columns sku, name, price, and where wanted currency, active
    #[command(
        after_help = "Examples:\n  ruyi product import products.csv --dry-run\n  ruyi product import - < export.csv"
    )]
    Import(ImportArgs),
    /// Print products
    #[command(after_help = "Example:\n  ruyi product get TEA-1")]
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
    /// The SKU; - reads JSON lines {"sku":..,"name":..,"price":..} from stdin
    sku: String,
    /// Name
    #[arg(long)]
    name: Option<String>,
    /// Price of one piece, for example 59.80
    #[arg(long)]
    price: Option<Money>,
    #[command(flatten)]
    dry: bulk::DryRun,
    #[command(flatten)]
    bulk: bulk::Parallel,
}

#[derive(Debug, clap::Args)]
struct ImportArgs {
    /// The file; - is stdin
    file: PathBuf,
    #[command(flatten)]
    dry: import::DryRun,
}

/// A line of the file, sent as it is.
#[derive(Serialize)]
struct Listed {
    sku: Sku,
    #[serde(flatten)]
    body: Body,
}

impl import::Row for Listed {
    const COLUMNS: &'static [&'static str] = &["sku", "name", "price"];
    const OPTIONAL: &'static [&'static str] = &["currency", "active"];

    fn read(field: impl Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let name = field("name").unwrap_or_default();
        anyhow::ensure!((1..=200).contains(&name.chars().count()), "name must have 1 to 200 characters");
        let active = match field("active").as_deref() {
            None => None,
            Some("true" | "1" | "yes") => Some(true),
            Some("false" | "0" | "no") => Some(false),
            Some(other) => anyhow::bail!("active is true or false, not {other:?}"),
        };
        let currency = field("currency");
        anyhow::ensure!(currency.as_deref().is_none_or(|currency| currency == "CNY"), "currency must be CNY");
        let price = field("price").unwrap_or_default().parse().context("price")?;
        Ok(Self { sku: field("sku").unwrap_or_default().parse()?, body: Body { name, price, currency, active } })
    }

    fn key(&self) -> &str {
        self.sku.as_str()
    }
}

#[derive(Deserialize)]
struct Line {
    sku: Sku,
    #[serde(flatten)]
    body: Body,
}

#[derive(Deserialize, Serialize)]
struct Body {
    name: String,
    price: Money,
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<bool>,
}

/// Runs `ruyi product ...`.
///
/// # Errors
/// The input or output fails; items that fail only make the exit code 1.
pub async fn run(context: &Context, args: Args) -> anyhow::Result<ExitCode> {
    let api = &bulk::api(context)?;
    match args.command {
        Command::Get(args) => {
            bulk::run(context, bulk::from_args(&args.sku)?, args.bulk.concurrency(), |line| async move {
                Ok(api.product(&super::stock::sku_of(&line.text)?).await?)
            })
            .await
        }
        Command::Import(args) => {
            import::run::<Listed, _>(context, &args.file, args.dry.dry_run, async |items| {
                Ok(api.put_products(serde_json::to_vec(&json!({"items": items}))?).await?)
            })
            .await
        }
        Command::Set(args) => {
            let lines = match (args.sku.as_str(), &args.name, args.price) {
                ("-", None, None) => bulk::from_args(std::slice::from_ref(&args.sku))?,
                ("-", ..) => return Err(Usage("with - names and prices come from stdin".to_owned()).into()),
                (sku, Some(name), Some(price)) => {
                    let text = json!({"sku": sku, "name": name, "price": price}).to_string();
                    stream::iter([Ok(bulk::Line { number: 1, text })]).boxed()
                }
                _ => return Err(Usage("give --name and --price, or - for JSON lines on stdin".to_owned()).into()),
            };
            let dry = args.dry.dry_run;
            bulk::run(context, lines, args.bulk.concurrency(), |line| set(api, line, dry)).await
        }
    }
}

async fn set(api: &Api, line: bulk::Line, dry: bool) -> anyhow::Result<Reply> {
    let Line { sku, body } = serde_json::from_str(&line.text)?;
    let body = &body;
    if dry {
        return bulk::Planned { method: "PUT", path: format!("/products/{sku}"), idempotency_key: None, body }.row();
    }
    Ok(api.put_product(&sku, serde_json::to_vec(body)?).await?)
}
