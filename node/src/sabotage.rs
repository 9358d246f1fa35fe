//! Known bugs that take more than a line where they are; absent from every ordinary build, see [`docent_types::sabotage`].

use crate::shards::{Hosted, Role, Users};
use docent_proto::internal::shard::Response;
use docent_raft::Applied;
use docent_runtime::Deadline;
use docent_shard::History;
use docent_types::command::{UserCommand, UserOutcome};
use docent_types::event::EventOutcome;
use docent_types::sabotage::{Bug, is};
use docent_types::user::User;
use docent_types::{Position, UserId, codec};
use std::sync::Arc;
use std::time::Duration;

/// How long [`Bug::AckBeforeQuorum`] keeps to itself what it has acknowledged.
const BEHIND: Duration = Duration::from_millis(200);
/// How long it then tries to make it true.
const PROPOSAL: Duration = Duration::from_secs(5);

/// What a leader with a bug answers to a write without having made it.
pub(crate) fn ack_early(hosted: &Arc<Hosted>, command: &UserCommand) -> Option<Response> {
    let status = hosted.group.status();
    if !status.is_leader() {
        return None;
    }
    let position = Position { shard: hosted.id, index: status.last_log.map_or(0, |last| last + 1) };
    match (command, &hosted.role) {
        (UserCommand::Append { events, .. }, _) if is(Bug::AckBeforeQuorum) => {
            write_behind(hosted.clone(), command);
            let outcome = UserOutcome::Events(vec![EventOutcome::Accepted; events.len()]);
            Some(Response::WroteUsers { position, outcome })
        }
        (UserCommand::SetConsent { user_id, consent, .. }, Role::Users(users)) if is(Bug::OptOutOnlyInCache) => {
            users.consents.put(user_id.clone(), *consent);
            Some(Response::WroteUsers { position, outcome: UserOutcome::Done })
        }
        _ => None,
    }
}

#[allow(clippy::disallowed_methods, reason = "a bug has no supervisor")]
fn write_behind(hosted: Arc<Hosted>, command: &UserCommand) {
    let payload = codec::encode_in(command.format(), command);
    tokio::spawn(async move {
        tokio::time::sleep(BEHIND).await;
        // Nobody waits for the outcome: that is the bug.
        hosted.propose(payload, Deadline::after(PROPOSAL)).await.ok();
    });
}

/// The history with the consent that [`Bug::OptOutOnlyInCache`] remembers.
pub(crate) fn with_cached_consent(users: &Users, user: &UserId, history: Option<History>) -> Option<History> {
    let Some(consent) = users.consents.get(user) else { return history };
    Some(History { consent, ..history.unwrap_or_default() })
}

/// The same for a user as clients see it.
pub(crate) fn user_with_cached_consent(users: &Users, user: Option<User>) -> Option<User> {
    user.map(|user| User { consent: users.consents.get(&user.user_id).unwrap_or(user.consent), ..user })
}

/// The stamp of what an entry writes; by [`Bug::ApplySeesBatch`] it is of the whole batch, and how a replica cuts its batches is its own
/// affair.
pub(crate) fn stamp(index: u64, applied: &Applied) -> u64 {
    applied.last.filter(|_| is(Bug::ApplySeesBatch)).map_or(index, |last| last.index)
}
