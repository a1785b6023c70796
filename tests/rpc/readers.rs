//! What is kept of a reader ends when she or her platform says so, also what is still being made.
use super::{
    model,
    script::{Gate, LIST, Log, Mishap, Script},
    server::{Client, Plan, Server, ask, cache_status, options, parts, refusal, request, within},
};
use candle_core::Device;
use newshound::{
    decode::batch::{Admitted, DecodeError, FinishedRow, GroupId, GroupRequest},
    model::{kv_cache::Prefix, ops::Numerics, transformer::Transformer, weights::Parameters},
    serve::{
        engine::Generator,
        rpc::proto::{
            self, CacheStatus, ForgetUserRequest, InvalidateUserRequest, UserRef,
            reader_service_client::ReaderServiceClient,
        },
        settings::ServeSettings,
    },
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::task::JoinHandle;
use tonic::{Request, Status, transport::Channel};

async fn readers(server: &Server) -> ReaderServiceClient<Channel> {
    ReaderServiceClient::new(server.channel().await)
}

fn user(key: &str) -> Option<UserRef> {
    Some(UserRef { key: key.to_owned() })
}

pub async fn invalidate(server: &Server, key: &str, tenant: Option<&'static str>) -> Result<(), Status> {
    let mut request = Request::new(InvalidateUserRequest { user: user(key) });
    if let Some(tenant) = tenant {
        request.metadata_mut().insert("x-newshound-tenant", tenant.parse().unwrap());
    }
    within(readers(server).await.invalidate_user(request)).await.map(|_| ())
}

pub async fn forget(server: &Server, key: &str) -> Result<(), Status> {
    within(readers(server).await.forget_user(ForgetUserRequest { user: user(key) })).await.map(|_| ())
}

/// The same while the gate is closed: the model thread hears of it between two steps.
async fn forgetting(
    server: &Server,
    key: &str,
) -> JoinHandle<Result<tonic::Response<proto::ForgetUserResponse>, Status>> {
    let (mut readers, request) = (readers(server).await, ForgetUserRequest { user: user(key) });
    let forgetting = tokio::spawn(async move { readers.forget_user(request).await });
    server.until("newshound_rpc_in_flight{method=\"ForgetUser\"}", 1.0).await;
    forgetting
}

type Call = JoinHandle<Result<tonic::Response<proto::GenerateQueriesResponse>, Status>>;

fn call(client: &Client, request: proto::GenerateQueriesRequest) -> Call {
    let mut client = client.clone();
    tokio::spawn(async move { client.generate_queries(request).await })
}

async fn answered(call: Call) -> proto::GenerateQueriesResponse {
    within(call).await.unwrap().unwrap().into_inner()
}

#[tokio::test]
async fn after_an_invalidation_the_reader_gets_no_older_answer_and_others_do() {
    let server = Plan::new().start().await;
    let mut client = server.client().await;
    for key in ["one", "other"] {
        ask(&mut client, request(key)).await;
    }
    invalidate(&server, "one", Some("daily")).await.unwrap();
    assert_eq!(cache_status(&ask(&mut client, request("one")).await), CacheStatus::Hit, "another tenant's");
    invalidate(&server, "one", None).await.unwrap();
    assert_eq!(cache_status(&ask(&mut client, request("one")).await), CacheStatus::Miss);
    assert_eq!(cache_status(&ask(&mut client, request("one")).await), CacheStatus::Hit, "of the new epoch");
    assert_eq!(cache_status(&ask(&mut client, request("other")).await), CacheStatus::Hit);
    let counted = "newshound_cache_invalidations_total{scope=\"invalidate\"}";
    assert_eq!(server.metric(counted).await, Some(2.0));
}

#[tokio::test]
async fn a_reader_without_a_key_is_refused() {
    let server = Plan::new().start().await;
    let refused = [invalidate(&server, "", None).await, forget(&server, "").await];
    for status in refused.map(Result::unwrap_err) {
        let details = refusal(&status, tonic::Code::InvalidArgument, "FIELD_INVALID");
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "user.key");
    }
}

/// A generation that began before, and ends after a newer one has stored its answer, must not put its own in the place of that.
#[tokio::test]
async fn what_is_under_way_is_neither_joined_nor_stored_after_an_invalidation() {
    let n_begun = AtomicUsize::new(0);
    let older = "solar storm tonight\ntrain strike talks\ncity council vote\nharbour bridge closed for weeks";
    let text = move |_, _| if n_begun.fetch_add(1, Ordering::SeqCst) == 0 { older } else { LIST }.to_owned();
    let server = Plan::new().gated().writing(text).start().await;
    let client = server.client().await;
    let mut single = request("reader");
    options(&mut single).candidate_count = Some(1);
    let before = call(&client, single.clone());
    server.until("newshound_running_rows", 1.0).await;
    invalidate(&server, "reader", None).await.unwrap();
    let after = call(&client, single.clone());
    server.until("newshound_prompt_tokens_count", 2.0).await;
    server.gate.open();
    let (before, after) = (answered(before).await, answered(after).await);
    assert_eq!((cache_status(&before), cache_status(&after)), (CacheStatus::Miss, CacheStatus::Miss));
    assert_eq!(before.best.unwrap().queries.len(), 4, "who waits is answered");
    let stored = ask(&mut client.clone(), single).await;
    assert_eq!((cache_status(&stored), stored.best), (CacheStatus::Hit, after.best));
    assert_eq!(server.log.prefills(), 2);
}

const DIGITS: [&str; 10] = ["ada", "bora", "cito", "duna", "elba", "fado", "gala", "hugo", "iris", "juno"];

/// A list that says which generation wrote it.
fn numbered(number: usize) -> String {
    let words: Vec<&str> =
        number.to_string().bytes().map(|digit| DIGITS[usize::from(digit - b'0')]).collect();
    let number = words.join(" ");
    format!("solar storm {number}\ntrain strike {number}\ncity council {number}")
}

fn number(response: &proto::GenerateQueriesResponse) -> usize {
    let words = response.best.as_ref().unwrap().queries[0].text.split(' ').skip(2);
    let digit = |word: &str| DIGITS.iter().position(|digit| *digit == word).unwrap();
    words.fold(0, |number, word| 10 * number + digit(word))
}

/// Whatever happens at the same time: an answer is of no generation that had begun when an invalidation did that was over before
/// the question was asked.
#[tokio::test]
async fn no_history_of_questions_and_invalidations_has_an_answer_from_before() {
    const N_QUESTIONS: usize = 40;
    const N_INVALIDATIONS: usize = 25;
    let n_begun = AtomicUsize::new(0);
    let text = move |_, _| numbered(n_begun.fetch_add(1, Ordering::SeqCst));
    let settings = |settings: &mut ServeSettings| {
        settings.cache.ttl = std::time::Duration::from_millis(20);
        settings.cache.stale = std::time::Duration::from_secs(60);
        settings.cache.renew_ahead = std::time::Duration::from_millis(10);
    };
    let server = Plan::new().with(settings).writing(text).start().await;
    let (client, oldest) = (server.client().await, Arc::new(AtomicUsize::new(0)));
    let mut single = request("reader");
    options(&mut single).candidate_count = Some(1);
    let asking: Vec<JoinHandle<usize>> = (0..4)
        .map(|_| {
            let (mut client, single, oldest) = (client.clone(), single.clone(), Arc::clone(&oldest));
            tokio::spawn(async move {
                let mut n_stored = 0;
                for _ in 0..N_QUESTIONS {
                    let oldest = oldest.load(Ordering::SeqCst);
                    let response = ask(&mut client, single.clone()).await;
                    let number = number(&response);
                    assert!(number >= oldest, "generation {number} answered, {oldest} had begun");
                    n_stored += usize::from(cache_status(&response) != CacheStatus::Miss);
                }
                n_stored
            })
        })
        .collect();
    // On a busy machine all of them were once over before the model had begun with anything.
    within(async {
        while server.log.prefills() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for _ in 0..N_INVALIDATIONS {
        let n_begun = server.log.prefills();
        invalidate(&server, "reader", None).await.unwrap();
        oldest.store(n_begun, Ordering::SeqCst);
    }
    let mut n_stored = 0;
    for asking in asking {
        n_stored += within(asking).await.unwrap();
    }
    assert!(n_stored > 0, "without a stored answer there was nothing to get wrong");
    assert!(oldest.load(Ordering::SeqCst) > 0);
}

#[tokio::test]
async fn a_forgotten_reader_leaves_no_answer_in_memory_also_none_that_is_under_way() {
    let server = Plan::new().gated().start().await;
    let mut client = server.client().await;
    server.gate.allow(1000);
    for key in ["one", "other"] {
        ask(&mut client, request(key)).await;
    }
    server.until("newshound_cache_entries", 2.0).await;
    server.gate.close();
    let mut more = request("one");
    options(&mut more).temperature = Some(0.5);
    let under_way = call(&client, more);
    server.until("newshound_running_rows", 4.0).await;
    let forgetting = forgetting(&server, "one").await;
    server.gate.open();
    within(forgetting).await.unwrap().unwrap();
    answered(under_way).await;
    server.until("newshound_cache_entries", 1.0).await;
    assert_eq!(cache_status(&ask(&mut client, request("other")).await), CacheStatus::Hit);
    assert_eq!(cache_status(&ask(&mut client, request("one")).await), CacheStatus::Miss);
}

/// A script that computes the keys and values of a network for every prompt, always the same.
struct Keeping(Script, Arc<Prefix>);

impl Generator for Keeping {
    fn splits_prompts(&self) -> bool {
        false
    }

    fn step_beside(&mut self, _: &mut GroupRequest, _: usize) -> Result<Vec<FinishedRow>, DecodeError> {
        self.step()
    }

    fn admit(&mut self, request: GroupRequest) -> Result<Admitted, DecodeError> {
        Ok(Admitted { prefix: Some(Arc::clone(&self.1)), ..self.0.admit(request)? })
    }

    fn step(&mut self) -> Result<Vec<FinishedRow>, DecodeError> {
        self.0.step()
    }

    fn cancel(&mut self, group: GroupId) -> usize {
        self.0.cancel(group)
    }

    fn n_rows_of(&self, group: GroupId) -> usize {
        self.0.n_rows_of(group)
    }

    fn n_rows(&self) -> usize {
        self.0.n_rows()
    }

    fn kv_bytes(&self) -> usize {
        self.0.kv_bytes()
    }
}

#[tokio::test]
async fn a_forgotten_readers_prompt_is_not_kept_also_not_one_that_waits() {
    let (gate, log) = (Arc::new(Gate::default()), Arc::new(Log::default()));
    let mut parameters = Parameters::fresh(7, &Device::Cpu);
    let network = Transformer::load(&model::config(), &mut parameters, Numerics::Serve).unwrap();
    let prefix = Arc::new(network.prefill(&[1, 2, 3]).unwrap().0);
    let n_bytes = prefix.n_bytes() as f64;
    let script = (Arc::clone(&gate), Arc::clone(&log));
    let text = Arc::new(|_, _| LIST.to_owned());
    let make = move || Keeping(Script::new(text, script.0, script.1, Mishap::None), prefix);
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let mut settings = ServeSettings { grpc_addr: any, http_addr: any, ..ServeSettings::demo() };
    settings.engine.rows_max = 32;
    let server = Server::start(settings, parts(false), make, gate, log).await;
    let client = server.client().await;
    let whole = |key: &str| {
        let mut whole = request(key);
        options(&mut whole).candidate_count = Some(32);
        whole
    };
    let runs = call(&client, whole("runs"));
    server.until("newshound_running_rows", 32.0).await;
    let waits = call(&client, whole("waits"));
    server.until("newshound_prompt_tokens_count", 2.0).await;
    let forgetting = forgetting(&server, "waits").await;
    server.gate.open();
    within(forgetting).await.unwrap().unwrap();
    answered(runs).await;
    answered(waits).await;
    server.until("newshound_running_rows", 0.0).await;
    assert_eq!(server.metric("newshound_prefix_bytes").await, Some(n_bytes), "of the one that ran");
    forget(&server, "runs").await.unwrap();
    server.until("newshound_prefix_bytes", 0.0).await;
}

#[tokio::test]
async fn forgetting_holds_nobody_for_ever_and_only_so_many_wait_for_it() {
    let server = Plan::new().gated().start().await;
    let running = call(&server.client().await, request("one"));
    server.until("newshound_running_rows", 4.0).await;
    // The model thread is in the middle of a step, and hears of nothing.
    let mut hurried = Request::new(ForgetUserRequest { user: user("one") });
    hurried.set_timeout(std::time::Duration::from_millis(300));
    within(readers(&server).await.forget_user(hurried)).await.unwrap_err();
    server.until("newshound_rpc_in_flight{method=\"ForgetUser\"}", 0.0).await;
    let mut waiting = Vec::new();
    for number in 1..=8 {
        let (mut readers, user) = (readers(&server).await, user("one"));
        waiting.push(tokio::spawn(async move { readers.forget_user(ForgetUserRequest { user }).await }));
        server.until("newshound_rpc_in_flight{method=\"ForgetUser\"}", f64::from(number)).await;
    }
    let status = forget(&server, "one").await.unwrap_err();
    let details = refusal(&status, tonic::Code::ResourceExhausted, "FORGET_BUSY");
    assert!(details.retry_info().unwrap().retry_delay.is_some());
    server.gate.open();
    for forgotten in waiting {
        within(forgotten).await.unwrap().unwrap();
    }
    answered(running).await;
    forget(&server, "one").await.unwrap();
}
