//! The network that all clusters share.

use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv6Net};

use crate::adapters::engine::{Engine, EngineError, Network};
use crate::adapters::records::RecordError;
use crate::documents::profile::{IpFamily, Profile};

use super::super::{ClusterError, LABEL_OWNER, NETWORK};

/// The clusters' network; made if it is not there yet.
pub(in super::super) async fn ensure_network(
    engine: &Engine,
    cluster: &str,
    profile: &Profile,
) -> Result<Network, ClusterError> {
    if let Some(network) = engine.network(NETWORK).await? {
        return Ok(network);
    }
    let label = (LABEL_OWNER, "kprov");
    match engine.create_network(NETWORK, Some(unique_local_subnet(cluster)?), label).await {
        // A host without IPv6 does for clusters that do not ask for it.
        Err(EngineError::Failed { .. }) if profile.spec.networking.ip_family == IpFamily::Ipv4 => {
            Ok(engine.create_network(NETWORK, None, label).await?)
        }
        // Another tool was faster.
        Err(EngineError::Conflict { doing, reason }) => {
            Ok(engine.network(NETWORK).await?.ok_or(EngineError::Conflict { doing, reason })?)
        }
        other => Ok(other?),
    }
}

/// A random /64 of the addresses for private use (RFC 4193), since engines do not choose IPv6 subnets themselves.
fn unique_local_subnet(cluster: &str) -> Result<IpNet, ClusterError> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes[1..8])
        .map_err(|error| RecordError::Unreadable { name: cluster.to_owned(), reason: error.to_string() })?;
    bytes[0] = 0xfd;
    Ok(Ipv6Net::new_assert(Ipv6Addr::from(bytes), 64).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_is_for_private_use() {
        let subnet = unique_local_subnet("c").unwrap().to_string();
        assert!(subnet.starts_with("fd") && subnet.ends_with("::/64"), "{subnet}");
    }
}
