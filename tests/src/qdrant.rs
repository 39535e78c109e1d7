//! A Qdrant server in this process: the gRPC calls that we use, and no other.
//!
//! It is stricter than the real one where that finds mistakes: it refuses filters on fields without an index, points before
//! the indexes, ids that come twice in one call, and every call that it does not know.

use qdrant_client::qdrant::collections_server::{Collections, CollectionsServer};
use qdrant_client::qdrant::condition::ConditionOneOf;
use qdrant_client::qdrant::r#match::MatchValue;
use qdrant_client::qdrant::points_selector::PointsSelectorOneOf;
use qdrant_client::qdrant::points_server::{Points, PointsServer};
use qdrant_client::qdrant::qdrant_server::{Qdrant, QdrantServer};
use qdrant_client::qdrant::vectors_config::Config;
use qdrant_client::qdrant::{self as wire, value::Kind};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status};

/// A running server; it stops when this is dropped.
#[derive(Debug)]
pub struct Server {
    pub url: String,
    state: Arc<Mutex<State>>,
    serving: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    collections: BTreeMap<String, Collection>,
    /// Every call waits for so long.
    delay: Duration,
    /// Every call fails.
    is_broken: bool,
}

#[derive(Debug, Default)]
struct Collection {
    /// Length of the vectors, by name.
    vectors: HashMap<String, u64>,
    indexes: BTreeSet<String>,
    points: BTreeMap<String, Point>,
}

#[derive(Debug, Clone)]
struct Point {
    vectors: HashMap<String, Vec<f32>>,
    payload: HashMap<String, wire::Value>,
}

#[derive(Debug, Clone)]
struct Service(Arc<Mutex<State>>);

impl Server {
    /// Starts a server with nothing in it, on a port of 127.0.0.1; 0 for any.
    pub async fn start(port: u16) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let state = Arc::new(Mutex::new(State::default()));
        let service = Service(Arc::clone(&state));
        let router = tonic::transport::Server::builder()
            .add_service(PointsServer::new(service.clone()))
            .add_service(CollectionsServer::new(service.clone()))
            .add_service(QdrantServer::new(service));
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let serving = tokio::spawn(async move { router.serve_with_incoming(incoming).await.expect("served") });
        Self { url, state, serving }
    }

    /// Makes every call wait.
    pub fn delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Makes every call fail, or work again.
    pub fn set_broken(&self, is_broken: bool) {
        self.state().is_broken = is_broken;
    }

    /// Loses everything.
    pub fn wipe(&self) {
        self.state().collections.clear();
    }

    /// Points of each collection.
    pub fn points(&self) -> Vec<usize> {
        self.state().collections.values().map(|collection| collection.points.len()).collect()
    }

    /// Takes a value out of every point.
    pub fn lose(&self, field: &str) {
        for collection in self.state().collections.values_mut() {
            collection.points.values_mut().for_each(|point| drop(point.payload.remove(field)));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Service {
    /// The state, after the delay, unless broken.
    async fn enter(&self) -> Result<MutexGuard<'_, State>, Status> {
        let (delay, is_broken) = {
            let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            (state.delay, state.is_broken)
        };
        tokio::time::sleep(delay).await;
        if is_broken {
            return Err(Status::internal("Service internal error: broken on purpose"));
        }
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn collection(&mut self, name: &str) -> Result<&mut Collection, Status> {
        let missing = || Status::not_found(format!("Not found: Collection `{name}` doesn't exist!"));
        self.collections.get_mut(name).ok_or_else(missing)
    }
}

impl Collection {
    fn put(&mut self, points: Vec<wire::PointStruct>) -> Result<(), Status> {
        if self.indexes.is_empty() {
            return Err(Status::invalid_argument("points before the payload indexes"));
        }
        let mut seen = HashSet::new();
        for point in points {
            let id = point.id.map(|id| format!("{id:?}")).ok_or_else(|| Status::invalid_argument("no id"))?;
            if !seen.insert(id.clone()) {
                return Err(Status::invalid_argument(format!("the id {id} comes twice")));
            }
            let vectors = match point.vectors.and_then(|vectors| vectors.vectors_options) {
                Some(wire::vectors::VectorsOptions::Vectors(named)) => named.vectors,
                _ => return Err(Status::invalid_argument("Not existing vector name error: ")),
            };
            let vectors: HashMap<String, Vec<f32>> =
                vectors.into_iter().map(|(name, vector)| (name, dense(vector))).collect();
            for (name, vector) in &vectors {
                if self.vectors.get(name) != Some(&(vector.len() as u64)) {
                    return Err(Status::invalid_argument("Wrong input: Vector dimension error"));
                }
            }
            self.points.insert(id, Point { vectors, payload: point.payload });
        }
        Ok(())
    }

    /// The ids of the points that a filter means.
    fn meant(&self, filter: Option<wire::Filter>) -> Result<Vec<String>, Status> {
        let filter = filter.unwrap_or_default();
        if !(filter.should.is_empty() && filter.must_not.is_empty() && filter.min_should.is_none()) {
            return Err(Status::unimplemented("only `must`"));
        }
        let mut conditions = Vec::new();
        for condition in filter.must {
            let Some(ConditionOneOf::Field(field)) = condition.condition_one_of else {
                return Err(Status::unimplemented("only conditions on fields"));
            };
            if !self.indexes.contains(&field.key) {
                let key = field.key;
                return Err(Status::invalid_argument(format!(
                    "Bad request: Index required but not found for \"{key}\""
                )));
            }
            conditions.push(field);
        }
        let is_meant = |point: &Point| conditions.iter().all(|field| holds(field, point.payload.get(&field.key)));
        Ok(self.points.iter().filter(|(_, point)| is_meant(point)).map(|(id, _)| id.clone()).collect())
    }
}

fn holds(field: &wire::FieldCondition, value: Option<&wire::Value>) -> bool {
    let wanted = field.r#match.as_ref().and_then(|wanted| wanted.match_value.as_ref());
    match (value.and_then(|value| value.kind.as_ref()), wanted, &field.range) {
        (Some(Kind::StringValue(text)), Some(MatchValue::Keyword(keyword)), None) => text == keyword,
        (Some(Kind::StringValue(text)), Some(MatchValue::Keywords(keywords)), None) => keywords.strings.contains(text),
        (Some(Kind::BoolValue(flag)), Some(MatchValue::Boolean(wanted)), None) => flag == wanted,
        (Some(Kind::IntegerValue(number)), None, Some(range)) => {
            let number = *number as f64;
            range.gt.is_none_or(|than| number > than)
                && range.gte.is_none_or(|than| number >= than)
                && range.lt.is_none_or(|than| number < than)
                && range.lte.is_none_or(|than| number <= than)
        }
        _ => false,
    }
}

fn dense(vector: wire::Vector) -> Vec<f32> {
    match vector.vector {
        Some(wire::vector::Vector::Dense(dense)) => dense.data,
        #[expect(deprecated, reason = "older clients send it")]
        _ => vector.data,
    }
}

/// Calls that are not ours.
macro_rules! refuse {
    ($($name:ident($request:ident) -> $response:ident;)*) => {$(
        fn $name<'life0, 'async_trait>(
            &'life0 self,
            _: Request<wire::$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<wire::$response>, Status>> + Send + 'async_trait>>
        where
            'life0: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async { Err(Status::unimplemented(stringify!($name))) })
        }
    )*};
}

fn operated() -> Response<wire::PointsOperationResponse> {
    Response::new(wire::PointsOperationResponse { result: Some(wire::UpdateResult::default()), time: 0.0, usage: None })
}

#[tonic::async_trait]
impl Points for Service {
    async fn upsert(
        &self,
        request: Request<wire::UpsertPoints>,
    ) -> Result<Response<wire::PointsOperationResponse>, Status> {
        let request = request.into_inner();
        self.enter().await?.collection(&request.collection_name)?.put(request.points)?;
        Ok(operated())
    }

    async fn delete(
        &self,
        request: Request<wire::DeletePoints>,
    ) -> Result<Response<wire::PointsOperationResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.enter().await?;
        let collection = state.collection(&request.collection_name)?;
        let Some(PointsSelectorOneOf::Filter(filter)) = request.points.and_then(|points| points.points_selector_one_of)
        else {
            return Err(Status::unimplemented("only filters"));
        };
        for id in collection.meant(Some(filter))? {
            collection.points.remove(&id);
        }
        Ok(operated())
    }

    async fn create_field_index(
        &self,
        request: Request<wire::CreateFieldIndexCollection>,
    ) -> Result<Response<wire::PointsOperationResponse>, Status> {
        let request = request.into_inner();
        self.enter().await?.collection(&request.collection_name)?.indexes.insert(request.field_name);
        Ok(operated())
    }

    async fn count(&self, request: Request<wire::CountPoints>) -> Result<Response<wire::CountResponse>, Status> {
        let request = request.into_inner();
        let count = self.enter().await?.collection(&request.collection_name)?.meant(request.filter)?.len() as u64;
        Ok(Response::new(wire::CountResponse { result: Some(wire::CountResult { count }), ..Default::default() }))
    }

    async fn query(&self, request: Request<wire::QueryPoints>) -> Result<Response<wire::QueryResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.enter().await?;
        let collection = state.collection(&request.collection_name)?;
        let name = request.using.unwrap_or_default();
        let nearest = match request.query.and_then(|query| query.variant) {
            Some(wire::query::Variant::Nearest(input)) => input.variant,
            _ => return Err(Status::unimplemented("only nearest")),
        };
        let Some(wire::vector_input::Variant::Dense(asked)) = nearest else {
            return Err(Status::unimplemented("only dense vectors"));
        };
        if collection.vectors.get(&name) != Some(&(asked.data.len() as u64)) {
            return Err(Status::invalid_argument("Wrong input: Vector dimension error"));
        }
        let mut found = Vec::new();
        for id in collection.meant(request.filter)? {
            let point = &collection.points[&id];
            let Some(vector) = point.vectors.get(&name) else { continue };
            let score = vector.iter().zip(&asked.data).map(|(x, y)| x * y).sum::<f32>();
            found.push(wire::ScoredPoint {
                score,
                payload: point.payload.clone(),
                vectors: Some(output(&point.vectors)),
                ..Default::default()
            });
        }
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        found.truncate(request.limit.unwrap_or(10) as usize);
        Ok(Response::new(wire::QueryResponse { result: found, ..Default::default() }))
    }

    refuse! {
        get(GetPoints) -> GetResponse;
        update_vectors(UpdatePointVectors) -> PointsOperationResponse;
        delete_vectors(DeletePointVectors) -> PointsOperationResponse;
        set_payload(SetPayloadPoints) -> PointsOperationResponse;
        overwrite_payload(SetPayloadPoints) -> PointsOperationResponse;
        delete_payload(DeletePayloadPoints) -> PointsOperationResponse;
        clear_payload(ClearPayloadPoints) -> PointsOperationResponse;
        delete_field_index(DeleteFieldIndexCollection) -> PointsOperationResponse;
        create_vector_name(CreateVectorNameRequest) -> PointsOperationResponse;
        delete_vector_name(DeleteVectorNameRequest) -> PointsOperationResponse;
        search(SearchPoints) -> SearchResponse;
        search_batch(SearchBatchPoints) -> SearchBatchResponse;
        search_groups(SearchPointGroups) -> SearchGroupsResponse;
        scroll(ScrollPoints) -> ScrollResponse;
        recommend(RecommendPoints) -> RecommendResponse;
        recommend_batch(RecommendBatchPoints) -> RecommendBatchResponse;
        recommend_groups(RecommendPointGroups) -> RecommendGroupsResponse;
        discover(DiscoverPoints) -> DiscoverResponse;
        discover_batch(DiscoverBatchPoints) -> DiscoverBatchResponse;
        update_batch(UpdateBatchPoints) -> UpdateBatchResponse;
        query_batch(QueryBatchPoints) -> QueryBatchResponse;
        query_groups(QueryPointGroups) -> QueryGroupsResponse;
        facet(FacetCounts) -> FacetResponse;
        search_matrix_pairs(SearchMatrixPoints) -> SearchMatrixPairsResponse;
        search_matrix_offsets(SearchMatrixPoints) -> SearchMatrixOffsetsResponse;
    }
}

fn output(vectors: &HashMap<String, Vec<f32>>) -> wire::VectorsOutput {
    let one = |vector: &Vec<f32>| wire::VectorOutput {
        vector: Some(wire::vector_output::Vector::Dense(wire::DenseVector { data: vector.clone() })),
        ..Default::default()
    };
    let vectors = vectors.iter().map(|(name, vector)| (name.clone(), one(vector))).collect();
    let named = wire::NamedVectorsOutput { vectors };
    wire::VectorsOutput { vectors_options: Some(wire::vectors_output::VectorsOptions::Vectors(named)) }
}

#[tonic::async_trait]
impl Collections for Service {
    async fn create(
        &self,
        request: Request<wire::CreateCollection>,
    ) -> Result<Response<wire::CollectionOperationResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.enter().await?;
        let name = request.collection_name;
        if state.collections.contains_key(&name) {
            return Err(Status::already_exists(format!("Wrong input: Collection `{name}` already exists!")));
        }
        let Some(Config::ParamsMap(vectors)) = request.vectors_config.and_then(|config| config.config) else {
            return Err(Status::unimplemented("only named vectors"));
        };
        let vectors = vectors.map.into_iter().map(|(name, vector)| (name, vector.size)).collect();
        state.collections.insert(name, Collection { vectors, ..Collection::default() });
        Ok(Response::new(wire::CollectionOperationResponse { result: true, time: 0.0 }))
    }

    async fn list(
        &self,
        _: Request<wire::ListCollectionsRequest>,
    ) -> Result<Response<wire::ListCollectionsResponse>, Status> {
        let state = self.enter().await?;
        let describe = |name: &String| wire::CollectionDescription { name: name.clone() };
        let collections = state.collections.keys().map(describe).collect();
        Ok(Response::new(wire::ListCollectionsResponse { collections, time: 0.0 }))
    }

    async fn collection_exists(
        &self,
        request: Request<wire::CollectionExistsRequest>,
    ) -> Result<Response<wire::CollectionExistsResponse>, Status> {
        let exists = self.enter().await?.collections.contains_key(&request.into_inner().collection_name);
        let result = Some(wire::CollectionExists { exists });
        Ok(Response::new(wire::CollectionExistsResponse { result, time: 0.0 }))
    }

    refuse! {
        get(GetCollectionInfoRequest) -> GetCollectionInfoResponse;
        update(UpdateCollection) -> CollectionOperationResponse;
        delete(DeleteCollection) -> CollectionOperationResponse;
        update_aliases(ChangeAliases) -> CollectionOperationResponse;
        list_collection_aliases(ListCollectionAliasesRequest) -> ListAliasesResponse;
        list_aliases(ListAliasesRequest) -> ListAliasesResponse;
        collection_cluster_info(CollectionClusterInfoRequest) -> CollectionClusterInfoResponse;
        update_collection_cluster_setup(UpdateCollectionClusterSetupRequest) -> UpdateCollectionClusterSetupResponse;
        create_shard_key(CreateShardKeyRequest) -> CreateShardKeyResponse;
        delete_shard_key(DeleteShardKeyRequest) -> DeleteShardKeyResponse;
        list_shard_keys(ListShardKeysRequest) -> ListShardKeysResponse;
    }
}

#[tonic::async_trait]
impl Qdrant for Service {
    async fn health_check(
        &self,
        _: Request<wire::HealthCheckRequest>,
    ) -> Result<Response<wire::HealthCheckReply>, Status> {
        let _state = self.enter().await?;
        Ok(Response::new(wire::HealthCheckReply { version: "1.20.0".to_owned(), ..Default::default() }))
    }
}
