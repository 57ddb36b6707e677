//! The command line. One module per subcommand, each with `Args` and `run`; its path is the command line.

pub mod audit;
mod body;
pub mod bulk;
pub mod check;
pub mod completion;
pub mod config;
pub mod confirm;
mod csv_file;
pub mod db;
pub mod delivery;
pub mod demo;
pub mod doctor;
mod exit;
pub mod healthcheck;
mod import;
pub mod journal;
pub mod man;
pub mod mq;
pub mod order;
mod pace;
mod parts;
pub mod payment;
pub mod product;
pub mod schemas;
pub mod serve;
pub mod stock;
pub mod trace;
pub mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use exit::{Failed, Helped, Usage, WithHelp, conclude};

use crate::clock::Clock;
use crate::config::{Config, ConfigError, Sources};
use crate::db::pace::Pace;
use crate::output::{Format, Output};
use crate::telemetry::{SILENT, Verbosity};

/// Orders, stock, payments and notifications on RocketMQ with exactly-once effects; and a tool for any RocketMQ cluster.
#[derive(Debug, Parser)]
#[command(name = "ruyi", version, max_term_width = 100, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.\nSettings: --set > RUYI_SECTION__KEY > file > defaults; `ruyi config show` prints them."
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Configuration file [env: RUYI_CONFIG] [default: ./ruyi.toml, if there is one]
    #[arg(long, global = true, value_name = "PATH")]
    config: Option<PathBuf>,

    /// Override one setting, for example mq.queues=8; may be repeated
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    sets: Vec<String>,

    /// How results are written [default: table on a terminal, jsonl elsewhere]
    #[arg(long, short, global = true, value_enum)]
    output: Option<Format>,

    /// Log more (-v debug, -vv everything)
    #[arg(long, short, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,

    /// Log errors only (-qq: nothing)
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    quiet: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run roles until the process is told to stop
    Serve(serve::Args),
    /// Do background work until the process is told to stop
    Worker(worker::Args),
    /// Check that every order, payment, piece of stock and message is where it belongs
    Audit(audit::Args),
    /// Tell what happened to an order, a payment or an event
    Trace(trace::Args),
    /// Place, look at, cancel and wait for orders
    Order(order::Args),
    /// Pay orders
    Payment(payment::Args),
    /// Look at and set stock
    Stock(stock::Args),
    /// Look at and set products
    Product(product::Args),
    /// Look at outgoing calls, make them once more, take them back
    Delivery(delivery::Args),
    /// Start everything in this process, put a thousand orders through it, and prove that all is well
    Demo(demo::Args),
    /// Look at brokers, databases, Redis and the configuration, and say what is wrong
    Doctor(doctor::Args),
    /// Answer one question for a monitoring system
    Check(check::Args),
    /// Ask a URL whether it is well, for containers
    Healthcheck(healthcheck::Args),
    /// Inspect the configuration
    Config(config::Args),
    /// Operate topics, offsets and brokers of any RocketMQ cluster
    Mq(mq::Args),
    /// Look after the tables
    Db(db::Args),
    /// Print what a shell needs to complete the commands and their options
    Completion(completion::Args),
    /// Print manual pages, or write them into a directory
    Man(man::Args),
}

/// What every subcommand is given.
#[derive(Clone, Debug)]
pub struct Context {
    /// The effective configuration.
    pub config: Config,
    /// `--output`, if it was given.
    pub asked_output: Option<Format>,
    /// The machine's clock.
    pub clock: Clock,
}

impl Context {
    /// The format of results.
    #[must_use]
    pub fn format(&self) -> Format {
        Format::or_default(self.asked_output)
    }

    /// Rows to stdout in that format.
    #[must_use]
    pub fn output(&self) -> Output {
        Output::stdout(self.format())
    }
}

impl Cli {
    /// Reads the command line. `--help`, `--version` and wrong usage end the process (0, 0, 2).
    #[must_use]
    pub fn of_process() -> Self {
        let args: Vec<_> = std::env::args_os().collect();
        let matches = Self::command().try_get_matches_from(&args);
        let cli = matches.and_then(|matches| Self::from_arg_matches(&matches));
        let cli = cli.unwrap_or_else(|error| check::exit_with(&error, &args));
        // clap forgets a repeated global option given before the subcommand when it is given after it, too.
        let given = args.iter().take_while(|arg| *arg != "--").filter(|arg| is_set(&arg.to_string_lossy())).count();
        if given != cli.global.sets.len() {
            let text = "give all --set options in one place: before the subcommand or after it";
            check::exit_with(&Self::command().error(clap::error::ErrorKind::ArgumentConflict, text), &args);
        }
        cli
    }

    /// Loads the configuration that the command line asks for.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load_config(&self) -> Result<Config, ConfigError> {
        Config::load(&Sources::of_process(self.global.config.clone(), self.global.sets.clone())?)
    }

    /// The check that is asked for: its errors have an exit code of their own.
    #[must_use]
    pub fn plugin(&self) -> Option<check::Plugin> {
        match &self.command {
            Command::Check(args) => Some(args.plugin(self.global.output)),
            _ => None,
        }
    }

    /// `-v` and `-q`. The demo, which refuses and gives up much on purpose, says nothing unless it is asked.
    #[must_use]
    pub fn verbosity(&self) -> Verbosity {
        let asked = self.global.verbose > 0 || self.global.quiet > 0;
        if matches!(self.command, Command::Demo(_)) && !asked {
            return SILENT;
        }
        let count = |n: u8| Verbosity::try_from(n).unwrap_or(Verbosity::MAX);
        count(self.global.verbose) - count(self.global.quiet)
    }

    /// Runs a subcommand that needs neither configuration nor logs; `None` when it is another one.
    #[must_use]
    pub fn run_alone(&self) -> Option<anyhow::Result<ExitCode>> {
        match &self.command {
            Command::Completion(args) => Some(completion::run(args)),
            Command::Man(args) => Some(man::run(args)),
            Command::Healthcheck(args) => Some(args.run_alone(|| self.load_config())),
            _ => None,
        }
    }

    /// Runs the subcommand.
    ///
    /// # Errors
    /// Whatever the subcommand could not do; [`conclude`] turns it into an exit code.
    pub async fn run(self, config: Config) -> anyhow::Result<ExitCode> {
        let context = Context { config, asked_output: self.global.output, clock: Clock::system() };
        match self.command {
            Command::Serve(args) => Box::pin(serve::run(&context, args)).await,
            Command::Worker(args) => Box::pin(worker::run(&context, args)).await,
            Command::Audit(args) => Pace::Tool.run(audit::run(&context, args)).await,
            Command::Trace(args) => Pace::Tool.run(Box::pin(trace::run(&context, args))).await,
            Command::Order(args) => order::run(&context, args).await,
            Command::Payment(args) => payment::run(&context, args).await,
            Command::Stock(args) => stock::run(&context, args).await,
            Command::Product(args) => product::run(&context, args).await,
            Command::Delivery(args) => Pace::Tool.run(Box::pin(delivery::run(&context, args))).await,
            Command::Demo(args) => Box::pin(demo::run(&context, args)).await,
            Command::Doctor(args) => Box::pin(doctor::run(&context, args)).await,
            Command::Check(args) => Box::pin(check::run(&context, args)).await,
            Command::Healthcheck(args) => args.run(|| Ok(context.config.clone())).await,
            Command::Config(args) => config::run(&context, args).await,
            Command::Mq(args) => Pace::Tool.run(Box::pin(mq::run(&context, args))).await,
            Command::Db(args) => Pace::Tool.run(db::run(&context, args)).await,
            Command::Completion(args) => completion::run(&args),
            Command::Man(args) => man::run(&args),
        }
    }
}

fn is_set(arg: &str) -> bool {
    arg == "--set" || arg.starts_with("--set=")
}
