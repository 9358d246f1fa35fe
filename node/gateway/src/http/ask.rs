//! Handlers of queries.

use super::body::{self, Json};
use super::query::Params;
use super::{Answer, App, Segment, segment, view};
use crate::recommend::{Popular, Similar};
use axum::extract::State;
use docent_proto::convert::query;
use docent_types::query::Recommend;
use docent_types::{ItemId, UserId};

pub(super) async fn recommend(State(app): State<App>, Json(body): Json<body::Recommend>) -> Answer<view::Answer> {
    if let Some(field) = body.reserved() {
        return Err(query::reserved(field).into());
    }
    let request = Recommend {
        user_id: UserId::new(body.user_id)?,
        n: query::count(body.n.unwrap_or(query::ANSWER_ITEMS_DEFAULT))?,
        exclude_ids: query::exclude_ids(body.exclude_ids)?,
        explain: body.explain,
        deadline_ms: query::deadline_ms(body.deadline_ms)?,
        session: body.session,
    };
    Ok(axum::Json(app.gateway.recommend(request).await?.into()))
}

pub(super) async fn recommendations(State(app): State<App>, path: Segment, params: Params) -> Answer<view::Answer> {
    let request = Recommend {
        user_id: UserId::new(segment(path)?)?,
        n: params.n()?,
        exclude_ids: params.excluded()?,
        explain: params.explain.unwrap_or(false),
        deadline_ms: params.deadline_ms()?,
        session: params.session,
    };
    Ok(axum::Json(app.gateway.recommend(request).await?.into()))
}

pub(super) async fn similar(State(app): State<App>, path: Segment, params: Params) -> Answer<view::Answer> {
    params.not_personal()?;
    let request = Similar {
        item_id: ItemId::new(segment(path)?)?,
        n: params.n()?,
        exclude_ids: params.excluded()?,
        deadline_ms: params.deadline_ms()?,
    };
    Ok(axum::Json(app.gateway.similar(request).await?.into()))
}

pub(super) async fn popular(State(app): State<App>, params: Params) -> Answer<view::Answer> {
    params.not_personal()?;
    let request = Popular { n: params.n()?, exclude_ids: params.excluded()?, deadline_ms: params.deadline_ms()? };
    Ok(axum::Json(app.gateway.popular(request).await?.into()))
}
