//! The network that a cluster's nodes are on: most often one that all clusters share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

use crate::adapters::engine::{Engine, EngineError, Network};
use crate::adapters::records::RecordError;
use crate::documents::profile::{IpFamily, Profile, Role};

use super::super::containers::Fixed;
use super::super::{ClusterError, LABEL_OWNER};

/// The IPv6 subnet of the network that kind makes, which it computes of the name.
const KINDS_SUBNET: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0xf853, 0x0ccd, 0xe793, 0, 0, 0, 0), 64);

/// The network of a profile's nodes; made if it is not there yet. One that kind has left, and that nobody uses, is made anew for several
/// control planes.
pub(in super::super) async fn ensure_network(
    engine: &Engine,
    cluster: &str,
    profile: &Profile,
) -> Result<Network, ClusterError> {
    let name = profile.spec.networking.docker_network();
    let mut ipv6 = unique_local_subnet(cluster)?;
    if let Some(network) = engine.network(name).await? {
        // Several control planes know each other by their addresses, which kind's network does not keep.
        let is_ours = profile.spec.count(Role::ControlPlane) > 1
            && is_kinds_own(&network)
            && !engine.network_is_used(&network.name).await?;
        if !is_ours {
            return Ok(network);
        }
        match engine.remove_network(&network.id).await {
            // Somebody uses it this very moment.
            Err(_) if engine.network_is_used(&network.name).await? => return Ok(network),
            Err(error) if !error.is_not_found() => return Err(error.into()),
            _ => ipv6 = KINDS_SUBNET.into(),
        }
    }
    let label = (LABEL_OWNER, "kprov");
    match engine.create_network(name, Some(ipv6), label).await {
        // A host without IPv6 does for clusters that do not ask for it.
        Err(EngineError::Failed { .. }) if profile.spec.networking.ip_family == IpFamily::Ipv4 => {
            Ok(engine.create_network(name, None, label).await?)
        }
        // Another tool was faster.
        Err(EngineError::Conflict { doing, reason }) => {
            Ok(engine.network(name).await?.ok_or(EngineError::Conflict { doing, reason })?)
        }
        other => Ok(other?),
    }
}

/// Whether a network is as kind makes it, and as nobody else does.
fn is_kinds_own(network: &Network) -> bool {
    network.name == "kind" && network.labels.is_empty() && network.subnets.contains(&KINDS_SUBNET.into())
}

/// Whether containers can be given addresses on a network: only where its subnet was given to the engine, as kprov does.
pub(in super::super) fn takes_addresses(network: &Network) -> bool {
    network.labels.get(LABEL_OWNER).is_some_and(|owner| owner == "kprov")
}

/// Addresses for `count` containers that nobody has, in their order. A container keeps them over every restart of itself and of the
/// engine, which would otherwise deal them anew. They are of the upper half of the subnet, since engines start from
/// below where they choose themselves. None, if the engine has to choose.
pub(in super::super) fn free_addresses(
    network: &Network,
    taken: impl Fn(IpAddr) -> bool,
    count: usize,
) -> Option<Vec<Fixed>> {
    if !takes_addresses(network) {
        return None;
    }
    let ipv4 =
        network.subnets.iter().find_map(|subnet| if let IpNet::V4(subnet) = subnet { Some(*subnet) } else { None })?;
    let ipv6 =
        network.subnets.iter().find_map(|subnet| if let IpNet::V6(subnet) = subnet { Some(*subnet) } else { None });
    let half = 1_u32 << 31_u32.checked_sub(u32::from(ipv4.prefix_len()))?;
    // The last one is for broadcasts.
    let numbers = half + 1..half.saturating_mul(2).saturating_sub(1);
    let fixed = numbers.map(|number| Fixed {
        ipv4: Some(Ipv4Addr::from_bits(ipv4.network().to_bits() + number)),
        ipv6: ipv6.map(|ipv6| Ipv6Addr::from_bits(ipv6.network().to_bits() + u128::from(number))),
    });
    let free: Vec<Fixed> = fixed.filter(|fixed| !fixed.addresses().any(&taken)).take(count).collect();
    (free.len() == count).then_some(free)
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

    fn network(subnets: &[&str], owner: &str) -> Network {
        Network {
            id: String::new(),
            name: "kind".to_owned(),
            subnets: subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
            labels: [(LABEL_OWNER.to_owned(), owner.to_owned())].into(),
        }
    }

    fn free(subnets: &[&str], taken: &[&str], count: usize) -> Option<Vec<(String, String)>> {
        let taken = |address: IpAddr| taken.contains(&address.to_string().as_str());
        let free = free_addresses(&network(subnets, "kprov"), taken, count)?;
        let text = |address: Option<IpAddr>| address.map_or_else(String::new, |address| address.to_string());
        Some(free.iter().map(|fixed| (text(fixed.ipv4.map(Into::into)), text(fixed.ipv6.map(Into::into)))).collect())
    }

    #[test]
    fn addresses_are_those_that_nobody_has_in_either_family() {
        let subnets = ["172.18.0.0/16", "fd00::/64"];
        let both = |v4: &str, v6: &str| (v4.to_owned(), v6.to_owned());
        assert_eq!(free(&subnets, &[], 1).unwrap(), [both("172.18.128.1", "fd00::8001")]);
        let taken = ["172.18.128.1", "fd00::8003"];
        let two = [both("172.18.128.2", "fd00::8002"), both("172.18.128.4", "fd00::8004")];
        assert_eq!(free(&subnets, &taken, 2).unwrap(), two);
        assert_eq!(free(&["10.0.0.0/29"], &[], 2).unwrap()[1].0, "10.0.0.6");
    }

    #[test]
    fn where_there_are_not_enough_the_engine_chooses() {
        assert_eq!(free(&["10.0.0.0/29"], &[], 3), None);
        for tiny in ["10.0.0.0/30", "10.0.0.0/31", "10.0.0.0/32"] {
            assert_eq!(free(&[tiny], &[], 2), None, "{tiny}");
        }
        assert_eq!(free(&["fd00::/64"], &[], 1), None);
        assert!(free_addresses(&network(&["172.18.0.0/16"], "kind"), |_| false, 1).is_none());
    }

    #[test]
    fn kinds_own_network_is_known_by_its_subnet() {
        let made = |name: &str, subnets: &[&str], labelled: bool| {
            let subnets = subnets.iter().map(|subnet| subnet.parse().unwrap()).collect();
            let labels = labelled.then(|| ("mine".to_owned(), String::new())).into_iter().collect();
            is_kinds_own(&Network { id: String::new(), name: name.to_owned(), subnets, labels })
        };
        let subnets = ["172.19.0.0/16", "fc00:f853:ccd:e793::/64"];
        assert!(made("kind", &subnets, false));
        for other in [made("kind", &subnets, true), made("kind", &subnets[..1], false), made("lab", &subnets, false)] {
            assert!(!other);
        }
    }

    #[test]
    fn the_network_is_for_private_use() {
        let subnet = unique_local_subnet("c").unwrap().to_string();
        assert!(subnet.starts_with("fd") && subnet.ends_with("::/64"), "{subnet}");
    }
}
