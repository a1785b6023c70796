//! The reader service: ends the use of what is kept of a reader.
use super::{
    call::{Call, deadline},
    decode,
    proto::{self, reader_service_server::ReaderService},
    service::{Rooms, headers},
    status,
};
use crate::serve::question::whose;
use tonic::{Code, Request, Response, Status, metadata::MetadataMap};

/// Takes readers' leave.
#[derive(Debug)]
pub struct Reader {
    rooms: Rooms,
}

impl Reader {
    /// The service of one server.
    pub fn new(rooms: Rooms) -> Self {
        Self { rooms }
    }

    fn call(&self, method: &'static str) -> Call {
        Call::new(&self.rooms.metrics, &self.rooms.health, method)
    }
}

#[tonic::async_trait]
impl ReaderService for Reader {
    async fn invalidate_user(
        &self,
        request: Request<proto::InvalidateUserRequest>,
    ) -> Result<Response<proto::InvalidateUserResponse>, Status> {
        let mut call = self.call("InvalidateUser");
        let (metadata, _, message) = request.into_parts();
        let whose = named(message.user, &metadata).inspect_err(|status| call.code = status.code())?;
        let invalidated = self.rooms.answerer.invalidate(&whose).await;
        invalidated
            .map_err(|error| status::status(&error))
            .inspect_err(|status| call.code = status.code())?;
        call.code = Code::Ok;
        Ok(call.reply(proto::InvalidateUserResponse {}))
    }

    async fn forget_user(
        &self,
        request: Request<proto::ForgetUserRequest>,
    ) -> Result<Response<proto::ForgetUserResponse>, Status> {
        let mut call = self.call("ForgetUser");
        let (metadata, _, message) = request.into_parts();
        let whose = named(message.user, &metadata).inspect_err(|status| call.code = status.code())?;
        let until = deadline(&metadata);
        let forgotten = self.rooms.answerer.forget(&whose, &self.rooms.models, until).await;
        forgotten.map_err(|error| status::status(&error)).inspect_err(|status| call.code = status.code())?;
        call.code = Code::Ok;
        Ok(call.reply(proto::ForgetUserResponse {}))
    }
}

/// The reader of a request, checked as in one for queries.
fn named(user: Option<proto::UserRef>, metadata: &MetadataMap) -> Result<Vec<u8>, Status> {
    let asked = proto::ExplainAssignmentRequest { user, experiment: None };
    let (user, entrant) =
        decode::explained(asked, headers(metadata)).map_err(|violations| status::invalid(&violations))?;
    Ok(whose(entrant.tenant.as_deref(), &user))
}
