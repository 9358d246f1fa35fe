//! `docent items get|take-down|restore|delete`.

use crate::cli::Shared;
use crate::client::{self, Client, Cluster, Repeat};
use crate::commands::users::done;
use crate::failure::Result;
use crate::json;
use crate::show;
use docent_proto::v1;

/// Items.
#[derive(Debug, clap::Subcommand)]
pub enum Items {
    /// Show an item
    Get {
        /// The item's id
        item: String,
    },
    /// Show an item to nobody; holds on every node when the command returns
    TakeDown {
        /// The item's id
        item: String,
    },
    /// Show a taken-down item again
    Restore {
        /// The item's id
        item: String,
    },
    /// Delete an item's metadata
    Delete {
        /// The item's id
        item: String,
    },
}

/// Runs the subcommand.
pub async fn run(shared: &Shared, command: &Items) -> Result<()> {
    let cluster = shared.cluster()?;
    match command {
        Items::Get { item } => {
            let call = |mut client: Client| {
                let request = v1::GetItemRequest { item_id: item.clone() };
                async move { client.get_item(request).await }
            };
            print(shared, &cluster.call(Repeat::Safe, call).await.map_err(client::failure)?);
        }
        Items::TakeDown { item } => {
            take_down(&cluster, item, false).await?;
            done(shared, &format!("item {item} is taken down: no node shows it"));
        }
        Items::Restore { item } => {
            take_down(&cluster, item, true).await?;
            done(shared, &format!("item {item} may be shown again"));
        }
        Items::Delete { item } => {
            let call = |mut client: Client| {
                let request = v1::DeleteItemRequest { item_id: item.clone() };
                async move { client.delete_item(request).await }
            };
            cluster.call(Repeat::Safe, call).await.map_err(client::failure)?;
            done(shared, &format!("item {item} is deleted"));
        }
    }
    Ok(())
}

async fn take_down(cluster: &Cluster, item: &str, restore: bool) -> Result<()> {
    let call = |mut client: Client| {
        let request = v1::TakeDownItemRequest { item_id: item.to_owned(), restore };
        async move { client.take_down_item(request).await }
    };
    cluster.call(Repeat::Safe, call).await.map(drop).map_err(client::failure)
}

fn print(shared: &Shared, item: &v1::Item) {
    if shared.is_json() {
        show::json(&json::write::item(item, true));
        return;
    }
    let mut rows = vec![
        vec!["item".to_owned(), item.item_id.clone()],
        vec!["title".to_owned(), item.title.clone()],
        vec!["categories".to_owned(), item.categories.join(", ")],
        vec!["published".to_owned(), item.published_ms.map(show::time).unwrap_or_default()],
        vec!["description".to_owned(), item.description.clone()],
        vec!["events".to_owned(), show::count(item.events)],
        vec!["taken down".to_owned(), show::yes_no(item.is_taken_down)],
    ];
    rows.extend(item.attributes.iter().map(|(name, value)| vec![name.clone(), value.clone()]));
    show::say(show::table(&["field", "value"], &[], rows).to_string());
}
