//! Tokens of callers: who shows none that is known is refused before anything of the call is read.
use super::{decode::TENANT_HEADER, status};
use crate::{
    client::reach::TOKEN_HEADER,
    serve::{door::bearers::Bearers, metrics::Metrics},
};
use std::sync::Arc;
use tonic::{
    Request, Status,
    metadata::{MetadataMap, MetadataValue},
    service::Interceptor,
};

/// The word before a token. Source: RFC 6750, section 2.1.
const SCHEME: &str = "bearer";

/// Lets callers with a token pass, as the tenant that it stands for; without tokens everybody.
#[derive(Clone, Debug)]
pub struct Auth {
    bearers: Option<Arc<Bearers>>,
    metrics: Arc<Metrics>,
}

impl Auth {
    /// Asks these who a caller is.
    pub fn new(bearers: Option<Arc<Bearers>>, metrics: Arc<Metrics>) -> Self {
        Self { bearers, metrics }
    }
}

impl Interceptor for Auth {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let Some(bearers) = &self.bearers else { return Ok(request) };
        let Some(token) = token(request.metadata()) else {
            self.metrics.access_refused("missing");
            return Err(status::unauthenticated(
                "TOKEN_MISSING",
                "metadata authorization: Bearer is needed, once",
            ));
        };
        let Some(name) = bearers.name_of(token) else {
            self.metrics.access_refused("unknown");
            return Err(status::unauthenticated("TOKEN_UNKNOWN", "nobody has this token"));
        };
        // Whatever the caller says of its tenant, it is the one of its token.
        request.metadata_mut().remove(TENANT_HEADER);
        if let Ok(name) = MetadataValue::try_from(name) {
            request.metadata_mut().insert(TENANT_HEADER, name);
        }
        Ok(request)
    }
}

/// The token that a caller shows; none of two.
fn token(metadata: &MetadataMap) -> Option<&str> {
    let mut shown = metadata.get_all(TOKEN_HEADER).iter();
    let (value, None) = (shown.next()?.to_str().ok()?, shown.next()) else { return None };
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_is_read_and_neither_none_nor_two() {
        let check = |values: &[&'static str], expected: Option<&str>| {
            let mut metadata = MetadataMap::new();
            for value in values {
                metadata.append(TOKEN_HEADER, MetadataValue::from_static(value));
            }
            assert_eq!(token(&metadata), expected, "{values:?}");
        };
        check(&["Bearer abc"], Some("abc"));
        check(&["bearer abc"], Some("abc"));
        check(&[], None);
        check(&["abc"], None);
        check(&["Basic abc"], None);
        check(&["Bearer abc", "Bearer abc"], None);
    }
}
