//! `docent users get|delete|consent|block`.

use crate::cli::Shared;
use crate::client::{self, Client, Cluster, Repeat};
use crate::failure::{Failure, Result};
use crate::json;
use crate::show;
use docent_proto::v1;
use docent_types::{Error, Kind};
use std::collections::BTreeSet;

/// Users.
#[derive(Debug, clap::Subcommand)]
pub enum Users {
    /// Show what is kept about a user
    Get {
        /// The user's id
        user: String,
    },
    /// Erase everything kept about a user
    Delete {
        /// The user's id
        user: String,
    },
    /// Show or change what a user allows; holds on every node when the command returns
    Consent {
        /// The user's id
        user: String,
        /// Keep this user's events
        #[arg(long, value_enum)]
        collect: Option<Switch>,
        /// Use what is kept in answers to this user
        #[arg(long, value_enum)]
        recommend: Option<Switch>,
        /// Train models on this user's events
        #[arg(long, value_enum)]
        train: Option<Switch>,
    },
    /// Never show items to a user (or show them again)
    Block {
        /// The user's id
        user: String,
        /// Items' ids
        items: Vec<String>,
        /// Take the items off the list
        #[arg(long)]
        remove: bool,
        /// Empty the list first
        #[arg(long)]
        clear: bool,
    },
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// Allowed.
    On,
    /// Not allowed.
    Off,
}

/// Runs the subcommand.
pub async fn run(shared: &Shared, command: &Users) -> Result<()> {
    let cluster = shared.cluster()?;
    match command {
        Users::Get { user } => {
            let user = get(&cluster, user).await.map_err(client::failure)?;
            print(shared, &user);
        }
        Users::Delete { user } => {
            let call = |mut client: Client| {
                let request = v1::DeleteUserRequest { user_id: user.clone() };
                async move { client.delete_user(request).await }
            };
            cluster.call(Repeat::Safe, call).await.map_err(client::failure)?;
            done(shared, &format!("everything kept about user {user} is erased"));
        }
        Users::Consent { user, collect, recommend, train } => {
            let known = known(&cluster, user).await?;
            let mut consent = known.consent.unwrap_or(v1::Consent { collect: true, recommend: true, train: true });
            let flags =
                [(collect, &mut consent.collect), (recommend, &mut consent.recommend), (train, &mut consent.train)];
            let mut is_change = false;
            for (switch, flag) in flags {
                if let Some(switch) = switch {
                    (*flag, is_change) = (*switch == Switch::On, true);
                }
            }
            if is_change {
                set_consent(&cluster, user, consent).await?;
            }
            print(shared, &v1::User { consent: Some(consent), ..known });
        }
        Users::Block { user, items, remove, clear } => {
            if items.is_empty() && !clear {
                return Err(
                    Failure::usage("no items are named").advise("name items' ids, or empty the list with --clear")
                );
            }
            let known = known(&cluster, user).await?;
            let mut blocks: BTreeSet<String> =
                if *clear { BTreeSet::new() } else { known.blocks.iter().cloned().collect() };
            match remove {
                true => blocks.retain(|block| !items.contains(block)),
                false => blocks.extend(items.iter().cloned()),
            }
            let blocks: Vec<String> = blocks.into_iter().collect();
            let call = |mut client: Client| {
                let request = v1::SetBlocksRequest { user_id: user.clone(), item_ids: blocks.clone() };
                async move { client.set_blocks(request).await }
            };
            cluster.call(Repeat::Safe, call).await.map_err(client::failure)?;
            print(shared, &v1::User { blocks: blocks.clone(), ..known });
        }
    }
    Ok(())
}

/// What is kept about a user.
pub async fn get(cluster: &Cluster, user: &str) -> Result<v1::User, Error> {
    let call = |mut client: Client| {
        let request = v1::GetUserRequest { user_id: user.to_owned() };
        async move { client.get_user(request).await }
    };
    cluster.call(Repeat::Safe, call).await
}

/// A user that may be new: consent and blocks may come before the first event.
async fn known(cluster: &Cluster, user: &str) -> Result<v1::User> {
    match get(cluster, user).await {
        Err(error) if error.kind == Kind::NotFound => Ok(v1::User { user_id: user.to_owned(), ..v1::User::default() }),
        got => got.map_err(client::failure),
    }
}

async fn set_consent(cluster: &Cluster, user: &str, consent: v1::Consent) -> Result<()> {
    let call = |mut client: Client| {
        let request = v1::SetConsentRequest { user_id: user.to_owned(), consent: Some(consent) };
        async move { client.set_consent(request).await }
    };
    cluster.call(Repeat::Safe, call).await.map(drop).map_err(client::failure)
}

/// Says what was done; JSON `{}` for scripts.
pub fn done(shared: &Shared, text: &str) {
    match shared.is_json() {
        true => show::json(&serde_json::json!({})),
        false => show::say(text),
    }
}

fn print(shared: &Shared, user: &v1::User) {
    if shared.is_json() {
        show::json(&json::write::user(user));
        return;
    }
    let consent = user.consent.unwrap_or(v1::Consent { collect: true, recommend: true, train: true });
    let mut rows = vec![
        vec!["user".to_owned(), user.user_id.clone()],
        vec!["events".to_owned(), show::count(user.events)],
        vec!["collect".to_owned(), show::yes_no(consent.collect)],
        vec!["recommend".to_owned(), show::yes_no(consent.recommend)],
        vec!["train".to_owned(), show::yes_no(consent.train)],
        vec!["blocks".to_owned(), user.blocks.join(", ")],
    ];
    rows.extend(user.attributes.iter().map(|(name, value)| vec![name.clone(), value.clone()]));
    show::say(show::table(&["field", "value"], &[], rows).to_string());
}
