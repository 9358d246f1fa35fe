//! `docent generate`: a data set as files.

use crate::failure::{Failure, Result};
use crate::generate::events::Events;
use crate::generate::world::{Settings, World};
use crate::generate::write::{EventWriter, Format, whole_file};
use crate::json::write as form;
use crate::show::{self, Progress};
use std::io::Write;
use std::path::PathBuf;
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
        let out = std::io::BufWriter::new(std::io::stdout().lock());
        return match events(&world, args.format, out) {
            // `docent generate | head` has what it wants.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Failure::failed(format!("cannot write events: {error}")))
            }
            _ => Ok(()),
        };
    };
    std::fs::create_dir_all(dir).map_err(|error| Failure::io("create", dir, &error))?;
    whole_file(&dir.join("items.jsonl"), |out| {
        (0..args.size.items).try_for_each(|rank| {
            let rank = u32::try_from(rank).expect("the world checked the number of items");
            writeln!(out, "{}", form::item(&world.item(rank), false))
        })
    })?;
    whole_file(&dir.join("users.jsonl"), |out| {
        (0..args.size.users).try_for_each(|user| writeln!(out, "{}", form::profile(&world.profile(user))))
    })?;
    let name = match args.format {
        Format::Jsonl => "events.jsonl",
        Format::Csv => "events.csv",
    };
    whole_file(&dir.join(name), |out| events(&world, args.format, out))?;
    let import = match args.format {
        Format::Jsonl => "jsonl",
        Format::Csv => "csv",
    };
    let dir = dir.display();
    show::note(format!(
        "wrote {dir}/items.jsonl, users.jsonl and {name}; import them with\n  docent import items {dir}/items.jsonl\n  \
         docent import users {dir}/users.jsonl\n  docent import {import} {dir}/{name}"
    ));
    Ok(())
}

fn events(world: &Arc<World>, format: Format, out: impl Write) -> std::io::Result<()> {
    let mut writer = EventWriter::new(out, format)?;
    let mut progress = Progress::new("generating", world.settings().events);
    for (n, event) in (1..).zip(Events::new(Arc::clone(world))) {
        writer.write(&event)?;
        if n % 10_000 == 0 {
            progress.at(n, show::count(n));
        }
    }
    writer.finish().map(drop)
}
