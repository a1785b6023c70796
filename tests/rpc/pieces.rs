//! A long prompt enters beside the steps of rows that run, some of it at a time.
use super::{
    model,
    script::{Gate, LIST, Log, Mishap, Script},
    server::{Server, parts, request, within},
};
use candle_core::Device;
use newshound::{
    decode::batch::{
        Admitted, DecodeError, FinishedRow, GroupId, GroupRequest, Known, TOGETHER_MIN, prefill_budget,
    },
    model::{kv_cache::Prefix, ops::Numerics, transformer::Transformer, weights::Parameters},
    serve::{engine::Generator, rpc::proto, settings::ServeSettings},
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

/// Of each piece of a prompt, the steps that were made before it, and its positions.
type Pieces = Arc<Mutex<Vec<(usize, usize)>>>;

/// A script whose prompts can be split.
struct Piecewise {
    script: Script,
    /// Stands for keys and values of any prompt.
    prefix: Arc<Prefix>,
    log: Arc<Log>,
    pieces: Pieces,
}

impl Generator for Piecewise {
    fn splits_prompts(&self) -> bool {
        true
    }

    fn step_beside(
        &mut self,
        request: &mut GroupRequest,
        n_positions_max: usize,
    ) -> Result<Vec<FinishedRow>, DecodeError> {
        let n_known = request.n_known();
        let n_positions = (n_known + n_positions_max).min(request.prompt.len() - 1);
        request.known = Some(Known { prefix: Arc::clone(&self.prefix), n_positions });
        self.pieces.lock().unwrap().push((self.log.steps(), n_positions - n_known));
        self.step()
    }

    fn admit(&mut self, request: GroupRequest) -> Result<Admitted, DecodeError> {
        let prefill_tokens_computed = request.prompt.len() - request.n_known();
        self.script.admit(request)?;
        Ok(Admitted { prefill_tokens_computed, prefix: None })
    }

    fn step(&mut self) -> Result<Vec<FinishedRow>, DecodeError> {
        self.script.step()
    }

    fn cancel(&mut self, group: GroupId) -> usize {
        self.script.cancel(group)
    }

    fn n_rows_of(&self, group: GroupId) -> usize {
        self.script.n_rows_of(group)
    }

    fn n_rows(&self) -> usize {
        self.script.n_rows()
    }

    fn kv_bytes(&self) -> usize {
        self.script.kv_bytes()
    }
}

async fn server() -> (Server, Pieces) {
    let (gate, log, pieces) = (Arc::new(Gate::default()), Arc::new(Log::default()), Pieces::default());
    let mut parameters = Parameters::fresh(7, &Device::Cpu);
    let network = Transformer::load(&model::config(), &mut parameters, Numerics::Serve).unwrap();
    let prefix = Arc::new(network.prefill(&[1, 2, 3]).unwrap().0);
    let (own_gate, own_log, own_pieces) = (Arc::clone(&gate), Arc::clone(&log), Arc::clone(&pieces));
    let make = move || {
        let script =
            Script::new(Arc::new(|_, _| LIST.to_owned()), own_gate, Arc::clone(&own_log), Mishap::None);
        Piecewise { script, prefix, log: own_log, pieces: own_pieces }
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let settings = ServeSettings { grpc_addr: any, http_addr: any, ..ServeSettings::demo() };
    (Server::start(settings, parts(false), make, gate, log).await, pieces)
}

fn long(user: &str) -> proto::GenerateQueriesRequest {
    let mut long = request(user);
    long.signals.iter_mut().for_each(|signal| signal.text = "storm ".repeat(120));
    long
}

/// Steps the rows that run, slowly, until the first piece of another prompt is computed.
async fn until_begun(server: &Server, pieces: &Pieces) {
    within(async {
        while pieces.lock().unwrap().is_empty() {
            server.gate.allow(1);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn rows_that_run_step_with_every_piece_of_a_long_prompt() {
    let (server, pieces) = server().await;
    let (mut runs, mut comes) = (server.client().await, server.client().await);
    let runs = tokio::spawn(async move { runs.generate_queries(request("runs")).await });
    server.until("newshound_running_rows", 4.0).await;
    let comes = tokio::spawn(async move { comes.generate_queries(long("comes")).await });
    until_begun(&server, &pieces).await;
    server.gate.open();
    let response = within(comes).await.unwrap().unwrap().into_inner();
    within(runs).await.unwrap().unwrap();
    let pieces = pieces.lock().unwrap().clone();
    assert!(pieces.len() >= 2, "{pieces:?}");
    for (before, piece) in pieces.iter().zip(pieces.iter().skip(1)) {
        assert!(before.0 < piece.0, "each piece is computed beside a step of its own: {pieces:?}");
    }
    assert!(
        pieces.iter().all(|&(_, n_positions)| n_positions <= prefill_budget(4, TOGETHER_MIN)),
        "{pieces:?}"
    );
    let usage = response.usage.unwrap();
    assert_eq!(usage.prefill_tokens_computed, usage.prompt_tokens, "pieces count as one prompt");
}

#[tokio::test]
async fn who_leaves_while_her_prompt_is_computed_never_has_rows() {
    let (server, pieces) = server().await;
    let (mut runs, mut leaves) = (server.client().await, server.client().await);
    let runs = tokio::spawn(async move { runs.generate_queries(request("runs")).await });
    server.until("newshound_running_rows", 4.0).await;
    let leaves = tokio::spawn(async move { leaves.generate_queries(long("leaves")).await });
    until_begun(&server, &pieces).await;
    leaves.abort();
    server.until("newshound_rpc_in_flight{method=\"GenerateQueries\"}", 1.0).await;
    server.gate.open();
    within(runs).await.unwrap().unwrap();
    server.until("newshound_running_rows", 0.0).await;
    assert_eq!(server.log.prefills.load(Ordering::SeqCst), 1, "only the first prompt got rows");
    assert_eq!(server.metric("newshound_outcomes_total{outcome=\"cancelled\"}").await, Some(1.0));
}
