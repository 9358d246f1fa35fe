//! Users: profiles, consent, blocks, erasure. All of a user is in one shard, so that every write is one log entry.

use crate::batch;
use crate::gateway::Gateway;
use crate::route::Repeat;
use docent_proto::internal::shard::{Request, Response};
use docent_runtime::Deadline;
use docent_types::command::{UserCommand, UserOutcome};
use docent_types::user::{Consent, Profile, User, validate_blocks};
use docent_types::{Error, ItemId, Kind, Result, ShardId, UserId, limits};
use futures::future::join_all;
use std::collections::BTreeMap;

impl Gateway {
    /// Creates users or replaces their attributes. All are checked before the first is written.
    ///
    /// # Errors
    /// The first shard's that failed; users of other shards, and the first ones of that shard, may be stored then. Putting all again is
    /// safe.
    pub async fn put_users(&self, profiles: Vec<Profile>) -> Result<()> {
        self.admit_write("put_users", self.put_users_admitted(profiles)).await
    }

    async fn put_users_admitted(&self, profiles: Vec<Profile>) -> Result<()> {
        if profiles.len() > limits::BATCH_MAX {
            return Err(Error::invalid(
                "users",
                format!("{} users in one batch; at most {}", profiles.len(), limits::BATCH_MAX),
            ));
        }
        let (view, tenant, deadline) = (self.view()?, self.tenant(), self.write_deadline());
        let mut groups: BTreeMap<ShardId, Vec<Profile>> = BTreeMap::new();
        for (i, profile) in profiles.into_iter().enumerate() {
            profile.validate().map_err(|error| error.at(&format!("users[{i}]")))?;
            groups.entry(view.user_shard(&tenant, &profile.user_id)?).or_default().push(profile);
        }
        let writes = groups.into_iter().map(|(shard, profiles)| {
            let tenant = tenant.clone();
            async move {
                // One after the other: of two profiles of one user the last is to stay.
                for profiles in batch::split(profiles) {
                    let command = UserCommand::PutProfiles { tenant: tenant.clone(), profiles };
                    self.write_user_shard(shard, command, deadline).await?;
                }
                Ok(())
            }
        });
        join_all(writes).await.into_iter().collect()
    }

    /// A user as it is now.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get_user(&self, user_id: UserId) -> Result<User> {
        let work = async {
            let (view, tenant) = (self.view()?, self.tenant());
            let shard = view.user_shard(&tenant, &user_id)?;
            let request = Request::GetUser { shard, tenant, user_id };
            match self.shared.route.leader(shard, &request, Repeat::Read, self.deadline(0)).await? {
                Response::User(Some(user)) => Ok(user),
                Response::User(None) => Err(no_such_user()),
                _ => Err(unfitting(shard)),
            }
        };
        self.admit("get_user", work).await
    }

    /// Erases everything of the user.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn delete_user(&self, user_id: UserId) -> Result<()> {
        let tenant = self.tenant();
        let command = UserCommand::DeleteUser { tenant, user_id: user_id.clone() };
        self.admit_write("delete_user", self.write_user(&user_id, command)).await
    }

    /// Sets all three flags.
    ///
    /// # Errors
    /// The shard's.
    pub async fn set_consent(&self, user_id: UserId, consent: Consent) -> Result<()> {
        let command = UserCommand::SetConsent { tenant: self.tenant(), user_id: user_id.clone(), consent };
        self.admit_write("set_consent", self.write_user(&user_id, command)).await
    }

    /// Replaces the block list.
    ///
    /// # Errors
    /// `Invalid` for more than 10,000 items; the shard's.
    pub async fn set_blocks(&self, user_id: UserId, mut blocks: Vec<ItemId>) -> Result<()> {
        let work = async {
            validate_blocks(&blocks)?;
            blocks.sort();
            blocks.dedup();
            let command = UserCommand::SetBlocks { tenant: self.tenant(), user_id: user_id.clone(), blocks };
            self.write_user(&user_id, command).await
        };
        self.admit_write("set_blocks", work).await
    }

    async fn write_user(&self, user_id: &UserId, command: UserCommand) -> Result<()> {
        let shard = self.view()?.user_shard(&self.tenant(), user_id)?;
        match self.write_user_shard(shard, command, self.write_deadline()).await? {
            UserOutcome::NotFound => Err(no_such_user()),
            _ => Ok(()),
        }
    }

    async fn write_user_shard(&self, shard: ShardId, command: UserCommand, deadline: Deadline) -> Result<UserOutcome> {
        let request = Request::WriteUsers { shard, command };
        match self.shared.route.leader(shard, &request, Repeat::Never, deadline).await? {
            Response::WroteUsers { outcome, .. } => Ok(outcome),
            _ => Err(unfitting(shard)),
        }
    }
}

/// The id is not repeated: errors end in logs.
fn no_such_user() -> Error {
    Error { field: Some("user_id".to_owned()), ..Error::new(Kind::NotFound, "there is no such user") }
}

pub(crate) fn unfitting(shard: ShardId) -> Error {
    Error::new(Kind::Internal, format!("shard {shard} answered another question than was asked"))
}
