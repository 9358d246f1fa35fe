//! Handlers of events, users and items.

use super::body::{self, Json};
use super::problem::Problem;
use super::{Answer, App, Segment, segment, view};
use axum::extract::State;
use docent_proto::convert::item_ids;
use docent_types::item::Item;
use docent_types::user::{Consent, Profile};
use docent_types::{Error, ItemId, UserId};

/// What a write without anything to tell answers.
type Done = Answer<view::Done>;

const DONE: Done = Ok(axum::Json(view::Done {}));

fn user_id(path: Segment) -> Result<UserId, Problem> {
    Ok(UserId::new(segment(path)?)?)
}

fn item_id(path: Segment) -> Result<ItemId, Problem> {
    Ok(ItemId::new(segment(path)?)?)
}

/// Converts every element; the error names its place.
fn list<T, U>(field: &str, values: Vec<T>, convert: impl Fn(T) -> Result<U, Error>) -> Result<Vec<U>, Problem> {
    let one = |(i, value)| convert(value).map_err(|error| Problem::from(error.at(&format!("{field}[{i}]"))));
    values.into_iter().enumerate().map(one).collect()
}

pub(super) async fn post_events(State(app): State<App>, Json(body): Json<body::Events>) -> Answer<view::EventResults> {
    let results = app.gateway.ingest(body.events.into_iter().map(Into::into).collect()).await?;
    Ok(axum::Json(results.into()))
}

pub(super) async fn put_users(State(app): State<App>, Json(body): Json<body::Users>) -> Done {
    let profile =
        |user: body::UserOfBatch| Ok(Profile { user_id: UserId::new(user.user_id)?, attributes: user.attributes });
    app.gateway.put_users(list("users", body.users, profile)?).await?;
    DONE
}

pub(super) async fn put_user(State(app): State<App>, path: Segment, Json(body): Json<body::User>) -> Done {
    let profile = Profile { user_id: user_id(path)?, attributes: body.attributes };
    profile.validate()?;
    app.gateway.put_users(vec![profile]).await?;
    DONE
}

pub(super) async fn get_user(State(app): State<App>, path: Segment) -> Answer<docent_types::user::User> {
    Ok(axum::Json(app.gateway.get_user(user_id(path)?).await?))
}

pub(super) async fn delete_user(State(app): State<App>, path: Segment) -> Done {
    app.gateway.delete_user(user_id(path)?).await?;
    DONE
}

pub(super) async fn put_consent(State(app): State<App>, path: Segment, Json(body): Json<body::ConsentBody>) -> Done {
    app.gateway.set_consent(user_id(path)?, body.into()).await?;
    DONE
}

pub(super) async fn get_consent(State(app): State<App>, path: Segment) -> Answer<Consent> {
    Ok(axum::Json(app.gateway.get_user(user_id(path)?).await?.consent))
}

pub(super) async fn put_blocks(State(app): State<App>, path: Segment, Json(body): Json<body::Blocks>) -> Done {
    let blocks = item_ids("item_ids", body.item_ids)?;
    app.gateway.set_blocks(user_id(path)?, blocks).await?;
    DONE
}

pub(super) async fn get_blocks(State(app): State<App>, path: Segment) -> Answer<view::Blocks> {
    let item_ids = app.gateway.get_user(user_id(path)?).await?.blocks;
    Ok(axum::Json(view::Blocks { item_ids }))
}

pub(super) async fn put_items(State(app): State<App>, Json(body): Json<body::Items>) -> Done {
    app.gateway.put_items(list("items", body.items, body::ItemOfBatch::item)?).await?;
    DONE
}

pub(super) async fn put_item(State(app): State<App>, path: Segment, Json(body): Json<body::Item>) -> Done {
    let item: Item = body.named(&segment(path)?)?;
    item.validate()?;
    app.gateway.put_items(vec![item]).await?;
    DONE
}

pub(super) async fn get_item(State(app): State<App>, path: Segment) -> Answer<view::ItemState> {
    Ok(axum::Json(app.gateway.get_item(item_id(path)?).await?.into()))
}

pub(super) async fn delete_item(State(app): State<App>, path: Segment) -> Done {
    app.gateway.delete_item(item_id(path)?).await?;
    DONE
}

/// `POST /v1/items/{id}:take-down` and `:restore`. Only the last suffix is the action: an id may contain colons.
pub(super) async fn item_action(State(app): State<App>, path: Segment) -> Done {
    let text = segment(path)?;
    let (id, is_taken_down) = match (text.strip_suffix(":take-down"), text.strip_suffix(":restore")) {
        (Some(id), _) => (id, true),
        (_, Some(id)) => (id, false),
        _ => return Err(Problem::from(Error::invalid("path", "known actions on an item: :take-down, :restore"))),
    };
    app.gateway.take_down(ItemId::new(id)?, is_taken_down).await?;
    DONE
}
