//! `docent generate`: a data set as files.

use crate::failure::{Failure, Result};
use crate::generate::events::Events;
use crate::generate::world::{Settings, World};
use crate::generate::write::{EventLines, Format};
use crate::import::generated;
use crate::import::row::Source;
use crate::json::write as form;
use crate::show::{self, Progress};
use crate::target::Target;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much to generate.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Size {
    /// Users
    #[arg(long, default_value_t = 2_000)]
    pub users: u64,
    /// Items
    #[arg(long, default_value_t = 1_000)]
    pub items: u64,
    /// Events
    #[arg(long, default_value_t = 60_000)]
    pub events: u64,
    /// Another seed is another data set
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
}

impl Size {
    /// The world of this size.
    pub fn world(&self) -> Result<Arc<World>> {
        let Size { users, items, events, seed } = *self;
        World::new(Settings { users, items, events, seed }).map(Arc::new)
    }
}

/// Flags of `docent generate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    size: Size,
    /// Where to write events, items and users; without it events go to stdout
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Form of the events
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Generates.
pub fn run(args: &Args) -> Result<()> {
    let world = args.size.world()?;
    let Some(dir) = &args.out else {
        return events(&world, args.format, Target::open(None)?);
    };
    std::fs::create_dir_all(dir).map_err(|error| Failure::io("create", dir, &error))?;
    lines(&dir.join("items.jsonl"), generated::items(Arc::clone(&world)), |item| form::item(item, false))?;
    lines(&dir.join("users.jsonl"), generated::users(Arc::clone(&world)), form::profile)?;
    let (name, import) = match args.format {
        Format::Jsonl => ("events.jsonl", "jsonl"),
        Format::Csv => ("events.csv", "csv"),
    };
    events(&world, args.format, Target::open(Some(&dir.join(name)))?)?;
    let dir = dir.display();
    show::note(format!(
        "wrote {dir}/items.jsonl, users.jsonl and {name}; import them with\n  docent import items {dir}/items.jsonl\n  \
         docent import users {dir}/users.jsonl\n  docent import {import} {dir}/{name}"
    ));
    Ok(())
}

fn lines<S: Source>(path: &Path, mut source: S, form: impl Fn(&S::Record) -> serde_json::Value) -> Result<()> {
    let mut target = Target::open(Some(path))?;
    while let Some(row) = source.next_row()? {
        if let Ok(record) = row.record {
            target.write(|out| writeln!(out, "{}", form(&record)))?;
        }
    }
    target.finish()
}

fn events(world: &Arc<World>, format: Format, mut target: Target) -> Result<()> {
    let mut lines = EventLines::new(format);
    let mut progress = Progress::new("generating", world.settings().events);
    for (n, event) in (1..).zip(Events::new(Arc::clone(world))) {
        target.write(|out| lines.write(out, &event))?;
        if n % 10_000 == 0 {
            progress.at(n, show::count(n));
        }
    }
    target.finish()
}
