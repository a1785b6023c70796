//! A server that does what it is told, call by call, and remembers what it was asked.
use newshound::client::reach::Reach;
use newshound::serve::rpc::proto::{
    self,
    query_generation_service_server::{QueryGenerationService, QueryGenerationServiceServer},
};
use std::{
    collections::VecDeque,
    future::pending,
    sync::{Arc, Mutex},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_stream::{Iter, iter, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status, metadata::MetadataMap, transport};

/// What becomes of a call.
pub enum Act {
    Answer,
    Refuse(Status),
    /// Nothing, ever.
    Hang,
}

/// A call as it came.
pub struct Seen {
    pub metadata: MetadataMap,
    pub message: proto::GenerateQueriesRequest,
}

impl Seen {
    pub fn text(&self, name: &str) -> Option<&str> {
        self.metadata.get(name).map(|value| value.to_str().unwrap())
    }
}

#[derive(Clone, Default)]
struct Told {
    acts: Arc<Mutex<VecDeque<Act>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

pub struct StandIn {
    pub reach: Reach,
    told: Told,
    tasks: JoinSet<()>,
}

impl StandIn {
    /// Does these, one a call, and answers whatever comes after them.
    pub async fn start(acts: impl IntoIterator<Item = Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let reach = Reach::plain(&listener.local_addr().unwrap().to_string());
        let told = Told { acts: Arc::new(Mutex::new(acts.into_iter().collect())), ..Told::default() };
        let serving = transport::Server::builder()
            .add_service(QueryGenerationServiceServer::new(told.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { serving.await.unwrap() });
        Self { reach, told, tasks }
    }

    /// The way through a door, at which somebody does something to the first connection, and which lets all others pass.
    pub async fn behind(&mut self, first: impl AsyncFnOnce(TcpStream) + 'static) -> Reach {
        let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (reach, to) = (Reach::plain(&door.local_addr().unwrap().to_string()), self.reach.addr.clone());
        let relay = async move {
            first(door.accept().await.unwrap().0).await;
            while let Ok((mut client, _)) = door.accept().await {
                let mut server = TcpStream::connect(&to).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
        };
        self.tasks.spawn_local(relay);
        reach
    }

    pub fn seen(&self) -> std::sync::MutexGuard<'_, Vec<Seen>> {
        self.told.seen.lock().unwrap()
    }
}

impl Told {
    async fn next(&self, request: Request<proto::GenerateQueriesRequest>) -> Result<(), Status> {
        let (metadata, _, message) = request.into_parts();
        self.seen.lock().unwrap().push(Seen { metadata, message });
        let act = self.acts.lock().unwrap().pop_front();
        match act.unwrap_or(Act::Answer) {
            Act::Answer => Ok(()),
            Act::Refuse(status) => Err(status),
            Act::Hang => pending().await,
        }
    }
}

type Pieces<T> = Iter<std::vec::IntoIter<Result<T, Status>>>;

#[tonic::async_trait]
impl QueryGenerationService for Told {
    type StreamGenerateQueriesStream = Pieces<proto::GenerateQueriesEvent>;
    type BatchGenerateQueriesStream = Pieces<proto::BatchGenerateQueriesItem>;

    async fn generate_queries(
        &self,
        request: Request<proto::GenerateQueriesRequest>,
    ) -> Result<Response<proto::GenerateQueriesResponse>, Status> {
        self.next(request).await?;
        let response_id = "answered".to_owned();
        Ok(Response::new(proto::GenerateQueriesResponse { response_id, ..Default::default() }))
    }

    /// One event, then the server is lost.
    async fn stream_generate_queries(
        &self,
        request: Request<proto::GenerateQueriesRequest>,
    ) -> Result<Response<Self::StreamGenerateQueriesStream>, Status> {
        self.next(request).await?;
        let pieces = vec![Ok(proto::GenerateQueriesEvent::default()), Err(Status::unavailable("lost"))];
        Ok(Response::new(iter(pieces)))
    }

    async fn batch_generate_queries(
        &self,
        _: Request<proto::BatchGenerateQueriesRequest>,
    ) -> Result<Response<Self::BatchGenerateQueriesStream>, Status> {
        Err(Status::unimplemented("no test asks it"))
    }

    async fn explain_assignment(
        &self,
        _: Request<proto::ExplainAssignmentRequest>,
    ) -> Result<Response<proto::ExplainAssignmentResponse>, Status> {
        Err(Status::unimplemented("no test asks it"))
    }

    async fn get_server_info(
        &self,
        _: Request<proto::GetServerInfoRequest>,
    ) -> Result<Response<proto::GetServerInfoResponse>, Status> {
        Err(Status::unimplemented("no test asks it"))
    }
}
