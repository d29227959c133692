//! The host port of a cluster's API server.
//!
//! It is fixed here, not by the engine, which would choose another one whenever the container starts.

use std::collections::BTreeSet;
use std::future::ready;
use std::net::{IpAddr, TcpListener};
use std::sync::Mutex;

use crate::adapters::engine::EngineError;
use crate::documents::profile::Profile;
use crate::documents::record::Record;

use super::super::Context;
use super::super::succession::once_released;

/// Ports that this process has chosen: one that nothing listens on yet may be chosen again by a neighbour.
static CHOSEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// The host port of the API server: the one that is wanted, or, for 0, one that is free now.
///
/// # Errors
/// [`EngineError::PortTaken`] if it cannot be had.
pub(super) fn choose(context: &Context, profile: &Profile, wanted: u16) -> Result<u16, EngineError> {
    if !context.engine.is_local() && wanted != 0 {
        return Ok(wanted);
    }
    let address = profile.spec.networking.api_server_address();
    loop {
        let port = bind(address, wanted).map_err(|error| EngineError::PortTaken {
            container: "the API server".to_owned(),
            reason: format!("{address}:{wanted}: {error}"),
        })?;
        let new = CHOSEN.lock().is_ok_and(|mut chosen| chosen.insert(port));
        if new || wanted != 0 {
            return Ok(port);
        }
    }
}

/// The same port again, for nodes that follow others: those have just been killed, and may have it for a moment more.
///
/// # Errors
/// [`EngineError::PortTaken`] if somebody else has taken it meanwhile.
pub(super) async fn choose_again(context: &Context, profile: &Profile, before: u16) -> Result<u16, EngineError> {
    once_released(|| ready(choose(context, profile, before))).await
}

/// Gives a record another host port if its own is taken: only the kubeconfig names it.
pub(in super::super) fn keep_or_choose(context: &Context, record: &mut Record) {
    let address = record.profile.spec.networking.api_server_address();
    if !context.engine.is_local() || bind(address, record.api_server_port).is_ok() {
        return;
    }
    // If there is no other either, starting the container will tell.
    if let Ok(free) = choose(context, &record.profile, 0) {
        record.api_server_port = free;
    }
}

fn bind(address: IpAddr, port: u16) -> std::io::Result<u16> {
    Ok(TcpListener::bind((address, port))?.local_addr()?.port())
}
