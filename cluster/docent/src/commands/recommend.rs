//! `docent recommend`, `similar`, `popular`.

use crate::cli::Shared;
use crate::client::{self, Cluster, Repeat};
use crate::failure::Result;
use crate::json;
use crate::show;
use docent_proto::v1;

/// Flags of `docent recommend`.
#[derive(Debug, clap::Args)]
pub struct RecommendArgs {
    /// The user's id
    user: String,
    /// How many items, 1 to 1000
    #[arg(short, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    n: u32,
    /// Say which items of the user's history contributed most
    #[arg(long)]
    explain: bool,
    /// An item not to return; may be repeated
    #[arg(long, value_name = "ITEM")]
    exclude: Vec<String>,
}

/// Flags of `docent similar`.
#[derive(Debug, clap::Args)]
pub struct SimilarArgs {
    /// The item's id
    item: String,
    /// How many items, 1 to 1000
    #[arg(short, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    n: u32,
}

/// Flags of `docent popular`.
#[derive(Debug, clap::Args)]
pub struct PopularArgs {
    /// How many items, 1 to 1000
    #[arg(short, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    n: u32,
}

/// Recommends items to a user.
pub async fn recommend(shared: &Shared, args: &RecommendArgs) -> Result<()> {
    let request = v1::RecommendRequest {
        user_id: args.user.clone(),
        n: args.n,
        exclude_ids: args.exclude.clone(),
        explain: args.explain,
        ..v1::RecommendRequest::default()
    };
    print(shared, &ask(&shared.cluster()?, request).await?);
    Ok(())
}

/// One request for recommendations.
pub async fn ask(cluster: &Cluster, request: v1::RecommendRequest) -> Result<v1::RecommendResponse> {
    let call = |mut client: client::Client| {
        let request = request.clone();
        async move { client.recommend(request).await }
    };
    cluster.call(Repeat::Safe, call).await.map_err(client::failure)
}

/// Shows items like an item.
pub async fn similar(shared: &Shared, args: &SimilarArgs) -> Result<()> {
    let request = v1::SimilarRequest { item_id: args.item.clone(), n: args.n, ..v1::SimilarRequest::default() };
    let call = |mut client: client::Client| {
        let request = request.clone();
        async move { client.similar(request).await }
    };
    print(shared, &shared.cluster()?.call(Repeat::Safe, call).await.map_err(client::failure)?);
    Ok(())
}

/// Shows the most popular items.
pub async fn popular(shared: &Shared, args: &PopularArgs) -> Result<()> {
    let request = v1::PopularRequest { n: args.n, ..v1::PopularRequest::default() };
    let call = |mut client: client::Client| {
        let request = request.clone();
        async move { client.popular(request).await }
    };
    print(shared, &shared.cluster()?.call(Repeat::Safe, call).await.map_err(client::failure)?);
    Ok(())
}

fn print(shared: &Shared, answer: &v1::RecommendResponse) {
    if shared.is_json() {
        show::json(&json::write::answer(answer));
        return;
    }
    if answer.items.is_empty() {
        show::say("no items: nothing has been imported yet, or everything is excluded");
    } else {
        show::say(table(answer).to_string());
    }
    show::say(footer(answer));
}

/// The items of an answer, for people; a column for reasons where there are any.
pub fn table(answer: &v1::RecommendResponse) -> comfy_table::Table {
    let has_reasons = answer.items.iter().any(|one| !one.reasons.is_empty());
    let mut header = vec!["", "item", "title", "categories", "score", "source"];
    header.extend(has_reasons.then_some("because of"));
    let rows = answer.items.iter().enumerate().map(|(i, one)| {
        let item = one.item.clone().unwrap_or_default();
        let mut row = vec![
            (i + 1).to_string(),
            one.id.clone(),
            item.title,
            item.categories.join(", "),
            format!("{:.4}", one.score),
            one.source.clone(),
        ];
        if has_reasons {
            row.push(reasons(&one.reasons));
        }
        row
    });
    show::table(&header, &["", "score"], rows)
}

fn reasons(reasons: &[v1::Reason]) -> String {
    let name = |r: &v1::Reason| if r.title.is_empty() { r.item_id.clone() } else { r.title.clone() };
    reasons.iter().take(2).map(name).collect::<Vec<_>>().join("; ")
}

/// Model, coverage and time of an answer in one line.
pub fn footer(answer: &v1::RecommendResponse) -> String {
    let coverage = answer.coverage.clone().unwrap_or_default();
    let model = match answer.model.as_ref().map_or(0, |model| model.version) {
        0 => "no model is live".to_owned(),
        version => format!("model version {version}"),
    };
    let shards = format!("{} of {} item shards", coverage.answered, coverage.asked);
    let mut line = format!("{model}, {shards}, {}, {:.1} ms", show::plural(coverage.items, "item"), answer.took_ms);
    for degraded in &coverage.degraded {
        line.push_str(&format!("\ndegraded: {} {}", degraded.what, degraded.shard));
    }
    line
}
