//! The bridge network that nodes share.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bollard::models::{
    ContainerSummary, Ipam, IpamConfig, NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest,
};
use bollard::query_parameters::{InspectNetworkOptions, ListContainersOptionsBuilder, ListNetworksOptionsBuilder};
use ipnet::IpNet;

use super::{Engine, EngineError};

/// A network of the engine.
#[derive(Debug, Clone)]
pub struct Network {
    /// The network's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its subnets.
    pub subnets: Vec<IpNet>,
    /// Its labels.
    pub labels: std::collections::HashMap<String, String>,
}

impl Network {
    /// Whether an address is of one of its subnets.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        self.subnets.iter().any(|subnet| subnet.contains(&address))
    }
}

impl Engine {
    /// Looks a network up by name; of several with that name, the oldest, as the engine itself would.
    ///
    /// # Errors
    /// [`EngineError`] if the engine does not answer.
    pub async fn network(&self, name: &str) -> Result<Option<Network>, EngineError> {
        let found = self.find_networks("name", format!("^{name}$"), format!("looking up the network {name}")).await?;
        // A full stop in the name would stand for any character.
        Ok(found.into_iter().find(|network| network.name == name))
    }

    /// The networks with that label.
    ///
    /// # Errors
    /// [`EngineError`] if the engine does not answer.
    pub async fn networks(&self, label: &str, value: &str) -> Result<Vec<Network>, EngineError> {
        let found = self.find_networks("label", format!("{label}={value}"), "looking up networks".to_owned()).await?;
        // Not every engine heeds the filter.
        Ok(found.into_iter().filter(|network| network.labels.get(label).is_some_and(|found| found == value)).collect())
    }

    /// The networks that a filter of the engine's finds, the oldest first.
    async fn find_networks(&self, filter: &str, value: String, doing: String) -> Result<Vec<Network>, EngineError> {
        let filters = [(filter.to_owned(), vec![value])].into();
        let options = ListNetworksOptionsBuilder::default().filters(&filters).build();
        let mut found = self.docker.list_networks(Some(options)).await.map_err(|error| self.error(doing, error))?;
        found.sort_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)));
        let networks = found.into_iter().map(|network| Network {
            id: network.id.unwrap_or_default(),
            name: network.name.unwrap_or_default(),
            subnets: subnets(network.ipam),
            labels: network.labels.unwrap_or_default(),
        });
        Ok(networks.collect())
    }

    /// Makes a bridge network with masquerading, IPv6 in `ipv6` and IPv4 addresses that the engine
    /// has free. Its IPv4 subnet is pinned, so that containers can be given fixed addresses later:
    /// an engine refuses those on a network whose subnet it chose itself.
    ///
    /// # Errors
    /// [`EngineError`] if the engine refuses, for instance for want of IPv6.
    pub async fn create_network(
        &self,
        name: &str,
        ipv6: Option<IpNet>,
        label: (&str, &str),
    ) -> Result<Network, EngineError> {
        let chosen = self.try_network(name, ipv6, None, label).await?;
        let Some(ipv4) = chosen.subnets.iter().find(|subnet| subnet.addr().is_ipv4()).copied() else {
            return Ok(chosen);
        };
        self.remove_network(&chosen.id).await?;
        self.try_network(name, ipv6, Some(ipv4), label).await
    }

    async fn try_network(
        &self,
        name: &str,
        ipv6: Option<IpNet>,
        ipv4: Option<IpNet>,
        label: (&str, &str),
    ) -> Result<Network, EngineError> {
        let doing = || format!("making the network {name}");
        let mut options: std::collections::HashMap<String, String> =
            [("com.docker.network.bridge.enable_ip_masquerade".to_owned(), "true".to_owned())].into();
        if let Some(mtu) = self.default_bridge_mtu().await {
            options.insert("com.docker.network.driver.mtu".to_owned(), mtu);
        }
        let pools = [ipv4, ipv6].into_iter().flatten();
        let config: Vec<_> =
            pools.map(|subnet| IpamConfig { subnet: Some(subnet.to_string()), ..Default::default() }).collect();
        let request = NetworkCreateRequest {
            name: name.to_owned(),
            driver: Some("bridge".to_owned()),
            enable_ipv6: Some(ipv6.is_some()),
            ipam: (!config.is_empty()).then(|| Ipam { config: Some(config), ..Default::default() }),
            options: Some(options),
            labels: Some([(label.0.to_owned(), label.1.to_owned())].into()),
            ..Default::default()
        };
        let made = self.docker.create_network(request).await.map_err(|error| self.error(doing(), error))?;
        let network = self
            .docker
            .inspect_network(&made.id, None::<InspectNetworkOptions>)
            .await
            .map_err(|error| self.error(doing(), error))?;
        Ok(Network {
            id: made.id,
            name: name.to_owned(),
            subnets: subnets(network.ipam),
            labels: network.labels.unwrap_or_default(),
        })
    }

    /// The MTU of the engine's own bridge: hosts on overlays need a smaller one than Ethernet's.
    async fn default_bridge_mtu(&self) -> Option<String> {
        let bridge = self.docker.inspect_network("bridge", None::<InspectNetworkOptions>).await.ok()?;
        bridge.options?.remove("com.docker.network.driver.mtu").filter(|mtu| mtu != "0")
    }

    /// Puts a container on a further network.
    ///
    /// # Errors
    /// [`EngineError`] if one of them is gone, or the container is on it already.
    pub async fn connect_network(&self, network: &str, container: &str) -> Result<(), EngineError> {
        let request = NetworkConnectRequest { container: container.to_owned(), endpoint_config: None };
        let connected = self.docker.connect_network(network, request).await;
        connected.map_err(|error| self.error(format!("putting {container} on the network {network}"), error))
    }

    /// Takes a container off a network.
    ///
    /// # Errors
    /// [`EngineError`] if one of them is gone, or the container is not on it.
    pub async fn disconnect_network(&self, network: &str, container: &str) -> Result<(), EngineError> {
        let request = NetworkDisconnectRequest { container: container.to_owned(), force: Some(true) };
        let disconnected = self.docker.disconnect_network(network, request).await;
        disconnected.map_err(|error| self.error(format!("taking {container} off the network {network}"), error))
    }

    /// Removes a network.
    ///
    /// # Errors
    /// [`EngineError`] if containers use it or it is gone.
    pub async fn remove_network(&self, id: &str) -> Result<(), EngineError> {
        self.docker.remove_network(id).await.map_err(|error| self.error(format!("removing the network {id}"), error))
    }

    /// Whether any container, running or not, belongs to a network. The engine itself counts only running ones.
    ///
    /// # Errors
    /// [`EngineError`] if the engine does not answer.
    pub async fn network_is_used(&self, name: &str) -> Result<bool, EngineError> {
        Ok(!self.users(name).await?.is_empty())
    }

    /// The addresses on a network that containers have, or will have when they run: those that were given to them; with the
    /// container's id. The engine itself takes an address for free as soon as its container does not run.
    ///
    /// # Errors
    /// [`EngineError`] if the engine does not answer.
    pub async fn addresses_in_use(&self, name: &str) -> Result<BTreeMap<IpAddr, String>, EngineError> {
        let mut used = BTreeMap::new();
        for user in self.users(name).await? {
            let id = user.id.unwrap_or_default();
            let networks = user.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
            let Some(endpoint) = networks.get(name) else { continue };
            let given = endpoint.ipam_config.clone().unwrap_or_default();
            let (ipv4, ipv6) = (given.ipv4_address, given.ipv6_address);
            let all = [endpoint.ip_address.clone(), endpoint.global_ipv6_address.clone(), ipv4, ipv6];
            used.extend(all.into_iter().filter_map(|address| Some((address?.parse().ok()?, id.clone()))));
        }
        Ok(used)
    }

    async fn users(&self, name: &str) -> Result<Vec<ContainerSummary>, EngineError> {
        let filters = [("network".to_owned(), vec![name.to_owned()])].into();
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let users = self.docker.list_containers(Some(options)).await;
        users.map_err(|error| self.error(format!("asking who uses the network {name}"), error))
    }
}

fn subnets(ipam: Option<Ipam>) -> Vec<IpNet> {
    let config = ipam.and_then(|ipam| ipam.config).unwrap_or_default();
    config.into_iter().filter_map(|config| config.subnet?.parse().ok()).collect()
}
