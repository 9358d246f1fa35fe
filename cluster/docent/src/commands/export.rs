//! `docent export events|items|vectors|recommendations`.

use crate::cli::Shared;
use crate::client::{self, Client, Cluster, Repeat};
use crate::failure::{Failure, Result};
use crate::generate::write::{EventLines, Format};
use crate::json;
use crate::show::{self, Progress};
use crate::target::Target;
use docent_proto::v1;
use std::path::PathBuf;
use std::time::Duration;
use tonic::Streaming;

/// A page takes longer than a call: all of a user shard may be scored for it.
const PAGE_WITHIN: Duration = Duration::from_secs(300);

/// Flags of `docent export`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
    /// The file to write, complete or not at all; stdout if left out
    #[arg(long, global = true, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Every kept event, in the form that `docent import jsonl` (or csv) reads
    Events {
        /// Form of a line [default: by the file's extension, else jsonl]
        #[arg(long, value_enum)]
        format: Option<Format>,
    },
    /// Every item, in the form that `docent import items` reads
    Items,
    /// Vectors of a model version, a line each: {"id": ..., "values": [...]}; every value reads back as the same f32
    Vectors {
        /// Whose
        #[arg(long, value_enum, default_value_t)]
        of: Keyspace,
        /// The model version [default: the live one]
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        version: u64,
    },
    /// The top n of every user that the model knows, a line each: user<TAB>item item ...
    Recommendations {
        /// Items a user, 1 to 1000
        #[arg(short, default_value_t = 20)]
        n: u32,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Keyspace {
    /// Users' vectors
    Users,
    /// Items' vectors
    #[default]
    Items,
}

/// Exports; the number of lines goes to stderr.
pub async fn run(shared: &Shared, args: &Args) -> Result<()> {
    let cluster = shared.cluster()?;
    let mut target = Target::open(args.out.as_deref())?;
    let lines = match &args.what {
        What::Events { format } => {
            let is_csv = args.out.as_ref().and_then(|path| path.extension()).is_some_and(|ext| ext == "csv");
            let format = format.unwrap_or(if is_csv { Format::Csv } else { Format::Jsonl });
            events(&cluster, format, &mut target).await?
        }
        What::Items => items(&cluster, &mut target).await?,
        What::Vectors { of, version } => vectors(&cluster, *of, *version, &mut target).await?,
        What::Recommendations { n } => recommendations(&cluster, *n, &mut target).await?,
    };
    let name = target.name();
    target.finish()?;
    show::note(format!("wrote {} to {name}", show::plural(lines, "line")));
    Ok(())
}

/// Calls `each` with every page and shows how far it is; `each` gives the lines it wrote.
async fn pages<P>(mut stream: Streaming<P>, mut each: impl FnMut(P) -> Result<u64>) -> Result<u64> {
    let mut progress = Progress::new("exporting", 0);
    let mut lines = 0;
    loop {
        let next = tokio::time::timeout(PAGE_WITHIN, stream.message()).await;
        let next =
            next.map_err(|_| Failure::unreachable(format!("no page came within {} s", PAGE_WITHIN.as_secs())))?;
        match next {
            Ok(Some(page)) => lines += each(page)?,
            Ok(None) => return Ok(lines),
            Err(status) => {
                let error = docent_proto::convert::error::from_status(&status);
                let advice = "nothing was written under the file's name; export again";
                return Err(client::failure(error).advise(advice));
            }
        }
        progress.at(lines, show::plural(lines, "line"));
    }
}

async fn events(cluster: &Cluster, format: Format, target: &mut Target) -> Result<u64> {
    let call = |mut client: Client| async move { client.export_events(v1::ExportRequest {}).await };
    let stream = cluster.call(Repeat::Safe, call).await.map_err(client::failure)?;
    let mut lines = EventLines::new(format);
    pages(stream, |page: v1::EventPage| {
        target.write(|out| page.events.iter().try_for_each(|event| lines.write(out, event)))?;
        Ok(page.events.len() as u64)
    })
    .await
}

async fn items(cluster: &Cluster, target: &mut Target) -> Result<u64> {
    let call = |mut client: Client| async move { client.export_items(v1::ExportRequest {}).await };
    let stream = cluster.call(Repeat::Safe, call).await.map_err(client::failure)?;
    pages(stream, |page: v1::ItemPage| {
        let line = |item| json::write::item(item, true);
        target.write(|out| page.items.iter().try_for_each(|item| writeln!(out, "{}", line(item))))?;
        Ok(page.items.len() as u64)
    })
    .await
}

async fn vectors(cluster: &Cluster, of: Keyspace, version: u64, target: &mut Target) -> Result<u64> {
    let keyspace = match of {
        Keyspace::Users => "users",
        Keyspace::Items => "items",
    };
    let call = |mut client: Client| {
        let request = v1::ExportVectorsRequest { keyspace: keyspace.to_owned(), version };
        async move { client.export_vectors(request).await }
    };
    let stream = cluster.call(Repeat::Safe, call).await.map_err(client::failure)?;
    let mut seen = None;
    let lines = pages(stream, |page: v1::VectorPage| {
        // A model that is activated meanwhile must not mix in: one version in one file.
        if *seen.get_or_insert(page.version) != page.version {
            return Err(Failure::failed("the live version changed during the export").advise("name it with --version"));
        }
        for vector in &page.vectors {
            let values = floats(&vector.values, page.dim)?;
            let line = serde_json::json!({ "id": vector.id, "values": values });
            target.write(|out| writeln!(out, "{line}"))?;
        }
        Ok(page.vectors.len() as u64)
    })
    .await?;
    if let Some(version) = seen {
        show::note(format!("{keyspace} of version {version}"));
    }
    Ok(lines)
}

/// Little-endian f32 to numbers that read back as the same f32.
fn floats(bytes: &[u8], dim: u32) -> Result<Vec<serde_json::Value>> {
    let (values, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() || values.len() != dim as usize {
        return Err(Failure::failed(format!("a vector of {} bytes where dimension {dim} was announced", bytes.len())));
    }
    Ok(values.iter().map(|value| json::write::f32(f32::from_le_bytes(*value))).collect())
}

async fn recommendations(cluster: &Cluster, n: u32, target: &mut Target) -> Result<u64> {
    let call =
        |mut client: Client| async move { client.export_recommendations(v1::ExportRecommendationsRequest { n }).await };
    let stream = cluster.call(Repeat::Safe, call).await.map_err(client::failure)?;
    pages(stream, |page: v1::RecommendationPage| {
        for user in &page.users {
            let line = recommendation(user)?;
            target.write(|out| writeln!(out, "{line}"))?;
        }
        Ok(page.users.len() as u64)
    })
    .await
}

/// `user<TAB>item item ...`: ids with white space cannot be told apart in this form, so they are refused.
fn recommendation(user: &v1::UserRecommendations) -> Result<String> {
    let is_plain = |id: &&String| !id.contains(|c: char| c.is_whitespace());
    let bad = std::iter::once(&user.user_id).chain(&user.item_ids).find(|id| !is_plain(id));
    match bad {
        None => Ok(format!("{}\t{}", user.user_id, user.item_ids.join(" "))),
        Some(_) => {
            Err(Failure::failed("an id contains white space, which lines of `user<TAB>item item ...` cannot hold")
                .advise("ask for recommendations over gRPC or HTTP instead"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_and_lines_keep_their_values() {
        let bytes: Vec<u8> = [0.1f32, -3.5e-12].iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(serde_json::to_string(&floats(&bytes, 2).unwrap()).unwrap(), "[0.1,-3.5e-12]");
        assert!(floats(&bytes, 3).is_err() && floats(&bytes[1..], 2).is_err());
        let line = |user: &str, item: &str| {
            recommendation(&v1::UserRecommendations {
                user_id: user.to_owned(),
                item_ids: vec![item.to_owned(), "b".to_owned()],
            })
        };
        assert_eq!(line("u", "a").unwrap(), "u\ta b");
        assert!(line("u v", "a").is_err() && line("u", "a\tb").is_err());
    }
}
