//! The admin service: operators' words to models, on a port of its own.
use super::{
    auth::Auth,
    call::Call,
    connections::Doorstep,
    encode,
    lives::Port,
    proto::{
        self,
        admin::{
            self as wire,
            model_admin_service_server::{ModelAdminService, ModelAdminServiceServer},
        },
    },
    server::RpcError,
    status::{self, Violations},
};
use crate::{
    bundle::manifest::BundleId,
    serve::{
        door::Door,
        metrics::Metrics,
        models::{
            Models, ModelsError,
            facts::{Listed, ModelFacts, Origin, Role},
        },
        settings::ConnectionSettings,
    },
};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Response, Status,
    service::{Routes, interceptor::InterceptedService},
};
use tonic_health::{pb::health_server::HealthServer, server::HealthService};

/// Digits of a bundle's id.
const BUNDLE_ID_LEN: usize = 16;

/// The service of one server.
#[derive(Debug)]
pub struct Admin {
    models: Arc<Models>,
    metrics: Arc<Metrics>,
}

/// Serves until the future is dropped; then no connection is left.
///
/// # Errors
/// If the server cannot be built.
pub async fn serve(
    listener: TcpListener,
    admin: Admin,
    door: Door,
    health: HealthService,
    connections: ConnectionSettings,
) -> Result<(), RpcError> {
    let metrics = Arc::clone(&admin.metrics);
    let auth = Auth::new(door.operators, Arc::clone(&metrics));
    let (open, certificates) = (metrics.connections_open(), door.certificates);
    let doorstep = Doorstep { settings: connections, certificates, open, metrics };
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::ADMIN_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let service =
        ModelAdminServiceServer::new(admin).max_decoding_message_size(connections.message_bytes_max);
    let routes = Routes::new(InterceptedService::new(service, auth))
        .add_service(HealthServer::new(health))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .into_axum_router();
    Port { listener, doorstep, routes, speaks_http1: false }.serve(CancellationToken::new()).await;
    Ok(())
}

impl Admin {
    /// The service of these models.
    pub fn new(models: Arc<Models>, metrics: Arc<Metrics>) -> Self {
        Self { models, metrics }
    }

    /// Counts a call and how it ends.
    async fn call<T>(
        &self,
        method: &'static str,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        let mut call = Call::apart(&self.metrics, method);
        let answered = answer.await;
        call.code = answered.as_ref().err().map_or(Code::Ok, Status::code);
        answered.map(Response::new)
    }

    async fn load(&self, request: wire::LoadModelRequest) -> Result<Arc<ModelFacts>, Status> {
        let wire::LoadModelRequest { folder, expected_generation, bundle_id, resident } = request;
        let is_id = |id: &str| id.len() == BUNDLE_ID_LEN && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !bundle_id.is_empty() && !is_id(&bundle_id) {
            return Err(invalid("bundle_id", &format!("must be {BUNDLE_ID_LEN} hex digits")));
        }
        let bundle = Some(BundleId(bundle_id.to_lowercase())).filter(|id| !id.0.is_empty());
        let loaded = self.models.load(&folder, &resident, bundle, expected_generation).await;
        loaded.map_err(|error| refusal(&error))
    }

    fn list(&self) -> wire::ListModelsResponse {
        let Listed { models, previous } = self.models.list();
        wire::ListModelsResponse {
            models: models.iter().map(|(facts, role)| model(facts, *role)).collect(),
            previous: previous.map(|facts| encode::model(&facts)),
            models_max: encode::count(self.models.models_max()),
        }
    }
}

#[tonic::async_trait]
impl ModelAdminService for Admin {
    async fn list_models(
        &self,
        _request: Request<wire::ListModelsRequest>,
    ) -> Result<Response<wire::ListModelsResponse>, Status> {
        self.call("ListModels", async { Ok(self.list()) }).await
    }

    async fn load_model(
        &self,
        request: Request<wire::LoadModelRequest>,
    ) -> Result<Response<wire::LoadModelResponse>, Status> {
        let load = async {
            let facts = self.load(request.into_inner()).await?;
            Ok(wire::LoadModelResponse { model: Some(model(&facts, Role::Loaded)) })
        };
        self.call("LoadModel", load).await
    }

    async fn swap_model(
        &self,
        request: Request<wire::SwapModelRequest>,
    ) -> Result<Response<wire::SwapModelResponse>, Status> {
        let wire::SwapModelRequest { generation, expected_generation } = request.into_inner();
        let swap = async {
            required(generation)?;
            let swapped = self.models.swap(generation, expected_generation).await;
            let facts = swapped.map_err(|error| refusal(&error))?;
            Ok(wire::SwapModelResponse { model: Some(model(&facts, Role::Serving)) })
        };
        self.call("SwapModel", swap).await
    }

    async fn rollback_model(
        &self,
        request: Request<wire::RollbackModelRequest>,
    ) -> Result<Response<wire::RollbackModelResponse>, Status> {
        let wire::RollbackModelRequest { expected_generation, resident } = request.into_inner();
        let rollback = async {
            let rolled_back = self.models.rollback(&resident, expected_generation).await;
            let facts = rolled_back.map_err(|error| refusal(&error))?;
            Ok(wire::RollbackModelResponse { model: Some(model(&facts, Role::Serving)) })
        };
        self.call("RollbackModel", rollback).await
    }

    async fn unload_model(
        &self,
        request: Request<wire::UnloadModelRequest>,
    ) -> Result<Response<wire::UnloadModelResponse>, Status> {
        let generation = request.into_inner().generation;
        let unload = async {
            required(generation)?;
            self.models.unload(generation).await.map_err(|error| refusal(&error))?;
            Ok(wire::UnloadModelResponse {})
        };
        self.call("UnloadModel", unload).await
    }
}

fn model(facts: &ModelFacts, role: Role) -> wire::Model {
    wire::Model {
        model: Some(encode::model(facts)),
        state: match role {
            Role::Loaded => wire::ModelState::Loaded,
            Role::Serving => wire::ModelState::Serving,
            Role::Retiring => wire::ModelState::Retiring,
        }
        .into(),
        folder: match &facts.origin {
            Origin::BuiltIn => String::new(),
            Origin::At(dir) => dir.display().to_string(),
        },
        load_time: facts.load_time.and_then(encode::duration),
        resident: facts.resident.clone(),
    }
}

/// Generations are counted from 1, so zero is a field that was left out.
fn required(generation: u64) -> Result<(), Status> {
    if generation == 0 { Err(invalid("generation", "is required")) } else { Ok(()) }
}

fn invalid(field: &str, description: &str) -> Status {
    let mut violations = Violations::default();
    violations.add(field, description.to_owned());
    status::invalid(&violations)
}

/// The status of a model that is not changed.
fn refusal(error: &ModelsError) -> Status {
    if let ModelsError::FolderName = error {
        return invalid("folder", &error.to_string());
    }
    status::models(error)
}
