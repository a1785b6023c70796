//! `probe`: asks a server's health check; for probes of orchestrators that want an exit code.
use super::{CommandError, reach::ReachArgs};
use crate::{
    serve::{rpc::client::Client, settings::ServeSettings},
    settings::{Mistakes, Override},
};
use clap::Args;
use std::{
    io::{self, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Of what a page says, so much is read: its first line is a few bytes.
const PAGE_BYTES_MAX: u64 = 1024;

/// Whom to probe.
#[derive(Clone, Debug, Args)]
pub struct ProbeArgs {
    /// Address of the server. Without it, the server that the same environment starts on this machine: at NEWSHOUND__GRPC_ADDR, or, where
    /// NEWSHOUND__ACCESS__CERT_FILE is set and no --ca-file given, /healthz at NEWSHOUND__HTTP_ADDR
    #[arg(long)]
    pub addr: Option<String>,
    /// How long to wait, in milliseconds
    #[arg(long, default_value_t = 5_000)]
    pub timeout_ms: u64,
    /// What to show.
    #[command(flatten)]
    pub reach: ReachArgs,
}

/// Where a server is asked whether it serves.
enum Door {
    Grpc(String),
    Page(String),
}

/// Writes `serving`, or fails. `environment` is read where no address is given.
///
/// # Errors
/// If the server does not answer in time or does not serve.
pub async fn probe(
    args: ProbeArgs,
    environment: impl FnOnce() -> Result<Vec<Override>, Mistakes>,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let ProbeArgs { addr, timeout_ms, reach } = args;
    let door = match addr {
        Some(addr) => Door::Grpc(addr),
        None => own(&environment()?, reach.ca_file.is_some())?,
    };
    // A process that hangs still has connections accepted for it by the system, and then never answers.
    let asked = async {
        match &door {
            Door::Grpc(addr) => Ok(Client::connect(&reach.to(addr)?).await?.is_serving().await?),
            Door::Page(addr) => Ok(accepts(addr).await.unwrap_or(false)),
        }
    };
    let asked = tokio::time::timeout(Duration::from_millis(timeout_ms), asked).await;
    let (Door::Grpc(addr) | Door::Page(addr)) = door;
    match asked {
        Err(_) => Err(CommandError::Silent { addr, timeout_ms }),
        Ok(Ok(false)) => Err(CommandError::NotServing { addr }),
        Ok(Ok(true)) => Ok(writeln!(out, "serving")?),
        Ok(Err(error)) => Err(error),
    }
}

/// The server that these variables start. What else they say may need a settings file to make sense.
fn own(overrides: &[Override], knows_authority: bool) -> Result<Door, Mistakes> {
    let addresses: Vec<Override> =
        overrides.iter().filter(|said| ["grpc_addr", "http_addr"].contains(&&*said.key)).cloned().collect();
    let settings = ServeSettings::read("", "environment", &addresses)?;
    let has_tls = overrides.iter().any(|said| said.key == "access.cert_file" && !said.value.is_empty());
    // Its certificate names the server as clients know it, not this machine.
    Ok(if has_tls && !knows_authority {
        Door::Page(here(settings.http_addr))
    } else {
        Door::Grpc(here(settings.grpc_addr))
    })
}

/// The address by which this machine reaches a server that listens there.
fn here(mut addr: SocketAddr) -> String {
    match addr {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => addr.set_ip(Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => addr.set_ip(Ipv6Addr::LOCALHOST.into()),
        SocketAddr::V4(_) | SocketAddr::V6(_) => {}
    }
    addr.to_string()
}

/// Whether the page for probes says that work is accepted.
async fn accepts(addr: &str) -> io::Result<bool> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await?;
    let mut said = Vec::new();
    stream.take(PAGE_BYTES_MAX).read_to_end(&mut said).await?;
    Ok(said.split(|byte| *byte == b' ').nth(1) == Some(b"200"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_accepts_and_never_answers_is_not_waited_for() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let args = |addr| ProbeArgs { addr, timeout_ms: 50, reach: ReachArgs::default() };
        let page = vec![said("access.cert_file", "tls.crt"), said("http_addr", &addr)];
        for (addr, environment) in [(Some(addr), vec![]), (None, page)] {
            let error = probe(args(addr), || Ok(environment), &mut Vec::new()).await.unwrap_err();
            assert!(matches!(error, CommandError::Silent { timeout_ms: 50, .. }), "{error}");
        }
    }

    fn said(key: &str, value: &str) -> Override {
        Override { key: key.to_owned(), value: value.to_owned(), origin: key.to_owned() }
    }

    #[test]
    fn without_an_address_the_server_of_the_same_environment_is_asked() {
        let door = |said: &[Override], knows_authority| match own(said, knows_authority).unwrap() {
            Door::Grpc(addr) => format!("gRPC {addr}"),
            Door::Page(addr) => format!("page {addr}"),
        };
        let all = [said("grpc_addr", "0.0.0.0:7"), said("http_addr", "[::]:8")];
        assert_eq!(door(&[], false), "gRPC 127.0.0.1:50051");
        assert_eq!(door(&all, false), "gRPC 127.0.0.1:7");
        assert_eq!(door(&[said("grpc_addr", "10.0.0.1:7")], false), "gRPC 10.0.0.1:7");
        let tls = said("access.cert_file", "tls.crt");
        let all = [&all[..], &[tls.clone(), said("access.key_file", "")]].concat();
        assert_eq!(door(&all, false), "page [::1]:8");
        assert_eq!(door(&all, true), "gRPC 127.0.0.1:7");
        assert_eq!(door(&[tls], false), "page 127.0.0.1:9464");
        assert_eq!(door(&[said("access.cert_file", "")], false), "gRPC 127.0.0.1:50051");
        assert!(own(&[said("grpc_addr", "here")], false).is_err());
    }
}
