//! A client of our own admin service, for the commands: words in, words out, nothing of the wire.
use super::{
    client::{ClientError, ReplyModel, model},
    proto::admin::{self as wire, model_admin_service_client::ModelAdminServiceClient},
};
use crate::client::{
    Client,
    policy::Policy,
    reach::{Reach, Wire},
    refusal::Refusal,
};
use std::time::Duration;

/// A model in the memory of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelLine {
    /// Which it is.
    pub model: ReplyModel,
    /// LOADED, SERVING or RETIRING.
    pub state: &'static str,
    /// Under which name; empty for the default one.
    pub resident: String,
    /// Where it was read from; empty for the demo.
    pub folder: String,
    /// How long loading took, if it was loaded since the start.
    pub load_time: Option<Duration>,
}

/// A connection to the admin port of a server.
#[derive(Clone, Debug)]
pub struct AdminClient {
    service: ModelAdminServiceClient<Wire>,
}

impl AdminClient {
    /// Connects within five seconds.
    ///
    /// # Errors
    /// If the address is none, or nobody answers there.
    pub async fn connect(to: &Reach) -> Result<Self, ClientError> {
        Ok(Self { service: ModelAdminServiceClient::new(Client::connect(to, Policy::ONCE).await?.wire()) })
    }

    /// The models in memory, and the one that a rollback goes to.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn list(&mut self) -> Result<(Vec<ModelLine>, Option<ReplyModel>), ClientError> {
        let listed = self.service.list_models(wire::ListModelsRequest {}).await;
        let listed = listed.map_err(|status| Refusal::of(&status))?.into_inner();
        Ok((listed.models.into_iter().map(line).collect(), listed.previous.map(model)))
    }

    /// Loads a model, however long it takes. `resident`: the name under which it is to answer, empty for the default one.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn load(
        &mut self,
        folder: &str,
        resident: &str,
        expected: Option<u64>,
    ) -> Result<ModelLine, ClientError> {
        let request = wire::LoadModelRequest {
            folder: folder.to_owned(),
            expected_generation: expected,
            bundle_id: String::new(),
            resident: resident.to_owned(),
        };
        let loaded = self.service.load_model(request).await.map_err(|status| Refusal::of(&status))?;
        Ok(line(loaded.into_inner().model.unwrap_or_default()))
    }

    /// Lets a loaded model answer.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn swap(&mut self, generation: u64, expected: Option<u64>) -> Result<ModelLine, ClientError> {
        let request = wire::SwapModelRequest { generation, expected_generation: expected };
        let swapped = self.service.swap_model(request).await.map_err(|status| Refusal::of(&status))?;
        Ok(line(swapped.into_inner().model.unwrap_or_default()))
    }

    /// Goes back to the model that answered before under a name.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn rollback(
        &mut self,
        resident: &str,
        expected: Option<u64>,
    ) -> Result<ModelLine, ClientError> {
        let request =
            wire::RollbackModelRequest { expected_generation: expected, resident: resident.to_owned() };
        let rolled_back =
            self.service.rollback_model(request).await.map_err(|status| Refusal::of(&status))?;
        Ok(line(rolled_back.into_inner().model.unwrap_or_default()))
    }

    /// Gives up a loaded model, or a resident.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn unload(&mut self, generation: u64) -> Result<(), ClientError> {
        let request = wire::UnloadModelRequest { generation };
        self.service.unload_model(request).await.map_err(|status| Refusal::of(&status))?;
        Ok(())
    }
}

fn line(line: wire::Model) -> ModelLine {
    let state = line.state().as_str_name().trim_start_matches("MODEL_STATE_");
    let wire::Model { model: of, folder, load_time, resident, .. } = line;
    let load_time = load_time.and_then(|took| took.try_into().ok());
    ModelLine { model: model(of.unwrap_or_default()), state, resident, folder, load_time }
}
