//! Vectors in a Qdrant server, where they should not take the gateway's memory.
//!
//! One collection for each installation and embedder; a point for each row, its texts in the payload. Answers are not there:
//! a point that outlives its answer leads nowhere.

use super::{Earlier, NEIGHBOURS, Nearest, Neighbour, Query, Row, StoreError, StoreStats, VectorStore, Which};
use crate::config::SemanticConfig;
use async_trait::async_trait;
use qdrant_client::qdrant::{
    Condition, CountPointsBuilder, CreateCollectionBuilder, CreateFieldIndexCollectionBuilder, DeletePointsBuilder,
    Distance, FieldType, Filter, HnswConfigDiffBuilder, KeywordIndexParamsBuilder, PointId, PointStruct,
    QueryPointsBuilder, Range, ScoredPoint, UpsertPointsBuilder, VectorParams, VectorParamsBuilder, VectorParamsMap,
    VectorsConfig, payload_index_params::IndexParams, vector_output, vectors_config, vectors_output::VectorsOptions,
};
use qdrant_client::{Payload, Qdrant, QdrantError};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use uuid::Uuid;

/// Names of a point's vectors.
const LAST: &str = "last";
const EARLIER: &str = "earlier";
/// Points fetched for a search: more than are wanted, because ties are ordered here; many more where a second vector has a
/// say in the order.
const FETCHED: u64 = 4 * NEIGHBOURS as u64;
const FETCHED_WITH_EARLIER: u64 = 256;
/// Ids named in one call.
const IDS_MAX: usize = 1_000;
/// For one call that nobody waits for.
const PATIENCE: Duration = Duration::from_secs(10);
/// gRPC's NOT_FOUND.
const NOT_FOUND: i32 = 5;
/// No row lives longer: a hundred years.
const LIFE_MS_MAX: i64 = 100 * 366 * 86_400_000;

/// A collection of a Qdrant server, 1.18 to 1.21.
pub struct QdrantStore {
    client: Qdrant,
    /// What the names of the installation's collections begin with.
    prefix: String,
    collection: String,
    rows_max: u64,
    /// The collection is there with all its indexes: before, a search would fail or look at everything.
    is_ready: AtomicBool,
}

impl std::fmt::Debug for QdrantStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QdrantStore").field("collection", &self.collection).finish_non_exhaustive() // a key is in the client
    }
}

impl QdrantStore {
    /// A store at the configured address, which need not answer yet. `installation` keeps apart what several installations
    /// have in one server; `embedder` is the identity of the embedder in use.
    ///
    /// # Errors
    /// When there is no such address, or the variable of the key is not set.
    pub fn new(config: &SemanticConfig, installation: &str, embedder: &str) -> Result<Self, StoreError> {
        let url = config.url.as_deref().unwrap_or_default();
        let mut client = Qdrant::from_url(url).skip_compatibility_check().timeout(PATIENCE).connect_timeout(PATIENCE);
        if let Some(variable) = &config.api_key_env {
            let key = std::env::var(variable).map_err(|_| StoreError::Failed(format!("{variable} is not set")))?;
            client = client.api_key(key);
        }
        let prefix = format!("sluice-{installation}-");
        let embedder = &protocol::digest_of(embedder.as_bytes()).to_string()[..16];
        let client = client.build().map_err(|error| StoreError::Failed(error.to_string()))?;
        let collection = format!("{prefix}{embedder}");
        Ok(Self { client, collection, prefix, rows_max: config.entries_max as u64, is_ready: AtomicBool::new(false) })
    }

    async fn create(&self, dimensions: usize) -> Result<(), QdrantError> {
        let vector = || VectorParamsBuilder::new(dimensions as u64, Distance::Dot).build();
        let map: HashMap<String, VectorParams> = [LAST, EARLIER].map(|name| (name.to_owned(), vector())).into();
        let vectors = VectorsConfig { config: Some(vectors_config::Config::ParamsMap(VectorParamsMap { map })) };
        // Graphs within each tenant and scope, none over all: no search goes beyond its scope.
        let graphs = HnswConfigDiffBuilder::default().m(0).payload_m(16);
        let collection = CreateCollectionBuilder::new(&self.collection).vectors_config(vectors).hnsw_config(graphs);
        self.client.create_collection(collection.on_disk_payload(true)).await.map(|_| ())
    }

    /// Indexes of everything that filters name; before the first point, so that graphs are built along them.
    async fn index(&self) -> Result<(), QdrantError> {
        let tenant: IndexParams = KeywordIndexParamsBuilder::default().is_tenant(true).into();
        let fields = [
            ("tenant", FieldType::Keyword, Some(tenant)),
            ("scope", FieldType::Keyword, None),
            ("answer", FieldType::Keyword, None),
            ("has_earlier", FieldType::Bool, None),
            ("expires_ms", FieldType::Integer, None),
        ];
        for (name, kind, parameters) in fields {
            let mut field = CreateFieldIndexCollectionBuilder::new(&self.collection, name, kind).wait(true);
            if let Some(parameters) = parameters {
                field = field.field_index_params(parameters);
            }
            self.client.create_field_index(field).await?;
        }
        Ok(())
    }

    async fn count(&self, filter: Filter) -> Result<u64, QdrantError> {
        let counted = self.client.count(CountPointsBuilder::new(&self.collection).filter(filter).exact(true)).await?;
        Ok(counted.result.map_or(0, |result| result.count))
    }

    async fn remove(&self, collection: &str, filter: Filter) -> Result<(), QdrantError> {
        self.client.delete_points(DeletePointsBuilder::new(collection).points(filter).wait(true)).await.map(|_| ())
    }

    /// The same in the collection in use, which need not be there.
    async fn remove_from_ours(&self, filter: Filter) -> Result<(), StoreError> {
        match self.remove(&self.collection, filter).await.map_err(failed) {
            Err(StoreError::Missing) => Ok(()),
            outcome => outcome,
        }
    }

    /// Removes what expires first, until a tenth of the allowed number is free.
    async fn shrink(&self, now_ms: i64) -> Result<u64, QdrantError> {
        let rows = self.count(Filter::default()).await?;
        if rows <= self.rows_max {
            return Ok(0);
        }
        let surplus = rows - (self.rows_max - self.rows_max / 10);
        let (mut early, mut late) = (now_ms, now_ms + LIFE_MS_MAX);
        while late - early > 1 {
            let middle = early + (late - early) / 2;
            let is_enough = self.count(expired_by(middle)).await? >= surplus;
            if is_enough { late = middle } else { early = middle }
        }
        self.remove(&self.collection, expired_by(late)).await?;
        Ok(rows - self.count(Filter::default()).await?)
    }
}

#[async_trait]
impl VectorStore for QdrantStore {
    async fn ensure_space(&self, dimensions: usize) -> Result<bool, StoreError> {
        let exists = self.client.collection_exists(&self.collection).await.map_err(failed)?;
        if !exists {
            self.is_ready.store(false, Ordering::Release);
            self.create(dimensions).await.map_err(failed)?;
        }
        self.index().await.map_err(failed)?;
        self.is_ready.store(true, Ordering::Release);
        Ok(!exists)
    }

    async fn upsert(&self, rows: &[Arc<Row>]) -> Result<(), StoreError> {
        if !self.is_ready.load(Ordering::Acquire) {
            return Err(StoreError::Missing);
        }
        // Of rows with one id the last counts, as if they had come one by one.
        let points: HashMap<Uuid, &Row> = rows.iter().map(|row| (point_id(row), &**row)).collect();
        let points: Vec<PointStruct> = points.into_iter().map(|(id, row)| point(id, row)).collect();
        let request = UpsertPointsBuilder::new(&self.collection, points).wait(true);
        self.client.upsert_points(request).await.map(|_| ()).map_err(failed)
    }

    async fn search(&self, query: Query<'_>) -> Result<Vec<Neighbour>, StoreError> {
        if !self.is_ready.load(Ordering::Acquire) {
            return Ok(Vec::new()); // nothing was put in yet
        }
        let fetched = if query.earlier.is_some() { FETCHED_WITH_EARLIER } else { FETCHED };
        let filter = Filter::must([
            Condition::matches("tenant", query.tenant.to_owned()),
            Condition::matches("scope", query.scope.to_string()),
            Condition::matches("has_earlier", query.earlier.is_some()),
            Condition::range("expires_ms", Range { gt: Some(query.now_ms as f64), ..Range::default() }),
        ]);
        let request = QueryPointsBuilder::new(&self.collection).query(query.vector.to_vec()).using(LAST).filter(filter);
        let request = request.limit(fetched).with_payload(true).with_vectors(true);
        let found = match self.client.query(request).await.map_err(failed) {
            Ok(found) => found,
            Err(StoreError::Missing) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut nearest = Nearest::default();
        for found in found.result {
            match row(found, &query) {
                Some(row) => nearest.consider(&Arc::new(row), &query),
                None => tracing::warn!(collection = self.collection, "a point is no row of ours: it is left out"),
            }
        }
        Ok(nearest.0)
    }

    async fn delete(&self, which: Which<'_>) -> Result<(), StoreError> {
        let of_tenant = Condition::matches("tenant", which.tenant.to_owned());
        if let Some(answers) = which.answers {
            let ids: Vec<String> = answers.iter().map(|answer| answer.to_string()).collect();
            for ids in ids.chunks(IDS_MAX) {
                let of_ids = [of_tenant.clone(), Condition::matches("answer", ids.to_vec())];
                self.remove_from_ours(Filter::must(of_ids)).await?;
            }
            return Ok(());
        }
        self.remove_from_ours(Filter::must([of_tenant])).await
    }

    async fn sweep(&self, now_ms: i64) -> Result<u64, StoreError> {
        let mut expired = 0;
        // Collections of embedders that were in use before age out, too.
        let collections = self.client.list_collections().await.map_err(failed)?.collections;
        for collection in collections.iter().filter(|collection| collection.name.starts_with(&self.prefix)) {
            if collection.name == self.collection {
                expired += self.count(expired_by(now_ms)).await.map_err(failed)?;
            }
            self.remove(&collection.name, expired_by(now_ms)).await.map_err(failed)?;
        }
        match self.shrink(now_ms).await.map_err(failed) {
            Ok(surplus) => Ok(expired + surplus),
            Err(StoreError::Missing) => Ok(expired),
            Err(error) => Err(error),
        }
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        match self.count(Filter::default()).await.map_err(failed) {
            Ok(rows) => Ok(StoreStats { rows, scopes: None }),
            Err(StoreError::Missing) => Ok(StoreStats { rows: 0, scopes: None }),
            Err(error) => Err(error),
        }
    }

    async fn health(&self) -> Result<(), StoreError> {
        self.client.health_check().await.map(|_| ()).map_err(failed)
    }
}

fn failed(error: QdrantError) -> StoreError {
    match error {
        QdrantError::ResponseError { status } if status.code() as i32 == NOT_FOUND => StoreError::Missing,
        QdrantError::ResponseError { status } => {
            StoreError::Failed(format!("{:?}: {}", status.code(), status.message()))
        }
        error => StoreError::Failed(error.to_string()),
    }
}

fn expired_by(time_ms: i64) -> Filter {
    Filter::must([Condition::range("expires_ms", Range { lte: Some(time_ms as f64), ..Range::default() })])
}

/// The same row is the same point, whoever puts it in.
fn point_id(row: &Row) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, row.id.as_bytes())
}

fn point(id: Uuid, row: &Row) -> PointStruct {
    let mut payload = Payload::new();
    payload.insert("id", &*row.id);
    payload.insert("tenant", &*row.tenant);
    payload.insert("scope", row.scope.to_string());
    payload.insert("answer", &*row.answer);
    payload.insert("prompt", &*row.prompt);
    payload.insert("principal", row.principal);
    payload.insert("expires_ms", row.expires_ms);
    payload.insert("has_earlier", row.earlier.is_some());
    let mut vectors = HashMap::from([(LAST.to_owned(), row.vector.to_vec())]);
    if let Some(earlier) = &row.earlier {
        payload.insert("earlier", &*earlier.text);
        vectors.insert(EARLIER.to_owned(), earlier.vector.to_vec());
    }
    PointStruct::new(PointId::from(id.to_string()), vectors, payload)
}

/// Reads a point back; `None` where it is not in the scope that was asked for, or something is missing.
fn row(mut point: ScoredPoint, query: &Query<'_>) -> Option<Row> {
    let Some(VectorsOptions::Vectors(mut vectors)) = point.vectors.take().and_then(|vectors| vectors.vectors_options)
    else {
        return None;
    };
    let mut vector = |name: &str| match vectors.vectors.remove(name)?.into_vector() {
        vector_output::Vector::Dense(dense) => Some(dense.data.into_boxed_slice()),
        _ => None,
    };
    let text = |name: &str| point.payload.get(name)?.as_str().map(String::as_str);
    let number = |name: &str| point.payload.get(name)?.as_integer();
    if text("tenant")? != query.tenant || text("scope")? != query.scope.to_string() {
        return None;
    }
    let earlier = match (text("earlier"), vector(EARLIER)) {
        (Some(text), Some(vector)) => Some(Earlier { text: text.into(), vector }),
        (None, None) => None,
        _ => return None,
    };
    Some(Row {
        tenant: query.tenant.into(),
        scope: *query.scope,
        id: text("id")?.into(),
        answer: text("answer")?.into(),
        prompt: text("prompt")?.into(),
        vector: vector(LAST)?,
        earlier,
        principal: number("principal")?,
        expires_ms: number("expires_ms")?,
    })
}
