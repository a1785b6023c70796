//! `serve`: a bundle, settings, and an end by signal.
use super::{CommandError, signals::until_signalled};
use crate::{
    bundle::load::{self, Bundle, BundleSource},
    model::{
        device::{self, DeviceChoice},
        precision::Precision,
    },
    serve::{
        Listeners, check,
        models::facts::Origin,
        run,
        settings::{ServeSettings, effective::effective},
    },
    settings::{Given, Override},
};
use clap::Args;
use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
};
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

    /// What the command line says, over whatever else says it.
    pub fn over(self, overrides: &[Override]) -> Vec<Override> {
        let flag = |key, name, addr: Option<SocketAddr>| Some(Override::by_flag(key, name, addr?));
        let grpc = flag("grpc_addr", "--grpc-addr", self.grpc_addr);
        let http = flag("http_addr", "--http-addr", self.http_addr);
        overrides.iter().cloned().chain(grpc).chain(http).collect()
    }
}

/// What to serve.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// The bundle: a folder, or a tar archive of one
    #[arg(long, required_unless_present = "print_config")]
    pub bundle: Option<PathBuf>,
    /// Writes every setting as it would be in force, with where it comes from and without secrets, and serves nothing
    #[arg(long)]
    pub print_config: bool,
    /// Reads all that it would serve with (bundles, experiments, certificates, tokens, cohorts, topics), lets the models compute, and serves nothing: addresses, the
    /// log's folder and Redis are left alone
    #[arg(long, conflicts_with = "print_config")]
    pub check: bool,
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

impl ServeArgs {
    /// The settings that these flags, the environment and the file make together, and who gave what.
    fn settings(&self, overrides: &[Override]) -> Result<(ServeSettings, Given), CommandError> {
        let device = self.device.map(|device| Override::by_flag("device", "--device", device));
        let precision =
            self.precision.map(|precision| Override::by_flag("precision", "--precision", precision));
        let overrides: Vec<Override> =
            self.addresses.over(overrides).into_iter().chain(device).chain(precision).collect();
        let Some(path) = &self.settings else {
            return Ok(ServeSettings::read_told("", "environment", &overrides)?);
        };
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(ServeSettings::read_told(&text, &path.display().to_string(), &overrides)?),
            Err(source) => Err(CommandError::File { path: path.clone(), source }),
        }
    }
}

/// Serves a bundle until SIGTERM or SIGINT, or shows with which settings it would, or tries whether it could.
///
/// # Errors
/// If the settings, the bundle or an address cannot be used.
pub async fn serve(args: ServeArgs, overrides: &[Override], out: &mut dyn Write) -> Result<(), CommandError> {
    let (settings, given) = args.settings(overrides)?;
    match args.bundle {
        // A signal ends it as any program: with a code that is no success.
        Some(bundle) if args.check => load_and_check(settings, bundle, out).await,
        Some(bundle) if !args.print_config => {
            until_signalled(|asked| load_and_run(settings, bundle, out, asked)).await
        }
        // The command line has one of the two.
        Some(_) | None => Ok(write!(out, "{}", effective(&given))?),
    }
}

/// Loads a bundle as the settings say; none if the process is asked to end before that is done.
async fn loaded(
    settings: &ServeSettings,
    dir: &Path,
    asked: &CancellationToken,
) -> Result<Option<Bundle>, CommandError> {
    let (device, precision, dir) = (settings.device, settings.precision, dir.to_owned());
    let loading = tokio::task::spawn_blocking(move || {
        let device = device.open()?;
        Ok::<_, CommandError>(load::load(BundleSource::At(&dir), precision, &device)?)
    });
    tokio::select! {
        loaded = loading => loaded.map_err(|_| CommandError::Panicked)?.map(Some),
        () = asked.cancelled() => Ok(None),
    }
}

async fn load_and_check(
    settings: ServeSettings,
    dir: PathBuf,
    out: &mut dyn Write,
) -> Result<(), CommandError> {
    let Some(bundle) = loaded(&settings, &dir, &CancellationToken::new()).await? else { return Ok(()) };
    let (name, id) = (bundle.manifest.name.clone(), bundle.id.0.clone());
    let (device, precision) = (device::name(bundle.model.device()), settings.precision);
    let n_residents = settings.models.residents.values().flatten().count();
    check(settings, bundle, Origin::At(dir)).await?;
    let others =
        if n_residents == 0 { String::new() } else { format!(" and {n_residents} resident beside it") };
    Ok(writeln!(out, "would serve {name} ({id}){others}, computing on {device} in {precision}")?)
}

async fn load_and_run(
    settings: ServeSettings,
    dir: PathBuf,
    out: &mut dyn Write,
    asked: CancellationToken,
) -> Result<(), CommandError> {
    // Before the model is loaded: a taken port should not take half a minute to find out.
    let listeners = Listeners::of(&settings).await?;
    let Some(bundle) = loaded(&settings, &dir, &asked).await? else { return Ok(()) };
    let (precision, origin) = (settings.precision, Origin::At(dir));
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
