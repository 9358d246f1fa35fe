//! `docent.v1` over gRPC: decode, call the gateway, encode.

mod backup;

use crate::admin::ClusterStatus;
use crate::events::{Draft, EventResult};
use crate::gateway::Gateway;
use crate::recommend::{Popular, Similar};
use crate::recovery::SurveyedReplica;
use docent_proto::convert::error::status;
use docent_proto::convert::query::{count_or_default, deadline_ms, exclude_ids};
use docent_proto::convert::{absent_if_empty, catalog, item_ids, keyspace, position_text};
use docent_proto::v1;
use docent_proto::v1::docent_server::Docent;
use docent_types::catalog::Model;
use docent_types::item::Item;
use docent_types::query::Recommend;
use docent_types::schedule::Scheduled;
use docent_types::study::Studied;
use docent_types::training::GivenSettings;
use docent_types::user::Profile;
use docent_types::{Error, ItemId, NodeId, UserId};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tonic::{Request, Response, Status};

/// The service; one per port.
#[derive(Clone, Debug)]
pub(crate) struct Grpc(pub(crate) Gateway);

type Answer<T> = Result<Response<T>, Status>;
type Stream<T> = BoxStream<'static, Result<T, Status>>;

fn answer<T, U>(outcome: Result<T, Error>, encode: impl FnOnce(T) -> U) -> Answer<U> {
    outcome.map(|value| Response::new(encode(value))).map_err(status)
}

fn user_id(text: String) -> Result<UserId, Status> {
    UserId::new(text).map_err(status)
}

fn item_id(text: String) -> Result<ItemId, Status> {
    ItemId::new(text).map_err(status)
}

/// Converts every element; the error names its place.
fn list<T, U: TryFrom<T, Error = Error>>(field: &str, values: Vec<T>) -> Result<Vec<U>, Status> {
    let convert = |(i, value)| U::try_from(value).map_err(|error| status(error.at(&format!("{field}[{i}]"))));
    values.into_iter().enumerate().map(convert).collect()
}

fn draft(event: v1::Event) -> Draft {
    Draft {
        event_id: absent_if_empty(event.event_id),
        user_id: event.user_id,
        item_id: event.item_id,
        event_type: absent_if_empty(event.r#type),
        value: event.value,
        timestamp_ms: event.timestamp_ms,
        session_id: absent_if_empty(event.session_id),
        recommendation_id: absent_if_empty(event.recommendation_id),
        position: event.position,
        context: event.context,
    }
}

fn event_result(result: EventResult) -> v1::EventResult {
    v1::EventResult {
        outcome: result.outcome.name().to_owned(),
        position: result.position.map(position_text).unwrap_or_default(),
        error: result.outcome.error().cloned().map(Into::into),
    }
}

fn surveyed(replica: SurveyedReplica) -> v1::SurveyedReplica {
    let answered = v1::SurveyedReplica { shard: replica.shard.to_string(), node: replica.node.0, ..Default::default() };
    match replica.log {
        Ok(log) => v1::SurveyedReplica {
            replica: log.replica.0,
            term: log.term,
            last: log.last,
            committed: log.committed,
            ..answered
        },
        Err(error) => v1::SurveyedReplica { error: error.message, ..answered },
    }
}

fn cluster(status: &ClusterStatus) -> v1::Cluster {
    let catalog = &status.catalog;
    v1::Cluster {
        cluster_id: catalog.cluster.as_ref().map(|cluster| cluster.id.to_string()).unwrap_or_default(),
        coordinators: catalog.coordinators.values().map(Into::into).collect(),
        nodes: catalog.nodes.values().map(Into::into).collect(),
        shards: catalog
            .shards
            .values()
            .map(|shard| catalog::shard(shard, status.leaders.get(&shard.id).copied()))
            .collect(),
        catalog_index: catalog.index,
        node: status.node.0,
        is_ready: status.is_ready,
        live_version: catalog.live.map_or(0, |live| live.version),
        replication: catalog.cluster.as_ref().map_or(0, |cluster| cluster.replication.into()),
        format: catalog.format(),
    }
}

/// Little-endian bytes of a row.
fn row_bytes(row: &[f32]) -> bytes::Bytes {
    row.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into()
}

#[tonic::async_trait]
impl Docent for Grpc {
    async fn ingest_events(&self, request: Request<v1::IngestEventsRequest>) -> Answer<v1::IngestEventsResponse> {
        let drafts = request.into_inner().events.into_iter().map(draft).collect();
        let results = self.0.ingest(drafts).await;
        answer(results, |results| v1::IngestEventsResponse { results: results.into_iter().map(event_result).collect() })
    }

    async fn put_users(&self, request: Request<v1::PutUsersRequest>) -> Answer<v1::PutUsersResponse> {
        let profiles = list::<_, Profile>("users", request.into_inner().users)?;
        answer(self.0.put_users(profiles).await, |()| v1::PutUsersResponse {})
    }

    async fn get_user(&self, request: Request<v1::GetUserRequest>) -> Answer<v1::User> {
        answer(self.0.get_user(user_id(request.into_inner().user_id)?).await, Into::into)
    }

    async fn delete_user(&self, request: Request<v1::DeleteUserRequest>) -> Answer<v1::DeleteUserResponse> {
        answer(self.0.delete_user(user_id(request.into_inner().user_id)?).await, |()| v1::DeleteUserResponse {})
    }

    async fn set_consent(&self, request: Request<v1::SetConsentRequest>) -> Answer<v1::SetConsentResponse> {
        let request = request.into_inner();
        let consent = request.consent.ok_or_else(|| status(Error::invalid("consent", "consent is missing")))?;
        answer(self.0.set_consent(user_id(request.user_id)?, consent.into()).await, |()| v1::SetConsentResponse {})
    }

    async fn set_blocks(&self, request: Request<v1::SetBlocksRequest>) -> Answer<v1::SetBlocksResponse> {
        let request = request.into_inner();
        let blocks = item_ids("item_ids", request.item_ids).map_err(status)?;
        answer(self.0.set_blocks(user_id(request.user_id)?, blocks).await, |()| v1::SetBlocksResponse {})
    }

    async fn put_items(&self, request: Request<v1::PutItemsRequest>) -> Answer<v1::PutItemsResponse> {
        let items = list::<_, Item>("items", request.into_inner().items)?;
        answer(self.0.put_items(items).await, |()| v1::PutItemsResponse {})
    }

    async fn get_item(&self, request: Request<v1::GetItemRequest>) -> Answer<v1::Item> {
        answer(self.0.get_item(item_id(request.into_inner().item_id)?).await, Into::into)
    }

    async fn delete_item(&self, request: Request<v1::DeleteItemRequest>) -> Answer<v1::DeleteItemResponse> {
        answer(self.0.delete_item(item_id(request.into_inner().item_id)?).await, |()| v1::DeleteItemResponse {})
    }

    async fn take_down_item(&self, request: Request<v1::TakeDownItemRequest>) -> Answer<v1::TakeDownItemResponse> {
        let request = request.into_inner();
        let outcome = self.0.take_down(item_id(request.item_id)?, !request.restore).await;
        answer(outcome, |()| v1::TakeDownItemResponse {})
    }

    async fn recommend(&self, request: Request<v1::RecommendRequest>) -> Answer<v1::RecommendResponse> {
        let request = Recommend::try_from(request.into_inner()).map_err(status)?;
        answer(self.0.recommend(request).await, Into::into)
    }

    async fn similar(&self, request: Request<v1::SimilarRequest>) -> Answer<v1::RecommendResponse> {
        let request = request.into_inner();
        let request = Similar {
            item_id: item_id(request.item_id)?,
            n: count_or_default(request.n).map_err(status)?,
            exclude_ids: exclude_ids(request.exclude_ids).map_err(status)?,
            deadline_ms: deadline_ms(request.deadline_ms).map_err(status)?,
        };
        answer(self.0.similar(request).await, Into::into)
    }

    async fn popular(&self, request: Request<v1::PopularRequest>) -> Answer<v1::RecommendResponse> {
        let request = request.into_inner();
        let request = Popular {
            n: count_or_default(request.n).map_err(status)?,
            exclude_ids: exclude_ids(request.exclude_ids).map_err(status)?,
            deadline_ms: deadline_ms(request.deadline_ms).map_err(status)?,
        };
        answer(self.0.popular(request).await, Into::into)
    }

    async fn get_cluster(&self, _request: Request<v1::GetClusterRequest>) -> Answer<v1::Cluster> {
        answer(self.0.cluster().await, |status| cluster(&status))
    }

    async fn list_models(&self, _request: Request<v1::ListModelsRequest>) -> Answer<v1::ListModelsResponse> {
        let listed = |(model, held_back): (Model, Option<String>)| v1::Model {
            held_back: held_back.unwrap_or_default(),
            ..(&model).into()
        };
        answer(self.0.models().await, |models| v1::ListModelsResponse {
            models: models.into_iter().map(listed).collect(),
        })
    }

    async fn activate_model(&self, request: Request<v1::ActivateModelRequest>) -> Answer<v1::ActivateModelResponse> {
        let v1::ActivateModelRequest { version, force } = request.into_inner();
        answer(self.0.activate(version, force).await, Into::into)
    }

    async fn rollback_model(&self, _request: Request<v1::RollbackModelRequest>) -> Answer<v1::ActivateModelResponse> {
        answer(self.0.rollback().await, Into::into)
    }

    async fn start_training(&self, request: Request<v1::StartTrainingRequest>) -> Answer<v1::Job> {
        let given = request.into_inner().settings.unwrap_or_default();
        let settings = GivenSettings::from(given).settings().map_err(status)?;
        answer(self.0.start_training(settings).await, |job| (&job).into())
    }

    async fn list_jobs(&self, _request: Request<v1::ListJobsRequest>) -> Answer<v1::ListJobsResponse> {
        answer(self.0.jobs().await, |jobs| v1::ListJobsResponse { jobs: jobs.iter().map(catalog::job).collect() })
    }

    async fn cancel_job(&self, request: Request<v1::CancelJobRequest>) -> Answer<v1::Job> {
        answer(self.0.cancel_job(request.into_inner().job).await, |job| (&job).into())
    }

    async fn set_schedule(&self, request: Request<v1::SetScheduleRequest>) -> Answer<v1::Schedule> {
        let schedule = request.into_inner().schedule.unwrap_or_default().try_into().map_err(status)?;
        answer(self.0.set_schedule(schedule).await, |set| (&set).into())
    }

    async fn list_schedules(&self, _: Request<v1::ListSchedulesRequest>) -> Answer<v1::ListSchedulesResponse> {
        let view = |all: Vec<Scheduled>| v1::ListSchedulesResponse { schedules: all.iter().map(Into::into).collect() };
        answer(self.0.schedules().await, view)
    }

    async fn remove_schedule(&self, request: Request<v1::RemoveScheduleRequest>) -> Answer<v1::RemoveScheduleResponse> {
        answer(self.0.remove_schedule(request.into_inner().name).await, |()| v1::RemoveScheduleResponse {})
    }

    async fn start_study(&self, request: Request<v1::StartStudyRequest>) -> Answer<v1::Study> {
        let study = request.into_inner().study.unwrap_or_default().try_into().map_err(status)?;
        answer(self.0.start_study(study).await, |begun| (&begun).into())
    }

    async fn list_studies(&self, _: Request<v1::ListStudiesRequest>) -> Answer<v1::ListStudiesResponse> {
        let view = |all: Vec<Studied>| v1::ListStudiesResponse { studies: all.iter().map(Into::into).collect() };
        answer(self.0.studies().await, view)
    }

    async fn remove_study(&self, request: Request<v1::RemoveStudyRequest>) -> Answer<v1::RemoveStudyResponse> {
        answer(self.0.remove_study(request.into_inner().name).await, |()| v1::RemoveStudyResponse {})
    }

    async fn change_placement(
        &self,
        request: Request<v1::ChangePlacementRequest>,
    ) -> Answer<v1::ChangePlacementResponse> {
        let request = request.into_inner();
        let is_dry_run = request.dry_run;
        let change = catalog::placement_change(request).map_err(status)?;
        answer(self.0.change_placement(change, is_dry_run).await, |moves| v1::ChangePlacementResponse {
            moves: moves.into_iter().map(Into::into).collect(),
        })
    }

    async fn survey_replicas(
        &self,
        _request: Request<v1::SurveyReplicasRequest>,
    ) -> Answer<v1::SurveyReplicasResponse> {
        answer(self.0.survey().await, |replicas| v1::SurveyReplicasResponse {
            replicas: replicas.into_iter().map(surveyed).collect(),
        })
    }

    async fn recover_shard(&self, request: Request<v1::RecoverShardRequest>) -> Answer<v1::RecoverShardResponse> {
        let v1::RecoverShardRequest { shard, node, last } = request.into_inner();
        let shard = shard.parse().map_err(status)?;
        answer(self.0.recover_shard(shard, NodeId(node), last).await, |index| v1::RecoverShardResponse { index })
    }

    type ExportEventsStream = Stream<v1::EventPage>;
    async fn export_events(&self, _request: Request<v1::ExportRequest>) -> Answer<Self::ExportEventsStream> {
        let page = |events: Vec<_>| v1::EventPage { events: events.into_iter().map(Into::into).collect() };
        answer(self.0.export_events().await, |pages| pages.map_ok(page).map_err(status).boxed())
    }

    type ExportItemsStream = Stream<v1::ItemPage>;
    async fn export_items(&self, _request: Request<v1::ExportRequest>) -> Answer<Self::ExportItemsStream> {
        let page = |items: Vec<_>| v1::ItemPage { items: items.into_iter().map(Into::into).collect() };
        answer(self.0.export_items().await, |pages| pages.map_ok(page).map_err(status).boxed())
    }

    type ExportVectorsStream = Stream<v1::VectorPage>;
    async fn export_vectors(&self, request: Request<v1::ExportVectorsRequest>) -> Answer<Self::ExportVectorsStream> {
        let request = request.into_inner();
        let keyspace = keyspace(&request.keyspace).map_err(status)?;
        let page = |page: crate::export::VectorPage| v1::VectorPage {
            version: page.version,
            dim: page.vectors.first().map_or(0, |(_, row)| row.len() as u32),
            vectors: page.vectors.into_iter().map(|(id, row)| v1::Vector { id, values: row_bytes(&row) }).collect(),
        };
        answer(self.0.export_vectors(keyspace, request.version).await, |pages| {
            pages.map_ok(page).map_err(status).boxed()
        })
    }

    type ExportRecommendationsStream = Stream<v1::RecommendationPage>;
    async fn export_recommendations(
        &self,
        request: Request<v1::ExportRecommendationsRequest>,
    ) -> Answer<Self::ExportRecommendationsStream> {
        let n = count_or_default(request.into_inner().n).map_err(status)?;
        let user = |(user_id, ids): (UserId, Vec<ItemId>)| v1::UserRecommendations {
            user_id: user_id.into(),
            item_ids: ids.into_iter().map(String::from).collect(),
        };
        let page = move |page: crate::export::RecommendationPage| v1::RecommendationPage {
            version: page.version,
            users: page.users.into_iter().map(user).collect(),
        };
        answer(self.0.export_recommendations(n).await, |pages| pages.map_ok(page).map_err(status).boxed())
    }

    type VerifyShardsStream = Stream<v1::ShardVerdict>;
    async fn verify_shards(&self, request: Request<v1::VerifyShardsRequest>) -> Answer<Self::VerifyShardsStream> {
        backup::verify_shards(&self.0, request.into_inner()).await
    }

    async fn describe_placement(&self, request: Request<v1::DescribePlacementRequest>) -> Answer<v1::Placement> {
        backup::describe_placement(&self.0, request.into_inner()).await
    }

    type BackupShardStream = Stream<v1::BackupPage>;
    async fn backup_shard(&self, request: Request<v1::BackupShardRequest>) -> Answer<Self::BackupShardStream> {
        backup::backup_shard(&self.0, request.into_inner()).await
    }

    async fn get_standing(&self, request: Request<v1::GetStandingRequest>) -> Answer<v1::Standing> {
        backup::get_standing(&self.0, request.into_inner()).await
    }

    async fn restore_shard(&self, request: Request<v1::RestoreShardRequest>) -> Answer<v1::Standing> {
        backup::restore_shard(&self.0, request.into_inner()).await
    }
}
