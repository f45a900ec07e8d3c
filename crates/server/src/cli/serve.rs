//! `myelin serve`.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use myelin_env::Env;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, Place, print};
use crate::{
    Running, Server,
    config::{self, Config, documented_file},
    telemetry, traces, welcome,
};

/// Where the configuration is if nobody says.
const DEFAULT_PLACE: &str = "data/myelin.toml";

/// Runs the server until it is told to stop.
pub(super) fn serve(place: &Place) -> Result<(), Failure> {
    if place.config.is_none() && write_default(Path::new(DEFAULT_PLACE))? {
        print(&format!("A configuration was written to {DEFAULT_PLACE}\n"))?;
    }
    let config = read_config(place)?;
    let env = Env::real();
    let (layer, exporter) = traces::set_up(&config, &env)?.unzip();
    telemetry::install_log(&config.log, layer);
    raise_file_limit();
    run(async move {
        if let Some(exporter) = &exporter {
            exporter.start();
        }
        let running = Server::start(config.clone(), env.clone()).await?;
        greet(&config, &running, &env).await?;
        let ended = tokio::select! {
            asked = wait_for_the_end() => asked.map_err(Failure::from),
            lost = running.lost() => Err(lost.into()),
        };
        tracing::info!("stopping");
        running.stop().await;
        if let Some(exporter) = exporter {
            exporter.finish().await;
        }
        ended
    })
}

/// The configuration that a command is to use.
pub(super) fn read_config(place: &Place) -> Result<Config, Failure> {
    let path = match &place.config {
        Some(path) => path.clone(),
        None if Path::new(DEFAULT_PLACE).exists() => PathBuf::from(DEFAULT_PLACE),
        None => {
            return Err(format!(
                "there is no {DEFAULT_PLACE}: name a configuration with --config, or let \
                 `myelin serve` write one"
            )
            .into());
        }
    };
    Ok(config::load(&path)?)
}

/// Runs a future on a runtime of its own.
pub(super) fn run(future: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    // Whoever uses rustls without naming a provider gets the same as everybody else. If there is one
    // already, it is that one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().build()?.block_on(future)
}

/// Takes as many open files as the system permits: a large room needs a connection to each of its
/// thousands of servers, and the usual limit is 1,024.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files can't be raised");
    }
}

/// Writes the default configuration if there is none. The data are beside it.
fn write_default(path: &Path) -> Result<bool, io::Error> {
    if path.exists() {
        return Ok(false);
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let config = Config {
        data_dir: PathBuf::from("."),
        ..Config::default()
    };
    fs::write(path, documented_file(&config))?;
    Ok(true)
}

/// Says where the server is and what to do next.
async fn greet(config: &Config, running: &Running, env: &Env) -> Result<(), Failure> {
    let token = running.users().first_account_token().await?;
    let listeners = config.listeners.iter().zip(running.addresses());
    let Some((listener, address)) = listeners.into_iter().find(|(listener, _)| listener.client)
    else {
        return Ok(());
    };
    let mut address = *address;
    match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    let scheme = if listener.tls.is_some() {
        "https"
    } else {
        "http"
    };
    print(&welcome::text(
        &format!("{scheme}://{address}"),
        &config.server_name,
        token.as_deref(),
        &env.random,
    ))
}

/// Until SIGTERM or SIGINT.
async fn wait_for_the_end() -> Result<(), io::Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
