//! `docent import movielens|csv|adjacency|jsonl|users|items|generated`.

use crate::cli::Shared;
use crate::client::Cluster;
use crate::commands::generate::Size;
use crate::failure::{Failure, Result};
use crate::generate::world::World;
use crate::import::columns;
use crate::import::events::{Adjacency, Csv, Defaults, Dialect, Jsonl};
use crate::import::file::Input;
use crate::import::generated::{self, GeneratedEvents};
use crate::import::pipeline::{self, Options};
use crate::import::report::Report;
use crate::import::things;
use crate::import::time::{self, Unit};
use docent_runtime::{Clock, SystemClock};
use docent_types::limits::BATCH_MAX;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Flags of `docent import`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    source: Source,
    /// Rejected lines that do not spoil the exit code
    #[arg(long, global = true, default_value_t = 0)]
    max_errors: u64,
    /// Write every rejected line as file:line: field: reason
    #[arg(long, global = true, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Records of a batch, 1 to 10000
    #[arg(long, global = true, default_value_t = 5_000)]
    batch: usize,
    /// Batches in flight, 1 to 64
    #[arg(long, global = true, default_value_t = 4)]
    parallel: usize,
    /// How long a batch is tried again while the cluster does not take it
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 120)]
    patience: u64,
}

#[derive(Debug, clap::Subcommand)]
enum Source {
    /// A MovieLens directory: movies.csv as items, ratings.csv as events
    Movielens {
        /// The directory
        dir: PathBuf,
    },
    /// Events of a delimited file: user_id, item_id and optionally event_id, timestamp, type, value, session_id, ...
    Csv {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        form: Form,
        /// Columns to keep as context of the event
        #[arg(long, value_delimiter = ',', value_name = "COLUMN,...")]
        context: Vec<String>,
        #[command(flatten)]
        events: EventFlags,
    },
    /// Events of an adjacency list: lines `user item item ...`
    Adjacency {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        events: EventFlags,
    },
    /// Events of a file with a JSON object a line, as in POST /v1/events
    Jsonl {
        /// The file
        file: PathBuf,
        #[command(flatten)]
        events: EventFlags,
    },
    /// Users: CSV (user_id, every other column an attribute) or JSON lines
    Users {
        /// The file; .jsonl, .ndjson and .json are JSON lines, the rest CSV
        file: PathBuf,
        #[command(flatten)]
        form: Form,
    },
    /// Items: CSV (item_id, title, categories separated by |, description, published, others attributes) or JSON lines
    Items {
        /// The file; .jsonl, .ndjson and .json are JSON lines, the rest CSV
        file: PathBuf,
        #[command(flatten)]
        form: Form,
    },
    /// A generated data set, as `docent generate` writes it
    Generated(Size),
}

/// How a delimited file is read.
#[derive(Debug, clap::Args)]
struct Form {
    /// Which column is which field, by name or by number from 1: --map user_id=uid,item_id=3
    #[arg(long, value_delimiter = ',', value_parser = columns::parse_map, value_name = "FIELD=COLUMN,...")]
    map: Vec<(String, String)>,
    /// Between fields; "\t" is a tab
    #[arg(long, default_value = ",")]
    delimiter: String,
    /// The first line is data; --map gives column numbers
    #[arg(long)]
    no_header: bool,
}

/// What holds for every event of a file.
#[derive(Debug, clap::Args)]
struct EventFlags {
    /// Type of events that have none [default: rating where a rating column is the value, else view]
    #[arg(long = "type", value_name = "TYPE", default_value = "", hide_default_value = true)]
    event_type: String,
    /// Time of events that have none, RFC 3339 or a number as in the file [default: when the file was last written]
    #[arg(long)]
    timestamp: Option<String>,
    /// Unit of numeric times; auto: below 100,000,000,000 seconds since 1970, from there on milliseconds
    #[arg(long, value_enum, default_value_t)]
    timestamp_unit: Unit,
}

impl EventFlags {
    fn defaults(&self) -> Result<Defaults> {
        let parse = |text: &String| {
            time::parse(text, self.timestamp_unit).map_err(|why| Failure::usage(format!("--timestamp: {why}")))
        };
        let timestamp_ms = self.timestamp.as_ref().map(parse).transpose()?;
        Ok(Defaults { timestamp_ms, unit: self.timestamp_unit, ..defaults(&self.event_type) })
    }
}

fn defaults(event_type: &str) -> Defaults {
    let now_ms = SystemClock::default().now_ms();
    Defaults { event_type: event_type.to_owned(), timestamp_ms: None, unit: Unit::Auto, now_ms }
}

impl Form {
    fn dialect(&self, context: &[String]) -> Result<Dialect> {
        let delimiter = match self.delimiter.as_str() {
            "\\t" | "tab" => '\t',
            text => match (text.chars().next(), text.chars().count()) {
                (Some(c), 1) if !matches!(c, '"' | '\n' | '\r') => c,
                _ => return Err(Failure::usage(format!("--delimiter {text:?}: must be one character"))),
            },
        };
        Ok(Dialect { delimiter, has_header: !self.no_header, map: self.map.clone(), context: context.to_vec() })
    }
}

/// Imports a source; prints the summary.
pub async fn run(shared: &Shared, args: &Args) -> Result<()> {
    for (flag, value, max) in [("--batch", args.batch, BATCH_MAX), ("--parallel", args.parallel, 64)] {
        if !(1..=max).contains(&value) {
            return Err(Failure::usage(format!("{flag} {value}: must be 1 to {max}")));
        }
    }
    let options = Options { batch: args.batch, parallel: args.parallel, patience: Duration::from_secs(args.patience) };
    let to = &shared.cluster()?;
    let mut report = Report::new(args.max_errors, args.rejects.as_deref())?;
    feed(&args.source, to, options, &mut report).await?;
    report.finish(shared.output)
}

async fn feed(source: &Source, to: &Cluster, options: Options, report: &mut Report) -> Result<()> {
    match source {
        Source::Movielens { dir } => movielens(to, dir, options, report).await?,
        Source::Generated(size) => generated(to, size.world()?, options, report).await?,
        Source::Csv { file, form, context, events } => {
            let source = Csv::open(Input::open(file)?, &form.dialect(context)?, events.defaults()?)?;
            pipeline::run("events", source, to, options, report).await?;
        }
        Source::Adjacency { file, events } => {
            let source = Adjacency::open(Input::open(file)?, events.defaults()?)?;
            pipeline::run("events", source, to, options, report).await?;
        }
        Source::Jsonl { file, events } => {
            let source = Jsonl::open(Input::open(file)?, events.defaults()?)?;
            pipeline::run("events", source, to, options, report).await?;
        }
        Source::Users { file, form } => {
            let input = Input::open(file)?;
            let source =
                if is_jsonl(file) { things::users_jsonl(input) } else { things::users_csv(input, &form.dialect(&[])?) };
            pipeline::run("users", source?, to, options, report).await?;
        }
        Source::Items { file, form } => {
            let input = Input::open(file)?;
            let source =
                if is_jsonl(file) { things::items_jsonl(input) } else { things::items_csv(input, &form.dialect(&[])?) };
            pipeline::run("items", source?, to, options, report).await?;
        }
    }
    Ok(())
}

fn is_jsonl(path: &Path) -> bool {
    path.extension().is_some_and(|ext| ["jsonl", "ndjson", "json"].iter().any(|known| ext.eq_ignore_ascii_case(known)))
}

/// Imports a MovieLens directory: items first, so that no item is a stub for long.
pub async fn movielens(to: &Cluster, dir: &Path, options: Options, report: &mut Report) -> Result<()> {
    if !dir.is_dir() {
        return Err(Failure::usage(format!("{} is not a directory", dir.display())));
    }
    let open = |name: &str| {
        Input::open(&dir.join(name)).map_err(|failure| {
            failure.advise(
                "a MovieLens directory holds ratings.csv and movies.csv; for other files see `docent import --help`",
            )
        })
    };
    // Both files first: a directory that lacks one is refused before anything is imported.
    let (movies, ratings) = (open("movies.csv")?, open("ratings.csv")?);
    pipeline::run("items", things::movies(movies)?, to, options, report).await?;
    let ratings = Csv::open(ratings, &Dialect::default(), defaults("rating"))?;
    pipeline::run("events", ratings, to, options, report).await
}

/// Imports a generated data set.
pub async fn generated(to: &Cluster, world: Arc<World>, options: Options, report: &mut Report) -> Result<()> {
    pipeline::run("items", generated::items(Arc::clone(&world)), to, options, report).await?;
    pipeline::run("users", generated::users(Arc::clone(&world)), to, options, report).await?;
    pipeline::run("events", GeneratedEvents::new(world), to, options, report).await
}
