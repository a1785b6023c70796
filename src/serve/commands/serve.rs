//! `serve`: a bundle, settings, and an end by signal.
use super::{CommandError, signals::until_signalled};
use crate::{
    bundle::load::{self, BundleSource},
    model::{
        device::{self, DeviceChoice},
        precision::Precision,
    },
    serve::{Listeners, models::facts::Origin, run, settings::ServeSettings},
    settings::Override,
};
use clap::Args;
use std::{io::Write, net::SocketAddr, path::PathBuf};
use tokio_util::sync::CancellationToken;

/// Addresses, for every way of serving.
#[derive(Clone, Copy, Debug, Args)]
pub struct Addresses {
    /// Where gRPC is served
    #[arg(long)]
    pub grpc_addr: Option<SocketAddr>,
    /// Where /metrics and /healthz are served
    #[arg(long)]
    pub http_addr: Option<SocketAddr>,
}

impl Addresses {
    /// Whether any is given.
    pub fn are_given(self) -> bool {
        self.grpc_addr.is_some() || self.http_addr.is_some()
    }

    /// Puts what the command line says over the settings.
    pub fn over(self, settings: ServeSettings) -> ServeSettings {
        ServeSettings {
            grpc_addr: self.grpc_addr.unwrap_or(settings.grpc_addr),
            http_addr: self.http_addr.unwrap_or(settings.http_addr),
            ..settings
        }
    }
}

/// What to serve.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// Folder of the bundle
    #[arg(long)]
    pub bundle: PathBuf,
    /// Settings file; see deploy/server.toml
    #[arg(long)]
    pub settings: Option<PathBuf>,
    /// Where the network computes: auto, cpu or cuda; instead of the settings' `device`
    #[arg(long)]
    pub device: Option<DeviceChoice>,
    /// How the network's numbers are held: f32, bf16, f16 or int8; instead of the settings' `precision`
    #[arg(long)]
    pub precision: Option<Precision>,
    /// Where to serve.
    #[command(flatten)]
    pub addresses: Addresses,
}

/// Serves a bundle until SIGTERM or SIGINT.
///
/// # Errors
/// If the settings, the bundle or an address cannot be used.
pub async fn serve(args: ServeArgs, overrides: &[Override], out: &mut dyn Write) -> Result<(), CommandError> {
    let mut settings = args.addresses.over(read_settings(args.settings, overrides)?);
    settings.device = args.device.unwrap_or(settings.device);
    settings.precision = args.precision.unwrap_or(settings.precision);
    until_signalled(|asked| load_and_run(settings, args.bundle, out, asked)).await
}

async fn load_and_run(
    settings: ServeSettings,
    dir: PathBuf,
    out: &mut dyn Write,
    asked: CancellationToken,
) -> Result<(), CommandError> {
    // Before the model is loaded: a taken port should not take half a minute to find out.
    let listeners = Listeners::of(&settings).await?;
    let (device, precision, origin) = (settings.device, settings.precision, Origin::Folder(dir.clone()));
    let loading = tokio::task::spawn_blocking(move || {
        let device = device.open()?;
        Ok::<_, CommandError>(load::load(BundleSource::Dir(&dir), precision, &device)?)
    });
    let loaded = tokio::select! {
        loaded = loading => loaded,
        () = asked.cancelled() => return Ok(()),
    };
    let bundle = loaded.map_err(|_| CommandError::Panicked)??;
    let (name, id) = (&bundle.manifest.name, &bundle.id.0);
    let (grpc, http) = listeners.addresses()?;
    let device = device::name(bundle.model.device());
    let admin = match &listeners.admin {
        Some(admin) => format!(", models changed on {}", admin.local_addr()?),
        None => String::new(),
    };
    writeln!(
        out,
        "serving {name} ({id}) on {grpc}, metrics on {http}{admin}, computing on {device} in {precision}"
    )?;
    out.flush()?;
    Ok(run(settings, bundle, origin, listeners, asked.cancelled()).await?)
}

fn read_settings(path: Option<PathBuf>, overrides: &[Override]) -> Result<ServeSettings, CommandError> {
    let Some(path) = path else { return Ok(ServeSettings::read("", "environment", overrides)?) };
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(ServeSettings::read(&text, &path.display().to_string(), overrides)?),
        Err(source) => Err(CommandError::File { path, source }),
    }
}
